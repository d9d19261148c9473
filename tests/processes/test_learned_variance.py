"""The head of a learned variance: its loss is a term of the variational bound, written out by hand
here.
"""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from noisereg.api import Context, NoiseregError, TrainStep
from noisereg.processes import DDPMParams
from noisereg.processes.ddpm import DDPM
from noisereg.python import build

SHAPE = (1, 4, 4)
N = 16


class Grey:
    levels = 256


def ddpm(noise, dataset=None, **params):
    return DDPM(
        DDPMParams(variance="learned", **params),
        Context(shape=SHAPE, noise=noise, dataset=dataset),
    )


def train_step(process, noise, t, own, x0=None, seed=0):
    """A prediction that is off by a smooth error."""
    generator = torch.Generator().manual_seed(seed)
    batch = len(t)
    z = torch.randn(batch, *SHAPE, generator=generator, dtype=torch.float64)
    if x0 is None:
        x0 = (torch.randint(0, 256, (batch, *SHAPE), generator=generator) / 127.5 - 1).double()
    eps = noise.color({"z": z}, t)
    a, b = (
        process.signal_scale(t).reshape(-1, 1, 1, 1),
        process.noise_scale(t).reshape(-1, 1, 1, 1),
    )
    x_t = a * x0 + b * eps
    eps_hat = (eps + 0.1 * torch.cos(3 * x_t)).requires_grad_()
    x0_hat = (x_t - b * eps_hat) / a
    return TrainStep(
        x0=x0, latents={"z": z}, t=t, eps=eps, x_t=x_t, x0_hat=x0_hat, eps_hat=eps_hat, heads=None, cond=None,
        noise=noise, process=process, step=0, denoise=lambda x, t: (x, x), mean=torch.mean, own=own,
    )  # fmt: skip


def head(batch, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.rand(batch, *SHAPE, generator=generator, dtype=torch.float64)
        .mul(2)
        .sub(1)
        .requires_grad_()
    )


def test_for_white_noise_it_is_the_kl_of_two_normals_number_by_number():
    """Ho et al., eq. 6 and 7, through torch.distributions: q(x_{t−1} | x_t, x0) against N(μ(x_t,
    x̂0), σ̃²).
    """
    noise = build("noise", "white", shape=SHAPE)
    process = ddpm(noise)
    t = torch.tensor([2, 40, 500, 1000], dtype=torch.float64) / 1000
    own = head(4)
    step = train_step(process, noise, t, own)
    alpha_bar, before = (
        process.signal_scale(k).square().reshape(-1, 1, 1, 1) for k in (t, t - 1e-3)
    )
    beta = 1 - alpha_bar / before

    def posterior_mean(x0):
        from_x0 = before.sqrt() * beta / (1 - alpha_bar)
        from_xt = (1 - beta).sqrt() * (1 - before) / (1 - alpha_bar)
        return from_x0 * x0 + from_xt * step.x_t

    small = beta * (1 - before) / (1 - alpha_bar)
    fraction = (own + 1) / 2
    learned = torch.exp(fraction * beta.log() + (1 - fraction) * small.log())
    q = Normal(posterior_mean(step.x0), small.sqrt().expand(own.shape))
    p = Normal(posterior_mean(step.x0_hat), learned.sqrt())
    by_hand = kl_divergence(q, p).flatten(1).sum(1) / (N * math.log(2))
    assert torch.allclose(process.head_loss(step), by_hand, rtol=1e-6)  # λT = 1 at the defaults


def test_its_first_term_is_the_discretised_decoder_where_the_data_are_grey_levels():
    noise = build("noise", "white", shape=SHAPE)
    process, continuous = ddpm(noise, Grey()), ddpm(noise)
    t = torch.tensor([1e-3, 1e-3], dtype=torch.float64)
    own = head(2)
    x0 = torch.linspace(-1, 1, 256, dtype=torch.float64)[::8].reshape(2, *SHAPE)  # with an edge
    step = train_step(process, noise, t, own, x0)
    b1, b2 = (
        float(process.noise_scale(torch.tensor([k / 1000], dtype=torch.float64))) for k in (1, 2)
    )
    a1, a2 = (1 - b1**2) ** 0.5, (1 - b2**2) ** 0.5
    small = (1 - (a2 / a1) ** 2) * b1**2 / b2**2
    fraction = (own + 1) / 2
    law = Normal(
        step.x0_hat,
        torch.exp(fraction * math.log(b1**2) + (1 - fraction) * math.log(small)).sqrt(),
    )
    above = torch.where(x0 > 0.999, 1.0, law.cdf(x0 + 1 / 255))
    below = torch.where(x0 < -0.999, 0.0, law.cdf(x0 - 1 / 255))
    by_hand = -(above - below).log().flatten(1).sum(1) / (N * math.log(2))
    assert torch.allclose(process.head_loss(step), by_hand, rtol=1e-6)
    density = -law.log_prob(x0).flatten(1).sum(1) / (N * math.log(2))
    assert torch.allclose(continuous.head_loss(step), density, rtol=1e-6)


def test_under_coloured_noise_it_is_the_kl_of_two_multivariate_normals():
    """One fraction a sample, the mean of the head; covariances σ²L_sL_sᵀ and σ̃²L_sL_sᵀ."""
    from torch.distributions import MultivariateNormal

    from noisereg.testing.oracle import noise_matrix

    noise = build("noise", "blue-tv:transport=whiten,jitter=0.01", shape=SHAPE)
    process = ddpm(noise)
    t = torch.tensor([0.3, 0.8], dtype=torch.float64)
    own = head(2)
    step = train_step(process, noise, t, own)
    for i in range(2):
        s = t[i : i + 1] - 1e-3
        a_s, b_s, b_t = (
            process.signal_scale(s),
            process.noise_scale(s),
            process.noise_scale(t[i : i + 1]),
        )
        beta = b_t**2 - (process.signal_scale(t[i : i + 1]) / a_s) ** 2 * b_s**2
        sigma = beta.sqrt() * b_s / b_t
        root, at_t = noise_matrix(noise, SHAPE, float(s)), noise_matrix(noise, SHAPE, float(t[i]))
        moved = root @ torch.linalg.inv(at_t)
        rest = (b_s**2 - sigma**2).sqrt()
        means = [
            a_s * x0[i].flatten() + rest * moved @ eps[i].flatten()
            for x0, eps in ((step.x0, step.eps), (step.x0_hat, step.eps_hat))
        ]
        fraction = (own[i].mean() + 1) / 2
        learned = torch.exp(fraction * (beta.log()) + (1 - fraction) * (sigma**2).log()).sqrt()
        q, p = (
            MultivariateNormal(m, scale_tril=k * root)
            for m, k in ((means[0], sigma), (means[1], learned))
        )
        by_hand = kl_divergence(q, p) / (N * math.log(2))
        assert process.head_loss(step)[i].item() == pytest.approx(
            by_hand.item(), rel=1e-4
        )  # L is kept in float32


def test_it_trains_the_variance_alone():
    noise = build("noise", "white", shape=SHAPE)
    process = ddpm(noise, Grey())
    own = head(5)
    step = train_step(
        process, noise, torch.tensor([0.001, 0.002, 0.1, 0.5, 1.0], dtype=torch.float64), own
    )
    process.head_loss(step).sum().backward()
    assert step.eps_hat.grad is None
    assert own.grad.isfinite().all()
    assert (own.grad.flatten(1).abs().amax(1) > 0).all()


@pytest.mark.parametrize(("spread", "best"), [(1.0, 1.0), (1e-4, 0.0)])
def test_the_best_fraction_is_1_for_unit_gaussian_data_and_0_for_a_single_point(spread, best):
    """Sohl-Dickstein et al. 2015, §2.4: β is optimal for x0 ~ N(0, I), β̃ for fixed x0. Mean over
    4,000 samples.
    """
    noise = build("noise", "white", shape=SHAPE)
    process = ddpm(noise)
    batch = 4000
    generator = torch.Generator().manual_seed(3)
    t = torch.full((batch,), 0.05, dtype=torch.float64)
    x0, z = (
        torch.randn(batch, *SHAPE, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    x0 = spread * x0
    a, b = float(process.signal_scale(t[:1])), float(process.noise_scale(t[:1]))
    x_t = a * x0 + b * z
    total = a**2 * spread**2 + b**2
    step = train_step(process, noise, t, None, x0)
    values = {}
    for fraction in (best - 0.1, best, best + 0.1):
        own = torch.full_like(x0, 2 * fraction - 1)
        one = TrainStep(**{**vars(step), "latents": {"z": z}, "eps": z, "x_t": x_t, "own": own,
                           "x0_hat": a * spread**2 / total * x_t, "eps_hat": b / total * x_t})  # fmt: skip
        values[fraction] = process.head_loss(one).mean().item()
    assert values[best] == min(values.values())


@pytest.mark.parametrize(
    ("noise", "said"),
    [
        ("blue:factor=spectral,jitter=0", "larger jitter"),
        ("offset", "cannot be whitened"),
        ("heavy", "Gaussian"),
    ],
)
def test_a_noise_for_which_there_is_no_bound_is_refused(noise, said):
    from noisereg.api import Noise

    class Offset(Noise):
        pass

    class Heavy(Noise):
        gaussian = False

    built = {"offset": Offset, "heavy": Heavy}.get(noise)
    with pytest.raises(NoiseregError, match=f"{said}.*variance=beta-tilde"):
        ddpm(built() if built else build("noise", noise, shape=SHAPE), target="v")


def test_the_weight_of_the_bound_needs_a_learned_variance():
    with pytest.raises(ValueError, match="variance=learned"):
        DDPMParams(bound_weight=0.1)


def test_a_prediction_that_is_far_off_gives_a_finite_gradient():
    """In float32, under the cosine schedule, where x̂0 is read from ε through a(1) = 5e-5."""
    noise = build("noise", "white", shape=SHAPE)
    process = ddpm(noise, Grey(), schedule="cosine")
    own = head(3).detach().float().requires_grad_()
    step = train_step(process, noise, torch.tensor([0.001, 0.5, 1.0], dtype=torch.float64), own)
    single = {
        k: v.detach().float()
        for k, v in vars(step).items()
        if isinstance(v, torch.Tensor) and k not in ("t", "own")
    }
    step = TrainStep(**{**vars(step), **single, "latents": {"z": step.latents["z"].float()}})
    assert step.x0_hat[2].abs().max() > 1000
    process.head_loss(step).sum().backward()
    assert own.grad.isfinite().all()
