"""Isotropy's value and gradient against the formulas written out by hand."""

import itertools

import pytest
import torch

from noisereg.api import Context, Noise, NoiseregError, TrainStep
from noisereg.processes import DDPMParams, IADBParams
from noisereg.processes.ddpm import DDPM
from noisereg.processes.iadb import IADB
from noisereg.python import build
from noisereg.regularizers import IsotropyParams
from noisereg.regularizers.isotropy import Isotropy

SHAPE = (2, 3, 3)
N = 18
B = 12


class Louder(Noise):
    """ε = s(t)·z with s² = 1 + t on the first 12 numbers and 1e-4 on the last 6: four directions
    in six are whitened.
    """

    def scale(self, t):
        s = (1 + t).sqrt()[:, None].expand(-1, N).clone()
        s[:, 12:] = 1e-2
        return s.reshape(-1, *SHAPE)

    def color(self, latents, t):
        return self.scale(t).to(latents["z"]) * latents["z"]

    def mean_square(self, t):
        return self.scale(t).flatten(1).square().mean(1)

    def whiten(self, eps, t):
        return eps / self.scale(t).to(eps)

    def whitened_power(self, eps, t):
        z = self.whiten(eps, t).flatten(1)[:, :12]
        return z.square().sum(1), torch.full_like(z[:, 0], 12)


def train_step(eps_hat, t, process=None, noise=None):
    x = torch.zeros_like(eps_hat)
    return TrainStep(
        x0=x, latents={}, t=t, eps=x, x_t=x, x0_hat=x, eps_hat=eps_hat, heads=None, cond=None, noise=noise or Louder(),
        process=process or IADB(IADBParams(), Context(shape=SHAPE)), step=0, denoise=lambda x, t: (x, x), mean=lambda v: v.mean(0),
    )  # fmt: skip


@pytest.fixture
def eps_hat():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(B, *SHAPE, generator=generator, dtype=torch.float64, requires_grad=True)


@pytest.fixture
def t():
    """Unevenly over bins: one in the first of four, some of six with one or none."""
    return torch.cat((torch.tensor([0.05]), torch.linspace(0.3, 1, B - 1))).double()


def by_hand(eps_hat, t, mean, level, space):
    """The value, with loops."""
    powers, levels = [], []
    for e, time in zip(eps_hat, t, strict=True):
        if space == "whitened":
            z = e.flatten()[:12] / (1 + time) ** 0.5
            powers.append((z**2).sum() / 12)
            levels.append(torch.tensor(1.0, dtype=torch.float64))
        else:
            powers.append((e**2).sum() / N)
            own = (12 * (1 + time) + 6 * 1e-4) / N
            levels.append(own if level == "noise" else torch.tensor(1.0, dtype=torch.float64))
    excess = [p - m for p, m in zip(powers, levels, strict=True)]
    if mean == "sample-plain":
        return sum((p - m) ** 2 for p, m in zip(powers, levels, strict=True)) / B
    if mean == "batch":
        return (sum(powers) / B - sum(levels) / B) ** 2
    total, count = torch.tensor(0.0, dtype=torch.float64), 0
    bins = B // 2 if mean == "sample" else 4
    for k in range(bins):
        members = [i for i in range(B) if min(int(t[i] * bins), bins - 1) == k]
        if mean in ("sample", "timestep-bin") and len(members) > 1:
            products = [excess[i] * excess[j] for i, j in itertools.permutations(members, 2)]
            total = total + len(members) * sum(products) / len(products)
            count += len(members)
        elif mean == "timestep-bin-plain" and members:
            total = total + len(members) * (sum(excess[i] for i in members) / len(members)) ** 2
            count += len(members)
    return total / count


MEANS = ["batch", "sample", "timestep-bin", "sample-plain", "timestep-bin-plain"]


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("level", ["noise", "one"])
@pytest.mark.parametrize("space", ["plain", "whitened"])
def test_value_and_gradient(eps_hat, t, mean, level, space):
    term = Isotropy(
        IsotropyParams(mean=mean, level=level, space=space, bins=4),
        Context(shape=SHAPE, noise=Louder()),
    )
    value = term(train_step(eps_hat, t))
    expected = by_hand(eps_hat, t, mean, level, space)
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)
    (gradient,) = torch.autograd.grad(value, eps_hat)
    (wanted,) = torch.autograd.grad(expected, eps_hat)
    assert torch.allclose(gradient, wanted, rtol=1e-10, atol=1e-14)
    assert gradient.abs().max() > 0


def test_it_is_computed_in_float32_whatever_the_network_computes_in(t):
    term = Isotropy(IsotropyParams(), Context(shape=SHAPE))
    value = term(train_step(torch.full((B, *SHAPE), 1.001).bfloat16(), t, noise=Louder()))
    assert value.dtype == torch.float32


def test_the_true_noise_has_the_level_of_the_noise(t):
    """E over 40,000 draws: |mean(‖ε‖²/n) − m| within 5 standard errors (2/n per draw at most: p <
    1e-6).
    """
    noise = Louder()
    z = torch.randn(
        40_000, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    times = torch.rand(40_000, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    eps = noise.color({"z": z}, times)
    term = Isotropy(IsotropyParams(), Context(shape=SHAPE))
    value = term(train_step(eps, times, noise=noise))
    power = eps.flatten(1).square().mean(1) - noise.mean_square(times)
    assert value.sqrt() < 5 * power.std() / 40_000**0.5


def test_from_an_x0_target_only_samples_with_a_small_ratio_enter(eps_hat, t):
    process = DDPM(DDPMParams(target="x0"), Context(shape=SHAPE))
    gain = process.signal_scale(t) / process.noise_scale(t)
    keep = gain <= 5
    assert 0 < keep.sum() < B
    term = Isotropy(IsotropyParams(level="one"), Context(shape=SHAPE))
    value = term(train_step(eps_hat, t, process))
    power = eps_hat.flatten(1).square().mean(1)
    assert value.item() == pytest.approx(((power[keep].mean() - 1) ** 2).item(), rel=1e-10)
    assert term.logs()["isotropy/left_out"].item() == pytest.approx(
        1 - keep.double().mean().item()
    )
    (gradient,) = torch.autograd.grad(value, eps_hat)
    assert gradient[~keep].abs().max() == 0
    far = torch.where(keep[:, None, None, None], eps_hat.detach(), torch.inf)
    for mean in MEANS:  # what is left out need not be finite
        one = Isotropy(IsotropyParams(level="one", mean=mean), Context(shape=SHAPE))
        own = one(train_step(eps_hat.detach(), t, process))
        assert one(train_step(far, t, process)).item() == own.item()


def test_whitened_needs_a_linear_noise():
    class Bent(Louder):
        linear = False

    with pytest.raises(NoiseregError, match="space=plain"):
        Isotropy(IsotropyParams(space="whitened"), Context(shape=SHAPE, noise=Bent()))


@pytest.mark.parametrize("mean", MEANS)
def test_only_the_plain_squares_hold_the_variance_of_the_mean(mean):
    """ε̂ = ε of two numbers meets the level exactly, and E m̂² − m² is Var m̂ = 2/(n·B): 1 for one
    sample, about 1/6.4 in ten bins of 64. Batches of 64, within 5 standard errors.
    """
    term = Isotropy(IsotropyParams(mean=mean), Context(shape=(2,)))
    source = torch.Generator().manual_seed(3)
    process = IADB(IADBParams(), Context(shape=(2,)))
    values = []
    for _ in range(600):
        t = torch.rand(64, generator=source, dtype=torch.float64)
        eps = torch.randn(64, 2, generator=source, dtype=torch.float64)
        values.append(term(train_step(eps, t, process, build("noise", "white", shape=(2,)))))
    values = torch.stack(values)
    wanted = {"sample-plain": 1.0, "timestep-bin-plain": 10 / 64, "batch": 1 / 64}
    error = values.std() / len(values) ** 0.5
    assert abs(values.mean() - wanted.get(mean, 0)) < 5 * error
    assert error < 0.01 or mean == "sample-plain"


def test_a_batch_of_one_sample_says_nothing_of_a_square_without_bias():
    for mean in ("sample", "timestep-bin"):
        term = Isotropy(IsotropyParams(mean=mean), Context(shape=(2,)))
        eps_hat = torch.ones(1, 2, requires_grad=True)
        value = term(
            train_step(eps_hat, torch.ones(1).double(), noise=build("noise", "white", shape=(2,)))
        )
        value.backward()
        assert value.item() == 0
        assert eps_hat.grad.abs().max() == 0
