"""``noisereg noise build`` and ``noise show``."""

import json

import pytest
from PIL import Image

from noisereg.cli.main import run
from noisereg.noises.spectrum_file import read

FEW = ["--draws", "100", "--size", "8"]


def call(capsys, *arguments):
    code = run(["noise", *(str(a) for a in arguments)])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """A third party's noise in one file, which learns the data's mean square."""
    source = tmp_path_factory.mktemp("plugin") / "mine.py"
    source.write_text(
        "import torch\n"
        "from noisereg.api import Component, Noise, hookimpl\n"
        "class Scaled(Noise):\n"
        "    def __init__(self, params, ctx):\n"
        "        self.scale = 1.0\n"
        "    def fit(self, batches):\n"
        "        self.scale = float(torch.cat([b.flatten() for b in batches]).std())\n"
        "    def color(self, latents, t):\n"
        "        return self.scale * latents['z']\n"
        "    def mean_square(self, t):\n"
        "        return torch.full_like(t, self.scale**2)\n"
        "@hookimpl\n"
        "def noisereg_noises():\n"
        "    yield Component(name='scaled', impl=Scaled)\n"
    )
    return source


def test_a_built_spectrum_is_used_for_noise(capsys, tmp_path):
    out = tmp_path / "blue.npz"
    code, stdout, err = call(
        capsys, "build", "--size", "6x10", "--masks", 12, "--seed", 3, "--jobs", 1, "--out", out
    )
    assert code == 0
    assert stdout.strip() == str(out)
    assert f"blue:spectrum={out}" in err
    assert (read(out).power.shape, read(out).masks, read(out).seed) == ((6, 10), 12, 3)
    code, stdout, _ = call(
        capsys, "show", f"blue:spectrum={out}", "--size", "6x10", "--draws", 50, "--json"
    )
    assert code == 0
    assert json.loads(stdout)["shape"] == [1, 6, 10]


def test_build_says_what_it_made_as_json(capsys, tmp_path):
    _, stdout, _ = call(
        capsys, "build", "--size", 4, "--masks", 2, "--jobs", 1, "--out", tmp_path / "s", "--json"
    )
    about = json.loads(stdout)
    assert {k: about[k] for k in ("height", "width", "masks", "seed")} == {
        "height": 4, "width": 4, "masks": 2, "seed": 0,
    }  # fmt: skip
    assert "void-and-cluster" in about["method"]


@pytest.mark.parametrize(
    "noise", ["white", "blue", "blue-tv", "red-tv:factor=spectral", "power-law:exponent=0.5"]
)
def test_show_gives_numbers_for_every_noise(capsys, noise):
    code, stdout, _ = call(capsys, "show", noise, *FEW, "--t", "0,1", "--json")
    assert code == 0
    numbers = json.loads(stdout)
    assert [one["t"] for one in numbers["times"]] == [0, 1]
    for one in numbers["times"]:
        square = one["mean_square"]
        assert abs(square["measured"] - square["declared"]) < 5 * square["standard_error"]
    assert len(numbers["mean_square"]["declared"]) == 101


def test_show_draws_a_picture_and_a_table(capsys, tmp_path):
    code, stdout, _ = call(
        capsys, "show", "blue-tv", *FEW, "--t", "0,0.05", "--out", tmp_path / "fig.png"
    )
    assert code == 0
    assert "sigmoid γ (τ 0.2)" in stdout
    assert (
        len(Image.open(tmp_path / "fig.png").convert("L").getcolors(256)) > 50
    )  # something is drawn


@pytest.mark.parametrize("suffix", ["pdf", "svg"])
def test_pictures_have_other_formats_and_tiny_images_too(capsys, tmp_path, suffix):
    assert (
        call(
            capsys,
            "show",
            "white",
            "--size",
            "1x2",
            "--draws",
            9,
            "--out",
            tmp_path / f"f.{suffix}",
        )[0]
        == 0
    )
    assert (tmp_path / f"f.{suffix}").stat().st_size > 5000


def test_a_third_partys_noise_is_looked_at_and_fitted(capsys, mine):
    code, stdout, _ = call(
        capsys,
        "show",
        "file/scaled",
        "--plugin",
        mine,
        "--data",
        "digits",
        "--draws",
        50,
        "--json",
    )
    assert code == 0
    numbers = json.loads(stdout)
    assert numbers["shape"] == [1, 8, 8]
    assert numbers["mean_square"]["declared"][0] != 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["build", "--size", "0", "--out", "x"], "--size '0'"),
        (["build", "--size", "6.5", "--out", "x"], "--size '6.5'"),
        (["build", "--size", "many", "--out", "x"], "--size 'many'"),
        (["build", "--size", "-8", "--out", "x"], "--size"),
        (["build", "--size", "1", "--out", "x"], "N ≥ 2"),
        (["build", "--size", "8", "--masks", "0", "--out", "x"], "at least one mask"),
        (["build", "--size", "8", "--masks", "half", "--out", "x"], "--masks"),
        (["build", "--size", "8", "--seed", "-1", "--out", "x"], "seed"),
        (["build", "--size", "8"], "--out"),
        (["build", "--size", "4", "--masks", "1", "--jobs", "1", "--out", "."], "is a folder"),
        (["show", "bleu"], "did you mean 'blue'"),
        (["show", "blue:jiter=1"], "did you mean 'jitter'"),
        (["show", "blue", "--t", "2"], "--t '2'"),
        (["show", "blue", "--t", "soon"], "--t 'soon'"),
        (["show", "blue", "--draws", "1"], "--draws 1"),
        (["show", "blue", "--channels", "-1"], "--channels -1"),
        (["show", "blue", "--out", "fig.jpg"], "did you mean 'png'"),
        (["show", "blue", "--data", "digits", "--size", "8"], "leave out --size"),
        (["show", "blue", "--data", "swiss-roll"], "points of 2 numbers"),
        (["show", "blue:spectrum=nowhere.npz"], "No such file"),
    ],
)
def test_a_mistake_is_one_line(capsys, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    code, stdout, err = call(capsys, *arguments)
    assert (code, stdout) == (2, "")
    assert err.startswith("noisereg: error: ")
    assert err.count("\n") == 1
    assert says in err
    assert list(tmp_path.iterdir()) == []


def test_a_noise_that_learns_asks_for_data(capsys, mine):
    code, _, err = call(capsys, "show", "file/scaled", "--plugin", mine)
    assert code == 2
    assert "give --data" in err


def test_no_space_for_the_spectrum_leaves_nothing(capsys, tmp_path, monkeypatch):
    import noisereg.runs.checkpoint as checkpoint

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "replace", full)
    code, _, err = call(
        capsys, "build", "--size", 4, "--masks", 1, "--jobs", 1, "--out", tmp_path / "s"
    )
    assert code == 2
    assert "No space left" in err
    assert list(tmp_path.iterdir()) == []
