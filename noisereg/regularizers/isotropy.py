"""The isotropy of the predicted noise (Iso-Diffusion, Fernando et al. 2024, arXiv 2403.16790)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from noisereg.api import Context, Noise, NoiseregError, Regularizer, TrainStep, per_sample
from noisereg.regularizers import IsotropyParams

MAX_GAIN = 5.0
"""Samples where ε̂ multiplies the network's error by more than this do not enter (an x0 target
near t = 0).
"""


@contextmanager
def _still(noise: Noise) -> Iterator[None]:
    """No gradient to the noise's own parameters: it must not come to meet a wrong ε̂ (as m, which
    is detached).
    """
    learning = (
        [p for p in noise.parameters() if p.requires_grad] if isinstance(noise, nn.Module) else []
    )
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


class Isotropy(Regularizer):
    """Iso-Diffusion's eq. 28, for noise of any power: (E[‖ε̂‖²/n] − m)².

    Raises:
        NoiseregError: for ``space=whitened`` with a noise that is not linear.
    """

    def __init__(self, params: IsotropyParams, ctx: Context) -> None:
        self.params = params
        if params.space == "whitened" and ctx.noise is not None and not ctx.noise.linear:
            raise NoiseregError("isotropy:space=whitened needs a linear noise; use space=plain")
        self._logs: dict[str, Tensor] = {}

    def __call__(self, s: TrainStep) -> Tensor:
        power, level = self._power(s)
        keep = (s.process.noise_gain(s.t) <= MAX_GAIN).to(power)
        self._logs = {"isotropy/left_out": 1 - s.mean(keep).detach()}
        if self.params.mean == "sample":
            squared = (power - level).square()
            return s.mean(keep * squared) / s.mean(keep).clamp(min=torch.finfo(power.dtype).tiny)
        if self.params.mean == "batch":
            return self._squared_mean(s, power - level, keep)[0]
        bins = (s.t * self.params.bins).long().clamp(max=self.params.bins - 1)
        members = [keep * (bins == k) for k in range(self.params.bins)]
        values, shares = zip(
            *(self._squared_mean(s, power - level, m) for m in members), strict=True
        )
        return sum(
            (v * share for v, share in zip(values, shares, strict=True)),
            torch.zeros_like(power[0]),
        ) / sum(shares).clamp(min=torch.finfo(power.dtype).tiny)

    def zero_case(self, s: TrainStep) -> Tensor | None:
        """Every sample's ε̂ scaled to its level."""
        power, level = self._power(s)
        return s.eps_hat * per_sample((level / power).sqrt(), s.eps_hat)

    def logs(self) -> dict[str, Tensor]:
        return self._logs

    def _power(self, s: TrainStep) -> tuple[Tensor, Tensor]:
        """‖ε̂‖²/n and what it is held to, each (B,) in float32 (float64 if ε̂ is)."""
        eps_hat = s.eps_hat if s.eps_hat.dtype == torch.float64 else s.eps_hat.float()
        if self.params.space == "whitened":
            with _still(s.noise):
                total, count = s.noise.whitened_power(eps_hat, s.t)
            return total / count.to(total), torch.ones_like(total)
        power = eps_hat.flatten(1).square().mean(1)
        if self.params.level == "one":
            return power, torch.ones_like(power)
        return power, s.noise.mean_square(s.t).detach().to(power)

    @staticmethod
    def _squared_mean(s: TrainStep, excess: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        """(E[excess | keep])² over the micro-batch of all ranks, and the share kept; 0 where
        nothing is.
        """
        share = s.mean(keep)
        return (
            s.mean(keep * excess) / share.clamp(min=torch.finfo(excess.dtype).tiny)
        ).square(), share
