"""What networks are told about time, and its sinusoidal embedding."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from noisereg.denoisers import TimeInput


def network_time(t: Tensor, time_input: TimeInput) -> Tensor:
    """t in [0, 1], (B,), as the network counts it, float32: ``index`` 1000t − 1, ``step`` 1000t,
    ``unit`` t.

    Computed in float64, so that t = k/1000 gives exactly k − 1 and k.
    """
    t = t.double()
    if time_input == "unit":
        return t.float()
    return (1000 * t - 1 if time_input == "index" else 1000 * t).float()


class Sinusoidal(nn.Module):
    """(sin ω₀t, cos ω₀t, sin ω₁t, …), ω_i = 10000^(−2i/length): (B,) to (B, length)."""

    frequencies: Tensor

    def __init__(self, length: int) -> None:
        super().__init__()
        exponents = torch.arange(0, length, 2, dtype=torch.float64) / length
        self.register_buffer(
            "frequencies", torch.exp(-math.log(10_000) * exponents).float(), persistent=False
        )

    def forward(self, time: Tensor) -> Tensor:
        phase = time[:, None] * self.frequencies
        return torch.stack((phase.sin(), phase.cos()), -1).flatten(1)
