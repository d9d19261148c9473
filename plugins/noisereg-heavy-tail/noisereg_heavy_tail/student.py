"""Student-t noise of a whole sample as a map of white noise's radius (the law of Pandey et al.
2024, arXiv 2410.14171).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from noisereg.api import Context, Noise
from noisereg_heavy_tail import StudentParams

KNOTS = 8193
REACH = 7.0
"""The map is tabulated between these normal quantiles (chance 1.3e-12 outside) and goes on as a
power law.
"""


def radii(n: int, dof: float) -> tuple[np.ndarray, np.ndarray]:
    """r and G(r), the radii of N(0, I_n) and of the unit-power Student-t at the same quantiles:
    (K,) float64 each.

    ‖z‖² is χ²_n and ‖ε‖²/n·dof/(dof − 2) is F(n, dof). Lower quantiles come from the distribution
    functions, upper ones from the survival functions, so that neither tail cancels.
    """
    quantile = np.linspace(-REACH, REACH, KNOTS)
    low, high = stats.norm.cdf(quantile[quantile < 0]), stats.norm.sf(quantile[quantile >= 0])
    squares = []
    for law, scale in ((stats.chi2(n), 1.0), (stats.f(n, dof), n * (dof - 2) / dof)):
        squares.append(scale * np.concatenate([law.ppf(low), law.isf(high)]))
    return np.sqrt(squares[0]), np.sqrt(squares[1])


class StudentNoise(Noise):
    """ε = (z/‖z‖)·G(‖z‖), with G the increasing map that carries the law of ‖z‖ to that of a
    Student-t's radius.

    So ε is a multivariate Student-t with ``dof`` degrees of freedom scaled to unit power, from the
    latents of white noise alone and invertibly: exact but for the table between whose knots log G
    is linear in log r (relative error under 1e-6). It is not Gaussian, and a weighted sum of two
    is no Student-t, so η > 0 is refused by the engine.
    """

    gaussian = linear = False

    def __init__(self, params: StudentParams, ctx: Context) -> None:
        self.n = math.prod(ctx.shape)
        gaussian, student = (
            torch.from_numpy(np.log(r)).to(ctx.device) for r in radii(self.n, params.dof)
        )
        self.log_gaussian, self.log_student = gaussian, student
        self.summary = f"{params.dof:g} degrees of freedom; sampling is deterministic (η 0)"

    def color(self, latents: Mapping[str, Tensor], t: Tensor) -> Tensor:
        return self._rescaled(latents["z"], self.log_gaussian, self.log_student)

    def whiten(self, eps: Tensor, t: Tensor) -> Tensor:
        return self._rescaled(eps, self.log_student, self.log_gaussian)

    def mean_square(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def _rescaled(self, x: Tensor, of: Tensor, to: Tensor) -> Tensor:
        """x with its radius carried from one table to the other."""
        radius = x.flatten(1).double().norm(dim=1).clamp(min=torch.finfo(torch.float64).tiny).log()
        of, to = of.to(x.device), to.to(x.device)
        above = torch.searchsorted(of, radius).clamp(1, len(of) - 1)
        slope = (to[above] - to[above - 1]) / (of[above] - of[above - 1])
        moved = to[above - 1] + slope * (radius - of[above - 1])
        return x * (moved - radius).exp().to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
