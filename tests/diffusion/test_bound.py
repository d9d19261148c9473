"""The terms of the variational bound as functions."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from noisereg.api import Noise, Prediction
from noisereg.diffusion import law
from noisereg.diffusion.bound import (
    decoder_log_std,
    decoder_term,
    discretised_nll,
    gaussian_nll,
    step_kl,
)
from noisereg.python import build

ONE = torch.ones(1, dtype=torch.float64)


def scales(process, *times):
    """a and b at each of the times, in the order that the law takes them."""
    return [f(t) for t in times for f in (process.signal_scale, process.noise_scale)]


@pytest.mark.parametrize("std", [1e-3, 0.02, 1.0, 30.0])
@pytest.mark.parametrize("mean", [-1.7, -1.0, 0.123, 1.0, 4.0])
def test_the_probabilities_of_all_grey_levels_sum_to_1(mean, std):
    levels = torch.linspace(-1, 1, 256, dtype=torch.float64)[:, None]
    nll = discretised_nll(
        levels, torch.full_like(levels, mean), torch.tensor(std).double().log(), 256
    )
    assert (-nll).exp().sum().item() == pytest.approx(1, abs=1e-10)


def test_a_grey_level_far_from_the_mean_has_its_true_small_probability():
    """A thousand standard deviations off: P ≈ φ-tail of the nearer edge, 10^−200,000; no floor."""
    x, mean, std = torch.zeros(1, 1).double(), torch.ones(1, 1).double(), 1e-3
    nll = discretised_nll(x, mean, torch.tensor(std).double().log(), 256)
    assert nll.item() == pytest.approx(
        -torch.special.log_ndtr(torch.tensor(-(1 - 1 / 255) / std).double()).item()
    )


def test_the_discretised_decoder_becomes_the_density_times_the_width_for_fine_levels():
    x, mean = torch.tensor([[0.25]]).double(), torch.tensor([[0.3]]).double()
    log_std = torch.tensor(0.1).double().log()
    density = gaussian_nll(x - mean, log_std, torch.zeros(1))
    levels = 100_001
    width = torch.tensor(2 / (levels - 1)).double()
    assert discretised_nll(x, mean, log_std, levels).item() == pytest.approx(
        (density - width.log()).item(), abs=1e-6
    )


def test_step_kl_is_torchs():
    generator = torch.Generator().manual_seed(0)
    m, m_hat = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
    sigma, learned = torch.rand(2, 3, 5, generator=generator, dtype=torch.float64) + 0.1
    ours = step_kl((m - m_hat) / sigma, (learned / sigma).log())
    assert torch.allclose(
        ours, kl_divergence(Normal(m, sigma), Normal(m_hat, learned)).sum(1), rtol=1e-12
    )


@pytest.mark.parametrize("process", ["ddpm", "iadb"])
@pytest.mark.parametrize("eta", [1.0, 0.3])
def test_the_posterior_keeps_the_forward_marginal(process, eta):
    """σ² + kept² = b_s²; and at η = 1 under DDPM σ² is β̃ = β(1 − ᾱ_{t−1})/(1 − ᾱ_t)."""
    process = build("process", process, shape=(1, 2, 2))
    t, s = 0.4 * ONE, 0.3 * ONE
    sigma, kept = law.posterior(*scales(process, t, s), eta)
    assert (sigma**2 + kept**2).item() == pytest.approx(
        process.noise_scale(s).item() ** 2, rel=1e-12
    )
    beta = law.forward_variance(*scales(process, t, s))
    tilde = beta * process.noise_scale(s) ** 2 / process.noise_scale(t) ** 2
    assert (sigma**2).item() == pytest.approx((eta**2 * tilde).item(), rel=1e-12)


def test_the_decoders_deviation_runs_from_the_posterior_before_it_to_the_noise():
    process = build("process", "ddpm", shape=(1, 2, 2))
    before, t = 0.002 * ONE, 0.001 * ONE
    low, high = (decoder_log_std(process, before, t, f).exp() for f in (0.0, 1.0))
    assert torch.allclose(low, law.posterior(*scales(process, before, t))[0])
    assert torch.allclose(high, process.noise_scale(t))
    alone = decoder_log_std(
        process, ONE, ONE, 0.0
    ).exp()  # one step in all: there is none before it
    assert torch.allclose(alone, process.noise_scale(ONE))


class Uneven(Noise):
    """L = diag(1, 2, ½)."""

    diagonal = True
    entries = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)

    def color(self, latents, t):
        return latents["z"] * self.entries

    def mean_square(self, t):
        return self.entries.square().mean().expand(t.shape)

    def whiten(self, eps, t):
        return eps / self.entries


def test_the_decoder_of_uneven_noise_has_each_numbers_own_width():
    process = build("process", "iadb")
    x0 = torch.tensor([[-0.2, 0.0, 0.6]]).double().mul(127.5).round() / 127.5
    x0_hat = x0 + torch.tensor([[0.01, -0.02, 0.005]]).double()
    before, t = 0.03 * ONE, 0.02 * ONE
    given = decoder_term(process, Uneven(), x0, Prediction(x0_hat, x0_hat), before, t, 0.0, 256)
    std = decoder_log_std(process, before, t, 0.0).exp() * Uneven.entries
    half = 1 / 255
    expected = Normal(x0_hat, std).cdf(x0 + half) - Normal(x0_hat, std).cdf(x0 - half)
    assert given.item() == pytest.approx(-expected.log().sum().item(), rel=1e-9)
