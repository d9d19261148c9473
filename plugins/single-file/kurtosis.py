"""The kurtosis of the predicted noise against the true one's: a regularizer in one file.

Used with ``noisereg train --reg kurtosis --plugin kurtosis.py`` and checked with ``noisereg
plugins check kurtosis.py``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from noisereg.api import (
    Component,
    Context,
    Field,
    NoiseregError,
    Regularizer,
    RegularizerParams,
    TrainStep,
    hookimpl,
)

if TYPE_CHECKING:
    from torch import Tensor

MAX_GAIN = 5.0
"""Samples where ε̂ multiplies the network's error by more than this do not enter (an x0 target
near t = 0).
"""


class KurtosisParams(RegularizerParams):
    floor: float = Field(
        1e-3, gt=0, description="added to the mean square before dividing by its square"
    )


class Kurtosis(Regularizer):
    """(E[κ(ε̂)] − E[κ(ε)])² with κ = mean(ε⁴)/(mean(ε²) + floor)² over each sample's numbers: 3
    for white noise of many.

    Isotropy holds the second moment; a mixture of too small and too large numbers has the right
    one and the wrong fourth.

    Raises:
        NoiseregError: for samples of fewer than 16 numbers, whose kurtosis says little.
    """

    def __init__(self, params: KurtosisParams, ctx: Context) -> None:
        if math.prod(ctx.shape) < 16:
            raise NoiseregError(
                "kurtosis needs samples of at least 16 numbers; give --reg isotropy for points"
            )
        self.floor = params.floor

    def __call__(self, s: TrainStep) -> Tensor:
        keep = (s.process.noise_gain(s.t) <= MAX_GAIN).to(s.eps_hat).float()
        gap = self.kurtosis(s.eps_hat) - self.kurtosis(s.eps).detach()
        share = s.mean(keep)
        return (s.mean(keep * gap) / share.clamp(min=1e-12)).square()

    def zero_case(self, s: TrainStep) -> Tensor:
        return s.eps

    def kurtosis(self, eps: Tensor) -> Tensor:
        """(B,) float32."""
        square = eps.float().flatten(1).square()
        return square.square().mean(1) / (square.mean(1) + self.floor).square()


@hookimpl
def noisereg_regularizers() -> Iterator[Component]:
    yield Component(
        name="kurtosis",
        impl=Kurtosis,
        params=KurtosisParams,
        summary="holds ε̂'s fourth moment over its squared second to that of the true noise",
        cite="moments of the noise: Hwang et al. 2025, arXiv 2509.07027",
        revision=1,
        api=1,
    )
