"""Every check of a solver and of a step grid catches a wrong one, and right ones pass."""

import dataclasses

import pytest
import torch
from kit_tools import assert_caught, assert_complete, failures

from noisereg.api import Field, Grid, Noise, Params, Solver, per_sample
from noisereg.diffusion.solvers import DPMSolver2M
from noisereg.plugins.registry import registry
from noisereg.testing import Subject, checks, run

# Solvers


class RightSolver(Solver):
    """DDIM's step at η = 0."""

    def __init__(self, params, ctx):
        self.given = params

    def step(self, s):
        _a_t, _b_t, a_s, b_s = s.scales
        return a_s * s.here.x0_hat + b_s * s.moved


class OrderOfZero(RightSolver):
    order = 0


class DividesByTheSignal(RightSolver):
    """Right, but for its division by a(1) = 0."""

    def step(self, s):
        a_t, b_t, _a_s, _b_s = s.scales
        return super().step(s) + (s.x_t - b_t * s.here.eps_hat) / a_t - s.here.x0_hat


class Upcasts(RightSolver):
    def step(self, s):
        return super().step(s).double()


class KeepsQuiet(RightSolver):
    """Half of its noise is fresh."""

    def step(self, s):
        _a_t, _b_t, a_s, b_s = s.scales
        return a_s * s.here.x0_hat + b_s * (s.moved + s.fresh()) / 2**0.5


class DrawsItsOwn(RightSolver):
    def step(self, s):
        return super().step(s) + 0 * torch.randn_like(s.x_t)


class Scales(RightSolver):
    def step(self, s):
        x = super().step(s)
        s.here.x0_hat.mul_(0.5)
        return x


class Centres(RightSolver):
    """Takes the mean over the batch out."""

    def step(self, s):
        x = super().step(s)
        return x - 0.1 * x.mean(0)


class ForgetsToMove(RightSolver):
    """Right for static noise only."""

    def step(self, s):
        _a_t, _b_t, a_s, b_s = s.scales
        return a_s * s.here.x0_hat + b_s * s.here.eps_hat


class ForgetsToKeepLess(RightSolver):
    """Adds fresh noise to all of the old."""

    deterministic = False

    def step(self, s):
        _a_t, _b_t, a_s, b_s = s.scales
        x = a_s * s.here.x0_hat + b_s * s.moved
        return x if s.last else x + 0.3 * b_s * s.fresh()


class ClaimsTwo(RightSolver):
    order = 2


class SolverParams(Params):
    damping: float = Field(1.0, ge=0, description="divides")


class BreaksAtItsBound(RightSolver):
    def step(self, s):
        return super().step(s) / per_sample(torch.full_like(s.t, self.given.damping), s.x_t)


SOLVERS = {
    "declares_itself_rightly": [(OrderOfZero, "order is 0")],
    "samples": [(DividesByTheSignal, "it is not finite"), (Upcasts, "it gives torch.float64")],
    "says_whether_it_is_deterministic": [
        (KeepsQuiet, "says that it is deterministic, and asks for fresh"),
        (DrawsItsOwn, "draws from the global generator of torch"),
    ],
    "inputs_unchanged": [(Scales, "in place")],
    "independent_across_the_batch": [(Centres, "alone in its batch")],
    "sampler_meets_its_oracle": [
        (ForgetsToMove, "under blue-tv"),
        (ForgetsToKeepLess, "under white"),
    ],
    "shows_its_order": [(ClaimsTwo, "order is 2")],
}


def test_a_right_solver_passes_every_check():
    """The right stochastic one is ddim:eta=1, below."""
    assert failures("solver", RightSolver) == {}


@pytest.mark.parametrize(
    ("name", "case"), [(name, k) for name, cases in SOLVERS.items() for k in range(len(cases))]
)
def test_the_check_catches_a_wrong_solver(name, case):
    assert_caught("solver", name, *SOLVERS[name][case])


class ForgetsHeads(DPMSolver2M):
    """DPM-Solver++(2M) as it is written for static noise."""

    def __init__(self, params, ctx):
        pass

    def step(self, s):
        return super().step(dataclasses.replace(s, noise=Noise()))


def test_a_published_solver_that_moves_no_noise_is_caught():
    assert_caught("solver", "sampler_meets_its_oracle", ForgetsHeads, "under blue-tv and ddpm")


def test_bounds_that_break_a_solver_are_found():
    said = "damping=0 is within its declared bounds"
    assert_caught(
        "solver", "works_at_its_declared_bounds", BreaksAtItsBound, said, params=SolverParams
    )


def test_every_check_has_a_wrong_solver():
    assert_complete("solver", SOLVERS, ["works_at_its_declared_bounds"])


# Grids


class RightGrid(Grid):
    def __init__(self, params, ctx):
        self.given = params

    def times(self, process, steps):
        return torch.linspace(1, 0, steps + 1, dtype=torch.float64) ** 2


class OneTooMany(RightGrid):
    def times(self, process, steps):
        return super().times(process, steps + 1)


class Float32(RightGrid):
    def times(self, process, steps):
        return super().times(process, steps).float()


class EndsEarly(RightGrid):
    def times(self, process, steps):
        return super().times(process, steps).clamp(min=1e-3)


class StandsStill(RightGrid):
    """Rounded to the process's own times, of which there are too few."""

    def times(self, process, steps):
        return (super().times(process, steps) * 100).ceil() / 100


class Jitters(RightGrid):
    def times(self, process, steps):
        times = super().times(process, steps)
        times[1:-1] *= 1 - torch.rand(len(times) - 2, dtype=torch.float64) / (10 * steps**2)
        return times


class CountsItsCalls(RightGrid):
    calls = 0

    def times(self, process, steps):
        self.calls += 1
        return torch.linspace(1, 0, steps + 1, dtype=torch.float64) ** self.calls


class GridParams(Params):
    power: float = Field(2.0, ge=0, description="of t")


class StandsStillAtItsBound(RightGrid):
    def times(self, process, steps):
        return torch.linspace(1, 0, steps + 1, dtype=torch.float64) ** self.given.power


GRIDS = {
    "falls_from_1_to_0": [
        (OneTooMany, "asked for 1 steps it gives 2"),
        (Float32, "expected float64"),
        (EndsEarly, "runs from 1 to 0.001; expected 1 to 0"),
        (StandsStill, "does not fall at t ="),
    ],
    "is_the_same_every_time": [
        (Jitters, "draws from the global generator of torch"),
        (CountsItsCalls, "asked twice, it gives other times"),
    ],
}


def test_a_right_grid_passes_every_check():
    assert failures("grid", RightGrid) == {}


@pytest.mark.parametrize(
    ("name", "case"), [(name, k) for name, cases in GRIDS.items() for k in range(len(cases))]
)
def test_the_check_catches_a_wrong_grid(name, case):
    assert_caught("grid", name, *GRIDS[name][case])


def test_bounds_that_break_a_grid_are_found():
    said = "power=0"
    assert_caught(
        "grid", "works_at_its_declared_bounds", StandsStillAtItsBound, said, params=GridParams
    )


def test_every_check_has_a_wrong_grid():
    assert_complete("grid", GRIDS, ["works_at_its_declared_bounds"])


# The built-in ones


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        *(("solver", name) for name in ("ddim:eta=1", "heun", "dpmpp-2m")),
        *(("grid", name) for name in ("uniform", "chebyshev", "logsnr", "edm:rho=3")),
        ("grid", "times:values=1,0.5,0.1"),
    ],
)
def test_the_built_in_ones_conform(kind, spec):
    outcomes = [run(c, Subject.find(kind, spec)) for c in checks(kind)]
    assert {o.check.name: o.message for o in outcomes if o.status == "failed"} == {}


def test_all_of_them_are_among_these():
    names = {e.name for kind in ("solver", "grid") for e in registry().entries(kind)}
    assert {n for n in names if "/" not in n} == {
        *("ddim", "heun", "dpmpp-2m", "uniform", "chebyshev", "logsnr", "edm", "times")
    }
