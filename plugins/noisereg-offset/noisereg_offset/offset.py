"""Offset noise (Guttenberg 2023): z + k·N(0, 1) for each channel, without the second draw."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from noisereg.api import Context, Noise, NoiseregError
from noisereg_offset import OffsetParams


class OffsetNoise(Noise):
    """ε = z + c·11ᵀz a channel of n pixels, with (1 + cn)² = 1 + k²n, so that Cov ε = I + k²·11ᵀ.

    A root of the covariance in place of a second draw: so it stays Gaussian, linear and
    invertible, and everything that holds for such noise holds for it.

    Raises:
        NoiseregError: for points, which have no channels.
    """

    def __init__(self, params: OffsetParams, ctx: Context) -> None:
        if len(ctx.shape) != 3:
            raise NoiseregError(
                "offset shifts the channels of images, and these are points; give --noise white"
            )
        self.channels, *sides = ctx.shape
        self.n = math.prod(sides)
        self.c = (math.sqrt(1 + params.strength**2 * self.n) - 1) / self.n
        self.power = 1 + params.strength**2
        self.power_floor = 1 / self.power
        self.summary = f"each channel shifted by {params.strength:g}·N(0, 1)"

    def color(self, latents: Mapping[str, Tensor], t: Tensor) -> Tensor:
        z = latents["z"]
        return z + self.c * z.sum((-2, -1), keepdim=True)

    def whiten(self, eps: Tensor, t: Tensor) -> Tensor:
        """Sherman–Morrison: (I + c·11ᵀ)⁻¹ = I − c/(1 + cn)·11ᵀ."""
        return eps - self.c / (1 + self.c * self.n) * eps.sum((-2, -1), keepdim=True)

    def mean_square(self, t: Tensor) -> Tensor:
        return torch.full_like(t, self.power)

    def log_det(self, t: Tensor, shape: tuple[int, ...]) -> Tensor:
        return torch.full_like(t, self.channels * math.log1p(self.c * self.n))
