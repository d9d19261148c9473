"""Blue-noise masks by void-and-cluster (Ulichney 1993, "The void-and-cluster method for dither
array generation").

A mask of H×W pixels holds each rank 0 … HW−1 once; the pixels below any rank are spread evenly on
the torus.

Everything is in integers, so the incremental energies are exact: the same seed gives the same mask
whatever the order of the updates. The energy of pixel p is Σ K(p − q) over the pixels q that are
on, plus p's own tie-breaking number, drawn once and smaller than any difference of two kernel
values.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

SIGMA = 1.5
"""Standard deviation of the Gaussian kernel, in pixels: Ulichney's choice. The blue-noise textures
that circulate were made with 1.9."""
SIGMAS = (0.5, 16.0)
"""The least and the largest: under half a pixel neighbours do not see each other."""

_TIE_BITS = 18
_SUM_BITS = 62
_TAKEN = np.int64(2**_SUM_BITS)


def method(sigma: float = SIGMA) -> str:
    """How masks are made, as a spectrum file records it."""
    return f"void-and-cluster (Ulichney 1993), torus, Gaussian sigma {sigma:g}"


def _kernel_bits(sigma: float) -> int:
    """How finely the kernel is rounded: 40 bits at σ = 1.5, where its sum is 2πσ² = 14.2; 2^bits
    times that and the ties' 2¹⁸ must stay below :data:`_TAKEN`.
    """
    return min(40, math.floor(_SUM_BITS - _TIE_BITS - math.log2(2 * math.pi * sigma**2 + 1)))


@lru_cache(maxsize=8)
def _kernels(height: int, width: int, sigma: float = SIGMA) -> NDArray[np.int64]:
    """The toroidal kernel centred at (H, W) of a 2H×2W array: rolling it is then a view."""
    y = np.minimum(np.arange(height), height - np.arange(height))
    x = np.minimum(np.arange(width), width - np.arange(width))
    kernel = np.exp(-(y[:, None] ** 2 + x[None, :] ** 2) / (2 * sigma**2))
    whole = np.rint(kernel * 2.0 ** _kernel_bits(sigma)).astype(np.int64) << _TIE_BITS
    return np.tile(whole, (2, 2))


class _Pattern:
    """Which pixels are on, with the energy of every pixel kept up to date."""

    def __init__(
        self, height: int, width: int, ties: NDArray[np.int64], sigma: float = SIGMA
    ) -> None:
        self.height, self.width = height, width
        self.on = np.zeros(height * width, dtype=bool)
        self.energy = ties.reshape(height, width).copy()
        self._kernels = _kernels(height, width, sigma)
        self._flat = self.energy.reshape(-1)

    def _kernel_at(self, pixel: int) -> NDArray[np.int64]:
        y, x = divmod(pixel, self.width)
        return self._kernels[
            self.height - y : 2 * self.height - y, self.width - x : 2 * self.width - x
        ]

    def add(self, pixel: int) -> None:
        self.on[pixel] = True
        self.energy += self._kernel_at(pixel)

    def remove(self, pixel: int) -> None:
        self.on[pixel] = False
        self.energy -= self._kernel_at(pixel)

    def tightest_cluster(self) -> int:
        """The pixel that is on and has the most energy."""
        return int(np.where(self.on, self._flat, -1).argmax())

    def largest_void(self) -> int:
        """The pixel that is off and has the least energy."""
        return int(np.where(self.on, _TAKEN, self._flat).argmin())


def _prototype(
    height: int, width: int, rng: np.random.Generator, sigma: float = SIGMA
) -> _Pattern:
    """A tenth of the pixels on, spread evenly: clusters move to voids until none would.

    A move must lower the moved pixel's energy, hence the energy of all pairs (plus ties), an
    integer: the loop ends. The textbook rule, "until the pixel removed is the void", can cycle
    between patterns of equal energy on small grids.
    """
    n = height * width
    ties = rng.permutation(n).astype(np.int64) % 2**_TIE_BITS
    pattern = _Pattern(height, width, ties, sigma)
    for pixel in rng.choice(n, size=max(1, n // 10), replace=False):
        pattern.add(int(pixel))
    while True:
        cluster = pattern.tightest_cluster()
        pattern.remove(cluster)
        void = pattern.largest_void()
        if pattern.energy.flat[void] >= pattern.energy.flat[cluster]:
            pattern.add(cluster)
            return pattern
        pattern.add(void)


def void_and_cluster(
    height: int, width: int, rng: np.random.Generator, sigma: float = SIGMA
) -> NDArray[np.int64]:
    """One mask, (H, W) int64, each of 0 … HW−1 once. ``sigma``: of the kernel, in pixels.

    Ranks below the prototype's count come from removing its tightest clusters, the others from
    filling the largest void. (Ulichney's third phase, the tightest cluster of the minority, is the
    same on a torus: the energies of the pixels on and off add up to a constant.)
    """
    pattern = _prototype(height, width, rng, sigma)
    n, count = height * width, int(pattern.on.sum())
    ranks = np.full(n, -1, dtype=np.int64)
    start = np.flatnonzero(pattern.on)
    energy = pattern.energy.copy()
    for rank in range(count - 1, -1, -1):
        pixel = pattern.tightest_cluster()
        ranks[pixel] = rank
        pattern.remove(pixel)
    # On from the prototype: a pixel that is taken leaves the race for good, so one array and an
    # argmin suffice.
    pattern.on[start] = True
    energy.flat[start] = _TAKEN
    flat = energy.reshape(-1)
    for rank in range(count, n):
        pixel = int(flat.argmin())
        ranks[pixel] = rank
        energy += pattern._kernel_at(pixel)
        flat[pixel] = _TAKEN
    return ranks.reshape(height, width)
