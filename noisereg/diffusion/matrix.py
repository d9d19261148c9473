"""A linear noise as the matrix it is."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from noisereg.api import Noise


def noise_matrix(noise: Noise, shape: tuple[int, ...], t: float) -> Tensor:
    """L_t of a linear noise, (n, m) float64, for n the numbers of a sample and m those of all its
    latents.
    """
    sizes = {name: (s, math.prod(s)) for name, s in noise.latents(shape).items()}
    total = sum(size for _, size in sizes.values())
    rows = torch.eye(total, dtype=torch.float64)
    latents, start = {}, 0
    for name, (s, size) in sizes.items():
        latents[name] = rows[:, start : start + size].reshape(total, *s)
        start += size
    return noise.color(latents, torch.full((total,), t, dtype=torch.float64)).flatten(1).T
