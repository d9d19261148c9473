"""E‖ε̂‖²/n over t: the Gaussian optimum, and a run beside it."""

import json

import pytest
import torch

from noisereg import python as noisereg
from noisereg.api import per_sample
from noisereg.cli.main import run as command
from noisereg.metrics.power import covariance, gaussian_optimum
from noisereg.python import build
from noisereg.report import pictures
from noisereg.testing.oracle import GaussianOracle, smooth_covariance

SHAPE = (1, 4, 4)
DATA = smooth_covariance(SHAPE)
TIMES = torch.tensor([0.05, 0.3, 0.7, 1.0], dtype=torch.float64)


@pytest.mark.parametrize("process", ["ddpm", "iadb"])
@pytest.mark.parametrize("noise", ["white", "blue-tv"])
def test_the_optimum_is_what_the_optimal_denoiser_has(process, noise):
    """Power and error of the oracle's ε̂ over 4,000 draws, each within 5 standard errors; and they
    add up to the level.
    """
    noise = build("noise", noise, shape=SHAPE)
    process = build("process", process, shape=SHAPE, noise=noise)
    found = gaussian_optimum(process, noise, SHAPE, DATA, TIMES)
    generator = torch.Generator().manual_seed(0)
    z, w = (torch.randn(4000, 16, generator=generator, dtype=torch.float64) for _ in range(2))
    x0, z = (w @ torch.linalg.cholesky(DATA).T).reshape(-1, *SHAPE), z.reshape(-1, *SHAPE)
    oracle = GaussianOracle(process, noise, SHAPE, DATA)
    for k, time in enumerate(TIMES):
        t = time.expand(4000)
        eps = noise.color({"z": z}, t)
        x_t = (
            per_sample(process.signal_scale(t), x0) * x0
            + per_sample(process.noise_scale(t), eps) * eps
        )
        eps_hat = oracle(x_t, t).eps_hat
        for values, expected in ((eps_hat, found.power[k]), (eps - eps_hat, found.error[k])):
            each = values.square().flatten(1).mean(1)
            assert (each.mean() - expected).abs() <= 5 * each.std() / 4000**0.5 + 1e-12
        assert found.power[k] + found.error[k] == pytest.approx(
            noise.mean_square(time[None]).item(), abs=1e-6
        )


def test_for_white_noise_it_is_the_wiener_filters():
    """b²/(a²λ + b²) averaged over the eigenvalues λ of the data's covariance."""
    noise = build("noise", "white", shape=SHAPE)
    process = build("process", "iadb", shape=SHAPE, noise=noise)
    values = torch.linalg.eigvalsh(DATA)
    wanted = [float((t**2 / ((1 - t) ** 2 * values + t**2)).mean()) for t in TIMES]
    assert gaussian_optimum(process, noise, SHAPE, DATA, TIMES).power == pytest.approx(
        wanted, rel=1e-9
    )


def test_the_covariance_is_that_of_the_training_data():
    digits = build("dataset", "digits")
    x = digits.split("train").batch(torch.arange(1617)).x.flatten(1).double()
    assert torch.allclose(covariance(digits), torch.cov(x.T, correction=0), atol=1e-9)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("power")
    for name, reg in (("plain", []), ("held", ["isotropy:weight=3"])):
        noisereg.train(
            out=folder / name,
            reg=reg,
            denoiser="mlp:width=64,blocks=1",
            train={"steps": 150, "batch_size": 64},
            sample={"steps": 2},
            runtime={"device": "cpu"},
        )
    return folder


def test_eval_shows_what_the_constraint_trades(runs, capsys):
    """Held to the level, ε̂ lies nearer to it than its own error; an optimum of the squared error
    alone would not.
    """
    arguments = [
        "eval",
        str(runs / "plain"),
        str(runs / "held"),
        "--metric",
        "isotropy:num=100",
        "--format",
        "json",
    ]
    assert command(arguments) == 0
    rows = json.loads(capsys.readouterr().out)["tables"][0]["rows"]
    plain, held = ({k: cell["mean"] for k, cell in row["metrics"].items()} for row in rows)
    assert held["isotropy-gap"] < plain["isotropy-gap"]
    assert held["isotropy-gap"] < 0.8 * held["eps-mse"]
    assert plain["gap-gaussian"] == held["gap-gaussian"] > 0


def test_the_picture_has_the_optimum_beside_the_run():
    row = {"t": [0.5, 1.0], "predicted": [0.8, 1.0], "level": [1.0, 1.0], "optimum": [0.7, 1.0]}
    figure = pictures.predicted_power({"white": [row], "other": [{**row, "optimum": []}]})
    styles = [line.get_linestyle() for line in figure.axes[0].lines]
    assert styles == ["-", "--", ":", "-", "--"]
    assert figure.axes[0].lines[2].get_ydata().tolist() == [0.7, 1.0]
