"""``--data`` by a name, or by a path however it is written."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from noisereg.errors import NoiseregError
from noisereg.plugins.registry import Registry
from noisereg.runs.config import apply_set, complete, data_spec, validate


@pytest.fixture(scope="module")
def registry():
    return Registry()


@pytest.fixture
def here(tmp_path, monkeypatch):
    for folder in ("photos", "d/real", "digits", "with space", "a:b"):
        (tmp_path / folder).mkdir(parents=True)
        Image.new("L", (4, 4), 3).save(tmp_path / folder / "a.png")
    np.save(tmp_path / "x.npy", np.zeros((4, 4, 4, 1), np.uint8))
    (tmp_path / "notes.txt").write_text("no data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def spec(text, registry):
    return data_spec(validate({"data": text}).data, registry)


@pytest.mark.parametrize(
    ("text", "name", "params"),
    [
        ("photos", "folder", {"path": "photos"}),
        ("d/real", "folder", {"path": "d/real"}),
        ("./photos", "folder", {"path": "./photos"}),
        ("with space", "folder", {"path": "with space"}),
        ("photos:size=64,flip=true", "folder", {"path": "photos", "size": "64", "flip": "true"}),
        ("./photos:size=64", "folder", {"path": "./photos", "size": "64"}),
        ("./a:b", "folder", {"path": "./a:b"}),
        ("x.npy", "arrays", {"path": "x.npy"}),
        ("x.npy:heldout=0", "arrays", {"path": "x.npy", "heldout": "0"}),
        ("not-there.zip", "folder", {"path": "not-there.zip"}),
        ("digits", "digits", {}),  # a component of that name comes first
        ("noisereg/digits", "noisereg/digits", {}),
    ],
)
def test_what_data_means(here, registry, text, name, params):
    found = spec(text, registry)
    assert (found.name, found.params) == (name, params)


def test_a_run_records_the_folder(here, registry):
    data = complete(validate({"data": "d/real"}), registry).data
    assert (data.name, data.params["path"]) == ("folder", "d/real")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("d/fake", r"data=d/fake: d/fake is not there, and no data set is called so"),
        ("notes/x", r"is not there, and no data set"),
        ("pictures", r"no data set is called 'pictures', and a folder pictures is not there"),
        ("digitz", r"did you mean 'digits'"),
        ("notes.txt", r"and a folder notes.txt is a file that no data set reads"),
        ("noisereg/digitz", r"did you mean 'digits'"),
    ],
)
def test_a_name_that_is_nothing_is_not_to_be_installed(here, registry, text, said):
    with pytest.raises(NoiseregError, match=said) as caught:
        complete(validate({"data": text}), registry)
    assert "pip install" not in str(caught.value)


def test_help_of_a_path_is_that_of_what_reads_it(here, capsys):
    from noisereg.cli.main import run

    assert run(["train", "--data", "photos", "--help"]) == 0
    assert "--data folder: any images in a folder" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "path"),
    [("007", "007"), ("7", "7"), ("1e3", "1e3"), ("2024-01-01", "2024-01-01"), ("0x10", "0x10")],
)
def test_a_path_that_looks_like_a_number_stays_text(registry, text, path):
    values = apply_set({"data": {"name": "folder", "path": "x"}}, [f"data.path={text}"])
    data = complete(validate(values), registry).data
    assert data.params["path"] == path


def test_numbers_that_are_numbers_stay_so(registry):
    values = apply_set(
        {"data": "folder:path=x"},
        ["optim.lr=1e-4", "train.steps=010", "data.heldout=0.50", "data.size=064", "seed=1"],
    )
    config = complete(validate(values), registry)
    assert (config.optim.lr, config.train.steps, config.seed) == (1e-4, 10, 1)
    assert (config.data.params["heldout"], config.data.params["size"]) == (0.5, 64)
    points = apply_set({"data": "swiss-roll"}, ["data.n=2e3", "data.version=2"])
    assert complete(validate(points), registry).data.params == {"n": 2000, "version": 2, "seed": 0}
    unet = {"denoiser": {"name": "diffusers-unet", "architecture": {"dropout": 0}}}
    changed = apply_set(unet, ["denoiser.architecture.dropout=0.1"])
    assert complete(validate(changed), registry).denoiser.params["architecture"]["dropout"] == 0.1
