"""The law that everything else rests on: q(x_t | x0) = N(a(t)·x0, b(t)²·L_t L_tᵀ) (docs/theory.md,
§1).

A :class:`~noisereg.api.Process` gives a and b, a :class:`~noisereg.api.Noise` gives L_t. Times are
t in [0, 1], 0 = data and 1 = noise, (B,) float64; samples are (B, *shape).
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from noisereg.api import NoiseregError, Process, TimeInput, check_times, per_sample

MAX_GAIN = 5.0
"""Where ε̂ repeats an error of the network by more than this (an x0 target near t = 0), its power
says little of the noise: isotropy and its metric leave such times out."""
NO_SIGNAL = 1e-12
"""What a is at most where it is 0 but for rounding."""


def add_noise(process: Process, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """x_t = a(t)·x0 + b(t)·ε_t, (B, *shape)."""
    a, b = scales(process, t, x0)
    return a * x0 + b * eps


def scales(process: Process, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """(a, b) at t (B,), each (B, 1, …) in the dtype and on the device of ``like``."""
    return per_sample(process.signal_scale(t), like), per_sample(process.noise_scale(t), like)


def step_scales(process: Process, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """a_t, b_t, a_s, b_s of the step from t to s, each (B,) float64."""
    a, b = process.signal_scale, process.noise_scale
    return a(t), b(t), a(s), b(s)


def log_ratio(process: Process, t: Tensor) -> Tensor:
    """λ = log(a/b), half the log of the signal-to-noise ratio, (B,) float64; −∞ where no signal is
    left.
    """
    return process.signal_scale(t).log() - process.noise_scale(t).log()


@functools.lru_cache(maxsize=16)
def is_linear(process: Process) -> bool:
    """Whether a(t) = 1 − t and b(t) = t, as for IADB and rectified flow."""
    t = torch.linspace(0, 1, 12, dtype=torch.float64)
    a, b = process.signal_scale(t), process.noise_scale(t)
    return torch.allclose(a, 1 - t, atol=1e-12) and torch.allclose(b, t, atol=1e-12)


def forward_variance(a_t: Tensor, b_t: Tensor, a_s: Tensor, b_s: Tensor) -> Tensor:
    """β_{t|s} = b_t² − (a_t/a_s)²·b_s², from the scales at t and at s < t: the variance of q(x_t |
    x_s).
    """
    return (b_t**2 - (a_t / a_s) ** 2 * b_s**2).clamp(min=0)


def posterior(
    a_t: Tensor, b_t: Tensor, a_s: Tensor, b_s: Tensor, eta: float = 1.0
) -> tuple[Tensor, Tensor]:
    """(σ, √(b_s² − σ²)) of the step from t to s: the fresh noise, and how much of ε_s is kept
    (theory, §3).

    σ² = η²·β_{t|s}·b_s²/b_t². With η = 1 it is DDPM's posterior variance β̃ (Ho et al. 2020, eq.
    7), with η = 0 nothing is drawn (Song et al. 2020, DDIM, eq. 16).
    """
    sigma = eta * forward_variance(a_t, b_t, a_s, b_s).sqrt() * b_s / b_t
    return sigma, (b_s**2 - sigma**2).clamp(min=0).sqrt()


def network_time(t: Tensor, time_input: TimeInput) -> Tensor:
    """t, (B,), as a network counts it, float32. Computed in float64, so that t = k/1000 gives
    exactly k − 1 and k.
    """
    t = t.double()
    if time_input == "unit":
        return t.float()
    return (1000 * t - 1 if time_input == "index" else 1000 * t).float()


def time_from_network(told: Tensor, time_input: TimeInput) -> Tensor:
    """t in [0, 1], (B,) float64, from what :func:`network_time` tells a network.

    Raises:
        NoiseregError: for integers where the network is told t itself, and for what is out of
            range.
    """
    if time_input == "unit":
        check_times(told)
        return told.double()
    t = (told.double() + (1 if time_input == "index" else 0)) / 1000
    if bool(((t < 0) | (t > 1)).any()):
        low = -1 if time_input == "index" else 0
        raise NoiseregError(
            f"a timestep is {float(told.max() if t.max() > 1 else told.min()):g}: expected {low} "
            f"to {low + 1000}"
        )
    return t


def times_of(t: Tensor, T: int | None, device: torch.device) -> Tensor:
    """t in [0, 1], (B,) float64 on ``device``, from such times, or from a loop's steps k = 0 … T −
    1, which are k + 1 of T.

    Raises:
        NoiseregError: for integers where T is None, and for what is out of range.
    """
    if not t.is_floating_point() and T is not None:
        if bool(((t < 0) | (t >= T)).any()):
            raise NoiseregError(f"a step is out of range: expected 0 to {T - 1}, as T={T} says")
        return ((t.double() + 1) / T).to(device)
    # On a GPU a look at the numbers waits for it; a noise looks once.
    check_times(t, by_value=t.device.type == "cpu")
    return t.double().to(device)
