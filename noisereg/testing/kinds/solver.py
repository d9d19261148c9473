"""What a solver must do (docs/theory.md, §3)."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from noisereg.api import Noise, NoiseregError, Process, SampleStep, Solver
from noisereg.diffusion import compatible
from noisereg.diffusion.diffusion import Diffusion
from noisereg.testing.doubles import PROCESSES, SmallNetwork, default_times, draw_latents
from noisereg.testing.kinds.common import EXACT, try_bounds, untouched_generators
from noisereg.testing.kit import NotApplicable, Subject, check, expect
from noisereg.testing.oracle import GaussianOracle, output_covariance, smooth_covariance
from noisereg.testing.oracle import relative_error as matrix_error

SHAPE = (1, 6, 6)
NOISES = ("white", "blue", "blue-tv")


def pair(subject: Subject, process: str, noise: str) -> tuple[Process, Noise]:
    made: Noise = subject.registry.build("noise", noise, {}, subject.context(shape=SHAPE))
    context = subject.context(shape=SHAPE, noise=made)
    return subject.registry.build("process", process, {}, context), made


def draw(subject: Subject, process: Process, noise: Noise, count: int, steps: int = 5) -> Tensor:
    """Samples of a small network, (count, *SHAPE), the same latents every time."""
    solver: Solver = subject.build()
    network = SmallNetwork(SHAPE, 1 + process.extra_heads + noise.extra_heads)
    diffusion = Diffusion(SHAPE, process, noise)

    def source(k: int) -> dict[str, Tensor]:
        drawn = draw_latents(noise, SHAPE, 4, seed=k)
        return {name: z[:count] for name, z in drawn.items()}

    with torch.no_grad():
        times = default_times(process, noise, steps)
        return list(diffusion.trajectory(network, source, times, solver))[-1]


@check("solver", EXACT)
def declares_itself_rightly(subject: Subject) -> None:
    """order and evaluations are integers ≥ 1, memory ≥ 0, deterministic is a bool."""
    solver: Solver = subject.build()
    for name, least in (("order", 1), ("evaluations", 1), ("memory", 0)):
        value = getattr(solver, name)
        expect(
            isinstance(value, int) and value >= least,
            f"{name} is {value!r}; expected an integer ≥ {least}",
        )
    expect(
        isinstance(solver.deterministic, bool),
        f"deterministic is {solver.deterministic!r}; expected a bool",
    )


@check("solver", "no number is compared: only finiteness, shapes and dtypes")
def samples(subject: Subject) -> None:
    """A short sampling through both processes, under white, static blue and time-varying blue
    noise, is finite, of the samples' shape and dtype, for 1, 2 and 5 steps."""
    for process_name in PROCESSES:
        for noise_name in NOISES:
            process, noise = pair(subject, process_name, noise_name)
            for steps in (1, 2, 5):
                x = draw(subject, process, noise, 2, steps)
                where = f"under {noise_name} and {process_name} with {steps} steps"
                expect(x.shape == (2, *SHAPE), f"it gives {tuple(x.shape)} {where}")
                expect(x.dtype == torch.float32, f"it gives {x.dtype} {where}; expected float32")
                expect(bool(torch.isfinite(x).all()), f"it is not finite {where}")


@check("solver", EXACT)
def says_whether_it_is_deterministic(subject: Subject) -> None:
    """It asks for fresh noise if and only if it is not deterministic, and draws from no global
    generator."""
    solver: Solver = subject.build()
    process, noise = pair(subject, "iadb", "white")
    asked: list[int] = []

    def source(k: int) -> dict[str, Tensor]:
        asked.append(k)
        return draw_latents(noise, SHAPE, 2, seed=k)

    diffusion = Diffusion(SHAPE, process, noise)
    with torch.no_grad(), untouched_generators("step"):
        list(
            diffusion.trajectory(
                SmallNetwork(SHAPE), source, default_times(process, noise, 4), solver
            )
        )
    fresh = any(k > 0 for k in asked)
    expect(
        fresh != solver.deterministic,
        f"deterministic is {solver.deterministic}, and it {'asks' if fresh else 'never asks'} for "
        "fresh noise",
    )


@check("solver", EXACT)
def inputs_unchanged(subject: Subject) -> None:
    """A step changes nothing in place: neither x_t, the times and predictions that it is handed,
    nor those that it remembers."""
    solver: Solver = subject.build()
    process, noise = pair(subject, "iadb", "blue-tv")
    network = SmallNetwork(SHAPE, 1 + process.extra_heads + noise.extra_heads)
    diffusion = Diffusion(SHAPE, process, noise)
    latents = [draw_latents(noise, SHAPE, 2, seed=k) for k in range(2)]
    made: list[tuple[Tensor, Tensor]] = []

    def keep(*tensors: Tensor | None) -> None:
        made.extend((v, v.clone()) for v in tensors if v is not None)

    class Watched(Solver):
        def step(self, s: SampleStep) -> Tensor:
            keep(s.x_t, s.t, s.s, s.here.x0_hat, s.here.eps_hat, s.here.heads)
            return solver.step(s)

    watched = Watched()
    watched.memory, watched.deterministic = solver.memory, solver.deterministic
    with torch.no_grad():
        times = default_times(process, noise, 4)
        list(diffusion.trajectory(network, lambda k: latents[k > 0], times, watched))
    expect(
        all(torch.equal(now, then) for now, then in made),
        "step changes what it is handed in place; work on a copy",
    )


@check("solver", "exact up to a relative 1e-5")
def independent_across_the_batch(subject: Subject) -> None:
    """A sample does not change with the others of its batch."""
    process, noise = pair(subject, "iadb", "blue-tv")
    whole, alone = draw(subject, process, noise, 4), draw(subject, process, noise, 1)
    gap = float((whole[:1] - alone).norm() / alone.norm())
    expect(gap <= 1e-5, f"a sample alone in its batch differs by {gap:.1e}")


@check("solver", "exact: covariances are propagated, nothing is drawn; see the bounds")
def sampler_meets_its_oracle(subject: Subject) -> None:
    """On Gaussian data with the optimal denoiser the output covariance goes to the data's as the
    step goes to 0, for both processes under white, static blue and time-varying blue noise:
    2C(2N) − C(N), in which an error of first order is gone, is off by under 0.02 at N = 32 (0.05
    under static blue noise), or by under 0.6 of what it is at N = 16. An error that stays small at
    64 steps but does not go, such as a noise that is not moved with t, is seen in it."""
    solver: Solver = subject.build()
    if not solver.deterministic and solver.memory:
        raise NotApplicable("a stochastic step with a memory has no covariance step by step")
    data = smooth_covariance(SHAPE)
    for process_name in PROCESSES:
        for noise_name in NOISES:
            process, noise = pair(subject, process_name, noise_name)
            try:
                compatible.check_solver(process, noise, solver)
            except NoiseregError:
                continue
            some = [_covariance(solver, process, noise, steps) for steps in (16, 32, 64)]
            early, late = (matrix_error(2 * d - c, data) for c, d in pairwise(some))
            limit = 0.05 if compatible.is_weak(noise) else 0.02
            expect(
                late < max(limit, 0.6 * early),
                f"under {noise_name} and {process_name} the output covariance does not go to the "
                f"data's: it is off by {matrix_error(some[0], data):.3f} at 16 steps and "
                f"{matrix_error(some[2], data):.3f} at 64, and by {late:.3f} where 32 and 64 are "
                "continued to a step of 0",
            )


@check("solver", "exact: covariances are propagated, nothing is drawn; to 0.4")
def shows_its_order(subject: Subject) -> None:
    """Under IADB and white noise on its own grid each halving of the step divides the error of
    the output covariance by 2 to the power of its order, to 0.4 less, unless it is under 1e-5."""
    solver: Solver = subject.build()
    if not solver.deterministic:
        raise NotApplicable("its order is that of a deterministic path")
    process, noise = pair(subject, "iadb", "white")
    data = smooth_covariance(SHAPE)
    coarse, fine = (
        matrix_error(_covariance(solver, process, noise, steps), data) for steps in (40, 80)
    )
    order = float(torch.log2(torch.tensor(coarse / max(fine, 1e-300))))
    expect(
        order >= solver.order - 0.4 or fine < 1e-5,
        f"order is {solver.order}, and from 40 to 80 steps the error falls from {coarse:.2e} to "
        f"{fine:.2e}, by 2 to the power {order:.2f}",
    )


def _covariance(solver: Solver, process: Process, noise: Noise, steps: int) -> Tensor:
    model = GaussianOracle(process, noise, SHAPE, smooth_covariance(SHAPE))
    times = default_times(process, noise, steps, solver=solver)
    with torch.no_grad():
        return output_covariance(model, process, noise, SHAPE, times, solver=solver)


@check("solver", "no number is compared: only finiteness")
def works_at_its_declared_bounds(subject: Subject) -> None:
    """With each numeric parameter at each of its inclusive bounds it samples, or refuses with a
    reason."""
    process, noise = pair(subject, "iadb", "white")

    def attempt(changed: dict[str, Any]) -> None:
        solver: Solver = subject.build(changed)
        diffusion = Diffusion(SHAPE, process, noise)
        times = default_times(process, noise, 3)
        with torch.no_grad():
            x = list(
                diffusion.trajectory(
                    SmallNetwork(SHAPE), lambda k: draw_latents(noise, SHAPE, 2, k), times, solver
                )
            )[-1]
        if not torch.isfinite(x).all():
            raise ValueError("samples that are not finite")

    try_bounds(subject, attempt)
