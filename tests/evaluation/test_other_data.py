"""A run's data are read at the path that it was trained on: what lies there today may be other."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import noisereg
from noisereg.cli.main import run as command
from noisereg.evaluation.evaluate import run_evaluation
from noisereg.evaluation.options import Options
from noisereg.plugins.registry import registry
from noisereg.runs.reporter import Reporter


def photos(folder: Path, seed: int, count: int = 12) -> None:
    folder.mkdir(parents=True)
    draw = np.random.default_rng(seed)
    for k in range(count):
        pixels = draw.integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{seed}-{k}.png")


def remarks(run: Path, **options: object) -> list[str]:
    given = Options(num=6, num_reference=6, steps=(2,), **options)
    (found,) = run_evaluation([run], ["fd"], given, registry(), Reporter())
    return [text for text in found.table.remarks if "trained on" in text]


def test_other_images_at_the_path_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photos(tmp_path / "here/photos", 0)
    photos(tmp_path / "there/photos", 1)
    monkeypatch.chdir(tmp_path / "here")
    noisereg.train(
        out="run",
        data="folder:path=photos",
        denoiser="mlp:width=8,blocks=1",
        train={"steps": 2, "batch_size": 4},
        sample={"steps": 2},
        runtime={"device": "cpu"},
    )
    assert remarks(Path("run")) == []
    assert command(["sample", "run", "--nearest", "--num", "2", "--out", "near.png"]) == 0
    monkeypatch.chdir(tmp_path / "there")
    run = Path("../here/run")
    (said,) = remarks(run)
    assert said.startswith("../here/run: its data are not those that it was trained on: ")
    assert remarks(run, data="folder:path=photos") == []  # chosen by the user
    assert command(["sample", str(run), "--nearest", "--num", "2", "--out", "near.png"]) == 0
    assert "not those that the run was trained on" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path / "here")
    shutil.copy(tmp_path / "there/photos/1-0.png", "photos")  # one more, in place
    assert len(remarks(Path("run"))) == 1
