"""Opening a pipe waits for whoever writes into it: none that stands where a file is named hangs a
command. (Those within runs and sweeps are in tests/fuzz/test_corruption.py.)
"""

import os
import signal

import numpy as np
import pytest
from PIL import Image

from noisereg.cli.main import run

TRAIN = ["train", "--steps", "2", "--batch-size", "2", "--denoiser", "mlp:width=8,blocks=1"]


@pytest.fixture(autouse=True)
def _in_time():
    """The command's hang is this test's failure, not the suite's."""

    def late(*_):
        raise TimeoutError("the command hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def pictures(tmp_path):
    """A folder of four pictures and, among them, a pipe."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for k in range(4):
        Image.fromarray(np.full((8, 8), 10 * k, np.uint8)).save(folder / f"{k}.png")
    os.mkfifo(folder / "x.png")
    return folder


@pytest.fixture
def pipe(tmp_path):
    def made(name):
        os.mkfifo(tmp_path / name)
        return str(tmp_path / name)

    return made


def refused(capsys, arguments):
    assert run(arguments) == 2
    err = capsys.readouterr().err
    (line,) = [line for line in err.splitlines() if line.startswith("noisereg: error: ")]
    return line


def test_among_the_pictures_of_a_folder(capsys, pictures, tmp_path):
    said = refused(capsys, [*TRAIN, "--data", str(pictures), "--out", str(tmp_path / "r")])
    assert "x.png is no ordinary file" in said
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("x.npy", [*TRAIN, "--data", "PIPE"]),
        ("x.npz", [*TRAIN, "--data", "PIPE"]),
        ("x.zip", [*TRAIN, "--data", "PIPE"]),
        ("x.npz", [*TRAIN, "--data", "latents:path=PIPE"]),
        ("x.npz", [*TRAIN, "--noise", "blue:spectrum=PIPE"]),
        ("x.yaml", ["train", "--config", "PIPE"]),
        ("x.py", [*TRAIN, "--plugin", "PIPE"]),
        ("x", [*TRAIN, "--init", "PIPE"]),
        ("x.json", ["eval", "PIPE"]),
        ("x.yaml", ["sweep", "--config", "PIPE", "--out", "S"]),
        ("x.py", ["plugins", "trust", "PIPE"]),
        ("x.npz", ["noise", "show", "blue:spectrum=PIPE"]),
        ("x.npz", ["noise", "build", "--out", "PIPE", "--size", "4", "--masks", "1"]),
    ],
)
def test_where_a_file_is_named(capsys, pipe, tmp_path, monkeypatch, name, arguments):
    monkeypatch.chdir(tmp_path)
    path = pipe(name)
    given = [argument.replace("PIPE", path) for argument in arguments]
    out = ["--out", "r"] if given[0] == "train" else []
    assert name in refused(capsys, [*given, *out])
    assert {p.name for p in tmp_path.iterdir()} == {name}


@pytest.mark.parametrize("flag", ["--from", "--init"])
def test_in_a_run_that_another_starts_from(capsys, tmp_path, flag):
    """A run that somebody sent, with a pipe in the place of its weights."""
    net = ["--denoiser", "unet:channels=8,16,attention=1"]
    given, out = str(tmp_path / "given"), str(tmp_path / "new")
    small = ["--steps", "1", "--batch-size", "2", "--set", "sample.steps=1"]
    assert run(["train", *small, *net, "--out", given]) == 0
    capsys.readouterr()
    weights = tmp_path / "given/checkpoints/000001/model.safetensors"
    weights.unlink()
    os.mkfifo(weights)
    said = refused(capsys, ["train", *small, flag, given, "--out", out])
    assert "model.safetensors is no ordinary file" in said
    assert not (tmp_path / "new").exists()
