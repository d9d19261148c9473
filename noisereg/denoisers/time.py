"""The embedding of time that networks take in, made once where all samples share a time."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def one_if_shared(t: Tensor) -> Tensor:
    """(1,) of a time (B,) that all samples share as one number in memory, as ``expand`` gives it
    and as a sampler tells it; another t as it is. What depends on t alone is computed for as many.
    """
    return t[:1] if t.stride(0) == 0 else t


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
