"""Data of a plugin that are no images in [−1, 1], or much larger than the noise."""

from __future__ import annotations

from pathlib import Path

import pytest

from noisereg.cli.main import run

PLUGIN = """
import torch
from noisereg.api import Batch, Component, Dataset, Params, hookimpl

class P(Params):
    size: float = 1.0
    points: bool = False
    above: bool = False
    none: bool = False

class Sized(Dataset):
    def __init__(self, params, ctx):
        own = torch.Generator().manual_seed(0)
        shape = (32, 2) if params.points else (32, 1, 8, 8)
        x = torch.rand(*shape, generator=own) * 2 - 1
        x = x.abs() if params.above else x
        self.x = (x * params.size)[: 0 if params.none else None]
        self.shape = tuple(shape[1:])
    def split(self, name):
        return self
    def __len__(self):
        return len(self.x)
    def batch(self, indices):
        return Batch(self.x[indices])

@hookimpl
def noisereg_datasets():
    yield Component(name="sized", impl=Sized, params=P, summary="uniform numbers", api=1)
"""


@pytest.fixture(scope="module")
def sized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plugin") / "sized.py"
    path.write_text(PLUGIN)
    return path


def begin(plugin: Path, data: str, *more: str) -> int:
    denoiser = "dense" if "points" in data else "mlp"
    given = ["train", "--plugin", str(plugin), "--data", data, "--denoiser", denoiser]
    return run([*given, "--steps", "2", "--batch-size", "8", *more])


@pytest.mark.parametrize("how", ["--out", "--dry-run"])
def test_images_beyond_1_are_refused_and_nothing_is_written(
    sized: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    out = tmp_path / "run"
    place = [how, str(out)] if how == "--out" else [how]
    assert begin(sized, "sized:size=255", *place) == 2
    said = capsys.readouterr().err
    assert "data set file/sized gives images in [-255, 254.9]; expected [-1, 1]" in said
    assert "x / 127.5 - 1" in said
    assert not (out / "config.yaml").exists()
    assert not (out / "checkpoints").exists()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("sized:size=1.1", "in [-1.1, 1.1]"),
        ("sized:size=-1.1,above=true", "in [-1.1, -"),
        ("sized:size=1.1,above=true", ", 1.1]"),
        ("sized:none=true", "data set file/sized has no training samples"),
    ],
)
def test_images_a_little_beyond_on_either_side_are_refused(
    sized: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], data: str, said: str
) -> None:
    assert begin(sized, data, "--out", str(tmp_path / "run")) == 2
    assert said in capsys.readouterr().err


def test_points_much_larger_than_the_noise_are_said(
    sized: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert begin(sized, "sized:size=20,points=true", "--out", str(tmp_path / "run")) == 0
    assert "root mean square of 11.4, and the noise has 1" in capsys.readouterr().err
    assert begin(sized, "sized:size=7.5,points=true", "--out", str(tmp_path / "other")) == 0
    assert "root mean square of 4.27" in capsys.readouterr().err


@pytest.mark.parametrize("data", ["sized:size=6,points=true", "sized:size=1.0005"])
def test_others_train_without_a_word(
    sized: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], data: str
) -> None:
    assert begin(sized, data, "--out", str(tmp_path / "run")) == 0
    assert "root mean square" not in capsys.readouterr().err
