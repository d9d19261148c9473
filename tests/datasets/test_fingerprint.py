"""A run records what its data are, and goes on with the same data only."""

from __future__ import annotations

import contextlib
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

import noisereg
from noisereg.api import Batch, Context, Dataset
from noisereg.cli.main import run as command
from noisereg.datasets import ImageParams, PointsParams
from noisereg.datasets.digits import Digits
from noisereg.datasets.fingerprint import NAMED, difference, of_files
from noisereg.datasets.toy2d import SwissRoll
from noisereg.errors import NoiseregError


def test_a_built_in_set_has_counts_and_hashes():
    found = Digits(ImageParams(), Context()).fingerprint()
    assert found["shape"] == [1, 8, 8]
    assert found["classes"] == list("0123456789")
    assert (found["train"]["count"], found["heldout"]["count"]) == (1617, 180)
    assert found == json.loads(json.dumps(found))
    assert found == Digits(ImageParams(), Context()).fingerprint()


def test_points_of_another_seed_are_other_data():
    first, other = (
        SwissRoll(PointsParams(n=300, seed=s), Context()).fingerprint() for s in range(2)
    )
    assert difference(first, first) == ""
    assert difference(first, other) == (
        "the training samples have other values; the held-out samples have other values"
    )


class Handmade(Dataset):
    """A plugin's data set, which knows nothing of fingerprints."""

    shape = (3,)

    def __init__(self, x, labels=None, classes=0, names=()):
        self.x, self.labels, self.classes, self.class_names = x, labels, classes, names

    def __len__(self):
        return len(self.x)

    def batch(self, indices):
        return Batch(self.x[indices], None if self.labels is None else self.labels[indices])

    def split(self, name):
        return self if name == "train" else Handmade(self.x[:0])


def test_any_data_set_has_a_fingerprint_that_sees_values_labels_and_names():
    x, labels = torch.arange(30.0).reshape(10, 3), torch.arange(10) % 2
    whole = Handmade(x, labels, 2, ("a", "b")).fingerprint()
    changed = x.clone()
    changed[4, 1] += 1e-3
    assert "values" in difference(whole, Handmade(changed, labels, 2, ("a", "b")).fingerprint())
    assert "values" in difference(whole, Handmade(x, 1 - labels, 2, ("a", "b")).fingerprint())
    assert difference(whole, Handmade(x, labels, 2, ("a", "c")).fingerprint()) == (
        "class 1 was 'b' and is now 'c'"
    )
    shorter = Handmade(x[:9], labels[:9], 2, ("a", "b")).fingerprint()
    assert difference(whole, shorter) == "there were 10 training samples and are now 9"


FILES = {"a.png": (10, "aa"), "b.png": (20, "bb"), "c.png": (30, "cc")}


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (FILES, ""),
        ({k: v for k, v in FILES.items() if k != "b.png"}, "1 file gone (b.png)"),
        (FILES | {"d.png": (1, "d"), "e.png": (1, "e")}, "2 files new (d.png, e.png)"),
        (FILES | {"a.png": (10, "xx")}, "1 file changed (a.png)"),
        ({"z.png": (9, ""), **{k: FILES[k] for k in ("a.png", "b.png")}},
         "1 file gone (c.png), 1 file new (z.png)"),
    ],
)  # fmt: skip
def test_what_changed_of_files_is_named(files, said):
    assert difference({"files": of_files(FILES)}, {"files": of_files(files)}) == said


def test_of_many_files_the_number_the_size_and_a_hash_are_kept():
    many = {f"{i}.png": (i, "") for i in range(NAMED + 1)}
    record = of_files(many)
    assert len(json.dumps(record)) < 200
    more = of_files(many | {"new.png": (1, "")})
    renamed = of_files({("x.png" if k == "5.png" else k): v for k, v in many.items()})
    assert difference({"files": record}, {"files": more}) == (
        f"there were {NAMED + 1:,} files and are now {NAMED + 2:,}"
    )
    assert "another name or content" in difference({"files": record}, {"files": renamed})


def test_a_run_of_before_has_no_fingerprint_and_goes_on():
    assert difference(None, {"shape": [1]}) == ""


def test_a_file_name_that_is_no_utf8_can_be_recorded():
    record = of_files({"a\udcff.png": (1, "")})
    assert json.loads(json.dumps(record).encode("utf-8")) == record


def test_a_run_records_its_data_and_is_not_resumed_on_others(tmp_path, monkeypatch):
    def go(**more):
        return noisereg.train(
            data="digits", train={"steps": 2, "batch_size": 8, "checkpoint_every": 1},
            denoiser="mlp:width=8,blocks=1", sample={"num": 1, "steps": 1}, out=tmp_path / "run",
            **more,
        )  # fmt: skip

    go()
    before = json.loads((tmp_path / "run/environment.json").read_text())["data"]
    assert before == Digits(ImageParams(), Context()).fingerprint()

    from noisereg.datasets import digits

    real = digits._table()
    other = np.column_stack([np.roll(real[:, :-1], 1, axis=0), real[:, -1]])
    monkeypatch.setattr(digits, "_table", lambda: other)
    with pytest.raises(NoiseregError, match=r"other data: the training samples have other values"):
        go(resume=True)
    assert json.loads((tmp_path / "run/environment.json").read_text())["data"] == before
    go(resume=True, accept_data=True)
    after = json.loads((tmp_path / "run/environment.json").read_text())["data"]
    assert after["train"]["sha256"] != before["train"]["sha256"]
    assert len(after["accepted"]) == 1
    go(resume=True)  # what was accepted is what the run is now trained on
    assert json.loads((tmp_path / "run/environment.json").read_text())["data"] == after


def test_a_renamed_class_is_named_and_accepted_under_its_new_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for k, name in enumerate(("cat", "dog")):
        (tmp_path / "d" / name).mkdir(parents=True)
        for i in range(4):
            Image.fromarray(np.full((8, 8), 60 * k + i, np.uint8)).save(f"d/{name}/{i}.png")
    typed = [
        "train",
        "--data",
        "./d",
        "--task",
        "class",
        "--denoiser",
        "mlp:width=8,blocks=1",
    ]
    typed += ["--batch-size", "4", "--out", "run", "--set", "sample.steps=1"]
    assert command([*typed, "--steps", "1"]) == 0
    (tmp_path / "d/cat").rename(tmp_path / "d/lion")

    def said(*more):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = command(["train", "--out", "run", "--resume", "--steps", "2", *more])
        return code, err.getvalue()

    code, err = said()
    assert code == 2
    assert "if cat is called lion now, name them anew: data.classes=[lion,dog]" in err
    anew = ("--set", "data.classes=[lion,dog]")
    code, err = said(*anew)
    assert (code, "data.classes" in err) == (2, True)
    code, err = said(*anew, "--accept-data")
    assert code == 0, err
    assert "class 0 was 'cat' and is now 'lion'" in err
    run = noisereg.load("run")
    assert run.class_names == ("lion", "dog")
    assert run.config.data.params["classes"] == ["lion", "dog"]
