"""By what law training draws its times (Esser et al. 2024, arXiv 2403.03206, §3.1)."""

from __future__ import annotations

import torch
from torch import Tensor

from noisereg.processes import TrainingTimesParams


def draw(params: TrainingTimesParams, u: Tensor) -> Tensor:
    """Times in (0, 1), (B,) float64, rising with u (B,), which is uniform on [0, 1).

    Uniform times are u itself; logit-normal ones are σ(m + s·Φ⁻¹(u)), so that logit t ~ N(m, s²).
    """
    u = u.double().clamp(2.0**-53, 1 - 2.0**-53)
    if params.times == "uniform":
        return u
    return torch.sigmoid(params.times_mean + params.times_std * torch.special.ndtri(u))


def on_grid(params: TrainingTimesParams, u: Tensor, T: int) -> Tensor:
    """The same law on k/T, k = 1 … T, (B,) float64: each time is the next of these, so that
    P(t ≤ k/T) is the law's own.
    """
    if params.times == "uniform":  # ⌊uT⌋ + 1, whatever rounding does to u
        return ((u.double() * T).floor() + 1).clamp(max=T) / T
    return (draw(params, u) * T).ceil().clamp(1, T) / T


def described(params: TrainingTimesParams) -> str:
    """For the summary of a process: empty where times are uniform."""
    if params.times == "uniform":
        return ""
    return f", times logit-normal({params.times_mean:g}, {params.times_std:g})"
