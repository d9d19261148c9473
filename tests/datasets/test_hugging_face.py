"""Hugging Face's library as a source of images; everything is made here and read offline."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from noisereg.api import Context
from noisereg.datasets import HuggingFaceParams
from noisereg.errors import NoiseregError

datasets = pytest.importorskip("datasets")
pq = pytest.importorskip("pyarrow.parquet")
pa = pytest.importorskip("pyarrow")


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def png(value: int, side: int = 4, mode: str = "L") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (side, side), value).save(buffer, format="PNG")
    return buffer.getvalue()


def parquet(path, count=20, **columns):
    images = [{"bytes": png(k), "path": None} for k in range(count)]
    pq.write_table(pa.table({"image": images, **columns}), path)
    return path


def build(path, tmp_path, **params):
    from noisereg.datasets.hugging_face import HuggingFace

    return HuggingFace(
        HuggingFaceParams(path=str(path), **params), Context(cache_dir=tmp_path / "cache")
    )


def values(split) -> list[int]:
    batch = split.batch(torch.arange(len(split)))
    return ((batch.x[:, 0, 0, 0] + 1) * 127.5).round().int().tolist()


@pytest.mark.parametrize("memory", ["resident", "stream"])
def test_a_parquet_of_images(tmp_path, memory):
    path = parquet(tmp_path / "x.parquet", label=[k % 3 for k in range(20)])
    dataset = build(path, tmp_path, memory=memory, label="label")
    assert (dataset.shape, dataset.classes) == ((1, 4, 4), 3)
    assert sorted(values(dataset.train) + values(dataset.heldout)) == list(range(20))
    batch = dataset.train.batch(torch.arange(len(dataset.train)))
    assert batch.labels.tolist() == [v % 3 for v in values(dataset.train)]
    assert build(path, tmp_path).classes == 0  # plain numbers are labels only if that is said


def saved(tmp_path, names=("cat", "dog")):
    features = datasets.Features(
        {"image": datasets.Image(), "kind": datasets.ClassLabel(names=list(names))}
    )

    def part(first, count):
        return datasets.Dataset.from_dict(
            {
                "image": [{"bytes": png(first + k), "path": None} for k in range(count)],
                "kind": [k % 2 for k in range(count)],
            },
            features=features,
        )

    both = datasets.DatasetDict({"train": part(0, 6), "test": part(100, 4)})
    both.save_to_disk(str(tmp_path / "disk"))
    return tmp_path / "disk"


def test_splits_and_class_names_of_what_the_library_saved(tmp_path, capsys):
    dataset = build(saved(tmp_path), tmp_path)
    assert dataset.class_names == ("cat", "dog")
    assert values(dataset.train) == list(range(6))
    assert values(dataset.heldout) == list(range(100, 104))
    assert dataset.notes == (
        "splits: trained on train, held out test",
        "2 classes, by the column kind: cat, dog",
    )
    assert build(tmp_path / "disk", tmp_path, label="none").classes == 0
    other = build(tmp_path / "disk", tmp_path, split="test", heldout="train")
    assert values(other.train) == list(range(100, 104))


def test_its_fingerprint_is_its_contents(tmp_path):
    dataset = build(saved(tmp_path), tmp_path)
    assert dataset.fingerprint() == build(tmp_path / "disk", tmp_path).fingerprint()
    assert dataset.fingerprint()["classes"] == ["cat", "dog"]


def test_a_parquet_beside_its_name_is_data(tmp_path, monkeypatch):
    from noisereg.runs.config import validate

    assert validate({"data": "x.parquet"}).data.name == "hf"


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"column": "images"}, r"no column 'images'; there are: image, .*did you mean 'image'"),
        ({"column": "word"}, r"the column 'word' holds no images|cannot be read"),
        ({"label": "word"}, r"'word' holds string values; expected class labels"),
        ({"label": "labels"}, r"no column 'labels'"),
        ({"split": "trian"}, r"no split 'trian'; there are: train; did you mean 'train'"),
        ({"heldout": "test"}, r"no split 'test'"),
        ({"heldout": "train"}, r"heldout=train is what is trained on; expected another split, or"),
    ],
)
def test_what_is_not_there_is_named(tmp_path, params, said):
    path = parquet(tmp_path / "x.parquet", 3, word=["a", "b", "c"])
    with pytest.raises(NoiseregError, match=said) as caught:
        build(path, tmp_path, **params)
    assert "\n" not in str(caught.value)


def test_a_folder_may_be_called_as_a_parquet_is(tmp_path):
    (tmp_path / "x.parquet").mkdir()
    parquet(tmp_path / "x.parquet" / "part-0.parquet", 20)
    assert build(tmp_path / "x.parquet", tmp_path).shape == (1, 4, 4)


def test_a_parquet_that_is_not_there_is_not_sought_elsewhere(tmp_path, monkeypatch):
    """As a name it would be asked for at the Hub, for minutes."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NoiseregError, match=r"nowhere.parquet is not there; expected a .parquet"):
        build("nowhere.parquet", tmp_path)


def test_pictures_that_cannot_be_read_are_named_by_their_row(tmp_path):
    images = [{"bytes": b, "path": None} for b in (png(1), b"no image", png(3))]
    pq.write_table(pa.table({"image": images}), tmp_path / "x.parquet")
    with pytest.raises(NoiseregError, match=r"x.parquet, row 1 cannot be read as an image"):
        build(tmp_path / "x.parquet", tmp_path)
    images[1] = None
    pq.write_table(pa.table({"image": images}), tmp_path / "z.parquet")
    with pytest.raises(NoiseregError, match=r"row 1: there is no image in this row") as caught:
        build(tmp_path / "z.parquet", tmp_path)
    assert "repair" not in str(caught.value)
    sizes = [{"bytes": png(1, side), "path": None} for side in (4, 5)]
    pq.write_table(pa.table({"image": sizes}), tmp_path / "y.parquet")
    with pytest.raises(NoiseregError, match=r"differ in size \(4×4, 5×5, …\); type size=64"):
        build(tmp_path / "y.parquet", tmp_path)
    assert build(tmp_path / "y.parquet", tmp_path, size=4).shape == (1, 4, 4)


def test_damaged_and_missing_files_are_one_line(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and no more")
    for path in (tmp_path / "x.parquet", tmp_path / "nowhere"):
        with pytest.raises(
            NoiseregError, match=r"hf:path=.* (cannot be loaded|is not there)"
        ) as e:
            build(path, tmp_path)
        assert "\n" not in str(e.value)


def test_without_the_library_it_says_what_to_install(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(NoiseregError, match=r"pip install noisereg\[hf\]"):
        build(tmp_path / "x.parquet", tmp_path)


def test_colour_stays_colour(tmp_path):
    images = [{"bytes": png((k, 2 * k, 3 * k), mode="RGB"), "path": None} for k in range(4)]
    pq.write_table(pa.table({"picture": images}), tmp_path / "x.parquet")
    dataset = build(tmp_path / "x.parquet", tmp_path, column="picture")
    assert dataset.shape == (3, 4, 4)
    x = dataset.train.batch(torch.tensor([0])).x[0, :, 0, 0]
    k = round(float((x[0] + 1) * 127.5))
    np.testing.assert_allclose(((x + 1) * 127.5).numpy(), [k, 2 * k, 3 * k], atol=1e-3)


def test_rows_are_mapped_into_memory_and_a_resumed_run_sees_those_of_an_uninterrupted_one(
    tmp_path, monkeypatch
):
    from noisereg import draws
    from noisereg import python as noisereg
    from noisereg.datasets.hugging_face import HuggingFace

    path = parquet(tmp_path / "x.parquet", count=40)
    seen, get = [], HuggingFace.__getitem__

    def watched(self, index):
        seen.append(index)
        return get(self, index)

    monkeypatch.setattr(HuggingFace, "__getitem__", watched)
    dataset = build(path, tmp_path, size=4, channels=1, memory="stream")
    assert seen == []  # all is known: nothing is read before it is needed
    assert all(rows.cache_files for rows in dataset._rows)  # Arrow files, mapped

    data = {"name": "hf", "path": str(path), "size": 4, "channels": 1, "memory": "stream"}
    settings = {
        "denoiser": "mlp:width=16,blocks=1",
        "runtime": {"device": "cpu"},
        "sample": {"steps": 1},
    }

    def train(out, steps):
        seen.clear()
        given = {"steps": steps, "batch_size": 8, "checkpoint_every": 1}
        run = noisereg.train(out=tmp_path / out, data=data, resume=True, train=given, **settings)
        return run, list(seen)

    whole, _ = train("whole", 8)
    train("halves", 4)
    run, second = train("halves", 8)
    kept = dataset.train.part.indices
    order = kept[draws.Order(0, len(kept))(32, 64).numpy()]
    last = second[-32:]  # what the fingerprint looks at comes before
    assert [sorted(last[k : k + 8]) for k in range(0, 32, 8)] == [
        sorted(order[k : k + 8]) for k in range(0, 32, 8)
    ]
    for name in ("model.safetensors", "optimizer.pt"):
        one, other = (r.checkpoint().path / name for r in (whole, run))
        assert one.read_bytes() == other.read_bytes()
