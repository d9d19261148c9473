"""The conformance kit, and each process against its paper's formulas, written out here."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from noisereg import build
from noisereg.api import NoiseregError, per_sample
from noisereg.diffusion.diffusion import Diffusion
from noisereg.diffusion.grids import EDM as EDMGrid
from noisereg.diffusion.solvers import DDIM, Heun
from noisereg.testing import conformance
from noisereg.testing.doubles import SmallNetwork

SHAPE = (1, 6, 6)
FLOW, EDM = "noisereg-flow/rectified-flow", "noisereg-flow/edm"

test_rectified_flow = conformance("process", FLOW)
test_edm = conformance("process", EDM)


def made(spec, noise="white"):
    noise = build("noise", noise, shape=SHAPE)
    return build("process", spec, shape=SHAPE, noise=noise), noise


def rand(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def uniform(count):
    return torch.rand(count, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize(
    ("spec", "wrong", "law"),
    [
        (FLOW, f"{FLOW}:times_mean=0.1", lambda p, t: np.log(t / (1 - t))),
        (EDM, f"{EDM}:log_mean=-1.08", lambda p, t: (np.log(80 * t**7) + 1.2) / 1.2),
    ],
)
def test_times_have_the_law_of_the_paper(spec, wrong, law):
    """By Kolmogorov's and Smirnov's test: a right law fails once in 10⁴ (the seed is fixed), and
    a mean that is off by a tenth of a standard deviation is found."""
    for given, right in ((spec, True), (wrong, False)):
        process, _ = made(given)
        t = process.time(uniform(20_000)).numpy()
        assert (stats.kstest(law(process, t), stats.norm.cdf).pvalue > 1e-4) == right


def test_a_step_of_rectified_flow_is_eulers():
    """DDIM's x_s is x_t + (s − t)·v, and the loss is the mean of ‖v̂ − (ε − x0)‖²."""
    process, noise = made(FLOW)
    net = SmallNetwork(SHAPE).double()
    diffusion = Diffusion(SHAPE, process, noise)
    z, times = rand(3, *SHAPE), torch.linspace(1, 0, 6, dtype=torch.float64)
    *_, x = diffusion.trajectory(net, lambda k: {"z": z}, times, DDIM())
    expected = z.clone()
    for t, s in itertools.pairwise(times):
        expected = expected + (s - t) * net(expected, t.expand(3))
    torch.testing.assert_close(x, expected)
    x0, t = rand(3, *SHAPE, seed=2), torch.tensor([0.2, 0.5, 0.9]).double()
    b = per_sample(t, x0)
    by_hand = (net((1 - b) * x0 + b * z, t) - (z - x0)).square().mean()
    torch.testing.assert_close(diffusion.loss(net, x0, latents=z, t=t).loss, by_hand)


def karras(sigma, data=0.5):
    """(c_skip, c_out, c_in, λ) of table 1."""
    total = sigma**2 + data**2
    return (
        data**2 / total,
        sigma * data / total.sqrt(),
        1 / total.sqrt(),
        total / (sigma * data) ** 2,
    )


def test_edms_loss_is_the_papers():
    """E[λ(σ)·‖D(x0 + σε; σ) − x0‖²] with D by table 1."""
    process, noise = made(EDM)
    net = SmallNetwork(SHAPE).double()
    x0, z = 0.5 * rand(5, *SHAPE), rand(5, *SHAPE, seed=1)
    t = torch.tensor([0.2, 0.4, 0.6, 0.8, 1.0], dtype=torch.float64)
    skip, out, scale, weight = (per_sample(c, x0) for c in karras(80 * t**7))
    x = x0 + per_sample(80 * t**7, x0) * z
    denoised = skip * x + out * net(scale * x, t)
    by_hand = (weight * (denoised - x0).square()).mean()
    found = Diffusion(SHAPE, process, noise).loss(net, x0, latents=z, t=t).loss
    torch.testing.assert_close(found, by_hand)


def test_what_edms_network_sees_and_learns_has_variance_one():
    """The paper's reason for the preconditioning (appendix B.6), at every σ."""
    process, _ = made(EDM)
    x0, eps = 0.5 * rand(4096, 36), rand(4096, 36, seed=1)
    for time in (0.1, 0.5, 0.7, 1.0):
        t = torch.full((4096,), time, dtype=torch.float64)
        x = x0 + per_sample(process.noise_scale(t), x0) * eps
        seen = per_sample(process.input_scale(t), x) * x
        for v in (seen, process.target(x0, eps, t)):
            assert float(v.var()) == pytest.approx(1, abs=0.02)  # 5 standard errors


def test_heun_on_edm_is_the_papers_algorithm_1():
    """Without churn, on the grid that the process asks for, which is eq. 5's."""
    process, noise = made(EDM)
    assert process.default_grid == "edm:rho=7"
    times = EDMGrid(7.0).times(process, 8)
    sigma = process.noise_scale(times)
    top, low = 80 ** (1 / 7), sigma[-2] ** (1 / 7)
    torch.testing.assert_close(sigma[:-1], (top + torch.arange(8).double() / 7 * (low - top)) ** 7)

    net = SmallNetwork(SHAPE).double()
    z = rand(3, *SHAPE)
    *_, x = Diffusion(SHAPE, process, noise).trajectory(net, lambda k: {"z": z}, times, Heun())

    def slope(x, t):
        level = 80 * t**7
        skip, out, scale, _ = karras(level)
        return (x - skip * x - out * net(scale * x, t.expand(len(x)))) / level

    expected = 80 * z
    for t, s in itertools.pairwise(times):
        width = 80 * s**7 - 80 * t**7
        here = slope(expected, t)
        euler = expected + width * here
        expected = euler if s == 0 else expected + width * (here + slope(euler, s)) / 2
    torch.testing.assert_close(x, expected, rtol=1e-9, atol=1e-9)


def test_noise_that_is_weak_somewhere_is_refused_by_edm_and_taken_by_rectified_flow():
    """a(1) is 1 and b(1) 80: blue noise could not hide the data."""
    process, _ = made(FLOW, "blue")
    assert math.isclose(float(process.signal_scale(torch.ones(1).double())), 0)
    process, noise = made(EDM, "blue")
    with pytest.raises(NoiseregError, match="leaves a signal of"):
        Diffusion(SHAPE, process, noise)


def test_the_small_library_samples_edm_on_its_own_grid():
    """Data N(0, 0.25): the optimal F is 0, and what comes out of 40 steps has their variance."""
    process, noise = made(EDM)
    x = Diffusion(SHAPE, process, noise).sample(
        lambda x, t: torch.zeros_like(x),
        256,
        steps=40,
        solver=Heun(),
        generator=torch.Generator().manual_seed(0),
    )
    assert float(x.var()) == pytest.approx(0.25, abs=0.02)  # 5 standard errors
