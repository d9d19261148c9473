"""The power spectrum of the predicted noise against the true one's (after arXiv 2509.07027, which
does it for latents).
"""

from __future__ import annotations

import torch
from torch import Tensor

from noisereg.api import Context, NoiseregError, Regularizer, TrainStep
from noisereg_spectral import SpectralParams

MAX_GAIN = 5.0
"""Samples where ε̂ multiplies the network's error by more than this do not enter (an x0 target
near t = 0).
"""


def rings(height: int, width: int, bands: int) -> Tensor:
    """Which of ``bands`` rings of equal width in radial frequency each coefficient belongs to, (H,
    W) int64; frequency 0 is in the first, and rings without a coefficient stay empty."""
    radius = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width)[None])
    return (radius / radius.max() * bands).long().clamp(max=bands - 1)


class Spectral(Regularizer):
    """Σ_k (E[P̂_k] − E[P_k])² / (E[P_k] + floor·mean E[P])² / bands, P_k the mean of |F ε|²/n over
    ring k.

    Isotropy holds the total power to its level; this holds the power of each ring. The truth is
    that of the same samples' own ε, so it fits any noise, at any t, and the two sides' chance goes
    the same way.

    Raises:
        NoiseregError: for points, which have no frequencies.
    """

    def __init__(self, params: SpectralParams, ctx: Context) -> None:
        if len(ctx.shape) != 3:
            raise NoiseregError(
                "spectral compares frequencies and needs images; give --reg isotropy for points"
            )
        self.floor = params.floor
        ring = rings(ctx.shape[1], ctx.shape[2], params.bands).flatten()
        count = torch.bincount(ring, minlength=params.bands)
        member = torch.nn.functional.one_hot(ring, params.bands).float()[:, count > 0]
        self.average = (member / member.sum(0)).to(ctx.device)
        self.summary = f"{self.average.shape[1]} bands"

    def __call__(self, s: TrainStep) -> Tensor:
        predicted, true = self.spectrum(s.eps_hat), self.spectrum(s.eps).detach()
        keep = (s.process.noise_gain(s.t) <= MAX_GAIN).to(predicted)
        bands = range(predicted.shape[1])
        found = torch.stack([s.mean(keep * predicted[:, k]) for k in bands])
        wanted = torch.stack([s.mean(keep * true[:, k]) for k in bands])
        scale = wanted + self.floor * wanted.mean()
        return ((found - wanted) / scale.clamp(min=torch.finfo(scale.dtype).tiny)).square().mean()

    def zero_case(self, s: TrainStep) -> Tensor:
        return s.eps

    def spectrum(self, eps: Tensor) -> Tensor:
        """The mean power in each ring, (B, bands) float32."""
        power = torch.fft.fft2(eps.float(), norm="ortho").abs().square().mean(1)
        return power.flatten(1) @ self.average.to(power)
