"""White noise: ε = z."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from noisereg.api import Context, Noise
from noisereg.noises import WhiteParams


class WhiteNoise(Noise):
    """Independent Gaussian numbers, for images and points."""

    diagonal = True

    def __init__(self, params: WhiteParams, ctx: Context) -> None:
        pass

    def color(self, latents: Mapping[str, Tensor], t: Tensor) -> Tensor:
        return latents["z"]

    def mean_square(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def whiten(self, eps: Tensor, t: Tensor) -> Tensor:
        return eps

    def log_det(self, t: Tensor, shape: tuple[int, ...]) -> Tensor:
        return torch.zeros_like(t, dtype=torch.float64)
