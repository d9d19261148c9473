"""What draws of a noise look like in numbers: for ``noisereg noise show``, the tests and the
documentation.

Draws are (N, C, H, W) tensors; channels count as further draws. Power is |F ε|²/n, whose mean is 1
for white noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import chi2
from torch import Tensor

from noisereg.api import Noise
from noisereg.noises.covariance import Array, frequency, ring_means

SECTORS = 8
"""Orientations of the anisotropy, each 180°/8 wide and centred on a multiple of 22.5°."""
MID_BAND = (0.25, 0.5)
"""Cycles a pixel between which orientations are compared: where blue noise rises from nothing to
its plateau.
"""


def periodogram(draws: Tensor) -> Array:
    """The mean of |F ε|²/n over draws and channels, (H, W) float64."""
    total = torch.zeros(draws.shape[-2:], dtype=torch.float64)
    for part in draws.flatten(0, 1).split(256):
        modes = torch.fft.fft2(part, norm="ortho")
        total += (modes.real.square() + modes.imag.square()).double().sum(0).cpu()
    return (total / (draws.shape[0] * draws.shape[1])).numpy()


@dataclass(frozen=True)
class RadialPower:
    """Mean power by integer radius, with the band of each mean, for Gaussian stationary noise."""

    frequency: Array
    """Mean |f| of each ring, cycles a pixel."""
    power: Array
    low: Array
    high: Array
    level: float
    """Confidence of each band, taken alone."""


def chi2_limits(modes: NDArray[np.int64], draws: int, level: float) -> tuple[Array, Array]:
    """Limits of (mean power)/(true power) over a ring, at ``level``.

    |F ε|²/(nλ) is χ²₁ at real modes and half a χ²₂ at the others, which come in equal pairs: the
    sum over a whole ring is
    χ² with as many degrees of freedom as it has modes, times the draws.
    """
    freedom = modes * draws
    return chi2.ppf((1 - level) / 2, freedom) / freedom, chi2.ppf(
        (1 + level) / 2, freedom
    ) / freedom


def radial_power(power: Array, draws: int, level: float = 0.99) -> RadialPower:
    """The ring means of a :func:`periodogram` of ``draws`` draws (times channels)."""
    at, mean, modes = ring_means(power)
    low, high = chi2_limits(modes, draws, level)
    return RadialPower(at, mean, mean / high, mean / low, level)


def autocovariance(power: Array) -> Array:
    """The mean of ε_p ε_{p+lag} over pixels, (H, W) by lag, from a periodogram."""
    return np.fft.ifft2(power).real


def power_by_orientation(power: Array) -> Array:
    """Mean power in :data:`MID_BAND` by the direction of f, (SECTORS,): 0 along x, SECTORS/2 along
    y. NaN where there is none.
    """
    height, width = power.shape
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :]
    f = np.hypot(fy, fx)
    low, high = MID_BAND
    inside = (f >= low) & (f <= high)
    angle = np.broadcast_to(np.arctan2(fy, fx), power.shape)
    sector = np.rint(angle / (np.pi / SECTORS)).astype(int) % SECTORS
    total = np.bincount(sector[inside], weights=power[inside], minlength=SECTORS)
    modes = np.bincount(sector[inside], minlength=SECTORS)
    return np.divide(total, modes, out=np.full(SECTORS, np.nan), where=modes > 0)


def pixel_variance(draws: Tensor) -> Array:
    """E ε_p² of each pixel, (H, W), over draws and channels."""
    return draws.flatten(0, 1).double().square().mean(0).cpu().numpy()


@dataclass(frozen=True)
class Look:
    """A noise at one time, from draws."""

    t: float
    sample: Array
    """One draw's first channel, (H, W)."""
    draws: int
    """Images that the numbers are means over: draws times channels."""
    declared: float
    """The noise's own ``mean_square(t)``."""
    measured: float
    error: float
    """Standard error of ``measured``, between draws."""
    radial: RadialPower
    covariance: Array
    """Between pixels a lag apart, averaged over the torus, (H, W)."""
    variance: Array
    """Of each pixel, (H, W); its sampling error is about √(2/draws)."""
    low_power: float
    """Mean power at |f| < 0.1, over the mean at all frequencies. Frequency 0 is one of them: what
    a constant added to all pixels has, nothing else shows."""
    orientation: Array
    """Mean power in :data:`MID_BAND` by the direction of f, (SECTORS,)."""

    @property
    def anisotropy(self) -> float:
        """Largest over smallest power by orientation; 1 for isotropic noise, NaN on images too
        small to tell.
        """
        known = self.orientation[np.isfinite(self.orientation)]
        return float(known.max() / known.min()) if known.size else float("nan")

    def numbers(self) -> dict[str, Any]:
        """All of it but the draw, for JSON."""
        height, width = self.covariance.shape
        return {
            "t": self.t,
            "mean_square": {
                "declared": self.declared,
                "measured": self.measured,
                "standard_error": self.error,
            },
            "radial_power": {
                "frequency": self.radial.frequency.tolist(),
                "power": self.radial.power.tolist(),
                "low": self.radial.low.tolist(),
                "high": self.radial.high.tolist(),
                "confidence": self.radial.level,
            },
            "power_below_0.1": self.low_power,
            "power_at_0": float(self.radial.power[0]),
            "covariance": {
                "along_x": self.covariance[0, : width // 2 + 1].tolist(),
                "along_y": self.covariance[: height // 2 + 1, 0].tolist(),
            },
            "pixel_variance": {
                "min": float(self.variance.min()),
                "max": float(self.variance.max()),
                "map": self.variance.tolist(),
            },
            "anisotropy": {
                "power_by_direction": self.orientation.tolist(),
                "ratio": self.anisotropy,
            },
        }


@torch.no_grad()
def look(noise: Noise, latents: Mapping[str, Tensor], t: float) -> Look:
    """The noise at time ``t``, from the draws that ``latents`` (N, …) give."""
    count = len(next(iter(latents.values())))
    parts = []
    for rows in torch.arange(count).split(250):
        part = {name: values[rows] for name, values in latents.items()}
        parts.append(noise.color(part, torch.full((len(rows),), t, dtype=torch.float64)))
    draws = torch.cat(parts)
    squares = draws.flatten(1).double().square().mean(1)
    power = periodogram(draws)
    images = count * draws.shape[1]
    return Look(
        t=t,
        sample=draws[0, 0].double().cpu().numpy(),
        draws=images,
        declared=float(noise.mean_square(torch.tensor([t], dtype=torch.float64))),
        measured=float(squares.mean()),
        error=float(squares.std() / count**0.5),
        radial=radial_power(power, images),
        covariance=autocovariance(power),
        variance=pixel_variance(draws),
        low_power=float(power[frequency(*power.shape) < 0.1].mean() / squares.mean()),
        orientation=power_by_orientation(power),
    )
