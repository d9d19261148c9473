"""Roots L of a circulant covariance, L Lᵀ = Σ_j, and of their mixtures with the identity, M = γI +
(1−γ)L.

The symmetric root and the Cholesky factor have the same singular values √λ_k and left-singular
vectors, the Fourier modes u_k; their right-singular vectors v_k = Lᵀu_k/√λ_k differ. In the basis
v_k of z every mixture gives a direction the power ‖M v_k‖² = γ² + (1−γ)²λ_k + 2γ(1−γ)·Re u_k*L
u_k, whose mean over k is tr(M Mᵀ)/n.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray
from torch import Tensor

from noisereg.api import per_sample
from noisereg.errors import NoiseregError
from noisereg.noises.covariance import Array, circulant
from noisereg.store import ARRAY, Store

PRODUCT_ROWS = 512
"""Rows of a triangle in one product: the zeros above the diagonal are skipped block by block."""
SOLVE_ROWS = 64
"""Rows of a triangle in one diagonal block: a small solve a sample."""


def _check_size(x: Tensor, height: int, width: int) -> None:
    """
    Raises:
        NoiseregError: for images of another size, whose pixels would be mixed.
    """
    if x.ndim != 4 or x.shape[-2:] != (height, width):
        raise NoiseregError(
            f"this noise is of {height}×{width} pixels, and is given {tuple(x.shape)}; expected "
            f"(B, C, {height}, {width}): build it with shape=(C, H, W) of the samples"
        )


class Factor(ABC):
    """L for images of H×W pixels, the same for each channel. Tensors are (B, C, H, W), n = H·W."""

    @abstractmethod
    def apply(self, z: Tensor) -> Tensor:
        """L z."""

    @abstractmethod
    def solve(self, eps: Tensor, gamma: Tensor | None = None) -> Tensor:
        """(γI + (1−γ)L)⁻¹ ε for γ (B,); L⁻¹ ε without one. Not checked for its condition."""

    @abstractmethod
    def log_det(self, gamma: Tensor) -> Tensor:
        """log |det(γI + (1−γ)L)|, (B,) float64, for γ (B,); of one channel."""

    @property
    @abstractmethod
    def eigenvalues(self) -> Array:
        """λ_k, (n,), a mean of 1."""

    @property
    @abstractmethod
    def overlap(self) -> Array:
        """Re u_k*L u_k, (n,)."""

    @property
    @abstractmethod
    def is_constant(self) -> NDArray[np.bool_]:
        """Which u_k is a constant image (frequency 0), (n,)."""

    @abstractmethod
    def energy(self, coloured: Tensor) -> Tensor:
        """|v_k*z|², (B, C, n), given L z; meaningless but finite where λ_k = 0."""

    @abstractmethod
    def describe(self) -> str: ...

    @cached_property
    def _held(self) -> dict[tuple[str, torch.device, torch.dtype], Tensor]:
        return {}

    def on(self, name: str, device: torch.device, dtype: torch.dtype = torch.float64) -> Tensor:
        """The array called ``name``, such as eigenvalues, on a device, where it stays: each copy
        to one waits for all that it was asked before.
        """
        key = (name, device, dtype)
        if key not in self._held:
            with torch.inference_mode(False):
                self._held[key] = torch.from_numpy(getattr(self, name)).to(device, dtype)
        return self._held[key]

    @property
    def trace(self) -> float:
        """tr(L)/n."""
        return float(self.overlap.mean())

    @property
    def condition(self) -> float:
        """The condition number of L; infinite if it is singular."""
        low, high = float(self.eigenvalues.min()), float(self.eigenvalues.max())
        return (high / low) ** 0.5 if low > 0 else float("inf")


class _Circulant(Factor):
    """A root for one whole torus."""

    def __init__(self, power: Array) -> None:
        self.power = power
        self.height, self.width = power.shape
        self._roots: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    @abstractmethod
    def _make_root(self, dtype: torch.dtype) -> Tensor: ...

    def root(self, like: Tensor) -> Tensor:
        """What represents L, in the dtype and on the device of ``like``."""
        key = (like.device, like.dtype)
        if key not in self._roots:
            with torch.inference_mode(False):  # a gradient may be asked through it later
                self._roots[key] = self._make_root(like.dtype).to(like.device)
        return self._roots[key]

    @property
    def eigenvalues(self) -> Array:
        return self.power.reshape(-1)

    @property
    def is_constant(self) -> NDArray[np.bool_]:
        return np.arange(self.power.size) == 0

    def energy(self, coloured: Tensor) -> Tensor:
        modes = torch.fft.fft2(coloured, norm="ortho").flatten(-2)
        power = self.on("divisors", modes.device, modes.real.dtype)
        return (modes.real.square() + modes.imag.square()) / power

    @property
    def divisors(self) -> Array:
        """λ_k, and 1 where it is 0."""
        return np.where(self.eigenvalues > 0, self.eigenvalues, 1)


class SpectralFactor(_Circulant):
    """The symmetric root L = F*√λF: stationary, isotropic, of any size, O(n log n)."""

    def _make_root(self, dtype: torch.dtype) -> Tensor:
        return torch.from_numpy(np.sqrt(self.power[:, : self.width // 2 + 1])).to(dtype)

    def _filter(self, x: Tensor, gain: Tensor) -> Tensor:
        """``x`` in the dtype of ``gain``, filtered."""
        _check_size(x, self.height, self.width)
        return torch.fft.irfft2(torch.fft.rfft2(x.to(gain)) * gain, s=(self.height, self.width))

    def apply(self, z: Tensor) -> Tensor:
        return self._filter(z, self.root(_at_least_float32(z))).to(z.dtype)

    def solve(self, eps: Tensor, gamma: Tensor | None = None) -> Tensor:
        gain = self.root(_at_least_float32(eps))
        if gamma is not None:
            g = per_sample(gamma, _at_least_float32(eps))
            gain = g + (1 - g) * gain
        return self._filter(eps, 1 / gain).to(eps.dtype)

    def log_det(self, gamma: Tensor) -> Tensor:
        return _log_det_of_mixture(self.on("overlap", gamma.device), gamma)

    @property
    def overlap(self) -> Array:
        return np.sqrt(self.power).reshape(-1)

    def describe(self) -> str:
        return f"spectral factor of {self.height}×{self.width}"


def _at_least_float32(x: Tensor) -> Tensor:
    """No Fourier transform takes 16 bits on a CPU, and those of a GPU powers of 2 alone."""
    return x if x.dtype == torch.float64 else x.float()


class CholeskyFactor(_Circulant):
    """The lower triangular root, pixels in row-major order, as in BNDM: n² numbers.

    Computed in float64 and kept on disk in float32 (under ``folder``); in float64 it is computed
    where it is asked for.
    """

    def __init__(self, power: Array, folder: Path | None = None) -> None:
        super().__init__(power)
        self._folder = folder

    def _compute(self) -> Array:
        try:
            return scipy.linalg.cholesky(
                circulant(self.power), lower=True, overwrite_a=True, check_finite=False
            )
        except np.linalg.LinAlgError:
            raise NoiseregError(
                f"the covariance of {self.height}×{self.width} pixels is singular to working "
                "precision (its smallest "
                f"eigenvalue is {self.power.min():.1e}); give a larger jitter, or factor=spectral"
            ) from None

    @cached_property
    def _float32(self) -> NDArray[np.float32]:
        def compute() -> NDArray[np.float32]:
            return np.ascontiguousarray(self._compute(), dtype=np.float32)

        if self._folder is None:
            return compute()
        key = {
            "factor": "Cholesky, row-major",
            "size": [self.height, self.width],
            "power": hashlib.sha256(np.ascontiguousarray(self.power).tobytes()).hexdigest(),
        }
        name = f"cholesky-{self.height}x{self.width}"
        return Store(self._folder).cached(name, key, ARRAY, compute)

    def _make_root(self, dtype: torch.dtype) -> Tensor:
        if dtype == torch.float64:
            return torch.from_numpy(np.ascontiguousarray(self._compute()))
        return torch.from_numpy(self._float32).to(dtype)

    def apply(self, z: Tensor) -> Tensor:
        _check_size(z, self.height, self.width)
        lower, rows = self.root(z), z.reshape(-1, self.power.size)
        blocks = []
        for first in range(0, len(lower), PRODUCT_ROWS):
            last = min(first + PRODUCT_ROWS, len(lower))
            blocks.append(rows[:, :last] @ lower[first:last, :last].T)
        return torch.cat(blocks, 1).reshape(z.shape)

    def solve(self, eps: Tensor, gamma: Tensor | None = None) -> Tensor:
        _check_size(eps, self.height, self.width)
        lower = self.root(eps)
        if gamma is not None:
            return _solve_mixtures(lower, eps.flatten(2), gamma).reshape(eps.shape)
        rows = eps.reshape(-1, len(lower))
        return torch.linalg.solve_triangular(lower, rows.T, upper=False).T.reshape(eps.shape)

    def log_det(self, gamma: Tensor) -> Tensor:
        return _log_det_of_mixture(self.on("diagonal", gamma.device), gamma)

    @property
    def diagonal(self) -> Array:
        return np.diagonal(self._float32).astype(np.float64)

    @cached_property
    def overlap(self) -> Array:
        """The Fourier transform of L's rows averaged over toroidal shifts."""
        lower = self._float32.reshape(self.height, self.width, self.height, self.width)
        mean = np.zeros(self.power.shape)
        for y in range(self.height):
            for x in range(self.width):  # row p over q, put at the lags p − q
                mean += np.roll(lower[y, x, ::-1, ::-1], (y + 1, x + 1), (0, 1))
        return np.fft.fft2(mean / self.power.size).real.reshape(-1)

    @property
    def trace(self) -> float:
        return float(np.diagonal(self._float32).mean(dtype=np.float64))

    def describe(self) -> str:
        return f"Cholesky factor of {self.height}×{self.width}"


def _log_det_of_mixture(eigenvalues: Tensor, gamma: Tensor) -> Tensor:
    """Σ_k log(γ + (1−γ)l_k), (B,), for the eigenvalues l_k of L."""
    g = gamma.double()[:, None]
    return (g + (1 - g) * eigenvalues).log().sum(1)


def _solve_mixtures(lower: Tensor, eps: Tensor, gamma: Tensor) -> Tensor:
    """(γ_b I + (1−γ_b)L)⁻¹ ε_b for each sample, (B, C, n).

    Forward substitution by blocks of rows. Left of the diagonal blocks every mixture is a multiple
    of L, so one product serves all samples; only the small diagonal blocks are solved a sample.
    """
    batch, channels, n = eps.shape
    g = per_sample(gamma, eps)
    identity = torch.eye(SOLVE_ROWS, dtype=eps.dtype, device=eps.device)
    known = eps.new_empty(batch * channels, 0)
    for first in range(0, n, SOLVE_ROWS):
        last = min(first + SOLVE_ROWS, n)
        left = known @ lower[first:last, :first].T
        right = eps[..., first:last] - (1 - g) * left.reshape(batch, channels, -1)
        size = last - first
        block = g * identity[:size, :size] + (1 - g) * lower[first:last, first:last]
        z = torch.linalg.solve_triangular(block, right.mT, upper=False).mT
        known = torch.cat([known, z.reshape(batch * channels, -1)], 1)
    return known.reshape(eps.shape)


class TiledFactor(Factor):
    """Independent tiles, as the paper does above 64²: block diagonal, with seams (docs/noise.md).

    Args:
        heights, widths: of the rows and columns of tiles.
        factors: one for each (height, width) that occurs.
    """

    def __init__(
        self, heights: list[int], widths: list[int], factors: dict[tuple[int, int], Factor]
    ) -> None:
        self.heights, self.widths, self.factors = heights, widths, factors
        self._places = {
            size: [
                (i, j)
                for i, h in enumerate(heights)
                for j, w in enumerate(widths)
                if (h, w) == size
            ]
            for size in factors
        }

    def _split(self, x: Tensor) -> dict[tuple[int, int], Tensor]:
        """By size, the tiles of that size side by side as channels: (B, k·C, h, w)."""
        _check_size(x, sum(self.heights), sum(self.widths))
        rows = [row.split(self.widths, -1) for row in x.split(self.heights, -2)]
        return {
            size: torch.cat([rows[i][j] for i, j in places], 1)
            for size, places in self._places.items()
        }

    def _join(self, tiles: dict[tuple[int, int], Tensor], channels: int) -> Tensor:
        at = {
            place: tile
            for size, places in self._places.items()
            for place, tile in zip(places, tiles[size].split(channels, 1), strict=True)
        }
        rows = [
            torch.cat([at[i, j] for j in range(len(self.widths))], -1)
            for i in range(len(self.heights))
        ]
        return torch.cat(rows, -2)

    def apply(self, z: Tensor) -> Tensor:
        return self._join(
            {s: self.factors[s].apply(x) for s, x in self._split(z).items()}, z.shape[1]
        )

    def solve(self, eps: Tensor, gamma: Tensor | None = None) -> Tensor:
        return self._join(
            {s: self.factors[s].solve(x, gamma) for s, x in self._split(eps).items()}, eps.shape[1]
        )

    def log_det(self, gamma: Tensor) -> Tensor:
        tiles = [
            self.factors[size].log_det(gamma) * len(places)
            for size, places in self._places.items()
        ]
        return torch.stack(tiles).sum(0)

    def energy(self, coloured: Tensor) -> Tensor:
        channels = coloured.shape[1]
        parts = []
        for size, tiles in self._split(coloured).items():
            energy = self.factors[size].energy(tiles)
            parts += energy.split(channels, 1)
        return torch.cat(parts, -1)

    def _each(self, values: dict[tuple[int, int], NDArray]) -> NDArray:
        """One array over all tiles from one a size, in the order of :meth:`energy`."""
        return np.concatenate(
            [np.tile(values[size], len(places)) for size, places in self._places.items()]
        )

    @property
    def eigenvalues(self) -> Array:
        return self._each({size: factor.eigenvalues for size, factor in self.factors.items()})

    @property
    def overlap(self) -> Array:
        return self._each({size: factor.overlap for size, factor in self.factors.items()})

    @property
    def is_constant(self) -> NDArray[np.bool_]:
        return self._each({size: factor.is_constant for size, factor in self.factors.items()})

    @property
    def trace(self) -> float:
        area = {size: size[0] * size[1] * len(places) for size, places in self._places.items()}
        return sum(self.factors[size].trace * a for size, a in area.items()) / sum(area.values())

    def describe(self) -> str:
        sizes = " and ".join(f"{h}×{w}" for h, w in self.factors)
        return f"Cholesky factors of {len(self.heights) * len(self.widths)} tiles of {sizes}"
