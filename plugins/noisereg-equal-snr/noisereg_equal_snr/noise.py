"""EqualSNR (Falck et al. 2025, arXiv 2505.11278): Gaussian noise whose variance at each frequency
is the data's.

White noise drowns an image's high frequencies first, as images have little power there; sampling
then makes them last. With noise of the data's spectrum all frequencies come and go together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from noisereg.api import Context, Noise, NoiseregError
from noisereg_equal_snr import EqualSNRParams

MIN_SHARE = 0.01
"""Directions with less of the mean power are left out of ``whitened_power``: a small error would
count for everything.
"""


class EqualSNRNoise(nn.Module, Noise):
    """ε = F⁻¹(√λ ⊙ F z): λ is (1 − j)·(the data's variance at each frequency, mean 1) + j, from
    :meth:`fit`.

    λ is even in frequency, as data are real, so L is real, symmetric and its own inverse's
    inverse: it is whitened by a division. Before fit it is white. The paper scales the noise so
    that the mean ratio is DDPM's; here its power is 1, and the schedule of the process stays what
    it is.

    Raises:
        NoiseregError: for points, which have no frequencies.
    """

    power: Tensor

    def __init__(self, params: EqualSNRParams, ctx: Context) -> None:
        super().__init__()
        if len(ctx.shape) != 3:
            raise NoiseregError(
                "equal-snr needs images, which have frequencies; give --noise white"
            )
        self.params = params
        self.register_buffer("power", torch.ones(ctx.shape, dtype=torch.float64))
        self.power_floor = params.floor  # known before fit: λ ≥ j, and its mean is 1
        self.summary = f"the data's spectrum, {params.floor:g} of it white"

    def fit(self, batches: Iterator[Tensor]) -> None:
        """λ from the variance of the data's Fourier coefficients, in float64."""
        count, total, square = (
            0,
            torch.zeros((), dtype=torch.complex128),
            torch.zeros((), dtype=torch.float64),
        )
        for batch in batches:
            coefficients = torch.fft.fft2(batch.double().cpu(), norm="ortho")
            count += len(batch)
            total = total + coefficients.sum(0)
            square = square + coefficients.abs().square().sum(0)
        variance = (square / count - (total / count).abs().square()).clamp(min=0)
        if not self.params.per_channel:
            variance = variance.mean(0, keepdim=True).expand_as(variance)
        mean = (
            variance.mean((-2, -1), keepdim=True) if self.params.per_channel else variance.mean()
        )
        if not bool((mean > 0).all()):
            raise NoiseregError(
                "equal-snr: the data have a channel that never varies; give per_channel=false"
            )
        floor = self.params.floor
        self.power.copy_((1 - floor) * variance / mean + floor)

    def _filtered(self, x: Tensor, exponent: float) -> Tensor:
        """F⁻¹(λ^exponent ⊙ F x)."""
        gain = self.power.pow(exponent).to(x)[..., : x.shape[-1] // 2 + 1]
        return torch.fft.irfft2(gain * torch.fft.rfft2(x), s=x.shape[-2:])

    def color(self, latents: Mapping[str, Tensor], t: Tensor) -> Tensor:
        return self._filtered(latents["z"], 0.5)

    def whiten(self, eps: Tensor, t: Tensor) -> Tensor:
        return self._filtered(eps, -0.5)

    def mean_square(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def log_det(self, t: Tensor, shape: tuple[int, ...]) -> Tensor:
        return torch.full_like(t, 0.5 * float(self.power.log().sum()))

    def whitened_power(self, eps: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        keep = (self.power >= MIN_SHARE * self.power.mean()).to(eps)
        energy = torch.fft.fft2(eps, norm="ortho").abs().square() / self.power.to(eps) * keep
        return energy.flatten(1).sum(1), keep.sum().expand(len(eps))


def signal_to_noise(data: Tensor, power: Tensor) -> Tensor:
    """The variance of the data's Fourier coefficients over the noise's, (C, H, W): what EqualSNR
    makes constant.
    """
    variance = torch.fft.fft2(data.double(), norm="ortho").var(0, correction=0)
    return variance.abs() / power


def decibels(ratio: Tensor) -> float:
    """The spread from the 5th to the 95th percentile of a ratio."""
    low, high = torch.quantile(
        ratio.flatten(), torch.tensor([0.05, 0.95], dtype=ratio.dtype)
    ).tolist()
    return 10 * math.log10(high / max(low, 1e-300))
