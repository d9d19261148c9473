"""Isotropy's closed form: at ε̂ = s·ε* the whole loss, MSE and term, has no gradient left."""

import pytest
import torch

from noisereg.api import Context, Noise, NoiseregError, Prediction, TrainedPower
from noisereg.diffusion.adjust import constant, scaled
from noisereg.diffusion.law import MAX_GAIN
from noisereg.processes import DDPMParams, IADBParams
from noisereg.processes.ddpm import DDPM
from noisereg.processes.iadb import IADB
from noisereg.python import build
from noisereg.regularizers import IsotropyParams
from noisereg.regularizers.isotropy import Isotropy

T = 40
DATA = torch.tensor([0.8, 0.05, 0.01], dtype=torch.float64)
"""The variances of Gaussian data of three dimensions; of its noise."""
COLOUR = torch.tensor([1.5, 1.0, 0.2], dtype=torch.float64)
WEIGHT = 0.3
PROCESSES = {
    "ε": lambda ctx: DDPM(DDPMParams(T=T), ctx),
    "x0": lambda ctx: DDPM(DDPMParams(T=T, target="x0"), ctx),
    "v": lambda ctx: DDPM(DDPMParams(T=T, target="v", zero_terminal_snr=True), ctx),
    "v, min-SNR": lambda ctx: DDPM(DDPMParams(T=T, target="v", weighting="min-snr"), ctx),
    "x0 − ε": lambda ctx: IADB(IADBParams(T=T), ctx),
}


class Coloured(Noise):
    def color(self, latents, t):
        return COLOUR.sqrt() * latents["z"]

    def mean_square(self, t):
        return torch.full_like(t, float(COLOUR.mean()))


class Population:
    """Every number of the loss in closed form, of denoisers ŷ = W_t x_t, W diagonal (T, 3)."""

    def __init__(self, target):
        self.process = PROCESSES[target](Context(shape=(3,)))
        self.t = torch.arange(1, T + 1, dtype=torch.float64) / T
        a, b = self.process.signal_scale(self.t), self.process.noise_scale(self.t)
        # y = p·x0 + q·ε, from what the process itself says of unit vectors
        one, none = torch.ones(T, 3).double(), torch.zeros(T, 3).double()
        p = self.process.target(one, none, self.t)
        q = self.process.target(none, one, self.t)
        a, b = a[:, None], b[:, None]
        self.own = p**2 * DATA + q**2 * COLOUR
        self.shared = a * p * DATA + b * q * COLOUR
        self.spread = a**2 * DATA + b**2 * COLOUR
        self.best = self.shared / self.spread
        self.keep = (self.process.noise_gain(self.t) <= MAX_GAIN).double()
        self.level = torch.full((T,), float(COLOUR.mean())).double()

    def eps(self, w):
        """ε̂ of x_t = 1, (T, 3): what ε̂ is multiplied by."""
        return self.process.split(w, torch.ones_like(w), self.t)[1]

    def power(self, w):
        return (self.eps(w) ** 2 * self.spread).mean(1)

    def loss(self, w, mean, together):
        mse = (self.own - 2 * w * self.shared + w**2 * self.spread).mean(1)
        excess = self.power(w) - self.level
        share = self.keep.mean()
        if together:
            term = (self.keep * excess**2).mean()
        elif mean == "batch":
            term = ((self.keep * excess).mean() / share) ** 2
        elif mean == "sample":
            term = (self.keep * excess**2).mean() / share
        else:
            term = 0
            for k in range(5):
                some = self.keep * ((self.t * 5).long().clamp(max=4) == k)
                if some.any():
                    term = term + (some * excess).mean() ** 2 / some.mean() / share
        return (self.process.weight(self.t) * mse).mean() + WEIGHT * term

    def gradient(self, w, mean, together):
        w = w.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(self.loss(w, mean, together), w)
        return float(gradient.abs().max())

    def fitted(self, scale):
        """W of which ε̂ is ``scale`` times the best one's."""
        at_zero = self.eps(torch.zeros(T, 3).double())
        gain = self.eps(torch.ones(T, 3).double()) - at_zero
        wanted = scale[:, None] * self.eps(self.best)
        fit = (wanted - at_zero) / torch.where(gain == 0, 1.0, gain)
        return torch.where(gain == 0, self.best, fit)


def isotropy(**params):
    return Isotropy(IsotropyParams(weight=WEIGHT, **params), Context(noise=Coloured()))


@pytest.mark.parametrize("target", PROCESSES)
@pytest.mark.parametrize(
    ("mean", "together"),
    [
        ("batch", False),
        ("timestep-bin", False),
        ("sample", False),
        ("batch", True),
        ("timestep-bin", True),
    ],
)
def test_the_scaled_optimum_is_the_minimum_of_the_whole_loss(target, mean, together):
    here = Population(target)
    trained = TrainedPower(
        here.process, here.t, here.power(here.best), here.level, together=together
    )
    scale = isotropy(mean=mean, bins=5).eps_scale(WEIGHT, trained)
    s = scale(torch.ones(T, 3), here.t)
    assert s.max() > 1.01
    assert here.gradient(here.fitted(s), mean, together) < 1e-12
    assert here.gradient(here.best, mean, together) > 1e-5  # the term does move it


def test_one_constant_for_the_mean_over_the_batch_if_the_network_predicts_eps():
    here = Population("ε")
    trained = TrainedPower(here.process, here.t, here.power(here.best), here.level)
    s = isotropy().eps_scale(WEIGHT, trained)(torch.ones(T, 3), here.t)
    assert float(s.max() - s.min()) < 1e-12
    power = (s**2 * trained.power).mean()
    assert float(s[0]) == pytest.approx(float(1 / (1 + 2 * WEIGHT * (power - COLOUR.mean()))))
    together = isotropy().eps_scale(
        WEIGHT, TrainedPower(here.process, here.t, trained.power, here.level, together=True)
    )(torch.ones(T, 3), here.t)
    # the farther ε̂'s own power is from the level, the more it is scaled
    assert torch.all(torch.diff(together) < 0)


def test_each_sample_has_its_own_scale_where_the_square_is_inside_the_mean():
    here = Population("ε")
    trained = TrainedPower(here.process, here.t, here.power(here.best), here.level)
    scale = isotropy(mean="sample-plain").eps_scale(WEIGHT, trained)
    eps_hat = torch.randn(T, 3, generator=torch.Generator().manual_seed(0)).double()
    s = scale(eps_hat, here.t).requires_grad_()
    assert s.min() < 1 < s.max()
    own = eps_hat.square().mean(1)
    loss = ((s - 1) ** 2 * own + WEIGHT * (s**2 * own - here.level) ** 2).sum()
    (gradient,) = torch.autograd.grad(loss, s)
    assert float(gradient.abs().max()) < 1e-12


def test_a_weight_of_zero_scales_nothing():
    here = Population("x0")
    trained = TrainedPower(here.process, here.t, here.power(here.best), here.level)
    assert torch.all(isotropy().eps_scale(0.0, trained)(torch.ones(T, 3), here.t) == 1)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("isotropy:space=whitened", "scales each direction of ε̂ by another factor"),
        ("isotropy:mean=timestep-bin-plain", "the variance of its means acts too"),
    ],
)
def test_what_does_more_than_scale_is_refused(spec, said):
    here = Population("ε")
    trained = TrainedPower(here.process, here.t, here.power(here.best), here.level)
    term = build("regularizer", spec, shape=(3,), noise=Coloured())
    with pytest.raises(NoiseregError, match=said):
        term.eps_scale(0.1, trained)


@pytest.mark.parametrize("target", PROCESSES)
def test_a_scaled_prediction_is_still_one_of_x_t(target):
    here = Population(target)
    x = torch.randn(T, 3, generator=torch.Generator().manual_seed(0)).double()
    predicted = build_prediction(here, x)
    moved = scaled(predicted, here.t, here.process, constant(here.process, 1.02))
    a, b = here.process.signal_scale(here.t), here.process.noise_scale(here.t)
    assert torch.allclose(a[:, None] * moved.x0_hat + b[:, None] * moved.eps_hat, x)
    factor = moved.eps_hat / predicted.eps_hat
    gain = here.process.noise_gain(here.t)
    wanted = 1 / (1 + (1 / 1.02 - 1) * torch.where(gain <= MAX_GAIN, gain, 0) ** 2)
    assert torch.allclose(factor, wanted[:, None].expand(-1, 3))
    if target == "ε":
        assert torch.allclose(factor, torch.full_like(factor, 1.02))


def build_prediction(here, x):
    return Prediction(*here.process.split(here.best * x, x, here.t))


def test_a_factor_without_a_bound_is_refused():
    x0 = PROCESSES["x0"](Context(shape=(3,)))
    with pytest.raises(NoiseregError, match="expected a factor below 1"):
        constant(x0, 1.2)
    with pytest.raises(NoiseregError, match="expected a factor above 0"):
        constant(x0, 0.0)
