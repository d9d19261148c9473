"""Rectified flow: the network predicts the velocity of a straight line from data to noise."""

from __future__ import annotations

from torch import Tensor

from noisereg.api import Context, Process, per_sample
from noisereg.processes import times
from noisereg_flow import RectifiedFlowParams


class RectifiedFlow(Process):
    """x_t = (1 − t)·x0 + t·ε, target v = dx_t/dt = ε − x0 (Liu et al. 2022, arXiv 2209.03003).

    Times are drawn with logit t ~ N(m, s²) (Esser et al. 2024, arXiv 2403.03206, §3.1), and are
    not rounded. Built-in ``iadb`` has the same path, the other sign, and times k/T.
    """

    def __init__(self, params: RectifiedFlowParams, ctx: Context) -> None:
        self.params = params
        self.summary = f"target ε − x0{times.described(params)}"

    def time(self, u: Tensor) -> Tensor:
        return times.draw(self.params, u)

    def signal_scale(self, t: Tensor) -> Tensor:
        return 1 - t.double()

    def noise_scale(self, t: Tensor) -> Tensor:
        return t.double()

    def target(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        return eps - x0

    def split(self, out: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return x_t - per_sample(t, x_t) * out, x_t + per_sample(1 - t, x_t) * out

    def noise_gain(self, t: Tensor) -> Tensor:
        return 1 - t.double()
