"""Every check of a noise catches a wrong one, and right ones pass (the first class is right, the
others derive from it).
"""

import copy
import random

import numpy as np
import pytest
import torch
from kit_tools import assert_caught, assert_complete, failures, outcome
from torch import nn

from noisereg.api import Field, Noise, Params, per_sample
from noisereg.errors import NoiseregError
from noisereg.testing import Subject, checks, run


class Right(Noise):
    """ε_t = z + c(t)·mean(z)·1 with c = cos(πt/2): linear, Gaussian, invertible, varies with t."""

    def __init__(self, params, ctx):
        self.n = int(np.prod(ctx.shape))

    def factor(self, t):
        return torch.cos(t * torch.pi / 2)

    def _scaled(self, x, by):
        return x + per_sample(by, x) * x.mean(tuple(range(1, x.ndim)), keepdim=True)

    def color(self, latents, t):
        return self._scaled(latents["z"], self.factor(t))

    def mean_square(self, t):
        return 1 + ((1 + self.factor(t)) ** 2 - 1) / self.n

    def whiten(self, eps, t):
        return self._scaled(eps, 1 / (1 + self.factor(t)) - 1)

    def log_det(self, t, shape):
        return torch.log1p(self.factor(t))

    def transport(self, eps, heads, t, s):
        return self.color({"z": self.whiten(eps, t)}, s)

    def transport_rate(self, eps, heads, t):
        z = self.whiten(eps, t)
        return self._scaled(z, -torch.sin(t * torch.pi / 2) * torch.pi / 2) - z


class RightWithHead(Right):
    """The same, moved by a predicted head h = mean(z)·1."""

    extra_heads = 1

    def basis(self, latents):
        z = latents["z"]
        return z.mean(tuple(range(1, z.ndim)), keepdim=True).expand_as(z)

    def transport(self, eps, heads, t, s):
        return eps + per_sample(self.factor(s) - self.factor(t), eps) * heads

    def transport_rate(self, eps, heads, t):
        return per_sample(-torch.sin(t * torch.pi / 2) * torch.pi / 2, eps) * heads


class RightFitted(nn.Module, Noise):
    """White noise of the data's own power: it learns, and keeps what it learnt."""

    def __init__(self, params, ctx):
        super().__init__()
        self.register_buffer("scale", torch.ones((), dtype=torch.float64))

    def fit(self, batches):
        self.scale.fill_(torch.cat([b.flatten() for b in batches]).double().std())

    def color(self, latents, t):
        return latents["z"] * self.scale.to(latents["z"])

    def mean_square(self, t):
        return torch.ones_like(t) * self.scale**2

    def whiten(self, eps, t):
        return eps / self.scale.to(eps)


class RightNotGaussian(Right):
    """Every number's sign is kept and its size made 1: neither linear nor Gaussian, and it says
    so.
    """

    gaussian = linear = False

    def color(self, latents, t):
        return latents["z"].sign()

    def mean_square(self, t):
        return torch.ones_like(t)

    def whiten(self, eps, t):
        raise NoiseregError("signs alone cannot be whitened: the condition number is infinite")

    def transport(self, eps, heads, t, s):
        return eps

    def transport_rate(self, eps, heads, t):
        return torch.zeros_like(eps)


@pytest.mark.parametrize("implementation", [Right, RightWithHead, RightFitted, RightNotGaussian])
def test_a_right_noise_passes_every_check(implementation):
    assert failures("noise", implementation) == {}


class Float64(Right):
    def color(self, latents, t):
        z = latents["z"]
        return z + self.factor(t).reshape(-1, *[1] * (z.ndim - 1)) * z.mean(
            tuple(range(1, z.ndim)), keepdim=True
        )


class InfiniteAtOne(Right):
    def color(self, latents, t):
        return super().color(latents, t) / per_sample((t < 1).double(), latents["z"])


class Draws(Right):
    def color(self, latents, t):
        return super().color(latents, t) + 1e-3 * torch.randn_like(latents["z"])


class InPlace(Right):
    def color(self, latents, t):
        return latents["z"].mul_(1.1)


class DrawsAndRestores(Right):
    """Always the same result, and the global generator of numpy is moved."""

    def color(self, latents, t):
        np.random.random()
        return super().color(latents, t)


class DrawsItsMatrix(Right):
    def __init__(self, params, ctx):
        super().__init__(params, ctx)
        self.mask = torch.rand(ctx.shape).round() + 0.5

    def color(self, latents, t):
        return latents["z"] * self.mask.to(latents["z"])


class Shifted(Right):
    """Moved by an eighth of a standard deviation."""

    def color(self, latents, t):
        return super().color(latents, t) + 0.125


class PowerOff(Right):
    def mean_square(self, t):
        return super().mean_square(t) * 1.05


class PowerSlightlyOff(Right):
    """Too little for draws to tell, but not for the matrix."""

    def mean_square(self, t):
        return super().mean_square(t) * 1.001


class Uniform(Right):
    linear = False

    def color(self, latents, t):
        return torch.special.erf(latents["z"] / 2**0.5) * 3**0.5


class ScaleMixture(Right):
    """Heavy tails by a size that all numbers of a sample share: each alone is hardly odd."""

    linear = False

    def color(self, latents, t):
        z = latents["z"]
        return z * z.flatten(1)[:, :1].abs().reshape(-1, *[1] * (z.ndim - 1))


class Clipped(Right):
    def color(self, latents, t):
        return super().color(latents, t).clamp(-3, 3)


class WrongInverse(Right):
    def whiten(self, eps, t):
        return self._scaled(eps, -self.factor(t))


class WrongPower(Right):
    def whitened_power(self, eps, t):
        total, count = super().whitened_power(eps, t)
        return total, count - 1 - count / 10


class HeadTooWide(RightWithHead):
    def basis(self, latents):
        return torch.cat([super().basis(latents)] * 2, 1)


class NegativeWeight(RightWithHead):
    def head_weight(self, t, process):
        return 0.5 - t


class Unmoved(Right):
    """Depends on t, and the sampler is told that it does not."""

    transport = Noise.transport
    transport_rate = Noise.transport_rate


class HeadScaled(RightWithHead):
    def basis(self, latents):
        return 2 * super().basis(latents)


class OtherTogether(RightWithHead):
    def color_and_basis(self, latents, t):
        return 2 * self.color(latents, t), self.basis(latents)


class OtherBasisTogether(RightWithHead):
    def color_and_basis(self, latents, t):
        return self.color(latents, t), -self.basis(latents)


class NoBasisTogether(RightWithHead):
    def color_and_basis(self, latents, t):
        return self.color(latents, t), None


class RateOff(Right):
    def transport_rate(self, eps, heads, t):
        return -super().transport_rate(eps, heads, t)


class Jumps(Right):
    """Switches at a time that no coarse grid contains."""

    def factor(self, t):
        return torch.where(t < 0.37123, 0.5, 1.0).double()

    def transport_rate(self, eps, heads, t):
        return torch.zeros_like(eps)


class BatchNormalised(Right):
    def color(self, latents, t):
        z = latents["z"]
        return z / z.std() if len(z) > 1 else z


class FitsIntoThinAir(Right):
    def fit(self, batches):
        self.n = self.n * 2


class ForgetsItsBuffer(RightFitted):
    def __init__(self, params, ctx):
        super().__init__(params, ctx)
        self.power = 1.0

    def fit(self, batches):
        super().fit(batches)
        self.power = float(self.scale**2)

    def mean_square(self, t):
        return torch.ones_like(t) * self.power


class RefusedEverywhere(Right):
    def transport(self, eps, heads, t, s):
        raise NoiseregError("no")


class Explodes(Right):
    """Fine where the other checks look."""

    def color(self, latents, t):
        z = super().color(latents, t)
        return z / per_sample((t != 1 / 1000).double(), z)


class SingularUnsaid(Noise):
    """The mean is taken away, almost, and the step grid is not told: uniform steps converge
    hopelessly slowly.
    """

    keep = 1e-3

    def __init__(self, params, ctx):
        pass

    def color(self, latents, t):
        z = latents["z"]
        mean = z
        for axis in range(1, z.ndim):
            mean = (mean + mean.roll(1, axis) + mean.roll(-1, axis)) / 3
        return z - (1 - self.keep) * mean

    def mean_square(self, t):
        return torch.ones_like(t)


class FloorOverstated(Right):
    power_floor = 1.0

    def factor(self, t):
        return -0.9 * torch.ones_like(t)


class WrongDeterminant(Right):
    def log_det(self, t, shape):
        return -torch.log1p(self.factor(t)) + 1


class NotDiagonal(Right):
    diagonal = True


class Bounded(Params):
    size: float = Field(1.0, ge=0, le=2, description="divides")


class BreaksAtItsBound(Right):
    def __init__(self, params, ctx):
        super().__init__(params, ctx)
        self.size = params.size

    def color(self, latents, t):
        return super().color(latents, t) / self.size


class Brightened(Right):
    """Right: its strength follows the mean of each sample's condition."""

    strength = None

    def given(self, cond):
        if cond is None:
            return self
        told = copy.copy(self)
        told.strength = 1 + cond.flatten(1).mean(1).double().square()
        return told

    def times_strength(self, x, power):
        if self.strength is None:
            return x
        return x * self.strength.to(x).reshape(-1, *[1] * (x.ndim - 1)) ** power

    def color(self, latents, t):
        return self.times_strength(super().color(latents, t), 1)

    def mean_square(self, t):
        return self.times_strength(super().mean_square(t), 2)

    def whiten(self, eps, t):
        return super().whiten(self.times_strength(eps, -1), t)


class NewSelf(Right):
    def given(self, cond):
        return copy.copy(self)


class KeepsIt(Brightened):
    def given(self, cond):
        if cond is not None:
            self.strength = 1 + cond.flatten(1).mean(1).double().square()
        return self


class OfTheBatch(Brightened):
    def given(self, cond):
        return self if cond is None else super().given(cond - cond.mean(0))


class StaleSquare(Brightened):
    def mean_square(self, t):
        return Right.mean_square(self, t)


class StaleInverse(Brightened):
    def whiten(self, eps, t):
        return Right.whiten(self, eps, t)


class WeakerFloor(Brightened):
    def given(self, cond):
        told = super().given(cond)
        if told is not self:
            told.power_floor = 0.01
        return told


def test_a_right_noise_that_depends_on_the_condition_passes():
    found = outcome("noise", "given_a_condition_it_keeps_its_promises", Brightened)
    assert (found.status, found.message) == ("passed", "")


class OffsetOfTheLastAxes(Right):
    """Right for images; of points (B, D) the last two axes are the batch's and the point's."""

    def color(self, latents, t):
        z = latents["z"]
        n = z.shape[-1] * z.shape[-2]
        return z + z.sum((-2, -1), keepdim=True) / n**0.5

    def mean_square(self, t):
        return torch.full_like(t, 4.0)


class HoldsAParameter(Right):
    def __init__(self, params, ctx):
        super().__init__(params, ctx)
        self.scale = torch.nn.Parameter(torch.ones(()))


WRONG = {
    "given_a_condition_it_keeps_its_promises": [
        (NewSelf, "given(None) is not the noise itself"),
        (KeepsIt, "given changes the noise itself"),
        (OfTheBatch, "differs by"),
        (StaleSquare, "and mean_square says"),
        (StaleInverse, "whiten(color(z)) is off z"),
        (WeakerFloor, "power_floor is"),
    ],
    "shape_dtype_device": [
        (Float64, "torch.float64 from torch.float32 latents"),
        (InfiniteAtOne, "not finite at t = [1.0]"),
    ],
    "same_latents_same_noise": [
        (Draws, "two results for the same latents"),
        (InPlace, "changes z in place"),
    ],
    "global_generators_untouched": [
        (DrawsAndRestores, "global generator of numpy"),
        (Draws, "of torch"),
    ],
    "builds_alike": [(DrawsItsMatrix, "colour the same latents differently")],
    "centred": [(Shifted, "standard errors from 0")],
    "mean_square_of_draws": [(PowerOff, "mean_square says")],
    "mean_square_of_matrix": [(PowerSlightlyOff, "mean_square says")],
    "gaussian_where_it_says_so": [
        (Uniform, "set gaussian = False"),
        (ScaleMixture, "set gaussian = False"),
    ],
    "linear_where_it_says_so": [(Clipped, "set linear = False")],
    "whiten_inverts_color": [(WrongInverse, "whiten(color(z)) is z up to")],
    "whitened_power_of_draws": [(WrongPower, "standard errors from 1")],
    "color_and_basis_are_color_and_basis": [
        (OtherTogether, "is off color by"),
        (OtherBasisTogether, "is off basis by"),
        (NoBasisTogether, "gives no basis"),
    ],
    "heads_fit_the_network": [
        (HeadTooWide, "basis gives"),
        (NegativeWeight, "is negative or not finite"),
    ],
    "transport_agrees_with_color": [
        (Unmoved, "must override transport"),
        (HeadScaled, "is off color(z, s)"),
    ],
    "transport_rate_is_its_derivative": [(RateOff, "off the difference quotient")],
    "continuous_in_time": [(Jumps, "between t = 0.3712")],
    "independent_across_the_batch": [
        (BatchNormalised, "changes with the other samples"),
        (OffsetOfTheLastAxes, "ε, (3,), changes with the other samples"),
    ],
    "state_round_trip": [
        (FitsIntoThinAir, "reaches no checkpoint"),
        (HoldsAParameter, "would not be trained, nor be in any checkpoint"),
        (ForgetsItsBuffer, "mean_square is another one"),
    ],
    "trains_and_samples": [(RefusedEverywhere, "both processes refuse it"), (Explodes, "nan")],
    "sampler_meets_its_oracle": [
        (SingularUnsaid, "uniform grid"),
        (HeadScaled, "transport, heads or power_floor"),
    ],
    "log_det_of_matrix": [(WrongDeterminant, "log_det says"), (NotDiagonal, "diagonal is set")],
    "power_floor_is_not_overstated": [
        (FloorOverstated, "power_floor is 1"),
        (SingularUnsaid, "the weakest direction"),
    ],
}


@pytest.mark.parametrize(
    ("name", "case"), [(name, k) for name, cases in WRONG.items() for k in range(len(cases))]
)
def test_the_check_catches_a_wrong_noise(name, case):
    implementation, said = WRONG[name][case]
    assert_caught("noise", name, implementation, said)


def test_bounds_that_break_it_are_found():
    assert_caught(
        "noise",
        "works_at_its_declared_bounds",
        BreaksAtItsBound,
        "size=0 is within",
        params=Bounded,
    )


def test_every_check_has_a_wrong_noise():
    assert_complete("noise", WRONG, ["works_at_its_declared_bounds"])


def test_the_kit_leaves_the_generators_alone():
    before = (torch.get_rng_state().sum(), np.random.get_state()[1].sum(), hash(random.getstate()))
    for check in checks("noise"):
        run(check, Subject.of("noise", Right))
    after = (torch.get_rng_state().sum(), np.random.get_state()[1].sum(), hash(random.getstate()))
    assert before == after
