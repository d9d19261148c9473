"""What a folder's names say: classes, splits, dataset.json; all of it is told."""

from __future__ import annotations

import json
import zlib
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from noisereg.api import Context
from noisereg.datasets import FolderParams
from noisereg.datasets.fingerprint import difference
from noisereg.datasets.folder import Folder
from noisereg.datasets.tree import natural
from noisereg.errors import NoiseregError
from noisereg.runs.conditions import given


def put(folder: Path, *names: str) -> Path:
    """Grey images of 2×2; the value tells one from another."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (2, 2), zlib.crc32(name.encode()) % 256).save(path)
    return folder


def build(path: Path, **params) -> Folder:
    return Folder(FolderParams(path=path, **params), Context())


def labels(dataset: Folder) -> dict[str, int]:
    """Label by file, as the batches have them."""
    found = {}
    for split in (dataset.train, dataset.heldout):
        if len(split):
            batch = split.batch(torch.arange(len(split)))
            for x, label in zip(batch.x, batch.labels, strict=True):
                found[round(float((x[0, 0, 0] + 1) * 127.5))] = int(label)
    return {f.name: found[zlib.crc32(f.name.encode()) % 256] for f in dataset.files}


# Classes


def test_classes_are_in_natural_order_and_said(tmp_path):
    dataset = build(put(tmp_path, "10/a.png", "2/b.png", "1/c.png", "x1y10/d.png", "x1y9/e.png"))
    assert dataset.class_names == ("1", "2", "10", "x1y9", "x1y10")
    assert labels(dataset) == {
        "1/c.png": 0, "2/b.png": 1, "10/a.png": 2, "x1y9/e.png": 3, "x1y10/d.png": 4
    }  # fmt: skip
    assert "5 classes, by folder: 1, 2, 10, x1y9, x1y10" in dataset.notes
    assert dataset.params.classes == dataset.class_names  # recorded: config.yaml fixes the order


@pytest.mark.parametrize("names", [["²", "2", "10"], ["a", "B", "a1", "a01"], ["", "1"]])
def test_any_names_have_a_natural_order(names):
    orders = {tuple(sorted(some, key=natural)) for some in permutations(names)}
    assert len(orders) == 1


def test_the_order_of_classes_is_the_records(tmp_path):
    put(tmp_path, "cat/a.png", "dog/b.png")
    dataset = build(tmp_path, classes="dog,cat")
    assert dataset.class_names == ("dog", "cat")
    assert labels(dataset) == {"cat/a.png": 1, "dog/b.png": 0}
    assert dataset.notes == ("2 classes, by folder: dog, cat",)


def test_a_class_that_is_renamed_new_or_gone_is_named(tmp_path):
    put(tmp_path, "cat/a.png", "dog/b.png")
    (tmp_path / "cat").rename(tmp_path / "cats")
    with pytest.raises(
        NoiseregError,
        match=r"no folder cat and cats is none of the classes; .* if cat is called cats now, name "
        r"them anew: data.classes=\[cats,dog\]",
    ):
        build(tmp_path, classes=("cat", "dog"))
    with pytest.raises(NoiseregError, match=r"ape is none of the classes; expected .* cats, dog"):
        build(put(tmp_path, "ape/c.png"), classes=("cats", "dog"))
    before = build(tmp_path).fingerprint()
    (tmp_path / "dog").rename(tmp_path / "dogs")
    assert difference(before, build(tmp_path).fingerprint()).startswith(
        "class 2 was 'dog' and is now 'dogs'; 1 file gone (dog/b.png)"
    )


def test_no_classes_are_asked_for(tmp_path):
    put(tmp_path, "cat/a.png", "dog/b.png")
    for none in ("[]", []):
        assert build(tmp_path, classes=none).classes == 0


@pytest.mark.parametrize("names", [["[cat]", "dog"], ["[a", "b]"], [" a", "b "]])
def test_a_class_may_be_called_anything_a_folder_is(tmp_path, names):
    """A list, as config.yaml has it, is taken as it is; brackets are of text alone."""
    put(tmp_path, *(f"{name}/x.png" for name in names))
    found = build(tmp_path)
    assert set(found.class_names) == set(names)
    assert build(tmp_path, classes=list(found.class_names)).class_names == found.class_names


def test_brackets_around_a_text_are_those_of_a_list(tmp_path):
    put(tmp_path, "cat/a.png", "dog/b.png")
    for text in ("[dog,cat]", "[dog, cat]", " dog , cat"):
        assert build(tmp_path, classes=text).class_names == ("dog", "cat")


def test_a_class_named_twice_is_refused(tmp_path):
    put(tmp_path, "cat/a.png", "dog/b.png")
    for twice in ("cat,dog,cat", ["cat", "dog", "cat"]):
        with pytest.raises((NoiseregError, ValueError), match="'cat' stands twice"):
            build(tmp_path, classes=twice)


def test_a_stray_picture_beside_class_folders_is_named(tmp_path):
    put(tmp_path, "cat/a.png", "dog/b.png", "cover.png")
    dataset = build(tmp_path)
    assert dataset.classes == 0
    assert dataset.notes == (
        "no classes: cover.png lies beside the folders cat, dog; move it into one of them",
    )
    with pytest.raises(NoiseregError, match=r"cover.png is in no class; expected every image in"):
        build(tmp_path, classes="cat,dog")


# Splits


@pytest.mark.parametrize("val", ["val", "valid", "Validation", "test"])
def test_train_and_val_below_a_folder_are_splits(tmp_path, val):
    put(tmp_path, "train/cat/a.png", "train/dog/b.png", "train/dog/c.png", f"{val}/cat/d.png")
    dataset = build(tmp_path)
    assert (len(dataset.train), len(dataset.heldout)) == (3, 1)
    assert dataset.class_names == ("cat", "dog")
    assert labels(dataset)["train/dog/c.png"] == 1
    assert f"splits: trained on train (3), held out {val} (1)" in dataset.notes


def test_val_and_test_are_both_held_out(tmp_path):
    dataset = build(put(tmp_path, "train/a.png", "val/b.png", "test/c.png", "test/d.png"))
    assert dataset.notes == ("splits: trained on train (1), held out test, val (3)",)
    assert dataset.classes == 0


def test_train_alone_is_a_split_and_not_a_class(tmp_path):
    dataset = build(put(tmp_path, "train/cat/a.png", "train/dog/b.png"))
    assert dataset.class_names == ("cat", "dog")
    assert any("no val or test beside it, so 10% of it" in note for note in dataset.notes)


def test_pictures_beside_splits_are_left_out_and_named(tmp_path):
    dataset = build(put(tmp_path, "train/a.png", "test/b.png", "logo.png"))
    assert [f.name for f in dataset.files] == ["test/b.png", "train/a.png"]
    assert "1 image beside test, train left out: logo.png" in dataset.notes


def test_folders_called_so_among_others_are_classes_and_that_is_said(tmp_path):
    dataset = build(put(tmp_path, "train/a.png", "test/b.png", "plane/c.png"))
    assert dataset.class_names == ("plane", "test", "train")
    assert dataset.notes[0] == (
        "test, train are not taken for splits, since plane lies beside them"
    )


def test_splits_can_be_switched_off(tmp_path):
    dataset = build(put(tmp_path, "train/a.png", "test/b.png"), splits="none")
    assert dataset.class_names == ("test", "train")


# dataset.json


def with_json(folder: Path, value) -> Path:
    (folder / "dataset.json").write_text(json.dumps(value))
    return folder


def test_the_labels_of_dataset_json_are_read(tmp_path):
    names = [f"0000{k // 2}/img{k:08}.png" for k in range(4)]
    put(tmp_path, *names)
    chosen = dict(zip(names, (6, 0, 2, 6), strict=True))
    dataset = build(with_json(tmp_path, {"labels": [list(pair) for pair in chosen.items()]}))
    assert dataset.class_names == tuple("0123456")
    assert labels(dataset) == chosen
    assert dataset.notes == ("7 classes, by dataset.json",)
    before = dataset.fingerprint()
    chosen[names[0]] = 5
    with_json(tmp_path, {"labels": [list(pair) for pair in chosen.items()]})
    assert difference(before, build(tmp_path).fingerprint()) == "1 file changed (dataset.json)"


def test_dataset_json_without_labels_says_that_folders_are_no_classes(tmp_path):
    put(tmp_path, "00000/a.png", "00001/b.png")
    assert build(tmp_path).classes == 2
    assert build(with_json(tmp_path, {"labels": None})).classes == 0


def test_classes_are_not_named_where_dataset_json_says_there_are_none(tmp_path):
    put(tmp_path, "00000/a.png", "00001/b.png")
    with pytest.raises(NoiseregError, match="there are no classes, and classes= names 2"):
        build(with_json(tmp_path, {"labels": None}), classes="00000,00001")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"labels": [["00000/a.png", 0]]}, r"no label for 1 of 2 images \(00000/b.png\)"),
        ({"labels": [["00000/a.png", 0], ["00000/b.png", 1.5]]}, r'"00000/b.png", 1.5\] is no'),
        ({"labels": [["00000/a.png", [0, 1]], ["00000/b.png", 1]]}, r"is no name with a label"),
        ({"labels": [["00000/a.png", -1], ["00000/b.png", 1]]}, r"whole numbers from 0"),
        (
            {"labels": [["00000/a.png", 1], ["00000/b.png", 1], ["00000/a.png", 0]]},
            r"00000/a.png has the labels 1 and 0; expected one",
        ),
        ({"labels": 3}, r"are no list"),
        ({"other": 3}, r"cannot be read \('labels'\); expected"),
        ([], r"cannot be read"),
    ],
)
def test_a_dataset_json_that_does_not_fit_is_refused(tmp_path, value, said):
    put(tmp_path, "00000/a.png", "00000/b.png")
    with pytest.raises(NoiseregError, match=said) as caught:
        build(with_json(tmp_path, value))
    assert "dataset.json" in str(caught.value)


def test_a_broken_dataset_json_is_refused(tmp_path):
    put(tmp_path, "a.png")
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(NoiseregError, match=r"dataset.json cannot be read \(Expecting"):
        build(tmp_path)


# What is left out, warned of, recorded


def test_files_that_are_not_taken_are_counted(tmp_path):
    put(tmp_path, "a.png")
    for name in ("b.heic", "c.HEIC", "notes.txt", "IMG_0001"):
        (tmp_path / name).write_bytes(b"?")
    assert build(tmp_path).notes == (
        "4 files left out, not known as images: 2 .heic, 1 .txt, 1 without an ending; convert "
        "HEIC to PNG or JPEG to use it",
    )
    (tmp_path / "a.png").unlink()
    with pytest.raises(NoiseregError, match=r"no images in .* \(4 files left out.*2 \.heic"):
        build(tmp_path)


def test_a_warning_of_the_image_library_carries_the_files_name(tmp_path, capsys, recwarn):
    put(tmp_path, "a.png", "b.png", "c.png")
    exif = (
        b"MM\0*\0\0\0\x08\0\x02\x01\x12\0\x03\0\0\0\x01\0\x01\0\0"  # two entries said, one there
    )
    for name in ("odd.jpg", "odder.jpg"):
        Image.new("L", (2, 2), 9).save(tmp_path / name, exif=b"Exif\0\0" + exif)
    resident, streamed = build(tmp_path), build(tmp_path, size=2, memory="stream", heldout=0)
    for name in ("odd.jpg", "odder.jpg"):
        assert any(name in note and "EXIF" in note for note in resident.notes)
    for _ in range(2):
        streamed.train.batch(torch.arange(5))
    said = capsys.readouterr().err
    assert said.count(str(tmp_path / "odd.jpg")) == 1
    assert not recwarn.list


def test_a_run_records_names_and_classes_and_notices_a_new_picture(tmp_path):
    put(tmp_path, "cat/a.png", "dog/b.png")
    before = build(tmp_path).fingerprint()
    assert before["classes"] == ["cat", "dog"]
    assert list(before["files"]["named"]) == ["cat/a.png", "dog/b.png"]
    assert build(tmp_path, memory="stream").fingerprint() == before
    put(tmp_path, "cat/new.png")
    assert difference(before, build(tmp_path).fingerprint()) == "1 file new (cat/new.png)"
    (tmp_path / "cat/new.png").unlink()
    size = (tmp_path / "cat/a.png").stat().st_size
    content = np.full((2, 2), 77, np.uint8)
    Image.fromarray(content).save(tmp_path / "cat/a.png")
    assert (tmp_path / "cat/a.png").stat().st_size == size
    assert difference(before, build(tmp_path).fingerprint()) == "1 file changed (cat/a.png)"


# A run


def test_a_run_samples_a_class_by_its_name_and_notices_its_new_one(tmp_path):
    import noisereg

    put(tmp_path / "d", "2/a.png", "2/b.png", "10/c.png", "cat/d.png", "cat/e.png")

    def go(**more):
        return noisereg.train(
            data=str(tmp_path / "d"), task="class", denoiser="mlp:width=8,blocks=1",
            train={"steps": 1, "batch_size": 4}, sample={"num": 1, "steps": 2},
            out=tmp_path / "run", **more,
        )  # fmt: skip

    run = go()
    assert run.class_names == ("2", "10", "cat")
    for label, number in (("cat", 2), ("2", 0), ("10", 1), (1, 1)):
        assert given(run.task, [label], names=run.class_names).values.tolist() == [number]
    assert given(run.task, ["1"], names=("cat", "dog", "cow")).values.tolist() == [1]
    assert run.sample(2, labels=["cat"]).shape == (2, 1, 2, 2)
    with pytest.raises(
        NoiseregError, match=r"label=cot: .* 0 to 2, called 2, 10, cat; did you mean 'cat'"
    ):
        run.sample(1, labels=["cot"])
    (tmp_path / "d/cat").rename(tmp_path / "d/cats")
    with pytest.raises(NoiseregError, match=r"data\.classes|class 2 was 'cat' and is now 'cats'"):
        go(resume=True)
    recorded = noisereg.load(tmp_path / "run").config
    with pytest.raises(NoiseregError, match=r"no folder cat and cats is none of the classes"):
        noisereg.train(recorded, out=tmp_path / "run", resume=True)


def test_a_task_that_needs_classes_says_why_there_are_none(tmp_path):
    import noisereg

    put(tmp_path / "d", "2/a.png", "10/c.png", "stray.png")
    with pytest.raises(NoiseregError, match=r"has none \(no classes: stray.png lies beside"):
        noisereg.train(data=str(tmp_path / "d"), task="class", out=tmp_path / "run")


@pytest.mark.parametrize("name", ["x.PNG", "x.Png", "x.NPZ"])
def test_the_ending_of_out_may_be_in_any_case(tmp_path, name):
    from noisereg.runs.output import check_out, write_samples

    check_out(tmp_path / name)
    write_samples(torch.zeros((2, 1, 4, 4), dtype=torch.uint8), tmp_path / name)
    assert (tmp_path / name).read_bytes()[:2] in (b"\x89P", b"PK")
