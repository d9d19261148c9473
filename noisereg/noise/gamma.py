"""γ(t), how white a time-varying noise is: 0 at t = 0 and 1 at t = 1 (BNDM, arXiv 2402.04930, and its supplement)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from noisereg.noise.params import Gamma


class GammaCurve:
    """γ and dγ/dt, in float64 whatever t's dtype is.

    sigmoid: [σ((s + (e−s)t)/τ) − σ(s/τ)] / [σ(e/τ) − σ(s/τ)];
    cosine: (C(t) − C(0))/(C(1) − C(0)), C(t) = cos((s + (e−s)t)·π/2)^(2τ);
    linear: t.
    """

    def __init__(self, params: Gamma) -> None:
        self.params = params

    def __call__(self, t: Tensor) -> Tensor:
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

    def _raw(self, t: Tensor) -> Tensor:
        s, e, tau = self.params.curve
        u = s + (e - s) * t
        if self.params.form == "sigmoid":
            return torch.sigmoid(u / tau)
        return torch.cos(u * math.pi / 2).clamp(min=0) ** (2 * tau)

    def _raw_rate(self, t: Tensor) -> Tensor:
        s, e, tau = self.params.curve
        u = s + (e - s) * t
        if self.params.form == "sigmoid":
            value = torch.sigmoid(u / tau)
            return value * (1 - value) * (e - s) / tau
        angle = u * math.pi / 2
        inner = torch.cos(angle).clamp(min=0) ** (2 * tau - 1)
        return -2 * tau * inner * torch.sin(angle) * (e - s) * math.pi / 2

    def describe(self) -> str:
        if self.params.form == "linear":
            return "linear γ"
        s, e, tau = self.params.curve
        ends = "" if (s, e) == {"sigmoid": (0, 3), "cosine": (0, 1)}[self.params.form] else f"s {s:g}, e {e:g}, "
        return f"{self.params.form} γ ({ends}τ {tau:g})"
