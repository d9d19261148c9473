"""γ(t), how white a time-varying noise is: 0 at t = 0 and 1 at t = 1 (BNDM, arXiv 2402.04930, and
its supplement).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from noisereg.noises import LEARNED_BOX, MAX_RATE, MEAN_RANGE, Gamma

MARGIN = 1e-3
"""The part of a limit by which a projection keeps inside it, so that rounding does not put it
outside.
"""
PLACES = 64
"""Points of a line that are looked at together."""


class GammaCurve(nn.Module):
    """γ and dγ/dt, in float64 whatever t's dtype is. With ``learn``, s, e and τ are parameters.

    sigmoid: [σ((s + (e−s)t)/τ) − σ(s/τ)] / [σ(e/τ) − σ(s/τ)];
    cosine: (C(t) − C(0))/(C(1) − C(0)), C(t) = cos((s + (e−s)t)·π/2)^(2τ);
    linear: t.
    """

    def __init__(self, params: Gamma) -> None:
        super().__init__()
        self.params = params
        if params.learn:
            self.s, self.e, self.tau = (
                nn.Parameter(torch.tensor(v, dtype=torch.float64)) for v in params.curve
            )

    def forward(self, t: Tensor) -> Tensor:
        """γ(t), (B,) float64."""
        t = t.double()
        if self.params.form == "linear":
            return t
        start, end = self._raw(torch.zeros_like(t)), self._raw(torch.ones_like(t))
        return (self._raw(t) - start) / (end - start)

    def rate(self, t: Tensor) -> Tensor:
        """dγ/dt, (B,) float64."""
        t = t.double()
        if self.params.form == "linear":
            return torch.ones_like(t)
        start, end = self._raw(torch.zeros_like(t)), self._raw(torch.ones_like(t))
        return self._raw_rate(t) / (end - start)

    @property
    def curve(self) -> tuple[Tensor, Tensor, Tensor] | tuple[float, float, float]:
        """(s, e, τ): parameters, or the numbers they are fixed to."""
        return (self.s, self.e, self.tau) if self.params.learn else self.params.curve

    def _raw(self, t: Tensor) -> Tensor:
        s, e, tau = self.curve
        u = s + (e - s) * t
        if self.params.form == "sigmoid":
            return torch.sigmoid(u / tau)
        return torch.cos(u * math.pi / 2).clamp(min=0) ** (2 * tau)

    def _raw_rate(self, t: Tensor) -> Tensor:
        s, e, tau = self.curve
        u = s + (e - s) * t
        if self.params.form == "sigmoid":
            value = torch.sigmoid(u / tau)
            return value * (1 - value) * (e - s) / tau
        angle = u * math.pi / 2
        inner = torch.cos(angle).clamp(min=0) ** (2 * tau - 1)
        return -2 * tau * inner * torch.sin(angle) * (e - s) * math.pi / 2

    # Learning

    def project(self) -> None:
        """The nearest s, e and τ (nearly) within the limits: the box, max dγ/dt ≤ 10 and 0.3 ≤ ∫γ
        dt ≤ 0.9.

        Without them the loss drives γ into a corner: static coloured noise with a jump at t = 1
        (theory, §10). A Newton step along the gradient of each limit that is violated, which after
        a step of the optimiser is enough; what then is still outside is drawn back towards the
        start. No value is read on the host.
        """
        at = torch.stack([p.detach() for p in (self.s, self.e, self.tau)])
        start = _at(at, self.params.curve)
        with torch.enable_grad():
            at = _into_box(at)
            for limit in (_excess_rate, _lack_of_mean, _excess_of_mean):
                at.requires_grad_()
                excess = limit(at) + MARGIN
                (gradient,) = torch.autograd.grad(excess, at)
                at = (
                    at - excess.clamp(min=0) * gradient / gradient.square().sum().clamp(min=1e-12)
                ).detach()
        at = _into_box(_drawn_back(_into_box(at), start))  # again, for rounding
        with torch.no_grad():
            for parameter, value in zip((self.s, self.e, self.tau), at.unbind(), strict=True):
                parameter.copy_(value)

    def describe(self) -> str:
        if self.params.form == "linear":
            return "linear γ"
        s, e, tau = self.params.curve
        if self.params.learn:
            return f"sigmoid γ (learned from s {s:g}, e {e:g}, τ {tau:g})"
        ends = (
            ""
            if (s, e) == {"sigmoid": (0, 3), "cosine": (0, 1)}[self.params.form]
            else f"s {s:g}, e {e:g}, "
        )
        return f"{self.params.form} γ ({ends}τ {tau:g})"


# A sigmoid γ depends on s/τ ≤ 0 ≤ e/τ alone; both limits are on closed forms of the two. ``at`` is
# (…, 3): s, e, τ.


def max_rate(at: Tensor) -> Tensor:
    """max dγ/dt, where the logistic function is steepest, at 0: (q − p)/4 over σ(q) − σ(p)."""
    p, q = at[..., 0] / at[..., 2], at[..., 1] / at[..., 2]
    return (q - p) / 4 / (q.sigmoid() - p.sigmoid())


def mean(at: Tensor) -> Tensor:
    """∫γ dt over [0, 1]."""
    p, q = at[..., 0] / at[..., 2], at[..., 1] / at[..., 2]
    low = p.sigmoid()
    return ((softplus(q) - softplus(p)) / (q - p) - low) / (q.sigmoid() - low)


def _excess_rate(at: Tensor) -> Tensor:
    return (max_rate(at) / MAX_RATE).log()


def _lack_of_mean(at: Tensor) -> Tensor:
    return MEAN_RANGE[0] - mean(at)


def _excess_of_mean(at: Tensor) -> Tensor:
    return mean(at) - MEAN_RANGE[1]


def _at(like: Tensor, values: Sequence[float]) -> Tensor:
    """A tensor of the values, filled in on the device: a copy would wait for it."""
    return torch.stack([like.new_full((), value) for value in values])


def _into_box(at: Tensor) -> Tensor:
    low, high = (_at(at, edge) for edge in zip(*LEARNED_BOX, strict=True))
    return torch.minimum(torch.maximum(at, low), high)


def _drawn_back(at: Tensor, start: Tensor) -> Tensor:
    """The point of the line from ``start``, which is within the limits, to ``at`` up to which all
    of it is.
    """
    place, width = at.new_zeros(()), 1.0
    for _ in range(2):
        places = (
            place + width * torch.linspace(0, 1, PLACES + 1, dtype=at.dtype, device=at.device)
        ).clamp(max=1)
        line = start + places[:, None] * (at - start)
        within = (
            (_excess_rate(line) <= 0) & (_lack_of_mean(line) <= 0) & (_excess_of_mean(line) <= 0)
        )
        place, width = (places * within.to(at.dtype).cumprod(0)).amax(), width / PLACES
    return start + place * (at - start)
