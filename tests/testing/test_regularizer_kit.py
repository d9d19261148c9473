"""Every check of a regularizer catches a wrong one, and right ones pass."""

import math

import pytest
import torch
from kit_tools import assert_caught, assert_complete, failures

from noisereg.api import Field, Regularizer, RegularizerParams
from noisereg.diffusion.loss import mean_over_ranks
from noisereg.regularizers import IsotropyParams
from noisereg.regularizers.isotropy import Isotropy
from noisereg.testing import doubles


def brightness(eps_hat):
    return eps_hat.flatten(1).mean(1)


class Right(Regularizer):
    """(E[mean of ε̂])², zero where every ε̂ has mean zero."""

    def __init__(self, params, ctx):
        self.params = params

    def __call__(self, s):
        return s.mean(brightness(s.eps_hat)).square()

    def zero_case(self, s):
        return s.eps_hat - brightness(s.eps_hat).reshape(-1, *[1] * (s.eps_hat.ndim - 1))


class RightAgainstTheTruth(Regularizer):
    """Compares with the true noise, detached, and asks the network twice."""

    def __init__(self, params, ctx):
        pass

    def __call__(self, s):
        again = s.denoise(s.x_t, s.t)[1]
        return s.mean((again - s.eps.detach()).flatten(1).square().mean(1))

    def logs(self):
        return {"extra": torch.zeros(())}


class RightAndScales(Regularizer):
    """The term whose closed form is isotropy's, by other means."""

    def __init__(self, params, ctx):
        self.ctx = ctx

    def __call__(self, s):
        power = s.eps_hat.flatten(1).square().mean(1)
        return (s.mean(power) - 1).square()

    def eps_scale(self, weight, trained):
        return Isotropy(IsotropyParams(), self.ctx).eps_scale(weight, trained)


class RightByChance(Regularizer):
    """ε̂ along a direction that is drawn for each sample, as a divergence is estimated."""

    def __init__(self, params, ctx):
        pass

    def __call__(self, s):
        along = (torch.randn_like(s.eps_hat) * s.eps_hat).flatten(1).mean(1)
        return s.mean(along.square())


@pytest.mark.parametrize(
    "implementation", [Right, RightAgainstTheTruth, RightAndScales, RightByChance]
)
def test_a_right_regularizer_passes_every_check(implementation):
    assert failures("regularizer", implementation, params=RegularizerParams) == {}


class PerSample(Right):
    def __call__(self, s):
        return brightness(s.eps_hat).square()


class MapOfMeans(Right):
    """Takes s.mean for the mean over everything: what it gives is a map, (C, H, W)."""

    def __call__(self, s):
        return s.mean(s.eps_hat.square())


class RootAtZero(Right):
    def __call__(self, s):
        return s.mean(brightness(s.eps_hat).square().sum().sqrt())


class Double(Right):
    def __call__(self, s):
        return super().__call__(s).double()


class Detached(Right):
    def __call__(self, s):
        return super().__call__(s).detach()


class OfTheTruth(Right):
    """Depends on the network by a factor of zero."""

    def __call__(self, s):
        return s.mean(brightness(s.eps.detach()).square() + 0 * brightness(s.eps_hat))


class SampleVariance(Right):
    def __call__(self, s):
        gap = brightness(s.eps_hat) - brightness(s.eps_hat).mean()
        return gap.square().sum() / (len(gap) - 1)


class ToTheData(Right):
    def __call__(self, s):
        return s.mean((s.x0_hat - s.x0).flatten(1).square().mean(1))


class ToTheNoise(Right):
    def __call__(self, s):
        power = s.eps_hat.flatten(1).square().mean(1)
        return (s.mean(power) - s.mean(s.noise.mean_square(s.t).float())).square()


class InPlace(Right):
    def __call__(self, s):
        s.t.mul_(0.5)
        return super().__call__(s)


class FirstCounts(Right):
    def __call__(self, s):
        return s.mean(brightness(s.eps_hat)).square() + s.mean(brightness(s.eps_hat[:1])).square()


class LocalMean(Right):
    """What one writes without thinking of ranks: the square of a rank's own mean."""

    def __call__(self, s):
        return brightness(s.eps_hat).mean().square()


class LocalGradient(Right):
    """The right value and the gradient of something else."""

    def __call__(self, s):
        mean = s.mean(brightness(s.eps_hat))
        return (
            mean.detach().square()
            + brightness(s.eps_hat).sum() * mean.detach() / 100 * len(s.t)
            - (brightness(s.eps_hat).sum() * mean.detach() / 100 * len(s.t)).detach()
        )


class SometimesMean(Right):
    """Asks for the mean over all ranks only where a rank has late times: the others wait in
    vain.
    """

    def __call__(self, s):
        late = (
            s.mean(brightness(s.eps_hat))
            if bool((s.t > 0.6).any())
            else brightness(s.eps_hat).mean()
        )
        return late.square()


class NotZeroThere(Right):
    def zero_case(self, s):
        return 2 * s.eps_hat


class WeightsItself(Right):
    def __call__(self, s):
        return self.params.weight * super().__call__(s)


class LogsAVector(Right):
    def logs(self):
        return {"value": torch.zeros(3)}


class Factor(RightAndScales):
    """What EpsScale is not."""

    def eps_scale(self, weight, trained):
        return lambda eps_hat, t: torch.full_like(t, 1.02)


class OfTheBatch(RightAndScales):
    def eps_scale(self, weight, trained):
        return lambda eps_hat, t: eps_hat / (1 + weight * (eps_hat.square().mean() - 1))


class ScalesInPlace(RightAndScales):
    def eps_scale(self, weight, trained):
        right = super().eps_scale(weight, trained)
        return lambda eps_hat, t: eps_hat.copy_(right(eps_hat, t))


class ScalesWithoutWeight(RightAndScales):
    def eps_scale(self, weight, trained):
        return super().eps_scale(0.3, trained)


class NotFinite(RightAndScales):
    def eps_scale(self, weight, trained):
        return lambda eps_hat, t: eps_hat / (t.reshape(-1, 1, 1, 1) > 0.1)


class Divides(RightAndScales):
    """Where it should multiply."""

    def eps_scale(self, weight, trained):
        right = super().eps_scale(weight, trained)
        return lambda eps_hat, t: 2 * eps_hat - right(eps_hat, t)


class HalfTheForce(RightAndScales):
    """Of κ = 2λ(P̂ − m), the 2 is forgotten."""

    def eps_scale(self, weight, trained):
        return super().eps_scale(weight / 2, trained)


class TwiceTheForce(RightAndScales):
    def eps_scale(self, weight, trained):
        return super().eps_scale(2 * weight, trained)


class Bounded(RegularizerParams):
    margin: float = Field(1.0, ge=0, description="divides")


class BreaksAtItsBound(Right):
    def __call__(self, s):
        return super().__call__(s) / self.params.margin


WRONG = {
    "finite_scalar": [
        (PerSample, "no scalar"),
        (MapOfMeans, "no scalar but torch.Size([2, 8, 8])"),
        (RootAtZero, "not finite where ε̂ is 0"),
        (Double, "expected float32"),
    ],
    "gradient_reaches_the_network": [
        (Detached, "was x̂0 or ε̂ detached?"),
        (OfTheTruth, "0 for every parameter"),
    ],
    "batch_of_one": [(SampleVariance, "for a batch of one")],
    "no_gradient_to_data_or_noise": [(ToTheData, "reaches x0"), (ToTheNoise, "reaches the noise")],
    "inputs_unchanged": [(InPlace, "changes t in place")],
    "order_of_the_batch_does_not_matter": [(FirstCounts, "in another order")],
    "same_under_several_ranks": [
        (LocalMean, "without s.mean"),
        (LocalGradient, "the gradient of two ranks"),
        (SometimesMean, "training would hang"),
    ],
    "zero_where_declared": [(NotZeroThere, "at its zero case")],
    "eps_scale_is_of_each_sample": [
        (Factor, "expected the scaled ε̂, (2048, 2, 8, 8)"),
        (OfTheBatch, "it depends on them"),
        (ScalesInPlace, "changes eps_hat in place"),
        (ScalesWithoutWeight, "for a weight of 0"),
        (NotFinite, "is not finite"),
    ],
    "eps_scale_lowers_the_loss": [
        (Divides, "not what the term would do"),
        (HalfTheForce, "half as far beyond"),
        (TwiceTheForce, "not what the term would do"),
    ],
    "value_is_unweighted": [(WeightsItself, "the engine weights it")],
    "trains": [(LogsAVector, "what is no scalar: value")],
}


@pytest.mark.parametrize(
    ("name", "case"), [(name, k) for name, cases in WRONG.items() for k in range(len(cases))]
)
def test_the_check_catches_a_wrong_regularizer(name, case, monkeypatch):
    monkeypatch.setattr(doubles, "SECONDS", 0.5)
    implementation, said = WRONG[name][case]
    assert_caught("regularizer", name, implementation, said, params=RegularizerParams)


def test_bounds_that_break_it_are_found():
    said = "margin=0 is within its declared bounds"
    assert_caught(
        "regularizer", "works_at_its_declared_bounds", BreaksAtItsBound, said, params=Bounded
    )


def test_every_check_has_a_wrong_regularizer():
    assert_complete("regularizer", WRONG, ["works_at_its_declared_bounds"])


@pytest.mark.parametrize("v", [torch.arange(6.0), torch.tensor([1.0, -2.0, 5.0, 0.5, 7.0, 3.0])])
def test_the_kits_ranks_have_the_value_of_the_whole_and_the_gradient_of_its_mean(v):
    """What Runtime.mean does over a process group (tests/runs/test_ranks.py), in threads."""
    ranks = doubles.Ranks(2)

    def work(rank):
        own = v[3 * rank : 3 * rank + 3].clone().requires_grad_()
        mean = ranks.mean(rank)(own)
        return mean.detach(), torch.autograd.grad(mean.square(), own)[0]

    (first, left), (second, right) = ranks.run(work)
    assert first == second == v.mean()
    whole = v.clone().requires_grad_()
    (expected,) = torch.autograd.grad(whole.mean().square(), whole)
    torch.testing.assert_close(torch.cat([left, right]) / 2, expected)


@pytest.mark.parametrize("shape", [(), (4,), (4, 3), (4, 2, 3, 5)])
def test_the_mean_reduces_the_batch_axis_alone(shape):
    """Of one rank; tests/runs/test_ranks.py has several."""
    v = torch.arange(1.0, 1 + math.prod(shape)).reshape(shape).requires_grad_()
    found = mean_over_ranks(v)
    assert found.shape == shape[1:]
    weights = torch.arange(1.0, 1 + found.numel()).reshape(found.shape)
    (gradient,) = torch.autograd.grad((found * weights).sum(), v)
    torch.testing.assert_close(gradient, (weights / (shape or (1,))[0]).expand(shape))
    if shape:
        torch.testing.assert_close(found, sum(v) / len(v))
