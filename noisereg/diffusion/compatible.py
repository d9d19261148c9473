"""What goes with what: the one place that knows it. Every builder and the conformance kit call
it.
"""

from __future__ import annotations

import torch

from noisereg.api import Noise, Process, Solver, Task
from noisereg.errors import NoiseregError

WEAK = 0.1
"""Noise whose weakest direction has less than this share of the mean power is *weak* somewhere:
static coloured noise.
"""
MOST_SIGNAL = 0.01
"""The largest (a(1)/b(1))² over ``power_floor``: by as much is x_1 wrong where the noise is
weakest, if the data have the noise's power there. DDPM's linear schedule has 4e-5 under white
noise, and 4e-2 under blue noise of jitter 1e-3, whose sampled covariance is 10 % off for any
number of steps (theory, §5)."""

CLIP_NOTE = (
    "clip under coloured noise: what x̂0 loses goes into ε̂ with the images' colour, which the "
    "noise has not; samples follow another law than the noise's (docs/theory.md, §12)"
)
"""Where x̂0 is clipped and the noise's numbers are correlated."""


def is_weak(noise: Noise | None) -> bool:
    """Whether there are directions in which the noise has almost no power at t = 1."""
    return noise is not None and noise.power_floor < WEAK


def sees_condition(noise: Noise) -> bool:
    """Whether the noise is another under each condition."""
    return type(noise).given is not Noise.given


def signal_left(process: Process, noise: Noise) -> float:
    """(a(1)/b(1))²/power_floor: the signal at t = 1 over the noise, in power, where that is
    weakest.
    """
    one = torch.ones(1, dtype=torch.float64)
    ratio = float(process.signal_scale(one)) / float(process.noise_scale(one))
    return ratio**2 / max(noise.power_floor, 1e-300)


def check_path(process: Process, noise: Noise) -> None:
    """
    Raises:
        NoiseregError: where sampling would start from the wrong law: the process leaves a signal
        at t = 1 that the noise is
            too weak to hide, so that pure noise is no x_1.
    """
    if is_weak(noise) and (left := signal_left(process, noise)) > MOST_SIGNAL:
        one = torch.ones(1, dtype=torch.float64)
        raise NoiseregError(
            f"{type(process).__name__} leaves a signal of "
            f"{float(process.signal_scale(one)):.1e} at t = 1 that this noise cannot hide: its "
            f"weakest direction has {noise.power_floor:.1e} of the mean power, so x_1 would have "
            f"{left:.0%} of that in signal, and sampling, which starts from pure noise, would be "
            "wrong for any number of steps; expected a process with a(1) = 0, such as iadb or "
            "ddpm:zero_terminal_snr=true, or a noise without weak directions"
        )


def notes(process: Process, noise: Noise) -> tuple[str, ...]:
    """What the user should know about the two together, a line each."""
    one = torch.ones(1, dtype=torch.float64)
    unweighted: tuple[str, ...] = ()
    if float(process.weight(one)) < 1e-12:
        unweighted = (
            "the loss has weight 0 at t = 1, where sampling starts: it weighs the error of ε̂, to "
            "which the network's output adds nothing there; process.weighting=none trains t = 1 "
            "too (docs/theory.md, §11)",
        )
    if not is_weak(noise) or signal_left(process, noise) < 1e-12:
        return unweighted
    return (
        *unweighted,
        f"the process leaves a signal of {float(process.signal_scale(one)):.1e} at t = 1, and "
        f"this noise's weakest direction has amplitude {max(noise.power_floor, 0) ** 0.5:.1e}: "
        "the covariance of sampled Gaussian data keeps an error of under 0.2 % at jitter 1e-3, "
        "of 2 % at 1e-6 (grid=logsnr)",
    )


def check_pairing(
    process: Process, task: Task, pairing: str, condition: str = "a condition"
) -> None:
    """
    Raises:
        NoiseregError: for a condition, which sampling does not pair noise with, and for a loss
        that
            rests on the bound.
    """
    if task.channels or task.classes:
        raise NoiseregError(
            f"pairing {pairing} with {condition}: paired noise depends on the image and so on its "
            "condition, but sampling draws it whatever the condition is (Cheng & Schwing 2025, "
            "arXiv 2503.10636); give `pairing=none` or `task=unconditional`"
        )
    if process.trains_bound:
        raise NoiseregError(
            f"pairing {pairing} with a learned variance: it is trained by the variational bound, "
            "which rests on noise independent of the data; give `pairing=none`, or "
            "ddpm:variance=beta-tilde"
        )


def check_solver(process: Process, noise: Noise, solver: Solver, paired: bool = False) -> None:
    """
    Raises:
        NoiseregError: for a combination under which a step would be wrong, with the reason.
    """
    if solver.deterministic:
        return
    how = solver.summary or type(solver).__name__
    if not noise.gaussian:
        raise NoiseregError(
            f"{how} adds fresh noise to old, and the sum has the right law for Gaussian noise "
            "only; give eta 0"
        )
    if paired:
        raise NoiseregError(
            f"{how} rests on noise independent of the data, which this run's pairing gave up; "
            "give eta 0"
        )


def check_transport(noise: Noise, shape: tuple[int, ...]) -> None:
    """
    Raises:
        NoiseregError: for a noise whose latents make another ε at t = 0 than at t = 1, and which
        carries ε̂ between times as if it were static: it would be sampled wrongly.
    """
    if type(noise).transport is not Noise.transport:
        return
    ends = torch.ones(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    try:
        with torch.no_grad():
            z = noise.draw_latents(2, shape, torch.Generator().manual_seed(0))
            early, late = (noise.color(z, t) for t in ends)
            moves = not torch.allclose(early, late, equal_nan=True)
    except Exception:  # it waits for data, a condition or its device, or the first step says why
        return
    if moves:
        raise NoiseregError(
            f"noise {type(noise).__name__} changes with t and has no transport, by which sampling "
            "carries ε̂ from t to s (docs/theory.md, §2); expected a method transport, and "
            "transport_rate (noisereg plugins check)"
        )


def check_whitening(noise: Noise, space: str, what: str, instead: str) -> None:
    """
    Raises:
        NoiseregError: where ``what`` measures in ``space`` "whitened", z = L_t⁻¹ε, and the noise
        is
            not linear.
    """
    if space == "whitened" and not noise.linear:
        raise NoiseregError(f"{what} needs a linear noise; {instead}")


def check_bound(
    noise: Noise, shape: tuple[int, ...], what: str, instead: str, paired: bool = False
) -> None:
    """
    Raises:
        NoiseregError: where there is no variational bound, which ``what`` rests on: for noise that
        is not Gaussian, that
            cannot be whitened or has no density, and for a pairing.
    """
    if paired:
        raise NoiseregError(
            f"{what} rests on noise independent of the data, which a pairing gives up; {instead}"
        )
    if not noise.gaussian:
        raise NoiseregError(f"{what} needs Gaussian noise; {instead}")
    try:
        zero = torch.zeros(1, dtype=torch.float64)
        noise.whiten(torch.zeros(1, *shape), zero)
        noise.log_det(zero, shape)
    except NoiseregError as error:
        raise NoiseregError(f"{what}: {error}; or {instead}") from None


def check_trained_bound(
    process: Process, noise: Noise, shape: tuple[int, ...], paired: bool = False
) -> None:
    """
    Raises:
        NoiseregError: for a process that trains a variance by the bound, where there is none; and
        for one that was built without this noise.
    """
    if not process.trains_bound:
        return
    what, instead = "a learned variance", "give another variance, such as ddpm:variance=beta-tilde"
    check_bound(noise, shape, what, instead, paired)
    if process.diagonal not in (None, noise.diagonal):
        raise NoiseregError(
            "a learned variance is one number a sample under this noise, and the process was "
            "built without it; give the process by name, or build it with noise="
        )


def default_eta(process: Process, noise: Noise, paired: bool = False) -> float:
    """The process's own η where the noise allows fresh noise, else 0."""
    return 0.0 if paired or not noise.gaussian else process.default_eta


def default_grid(process: Process, noise: Noise, solver: Solver) -> str:
    """The spec of the step grid where none is asked for: ``logsnr`` for noise that is weak
    somewhere, on which other steps converge hopelessly slowly (theory, §5), else the process's
    own, else the solver's.
    """
    if is_weak(noise):
        return "logsnr"
    return process.default_grid or solver.default_grid
