"""From masks to a power spectrum, and from a spectrum to the covariance of any size.

Averaging a mask's outer product over all toroidal shifts makes the covariance circulant: Σ_pq =
c(p − q), diagonal in the Fourier basis with eigenvalues λ_k, the mean power |F g|²/n of the masks
g. So the spectrum λ, scaled to mean 1, is all there is to store, and a few hundred masks suffice.

A spectrum is an (H, W) float64 array in ``fft2``'s order with λ(k) = λ(−k) and mean 1.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

Array = NDArray[np.float64]


def gaussian_by_rank(ranks: NDArray[np.int64]) -> Array:
    """The normal quantile of each rank, Φ⁻¹((r + ½)/n): (H, W), with mean 0 exactly by
    symmetry.
    """
    return ndtri((ranks + 0.5) / ranks.size)


def total_power(masks: Iterable[NDArray[np.int64]], height: int, width: int) -> Array:
    """Σ |F g|²/n over the masks, (H, W)."""
    total = np.zeros((height, width))
    for ranks in masks:
        total += np.abs(np.fft.fft2(gaussian_by_rank(ranks))) ** 2
    return total / (height * width)


def unit_mean(power: Array) -> Array:
    """The spectrum of unit pixel variance, symmetric in k ↔ −k exactly."""
    mirrored = np.roll(power[::-1, ::-1], (1, 1), axis=(0, 1))
    symmetric = (power + mirrored) / 2
    return symmetric / symmetric.mean()


def frequency(height: int, width: int) -> Array:
    """|f| in cycles a pixel, (H, W)."""
    return np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :])


def rings(height: int, width: int) -> NDArray[np.int64]:
    """The integer radius of each frequency, (H, W): |f| in steps of the longer axis, rounded."""
    step = 1 / max(height, width)
    return np.rint(frequency(height, width) / step).astype(np.int64)


def ring_means(power: Array) -> tuple[Array, Array, NDArray[np.int64]]:
    """Over each of the :func:`rings` that has any modes: mean |f|, mean power, and how many."""
    ring = rings(*power.shape).ravel()
    modes = np.bincount(ring)
    used = modes > 0
    at = np.bincount(ring, weights=frequency(*power.shape).ravel())[used] / modes[used]
    mean = np.bincount(ring, weights=power.ravel())[used] / modes[used]
    return at, mean, modes[used]


def _fit_lags(c: Array, size: int, axis: int) -> Array:
    """The autocovariance on a torus of ``size`` pixels along ``axis``: cut to |lag| ≤ size/2, or
    padded with zeros.

    Where a size is even its last lag, n/2 = −n/2, is shared by both signs: cutting averages them,
    padding halves them.
    """
    old = c.shape[axis]
    if size == old:
        return c
    c = np.moveaxis(c, axis, 0)
    out = np.zeros((size, *c.shape[1:]))
    half = min(size, old) // 2
    even = min(size, old) % 2 == 0
    for lag in range(-half, half + 1):
        share = 0.5 if even and abs(lag) == half else 1.0
        out[lag % size] += share * c[lag % old]
    return np.moveaxis(out, 0, axis)


def resize(power: Array, height: int, width: int) -> Array:
    """The spectrum at another size: the same autocovariance, cut or padded to the new lags;
    negatives clipped.

    No taper and no crop of a larger draw: both put low frequencies back.
    """
    if power.shape == (height, width):
        return power
    c = np.fft.ifft2(power).real
    c = _fit_lags(_fit_lags(c, height, 0), width, 1)
    return unit_mean(np.fft.fft2(c).real.clip(min=0))


def radial_mean(power: Array, radius: Array) -> Array:
    """The mean of ``power`` at each |f| of ``radius``, interpolated between :func:`rings`."""
    at, mean, _ = ring_means(power)
    return np.interp(radius, at, mean)


def mirrored(power: Array) -> Array:
    """Red from blue: λ'(f) = λ(½ − |f|) of the radial mean, and λ(0) beyond |f| = ½ (cycles a
    pixel).

    The paper (BNDM) shows red noise and does not define it; this is our reading.
    """
    f = frequency(*power.shape)
    return unit_mean(radial_mean(power, (0.5 - f).clip(min=0)))


def power_law(exponent: float, height: int, width: int) -> Array:
    """λ = |f|^(2p), the power of F⁻¹(|f|^p F z).

    Where p < 0 frequency 0 takes the power of the lowest other one: it would be infinite.
    """
    f = frequency(height, width)
    if exponent <= 0:
        f[0, 0] = f[f > 0].min() if f.size > 1 else 1.0
    return unit_mean(f ** (2 * exponent)) if f.any() else np.ones_like(f)


def with_jitter(power: Array, jitter: float) -> Array:
    """Eigenvalues of Σ_j = (1−j)Σ + jI."""
    return (1 - jitter) * power + jitter


def circulant(power: Array) -> Array:
    """The dense covariance, (HW, HW): Σ_pq = c(p − q), pixels in row-major order."""
    height, width = power.shape
    c = np.fft.ifft2(power).real
    rows, columns = np.arange(height), np.arange(width)
    dy = (rows[:, None] - rows[None, :]) % height
    dx = (columns[:, None] - columns[None, :]) % width
    return c[dy[:, None, :, None], dx[None, :, None, :]].reshape(height * width, height * width)
