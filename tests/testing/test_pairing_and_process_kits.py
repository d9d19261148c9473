"""Every check of a pairing and of a process catches a wrong one, and right ones pass."""

import math

import pytest
import torch
from kit_tools import assert_caught, assert_complete, failures

from noisereg.api import Field, NoiseregError, Pairing, Params, Process, per_sample

# Pairings


class RightPairing(Pairing):
    """Bright noise to bright images."""

    def __init__(self, params, ctx):
        self.params = params

    def __call__(self, x0, latents, eps, t):
        order = torch.empty(len(x0), dtype=torch.int64)
        order[x0.flatten(1).mean(1).argsort(stable=True)] = (
            latents["z"].flatten(1).mean(1).argsort(stable=True)
        )
        return order


class WithReplacement(RightPairing):
    def __call__(self, x0, latents, eps, t):
        return torch.cdist(x0.flatten(1), latents["z"].flatten(1)).argmin(1)


class NeedsTwo(RightPairing):
    def __call__(self, x0, latents, eps, t):
        assert len(x0) > 1
        return super().__call__(x0, latents, eps, t)


class ByValue(RightPairing):
    """Finds each image by its brightness: ties find the first one."""

    def __call__(self, x0, latents, eps, t):
        bright, dark = x0.flatten(1).mean(1), latents["z"].flatten(1).mean(1)
        ranks = torch.tensor([int((bright.sort().values == b).nonzero()[0, 0]) for b in bright])
        return dark.argsort()[ranks]


class Shuffles(RightPairing):
    def __call__(self, x0, latents, eps, t):
        return torch.randperm(len(x0))


class SortsItsInput(RightPairing):
    def __call__(self, x0, latents, eps, t):
        x0.clamp_(-0.1, 0.1)
        return super().__call__(x0, latents, eps, t)


class ByTime(RightPairing):
    def __call__(self, x0, latents, eps, t):
        return (t + x0.flatten(1).mean(1)).argsort()


class PairingParams(Params):
    share: float = Field(1.0, ge=0, description="divides")


class BreaksAtItsBound(RightPairing):
    def __call__(self, x0, latents, eps, t):
        return (
            (super().__call__(x0, latents, eps, t) / self.params.share).long().clamp(max=len(x0))
        )


class OnlySmallBatches(RightPairing):
    """Works on what the other checks hand it."""

    def __call__(self, x0, latents, eps, t):
        if x0.requires_grad or torch.is_inference_mode_enabled() or not torch.is_grad_enabled():
            raise RuntimeError("no gradient mode")
        return super().__call__(x0, latents, eps, t)


PAIRINGS = {
    "gives_a_permutation": (WithReplacement, "it is no permutation"),
    "batch_of_one": (NeedsTwo, "AssertionError"),
    "equal_images_and_equal_noises": (ByValue, "it is no permutation"),
    "says_whether_time_moves": (ByTime, "set moves_time = True"),
    "trains": (OnlySmallBatches, "no gradient mode"),
}


def test_a_right_pairing_passes_every_check():
    assert failures("pairing", RightPairing) == {}


@pytest.mark.parametrize("name", PAIRINGS)
def test_the_check_catches_a_wrong_pairing(name):
    assert_caught("pairing", name, *PAIRINGS[name])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [(Shuffles, "draws from the global generator"), (SortsItsInput, "changes x0 in place")],
)
def test_a_pairing_that_depends_on_more_than_its_input_is_caught(wrong, said):
    assert_caught("pairing", "depends_on_its_input_alone", wrong, said)


def test_bounds_that_break_a_pairing_are_found():
    said = "share=0 is within its declared bounds"
    assert_caught(
        "pairing", "works_at_its_declared_bounds", BreaksAtItsBound, said, params=PairingParams
    )


def test_every_check_has_a_wrong_pairing():
    assert_complete(
        "pairing", PAIRINGS, ["depends_on_its_input_alone", "works_at_its_declared_bounds"]
    )


# Processes


class RightProcess(Process):
    """a = cos(πt/2), b = sin(πt/2), predicting v = aε − b·x0."""

    T = 1000
    default_eta = 1.0

    def __init__(self, params, ctx):
        self.given = params

    def signal_scale(self, t):
        return torch.cos(t.double() * math.pi / 2).clamp(min=0)

    def noise_scale(self, t):
        return torch.sin(t.double() * math.pi / 2)

    def target(self, x0, eps, t):
        return (
            per_sample(self.signal_scale(t), eps) * eps - per_sample(self.noise_scale(t), x0) * x0
        )

    def split(self, out, x_t, t):
        a, b = per_sample(self.signal_scale(t), x_t), per_sample(self.noise_scale(t), x_t)
        return a * x_t - b * out, b * x_t + a * out

    def noise_gain(self, t):
        return self.signal_scale(t)


class StartsLate(RightProcess):
    def noise_scale(self, t):
        return (1 - self.signal_scale(t) ** 2).clamp(min=0).sqrt()

    def signal_scale(self, t):
        return 0.999 * super().signal_scale(t)


class Float32Scales(RightProcess):
    def signal_scale(self, t):
        return super().signal_scale(t).float()


class TurnsBack(RightProcess):
    def signal_scale(self, t):
        return super().signal_scale(t) * torch.where((t > 0.5) & (t < 0.6), 0.8, 1.0)


class SwappedTarget(RightProcess):
    def target(self, x0, eps, t):
        return super().target(eps, x0, t)


class Inconsistent(RightProcess):
    """Right for the true output, and for others x̂0 and ε̂ describe different x_t."""

    def split(self, out, x_t, t):
        x0_hat, eps_hat = super().split(out, x_t, t)
        return x0_hat.clamp(-1, 1), eps_hat


class GainOfOne(RightProcess):
    noise_gain = Process.noise_gain


class Upcasts(RightProcess):
    def target(self, x0, eps, t):
        return super().target(x0, eps, t) * self.signal_scale(torch.zeros(1, dtype=torch.float64))


class TimesTurnBack(RightProcess):
    def time(self, u):
        return 1 - u.double() / 2


class IntegerTimes(RightProcess):
    def time(self, u):
        return (u * self.T).long() + 1


class EtaOfTwo(RightProcess):
    default_eta = 2.0


class NotANumber(RightProcess):
    """Its weight is infinite where training never looks but the kit does."""

    def weight(self, t):
        return torch.where(t == t.max(), math.inf, 1.0)


class HeadsWithoutLoss(RightProcess):
    extra_heads = 1


class LeavesSignal(RightProcess):
    """At t = 1 a third of the signal is left, and sampling starts from noise alone."""

    def signal_scale(self, t):
        return super().signal_scale(0.8 * t)

    def noise_scale(self, t):
        return super().noise_scale(0.8 * t)


class CrashesOnColour(RightProcess):
    def __init__(self, params, ctx):
        super().__init__(params, ctx)
        if ctx.noise.power_floor < 0.1:
            raise ZeroDivisionError("no power")


class ProcessParams(Params):
    steps: int = Field(1000, ge=0, description="T")


class BreaksAtZero(RightProcess):
    def noise_scale(self, t):
        return super().noise_scale(t) / self.given.steps * 1000


PROCESSES = {
    "begins_at_the_data": [(StartsLate, "at t = 0, a = 0.999")],
    "scales_are_float64_and_monotone": [
        (Float32Scales, "expected float64"),
        (TurnsBack, "a/b does not fall at t = "),
    ],
    "split_inverts_target": [(SwappedTarget, "from the true target is off the truth")],
    "split_is_consistent": [(Inconsistent, "off x_t by")],
    "noise_gain_is_that_of_split": [(GainOfOne, "noise_gain says 1")],
    "keeps_the_dtype": [(Upcasts, "cast scales with api.per_sample")],
    "declares_itself_rightly": [
        (TimesTurnBack, "falls as u rises"),
        (IntegerTimes, "expected (B,) float64"),
        (EtaOfTwo, "default_eta is 2.0"),
        (NotANumber, "weight is negative or not finite"),
    ],
    "trains_and_samples": [(HeadsWithoutLoss, "NotImplementedError")],
    "sampler_meets_its_oracle": [(LeavesSignal, "does not come to the data's")],
    "noise_is_taken_or_refused": [(CrashesOnColour, "ZeroDivisionError")],
}


def test_a_right_process_passes_every_check():
    assert failures("process", RightProcess) == {}


@pytest.mark.parametrize(
    ("name", "case"), [(n, k) for n, cases in PROCESSES.items() for k in range(len(cases))]
)
def test_the_check_catches_a_wrong_process(name, case):
    assert_caught("process", name, *PROCESSES[name][case])


def test_bounds_that_break_a_process_are_found():
    said = "steps=0 is within its declared bounds"
    assert_caught(
        "process", "works_at_its_declared_bounds", BreaksAtZero, said, params=ProcessParams
    )


def test_a_refusal_with_a_reason_is_right():
    class Refuses(RightProcess):
        def __init__(self, params, ctx):
            super().__init__(params, ctx)
            if ctx.noise.power_floor < 0.1:
                raise NoiseregError("coloured noise is not for it; give --noise white")

    assert failures("process", Refuses) == {}


def test_every_check_has_a_wrong_process():
    assert_complete("process", PROCESSES, ["works_at_its_declared_bounds"])
