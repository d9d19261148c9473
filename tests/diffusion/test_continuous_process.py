"""A continuous VP-SDE (Song et al. 2021, arXiv 2011.13456, eq. 32 and 33) in a few lines: refused
under blue noise, which cannot hide the signal that it leaves, and right under white noise.
"""

import pytest
import torch

import noisereg
from noisereg.api import Component, NoiseregError, Process, per_sample
from noisereg.cli.main import run as command
from noisereg.diffusion.diffusion import Diffusion
from noisereg.diffusion.grids import Uniform
from noisereg.plugins.registry import reset
from noisereg.python import build
from noisereg.testing import Subject, checks, run
from noisereg.testing.oracle import (
    GaussianOracle,
    output_covariance,
    relative_error,
    smooth_covariance,
)

SHAPE = (1, 6, 6)


class VPSDE(Process):
    def signal_scale(self, t):
        t = t.double()
        return torch.exp(-0.25 * t**2 * 19.9 - 0.5 * t * 0.1)

    def noise_scale(self, t):
        return (-torch.expm1(2 * self.signal_scale(t).log())).sqrt()

    def target(self, x0, eps, t):
        return eps

    def split(self, out, x_t, t):
        a, b = per_sample(self.signal_scale(t), x_t), per_sample(self.noise_scale(t), x_t)
        return (x_t - b * out) / a, out


def made(noise):
    return VPSDE(), build("noise", noise, shape=SHAPE)


def test_blue_noise_is_refused_with_the_reason():
    process, noise = made("blue")
    said = "VPSDE leaves a signal of 6.6e-03 at t = 1 that this noise cannot hide"
    with pytest.raises(NoiseregError, match=said) as caught:
        Diffusion(SHAPE, process, noise)
    assert "expected a process with a(1) = 0" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_training_refuses_it_too(tmp_path, capsys):
    noisereg.register(Component(name="vp-sde", impl=VPSDE, summary="Song et al. 2021"))
    try:
        code = command(
            ["train", "--process", "vp-sde", "--noise", "blue", "--out", str(tmp_path / "run")]
        )
    finally:
        reset()
    assert code == 2
    assert "VPSDE leaves a signal of 6.6e-03 at t = 1" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_under_white_noise_it_passes_the_kit():
    outcomes = [run(c, Subject.of("process", VPSDE)) for c in checks("process")]
    assert {o.check.name: o.message for o in outcomes if o.status == "failed"} == {}


@pytest.mark.parametrize(("eta", "most"), [(0.0, 0.05), (1.0, 0.07)])
def test_under_white_noise_what_is_sampled_comes_to_the_data(eta, most):
    process, noise = made("white")
    data = smooth_covariance(SHAPE)
    model = GaussianOracle(process, noise, SHAPE, data)
    errors = [
        relative_error(
            output_covariance(model, process, noise, SHAPE, Uniform().times(process, steps), eta),
            data,
        )
        for steps in (100, 400)
    ]
    assert errors[0] < most
    assert errors[1] < 0.3 * errors[0]
