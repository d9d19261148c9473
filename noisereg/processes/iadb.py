"""IADB: x_t = (1−t) x0 + t ε_t, predicting x0 − ε_t (Heitz et al. 2023, arXiv 2305.03486)."""

from __future__ import annotations

from torch import Tensor

from noisereg.api import Context, Process, per_sample
from noisereg.processes import IADBParams, times
from noisereg.processes.weighting import loss_weight


class IADB(Process):
    """Iterative α-(de)blending, with α = 1 at the noise as in BNDM: a = 1 − t, b = t."""

    def __init__(self, params: IADBParams, ctx: Context) -> None:
        self.params: IADBParams = params
        self.T = params.T
        weighting = "" if params.weighting == "none" else f", {params.weighting} weighting"
        self.summary = f"T {self.T}, target x0 − ε{weighting}{times.described(params)}"

    def time(self, u: Tensor) -> Tensor:
        return times.on_grid(self.params, u, self.T)

    def signal_scale(self, t: Tensor) -> Tensor:
        return 1 - t.double()

    def noise_scale(self, t: Tensor) -> Tensor:
        return t.double()

    def target(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        return x0 - eps

    def split(self, out: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """x̂0 = x_t + t·out and ε̂ = x_t − (1−t)·out: nothing is divided by, so both ends are
        fine.
        """
        return x_t + per_sample(t, x_t) * out, x_t - per_sample(1 - t, x_t) * out

    def noise_gain(self, t: Tensor) -> Tensor:
        return 1 - t.double()

    def weight(self, t: Tensor) -> Tensor:
        return loss_weight(
            self.params, self.signal_scale(t), self.noise_scale(t), self.noise_gain(t)
        )
