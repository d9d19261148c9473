"""Shards of images and labels: what is in them, in what order they are seen, and what is refused."""

import io
import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from noisereg import draws, remote
from noisereg import python as noisereg
from noisereg.api import Context
from noisereg.cli.main import run as command
from noisereg.data import read_split
from noisereg.datasets import WebDatasetParams, webdataset
from noisereg.datasets.splits import holdout_by_name
from noisereg.datasets.webdataset import WebDataset, shard_names
from noisereg.errors import NoiseregError

COUNT = 24
PIXELS = np.random.default_rng(0).integers(0, 256, (COUNT, 8, 8), np.uint8)
RUN = {
    "denoiser": "mlp:width=16,blocks=1",
    "runtime": {"device": "cpu"},
    "sample": {"steps": 2, "num": 16},
    "train": {"batch_size": 8, "log_every": 1, "checkpoint_every": 2},
}


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path, files):
    with tarfile.open(path, "w") as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def key(k):
    return f"part/{k:04d}"


@pytest.fixture
def shards(tmp_path):
    """Three shards of 24 grey images with labels 0 to 2 and a file that is neither."""
    for shard in range(3):
        files = []
        for k in range(8 * shard, 8 * shard + 8):
            files += [(f"{key(k)}.cls", str(k % 3).encode()), (f"{key(k)}.png", png(PIXELS[k]))]
            files += [(f"{key(k)}.json", b"{}")]
        write_tar(tmp_path / f"s-{shard:03d}.tar", files)
    return tmp_path / "s-{000..002}.tar"


def opened(path, **params):
    return WebDataset(WebDatasetParams(path=str(path), **params), Context())


def test_the_samples_are_those_of_the_shards_and_held_out_by_their_keys(shards):
    for memory in ("resident", "stream"):
        data = opened(shards, memory=memory)
        assert (data.shape, data.classes, data.levels) == ((1, 8, 8), 3, 256)
        train, heldout = holdout_by_name([key(k) for k in range(COUNT)])
        for name, expected in (("train", train), ("heldout", heldout)):
            assert (read_split(data, name)[:, 0].numpy() == PIXELS[expected]).all()
            labels = data.split(name).batch(torch.arange(len(expected))).labels
            assert (labels.numpy() == expected % 3).all()


def test_it_reads_what_the_package_webdataset_writes(tmp_path):
    writer = pytest.importorskip("webdataset").TarWriter(str(tmp_path / "a.tar"))
    for k in range(COUNT):
        writer.write({"__key__": key(k), "png": Image.fromarray(PIXELS[k]), "cls": k % 3})
    writer.close()
    data = opened(tmp_path / "a.tar", heldout=0)
    assert (read_split(data, "train")[:, 0].numpy() == PIXELS).all()
    assert data.classes == 3


def test_a_sample_held_out_stays_so_when_the_shards_are_packed_anew(shards, tmp_path):
    every = [(f"{key(k)}.png", png(PIXELS[k])) for k in reversed(range(COUNT))]
    write_tar(tmp_path / "all.tar", every)
    one, other = (
        {each.tobytes() for each in read_split(opened(path), "heldout").numpy()}
        for path in (shards, tmp_path / "all.tar")
    )
    assert one == other
    assert one


@pytest.mark.parametrize("place", ["here", "store"])
def test_a_resumed_run_sees_the_samples_that_an_uninterrupted_one_sees(
    shards, tmp_path, place, monkeypatch
):
    """In the order of draws.Order, step by step, over two epochs and more."""
    pytest.importorskip("fsspec")
    path = str(shards)
    if place == "store":
        for file in tmp_path.glob("*.tar"):
            remote.write_file(f"memory://{tmp_path.name}/{file.name}", file.read_bytes())
        path = f"memory://{tmp_path.name}/s-{{000..002}}.tar"
    seen, batch = [], webdataset.ImageSplit.decode

    def watched(self, position):
        seen.append(position)
        return batch(self, position)

    monkeypatch.setattr(webdataset.ImageSplit, "decode", watched)
    data = {"name": "webdataset", "path": path, "memory": "stream"}

    def train(out, steps):
        seen.clear()
        given = {**RUN, "train": {**RUN["train"], "steps": steps}}
        run = noisereg.train(out=tmp_path / out, data=data, resume=True, **given)
        return run, list(seen)

    whole, straight = train("whole", 8)
    count = json.loads((whole.path / "environment.json").read_text())["data"]["train"]["count"]
    assert len(straight) >= 64 > 2 * count
    order = draws.Order(0, count)(0, 64).tolist()
    # Threads decode a batch; which of its samples is first is theirs.
    assert [sorted(straight[i : i + 8]) for i in range(0, 64, 8)] == [
        sorted(order[i : i + 8]) for i in range(0, 64, 8)
    ]
    _, first = train("halves", 4)
    run, second = train("halves", 8)
    assert sorted(first[:32]) == sorted(order[:32])
    assert [sorted(second[i : i + 8]) for i in range(0, 32, 8)] == [
        sorted(order[i : i + 8]) for i in range(32, 64, 8)
    ]
    for name in ("model.safetensors", "ema.safetensors", "optimizer.pt"):
        one, other = (r.checkpoint().path / name for r in (whole, run))
        assert one.read_bytes() == other.read_bytes()


def test_shards_in_an_object_store_are_read_by_range(shards, tmp_path, monkeypatch):
    fsspec = pytest.importorskip("fsspec")
    from fsspec.implementations.memory import MemoryFileSystem

    for file in tmp_path.glob("*.tar"):
        remote.write_file(f"memory://{tmp_path.name}/{file.name}", file.read_bytes())
    url = f"memory://{tmp_path.name}/s-{{000..002}}.tar"
    here = opened(shards)
    there = opened(url, memory="stream")
    assert (read_split(here, "train") == read_split(there, "train")).all()
    assert here.fingerprint() == there.fingerprint()
    read, cat = [], MemoryFileSystem.cat_file

    def counted(self, path, start=None, end=None, **kwargs):
        read.append(end - start)
        return cat(self, path, start=start, end=end, **kwargs)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", counted)
    monkeypatch.setattr(webdataset, "read_index", None)  # it is in the cache folder
    again = opened(url, memory="stream", size=8)
    assert max(read) < 400  # the first image of each shard, of 12 kB
    again[3][0].close()
    assert len(read) == 4
    assert fsspec.filesystem("memory").exists(f"/{tmp_path.name}/s-000.tar")


def test_a_shard_that_changed_is_indexed_anew_and_a_run_on_it_is_not_resumed(shards, tmp_path):
    noisereg.train(out=tmp_path / "run", data=f"webdataset:path={shards}", **short())
    files = [
        (f"{key(k)}.{e}", d) for k in range(9) for e, d in (("cls", b"0"), ("png", png(PIXELS[k])))
    ]
    write_tar(tmp_path / "s-000.tar", files)
    assert len(opened(shards)) == COUNT + 1
    with pytest.raises(NoiseregError, match=r"other data: 1 file changed \(s-000\.tar\)"):
        noisereg.train(
            out=tmp_path / "run", data=f"webdataset:path={shards}", resume=True, **short()
        )


def short():
    return {**RUN, "train": {**RUN["train"], "steps": 1}}


def test_the_command_line_takes_shards_by_their_names(shards, tmp_path, capsys):
    line = ["train", "--data", f"{shards}:heldout=0.2", "--steps", "1", "--batch-size", "4"]
    line += ["--denoiser", "mlp:width=8,blocks=1", "--out", str(tmp_path / "run")]
    assert command([*line, "--set", "sample.steps=1", "--task", "class"]) == 0
    assert "3 shards" in capsys.readouterr().err
    run = noisereg.load(tmp_path / "run")
    assert run.config.data.name == "webdataset"
    assert run.task.classes == 3


def test_braces_are_written_out():
    assert shard_names("a-{08..11}.tar") == [f"a-{k}.tar" for k in ("08", "09", "10", "11")]
    assert shard_names("{a,b}-{0..1}.tar") == ["a-0.tar", "a-1.tar", "b-0.tar", "b-1.tar"]
    assert shard_names("a{b}.tar") == ["a{b}.tar"]
    with pytest.raises(NoiseregError, match="a range of -1; expected 1 to 100,000 shards"):
        shard_names("a-{3..1}.tar")


def image(side=8, colour=False):
    return png(np.zeros((side, side, 3) if colour else (side, side), np.uint8))


@pytest.mark.parametrize(
    ("files", "params", "said"),
    [
        ([("a.txt", b"x")], {}, "there are no images in 1 shard"),
        (
            [("a.png", image()), ("a.jpg", image())],
            {},
            "several images (png, jpg); give image=png",
        ),
        (
            [("a.png", image()), ("a.cls", b"dog")],
            {},
            "label of a is 'dog'; expected a whole number",
        ),
        (
            [("a.png", image()), ("b.png", image()), ("b.cls", b"1")],
            {},
            "a has no label, and others",
        ),
        (
            [("a.png", image())],
            {"label": "y.txt"},
            "label=y.txt: no sample has a file that ends so",
        ),
        ([("a.png", image()), ("b.png", image(9))], {}, "it is 9×9, and the first is 8×8"),
        (
            [("a.png", image()), ("b.png", image(colour=True))],
            {},
            "it is in colour, and the first",
        ),
        ([("a.png", image())], {"path": "{s,s}.tar"}, "s.tar twice; expected each shard once"),
        ([("a.png", b"no picture"), ("b.png", image())], {}, "a cannot be read"),
        ([("a.png", image()), ("a.PNG", image())], {}, "a.PNG is in it twice"),
        ([("a.cls", b"1"), ("a.png", image()), ("a.png", image())], {}, "a.png is in it twice"),
    ],
)
def test_what_cannot_be_taken_is_refused_in_a_line_that_names_it(tmp_path, files, params, said):
    write_tar(tmp_path / "s.tar", files)
    path = tmp_path / params.pop("path", "s.tar")
    with pytest.raises(NoiseregError) as caught:
        opened(path, memory="resident", **params)
    assert said in str(caught.value)
    assert ("repair" in str(caught.value)) == (files[0][1] == b"no picture")
    assert "\n" not in str(caught.value)


def test_shards_here_and_in_a_store_are_refused(tmp_path):
    write_tar(tmp_path / "s.tar", [("a.png", image())])
    with pytest.raises(NoiseregError, match="names shards of this machine and of a store"):
        opened(f"{{{tmp_path}/s,memory://b/c}}.tar")


@pytest.mark.parametrize("name", ["one\ntwo", "caf\udce9", "d/e f"])
def test_any_key_of_a_shard_is_one_sample(tmp_path, name):
    files = [(f"{key}.png", image()) for key in (name, "b", "c")]
    write_tar(tmp_path / "s.tar", files)
    for _ in range(2):  # the second time from the cache
        dataset = opened(tmp_path / "s.tar", memory="resident")
        assert len(dataset) == 3
        assert dataset.indices[0].keys == [name, "b", "c"]
        assert dataset.fingerprint()


def test_braces_do_not_multiply_without_a_bound():
    with pytest.raises(NoiseregError, match="names 100,000,000 shards; expected at most 100,000"):
        shard_names("s-{0..9999}-{0..9999}.tar")


def test_what_is_left_out_is_told(tmp_path):
    write_tar(tmp_path / "s.tar", [("a.png", image()), ("b.txt", b"x"), ("c.cls", b"1")])
    assert "2 samples have no image and are left out" in opened(tmp_path / "s.tar").notes


def test_the_image_of_a_sample_with_several_is_chosen_by_its_ending(tmp_path):
    files = [
        (f"{k}.{end}.png", png(PIXELS[k] // d))
        for k in range(4)
        for end, d in (("in", 1), ("out", 2))
    ]
    write_tar(tmp_path / "s.tar", files)
    for ending in ("out.png", ".out.png"):
        data = opened(tmp_path / "s.tar", image=ending, heldout=0)
        assert (read_split(data, "train")[:, 0].numpy() == PIXELS[:4] // 2).all()


@pytest.mark.parametrize(
    "damage", ["cut", "cut between files", "rubbish", "compressed", "missing", "empty"]
)
def test_a_damaged_shard_is_refused_by_its_name(shards, tmp_path, damage):
    path = tmp_path / "s-001.tar"
    data = path.read_bytes()
    if damage == "cut":
        path.write_bytes(data[:5000])
    elif damage == "cut between files":
        with tarfile.open(path) as tar:
            path.write_bytes(data[: tar.getmembers()[3].offset])
    elif damage == "rubbish":
        path.write_bytes(data[:4096] + b"\xff" * 512 + data[4608:])
    elif damage == "compressed":
        with tarfile.open(path, "w:gz") as tar:
            tar.add(tmp_path / "s-000.tar", "a.png")
    elif damage == "missing":
        path.unlink()
    else:
        path.write_bytes(b"")
    with pytest.raises(NoiseregError, match=r"s-001\.tar") as caught:
        opened(shards)
    assert "\n" not in str(caught.value)


def test_a_shard_that_is_not_in_the_store_is_a_line(tmp_path):
    pytest.importorskip("fsspec")
    with pytest.raises(NoiseregError, match="nothing is there; expected a shard"):
        opened(f"memory://{tmp_path.name}/no.tar")


def test_shards_of_one_name_in_several_folders_are_all_in_the_fingerprint(tmp_path):
    def write(folder, first):
        (tmp_path / folder).mkdir(exist_ok=True)
        files = [(f"{folder}{k}.png", png(PIXELS[first + k])) for k in range(4)]
        write_tar(tmp_path / folder / "0.tar", files)

    write("a", 0)
    write("b", 4)
    before = opened(tmp_path / "{a,b}" / "0.tar").fingerprint()
    write("a", 8)
    assert opened(tmp_path / "{a,b}" / "0.tar").fingerprint() != before
    write("a", 0)
    (tmp_path / "moved").mkdir()
    for folder in ("a", "b"):
        (tmp_path / folder).rename(tmp_path / "moved" / folder)
    assert opened(tmp_path / "moved" / "{a,b}" / "0.tar").fingerprint() == before
