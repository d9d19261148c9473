"""Pyramid, or multi-resolution, noise (Whitaker 2023): z + Σ dⁱ·enlarged(zᵢ), without the further
draws.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from noisereg.api import Context, Noise, NoiseregError
from noisereg_offset import PyramidParams

LARGEST = 4096
"""Pixels; the covariance is factored as a dense matrix."""


def enlarging(small: int, large: int) -> Tensor:
    """The matrix, (large, small) float64, of linear interpolation along one axis."""
    unit = torch.eye(small, dtype=torch.float64)[:, None]
    return functional.interpolate(unit, large, mode="linear", align_corners=False)[:, 0].T


def covariance(height: int, width: int, discount: float, levels: int | None) -> Tensor:
    """I + Σᵢ d²ⁱ·(UᵢUᵢᵀ), (n, n) float64, Uᵢ enlarging bilinearly from sides divided by 2ⁱ:
    separable, so a Kronecker product of its axes."""
    deepest = math.ceil(math.log2(max(height, width)))
    total = torch.eye(height * width, dtype=torch.float64)
    for level in range(1, (deepest if levels is None else min(levels, deepest)) + 1):
        rows, columns = (enlarging(max(1, side >> level), side) for side in (height, width))
        total += discount ** (2 * level) * torch.kron(rows @ rows.T, columns @ columns.T)
    return total


class PyramidNoise(Noise):
    """ε = L z a channel, L the Cholesky factor of the pyramid's covariance over its mean variance.

    The sizes halve from level to level; the original draws the ratio at random between 2 and 4,
    and is then a mixture that is not Gaussian. It also divides by each batch's own deviation; here
    it is the exact one.

    Raises:
        NoiseregError: for points, and for images of more than 4,096 pixels.
    """

    def __init__(self, params: PyramidParams, ctx: Context) -> None:
        if len(ctx.shape) != 3:
            raise NoiseregError(
                "pyramid noise is shaped in space and needs images; give --noise white"
            )
        self.channels, height, width = ctx.shape
        if height * width > LARGEST:
            raise NoiseregError(
                f"pyramid factors a matrix of the image's pixels, at most {LARGEST:,}, and "
                f"{height}×{width} are "
                f"{height * width:,}; give --noise offset, or smaller images"
            )
        total = covariance(height, width, params.discount, params.levels)
        variance = float(total.diagonal().mean())
        self.root = torch.linalg.cholesky(total / variance).to(ctx.device, torch.float32)
        self.half_log_det = float(self.root.diagonal().double().log().sum())
        self.power_floor = 1 / variance  # the finest level alone, which no direction is without
        self.summary = f"Cholesky factor of {height}×{width}, discount {params.discount:g}"

    def color(self, latents: Mapping[str, Tensor], t: Tensor) -> Tensor:
        z = latents["z"]
        return (z.flatten(2) @ self.root.to(z).T).reshape(z.shape)

    def whiten(self, eps: Tensor, t: Tensor) -> Tensor:
        solved = torch.linalg.solve_triangular(self.root.to(eps), eps.flatten(2).mT, upper=False)
        return solved.mT.reshape(eps.shape)

    def mean_square(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def log_det(self, t: Tensor, shape: tuple[int, ...]) -> Tensor:
        return torch.full_like(t, self.channels * self.half_log_det)
