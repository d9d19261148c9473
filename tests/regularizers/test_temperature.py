"""Isotropy's closed form: at ε̂ = s·ε* the whole loss, MSE and term, has no gradient left."""

from dataclasses import replace

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
from noisereg.regularizers.temperature import factor
from noisereg.runs.rescaling import _alone, _controlled

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


KEPT = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)
"""The directions that the whitened form is over."""


class Coloured(Noise):
    def color(self, latents, t):
        return COLOUR.sqrt() * latents["z"]

    def whitened_power(self, eps, t):
        z = eps / COLOUR.sqrt()
        return (KEPT * z.square()).sum(1), torch.full_like(z[:, 0], float(KEPT.sum()))

    def mean_square(self, t):
        return torch.full_like(t, float(COLOUR.mean()))


class Population:
    """Every number of the loss in closed form, of denoisers ŷ = W_t x_t, W diagonal (T, 3)."""

    def __init__(self, target, space="plain"):
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
        self.whitened = space == "whitened"

    def trained(self, together=False):
        """What a network that fits the data is measured to be."""
        second = self.eps(self.best) ** 2 * self.spread

        def means(of, known):  # of a form in Gaussian numbers, which are independent here
            unit = torch.eye(3, dtype=torch.float64)
            return torch.stack([(second[k][:, None] * of(unit, k)).sum(0) for k in range(T)])

        power = second.mean(1)
        return TrainedPower(
            self.process, self.t, power, self.level, together, Coloured(), (3,), None, means
        )

    def eps(self, w):
        """ε̂ of x_t = 1, (T, 3): what ε̂ is multiplied by."""
        return self.process.split(w, torch.ones_like(w), self.t)[1]

    def excess(self, w):
        squares = self.eps(w) ** 2 * self.spread
        if self.whitened:
            return (KEPT * squares / COLOUR).sum(1) / KEPT.sum() - 1
        return squares.mean(1) - self.level

    def loss(self, w, mean, together):
        mse = (self.own - 2 * w * self.shared + w**2 * self.spread).mean(1)
        excess = self.excess(w)
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
        wanted = scale * self.eps(self.best)
        fit = (wanted - at_zero) / torch.where(gain == 0, 1.0, gain)
        return torch.where(gain == 0, self.best, fit)


def isotropy(**params):
    return Isotropy(IsotropyParams(weight=WEIGHT, **params), Context(noise=Coloured()))


@pytest.mark.parametrize("space", ["plain", "whitened"])
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
def test_the_scaled_optimum_is_the_minimum_of_the_whole_loss(target, mean, together, space):
    here = Population(target, space)
    scale = isotropy(mean=mean, bins=5, space=space).eps_scale(WEIGHT, here.trained(together))
    s = scale(torch.ones(T, 3).double(), here.t)
    assert s.max() > 1.01
    assert here.gradient(here.fitted(s), mean, together) < 1e-12
    assert here.gradient(here.best, mean, together) > 1e-5  # the term does move it


def test_one_constant_for_the_mean_over_the_batch_if_the_network_predicts_eps():
    here = Population("ε")
    trained = here.trained()
    s = isotropy().eps_scale(WEIGHT, trained)(torch.ones(T, 3).double(), here.t)
    assert float(s.max() - s.min()) < 1e-12
    power = (s[:, 0] ** 2 * trained.power).mean()
    assert float(s[0, 0]) == pytest.approx(float(1 / (1 + 2 * WEIGHT * (power - COLOUR.mean()))))
    together = isotropy().eps_scale(WEIGHT, here.trained(together=True))(
        torch.ones(T, 3).double(), here.t
    )
    # the farther ε̂'s own power is from the level, the more it is scaled
    assert torch.all(torch.diff(together[:, 0]) < 0)


def test_each_sample_has_its_own_scale_where_the_square_is_inside_the_mean():
    here = Population("ε")
    trained = here.trained()
    scale = isotropy(mean="sample-plain").eps_scale(WEIGHT, trained)
    eps_hat = torch.randn(T, 3, generator=torch.Generator().manual_seed(0)).double()
    s = (scale(eps_hat, here.t) / eps_hat)[:, 0].requires_grad_()
    assert s.min() < 1 < s.max()
    own = eps_hat.square().mean(1)
    loss = ((s - 1) ** 2 * own + WEIGHT * (s**2 * own - here.level) ** 2).sum()
    (gradient,) = torch.autograd.grad(loss, s)
    assert float(gradient.abs().max()) < 1e-12


def test_a_weight_of_zero_scales_nothing():
    here = Population("x0")
    trained = here.trained()
    assert torch.all(isotropy().eps_scale(0.0, trained)(torch.ones(T, 3).double(), here.t) == 1)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("isotropy:mean=sample-plain,space=whitened", "each sample's directions"),
        ("isotropy:mean=timestep-bin-plain", "the variance of its means acts too"),
    ],
)
def test_what_does_more_than_scale_is_refused(spec, said):
    here = Population("ε")
    trained = here.trained()
    term = build("regularizer", spec, shape=(3,), noise=Coloured())
    with pytest.raises(NoiseregError, match=said):
        term.eps_scale(0.1, trained)


def test_the_whitened_form_scales_the_directions_that_it_keeps_and_the_weakest_most():
    here = Population("ε", "whitened")
    found = isotropy(space="whitened").eps_scale(WEIGHT, here.trained())
    eps = torch.ones(T, 3).double()
    s = found(eps, here.t)
    assert torch.all(s[:, 2] == 1)
    assert torch.all(s[:, 1] > s[:, 0])
    assert torch.all(s[:, 0] > 1)
    # at times that were not measured, and of samples at different ones
    between = here.t - 0.5 / T
    assert torch.allclose(found(eps, between)[1:], (s[1:] + s[:-1]) / 2, atol=1e-2)
    order = torch.randperm(T, generator=torch.Generator().manual_seed(0))
    assert torch.equal(found(eps, here.t[order]), s[order])
    unmeasured = replace(here.trained(), means=None)
    with pytest.raises(NoiseregError, match="expected a TrainedPower with means"):
        isotropy(space="whitened").eps_scale(WEIGHT, unmeasured)(eps, here.t)
    bare = TrainedPower(here.process, here.t, here.level, here.level)
    with pytest.raises(NoiseregError, match="others for each condition; expected another noise"):
        isotropy(space="whitened").eps_scale(WEIGHT, bare)


@pytest.mark.parametrize("space", ["plain", "whitened"])
def test_next_to_the_pole_it_is_refused_and_between_the_measured_times_it_is_bounded(space):
    """Of an x0 target the force grows to 25 at the cut; in float32 too."""
    here = Population("x0", space)
    trained = here.trained()
    weak = replace(
        trained, power=1e-5 * trained.power, means=lambda of, known: 1e-5 * known, together=True
    )
    said = r"more than 20 in a direction at t = 0.*; expected a smaller weight"
    with pytest.raises(NoiseregError, match=said):
        isotropy(space=space).eps_scale(30.0, weak)
    scale = isotropy(space=space).eps_scale(3.0, trained)
    t = torch.linspace(0.001, 1, 4001, dtype=torch.float64)
    for dtype in (torch.float64, torch.float32):
        s = scale(torch.ones(4001, 3, dtype=dtype), t)
        assert s.dtype == dtype
        assert s.min() >= 1 - 1e-6
        assert s.max() <= 20 + 1e-5


def test_a_factor_is_bounded_beyond_its_pole_and_a_noise_that_is_told_has_no_directions():
    force = torch.tensor([0.0, -0.5, -0.999, -1.5]).double()
    assert factor(force).tolist() == [1, 2, 20, 20]

    class Told(Coloured):
        def given(self, cond):
            return self

    assert _alone(Told()) is None
    assert isinstance(_alone(Coloured()), Coloured)


def test_the_control_variate_is_exact_for_what_the_draws_explain_and_no_power_is_negative():
    """By direction: means of values that are linear in the draws are those of the known means."""
    draws = torch.randn(64, 3, generator=torch.Generator().manual_seed(0)).double().square()
    slope, known = torch.tensor([2.0, 0.5, 0.0]).double(), torch.tensor([1.0, 3.0, 1.0]).double()
    found = _controlled(slope * draws + 1, draws, known)
    assert torch.allclose(found, slope * known + 1)
    assert torch.equal(_controlled(draws, draws, -known), torch.zeros(3).double())


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


def test_a_scale_that_gives_another_shape_is_refused():
    here = Population("ε")
    x = torch.randn(T, 3, generator=torch.Generator().manual_seed(0)).double()
    with pytest.raises(NoiseregError, match=r"gave \(40,\); expected the scaled ε̂, \(40, 3\)"):
        scaled(build_prediction(here, x), here.t, here.process, lambda eps, t: t)


def build_prediction(here, x):
    return Prediction(*here.process.split(here.best * x, x, here.t))


def test_a_factor_without_a_bound_is_refused():
    x0 = PROCESSES["x0"](Context(shape=(3,)))
    with pytest.raises(NoiseregError, match="expected a factor below 1"):
        constant(x0, 1.2)
    with pytest.raises(NoiseregError, match="expected a factor above 0"):
        constant(x0, 0.0)
