"""Trajectories, the same latents elsewhere, interpolations, and training images nearby."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

import noisereg
from noisereg.cli.main import run as command
from noisereg.errors import NoiseregError
from noisereg.evaluation.evaluate import run_evaluation
from noisereg.evaluation.options import Options
from noisereg.report import report
from noisereg.runs.output import between, names_of_inputs, write_samples
from noisereg.runs.reporter import Reporter
from noisereg.runs.views import interpolated


def trained(folder, **settings):
    return noisereg.train(
        out=folder,
        denoiser="mlp:width=8",
        train={"steps": 3, "batch_size": 16},
        sample={"steps": 6, "num": 5},
        runtime={"device": "cpu"},
        **settings,
    )


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("views") / "images")


@pytest.fixture(scope="module")
def points(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("views") / "points", data="swiss-roll")


def test_a_trajectory_goes_from_the_latents_to_the_samples(points):
    whole = points.sample(5, trajectory=True, seed=3)
    assert whole.shape == (7, 5, 2)
    assert torch.equal(whole[-1], points.sample(5, seed=3))
    start = points.latents(5, seed=3)["z"]
    assert torch.allclose(whole[0], start * points.diffusion.process.noise_scale(torch.ones(1))[0])
    some = points.sample(5, trajectory=3, seed=3)
    assert torch.equal(some, whole[[0, 3, 6]])


def test_latents_of_ones_own_replace_those_of_the_start(points):
    own = points.latents(4, seed=9)
    assert torch.equal(points.sample(latents=own, eta=0), points.sample(4, seed=9, eta=0))
    assert torch.equal(points.sample(latents=own["z"], eta=0), points.sample(4, seed=9, eta=0))
    assert not torch.equal(points.sample(4, eta=0), points.sample(4, seed=9, eta=0))
    with pytest.raises(NoiseregError, match=r"latents: expected z \(num, 2\), not z \(4, 3\)"):
        points.sample(latents=torch.zeros(4, 3))
    with pytest.raises(NoiseregError, match="trajectory=1: expected at least 2 times"):
        points.sample(4, trajectory=1)


def test_between_two_latents_each_is_as_likely_as_they_are():
    ends = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    rows = between(ends, 5)
    assert rows.shape == (20, 3, 16, 16)
    assert torch.allclose(rows[0::5], ends[0::2], atol=1e-6)
    assert torch.allclose(rows[4::5], ends[1::2], atol=1e-6)
    power = rows.square().mean((1, 2, 3))
    assert (power - 1).abs().max() < 0.15  # a straight line's middle has 0.5


def test_an_interpolation_ends_at_two_samples(images):
    rows = interpolated(images, 2, 4)
    samples = images.sample(4, eta=0)
    assert torch.equal(rows[[0, 3, 4, 7]], samples)
    assert torch.equal(interpolated(images, 2, 4, solver="ddim"), rows)


def test_pictures_of_other_settings_have_other_names(images, capsys):
    folder = images.path / "samples"

    def named(*arguments):
        before = {p.name for p in folder.glob("*.png")}
        assert command(["sample", *map(str, arguments), "--num", "2"]) == 0
        return {p.name for p in folder.glob("*.png")} - before

    assert named(images.path) == {"seed0-2.png"}
    assert named(images.path, "--steps", 3, "--eta", 0) == {"seed0-2-steps=3-eta=0.0.png"}
    assert named(images.path, images.path) == {"seed0-2-and=images.png"}
    capsys.readouterr()


STOCHASTIC = """
from noisereg.api import Component, Params, Solver, hookimpl


class Anew(Solver):
    deterministic = False

    def __init__(self, params, ctx):
        pass

    def step(self, s):
        return s.here.x0_hat if s.last else s.here.x0_hat + s.fresh()


@hookimpl
def noisereg_solvers():
    yield Component(name="anew", impl=Anew, params=Params)
"""


def test_a_solver_that_draws_and_has_no_eta_makes_no_interpolation(tmp_path):
    (tmp_path / "anew.py").write_text(STOCHASTIC)
    run = trained(tmp_path / "run", plugins=str(tmp_path / "anew.py"))
    for given in ({"solver": "anew"}, {"solver": "anew", "eta": 0.0}):
        assert len(run.sample(2, **given)) == 2
    with pytest.raises(NoiseregError, match="solver anew adds fresh noise, another on each"):
        interpolated(run, 2, 4, solver="anew")
    assert len(interpolated(run, 2, 4, solver="ddim")) == 8


def size(path):
    with Image.open(path) as image:
        return image.size, getattr(image, "n_frames", 1)


def test_pictures_of_the_command_line(images, points, tmp_path, capsys):
    def made(name, *arguments):
        assert command(["sample", *map(str, arguments), "--out", str(tmp_path / name)]) == 0
        return tmp_path / name

    one = 64 + 2
    run = images.path
    assert size(made("strip.png", run, "--trajectory", "--num", 3)) == (
        (7 * one + 2, 3 * one + 2),
        1,
    )
    assert size(made("all.gif", run, "--trajectory", "--num", 4))[0] == (2 * one + 2,) * 2
    webp, frames = size(made("all.webp", run, "--trajectory", "--num", 4))
    assert webp == (2 * one + 2,) * 2
    assert frames > 4  # frames that are alike are one
    whole = np.load(made("all.npz", run, "--trajectory", "--num", 4))["samples"]
    assert whole.shape == (7, 4, 8, 8, 1)
    assert size(made("points.png", points.path, "--trajectory"))[0] == (6 * 500, 500)
    rows = made("between.png", run, "--interpolate", 5, "--num", 2)
    assert size(rows)[0] == (5 * one + 2, 2 * one + 2)
    capsys.readouterr()
    assert size(made("near.png", run, "--nearest", "--num", 4))[0] == (8 * one + 2, 2 * one + 2)
    assert "0.0% of them are copies of a training image" in capsys.readouterr().out
    two = size(made("two.png", run, run, "--num", 8))[0]
    assert two == (8 * one + 2, 2 * (one + 2 + 24))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--trajectory", "--out", "x.jpg"], "--out x.jpg: expected a .gif or .webp, which moves"),
        (["--out", "x.gif"], "give --trajectory too, or a .png"),
        (["--nearest", "--out", "x.npz"], "expected a .png"),
        (
            ["--nearest", "--trajectory"],
            "--trajectory, --interpolate and --nearest are a picture each",
        ),
        (["--interpolate", "1"], "--interpolate 1: expected at least 2"),
    ],
)
def test_what_has_no_such_picture_is_refused(images, arguments, said, capsys):
    assert command(["sample", str(images.path), *arguments]) == 2
    assert said in capsys.readouterr().err


def test_the_report_shows_them(images):
    options = Options(num=40)
    (found,) = run_evaluation([images.path], ["fd"], options, images.registry, Reporter())
    rows = report._Rows(found)
    sizes = {}
    for make in (report._trajectories, report._interpolations, report._nearest):
        picture = make(rows)
        ((label, data),) = picture.images
        with Image.open(io.BytesIO(data)) as image:
            sizes[picture.name, label] = (image.width // 66, image.height // 66)
    assert sizes == {
        ("trajectories", "white"): (7, 4),
        ("interpolations", "white"): (8, 4),
        ("nearest", "white: 0.0% copies"): (8, 18),
    }


def test_what_is_made_of_images_keeps_their_names(tmp_path):
    for name in ("cat.png", "dog.jpg", "more/cat.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(tmp_path / "in" / name)
    names = names_of_inputs(tmp_path / "in", 4)
    assert names == ["cat", "dog", "more-cat", "round1-cat"]
    (tmp_path / "taken").mkdir()
    for name in ("x", "round1-x"):
        Image.new("L", (8, 8)).save(tmp_path / "taken" / f"{name}.png")
    several = names_of_inputs(tmp_path / "taken", 6)
    assert len(set(several)) == 6
    assert several[:2] == ["round1-x", "x"]
    write_samples(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), tmp_path / "out", names)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {f"{name}.png" for name in names}
    write_samples(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), tmp_path / "out.npz", names)
    with np.load(tmp_path / "out.npz") as stored:  # text, and nothing pickled
        assert stored["names"].tolist() == names


def test_no_two_inputs_share_a_name(tmp_path):
    for name in ("a.png", "a.jpg", "a-0.png", "a-0/b.png", "a/0-b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(tmp_path / name)
    names = names_of_inputs(tmp_path, 5)
    assert len(set(names)) == 5
    assert {"a-1", "a-2", "a-0", "a-0-b-0", "a-0-b-1"} == set(names)
