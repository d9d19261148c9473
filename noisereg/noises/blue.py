"""Static coloured noise, ε = L z with L Lᵀ = Σ_j: blue (BNDM, Huang et al. 2024, arXiv
2402.04930), red, power laws.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from noisereg.api import Context, Noise
from noisereg.errors import NoiseregError
from noisereg.noises import ColouredParams
from noisereg.noises.colours import (
    Colour,
    blue,
    image_size,
    make_factor,
    power_law,
    red,
    tile_size,
)
from noisereg.noises.factors import TiledFactor

MIN_SHARE = 0.01
"""Directions with less of the mean power are left out of ``whitened_power``: a small error would
count for everything.
"""
MAX_ROUNDING = 0.01
"""cond(L)·(unit roundoff) above which L⁻¹ε has lost its meaning."""


class ColouredNoise(Noise):
    """ε = L z, each channel on its own. A subclass says which spectrum.

    Raises:
        NoiseregError: for data that are not images, and for a spectrum file that is none or of
        another size.
    """

    called: ClassVar[str]
    """The name in messages."""

    @staticmethod
    def colour(params: Any, height: int, width: int) -> Colour:
        """The spectrum for sizes up to ``height`` by ``width``."""
        raise NotImplementedError

    def __init__(self, params: ColouredParams, ctx: Context) -> None:
        self.height, self.width = image_size(ctx, self.called)
        colour = self.colour(params, *tile_size(self.height, self.width, params))
        self.factor = make_factor(colour, self.height, self.width, params, ctx)
        self.power_floor = float(self.factor.eigenvalues.min())
        self.summary = self.factor.describe()
        self.notes: tuple[str, ...] = ()
        if isinstance(self.factor, TiledFactor):
            self.notes = (
                f"factor=cholesky draws {self.height}×{self.width} pixels as independent tiles of "
                "at most 64×64, which "
                "leaks a little power into low frequencies (docs/noise.md); factor=spectral has "
                "no seams",
            )

    def color(self, latents: Mapping[str, Tensor], t: Tensor) -> Tensor:
        return self.factor.apply(latents["z"])

    def mean_square(self, t: Tensor) -> Tensor:
        """1: Σ_j has a unit diagonal."""
        return torch.ones_like(t)

    def whiten(self, eps: Tensor, t: Tensor) -> Tensor:
        self._check_condition(eps.dtype)
        return self.factor.solve(eps)

    def log_det(self, t: Tensor, shape: tuple[int, ...]) -> Tensor:
        self._check_condition(torch.float64)
        return shape[0] * self.factor.log_det(torch.zeros_like(t, dtype=torch.float64))

    def whitened_power(self, eps: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """As in the protocol; frequency 0 is never among the directions (theory, §6)."""
        power = self.factor.on("eigenvalues", eps.device, eps.dtype)
        return self._energy_where(power.expand(len(eps), -1), eps)

    def _energy_where(self, power: Tensor, coloured: Tensor) -> tuple[Tensor, Tensor]:
        """Σ_k |v_k*z|² over channels and the directions k of enough ``power`` (B, n), from L z;
        and their number.
        """
        constant = self.factor.on("is_constant", coloured.device, torch.bool)
        keep = (power >= MIN_SHARE * power.mean(1, keepdim=True)) & ~constant
        energy = self.factor.energy(coloured).masked_fill(~keep[:, None], 0)
        count = keep.sum(1).clamp(min=1)  # one pixel has no direction but frequency 0
        return energy.flatten(1).sum(1), count.to(energy) * coloured.shape[1]

    def _check_condition(self, dtype: torch.dtype) -> None:
        if self.factor.condition * torch.finfo(dtype).eps > MAX_ROUNDING:
            raise NoiseregError(
                f"{self.called} noise cannot be whitened in {str(dtype).removeprefix('torch.')}: "
                "the condition number of "
                f"L is {self.factor.condition:.1e}; give a larger jitter (1e-3)"
            )

    def matrix(self, t: float) -> Tensor:
        """L_t of one channel, (n, n) float64 and dense: for tests and small images."""
        n = self.height * self.width
        identity = torch.eye(n, dtype=torch.float64).reshape(n, 1, self.height, self.width)
        times = torch.full((n,), t, dtype=torch.float64)
        return self.color({"z": identity}, times).reshape(n, n).T


class BlueNoise(ColouredNoise):
    """The spectrum of void-and-cluster masks: almost no power at low frequencies."""

    called = "blue"
    colour = staticmethod(blue)


class RedNoise(ColouredNoise):
    """Blue mirrored in frequency. BNDM shows red noise and does not define it; see
    ``covariance.mirrored``.
    """

    called = "red"
    colour = staticmethod(red)


class PowerLawNoise(ColouredNoise):
    """F⁻¹(|f|^p F z), scaled to unit variance."""

    called = "power-law"
    colour = staticmethod(power_law)
