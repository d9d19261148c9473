"""Coloured at the data, white at the noise: ε_t = (γ_t z + (1−γ_t) L z)/c_t (BNDM, Huang et al.
2024, arXiv 2402.04930).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from noisereg.api import Context, Process, per_sample
from noisereg.diffusion import law
from noisereg.noises import TimeVaryingParams
from noisereg.noises.blue import MAX_ROUNDING, ColouredNoise
from noisereg.noises.colours import blue, red
from noisereg.noises.gamma import GammaCurve


class TimeVaryingNoise(nn.Module, ColouredNoise):
    """L_t = (γ_t I + (1−γ_t)L)/c_t, with c_t = 1, or the root of the mean square under
    ``normalize``. A module, since γ may learn.

    With ``transport=heads`` the network also predicts h = (L−I)z; with ``transport=whiten`` z is
    L_t⁻¹ε̂_t.
    """

    def __init__(self, params: TimeVaryingParams, ctx: Context) -> None:
        nn.Module.__init__(self)
        ColouredNoise.__init__(self, params, ctx)
        self.gamma = GammaCurve(params.gamma)
        self.lr = params.gamma.lr
        self.heads = params.transport == "heads"
        self.normalize = params.normalize
        self.extra_heads = 1 if self.heads else 0
        self.power_floor = 1.0  # γ(1) = 1
        parts = [self.gamma.describe(), self.summary]
        parts += ["normalized"] if self.normalize else []
        self.summary = ", ".join(
            [*parts, "1 extra head" if self.heads else "transport by whitening"]
        )

    # Learning γ

    def after_step(self) -> None:
        if self.gamma.params.learn:
            self.gamma.project()

    def logs(self) -> dict[str, Tensor]:
        if not self.gamma.params.learn:
            return {}
        return {f"gamma/{name}": p.detach() for name, p in self.gamma.named_parameters()}

    def curves(self, t: Tensor) -> dict[str, Tensor]:
        curves = {"γ(t)": self.gamma(t).detach()}
        if self.gamma.params.learn:
            curves["γ(t) before training"] = GammaCurve(self.gamma.params).to(t.device)(t).detach()
        return curves

    # Moments

    def _square(self, gamma: Tensor) -> Tensor:
        """tr(M Mᵀ)/n of M = γI + (1−γ)L, (B,) float64; tr(L Lᵀ)/n is 1."""
        return gamma**2 + (1 - gamma) ** 2 + 2 * gamma * (1 - gamma) * self.factor.trace

    def _scale(self, gamma: Tensor) -> Tensor:
        """c_t, (B,) float64."""
        return self._square(gamma).sqrt() if self.normalize else torch.ones_like(gamma)

    def _scale_rate(self, gamma: Tensor, gamma_rate: Tensor) -> Tensor:
        """dc/dt, (B,) float64."""
        if not self.normalize:
            return torch.zeros_like(gamma)
        square_rate = 2 * gamma - 2 * (1 - gamma) + 2 * (1 - 2 * gamma) * self.factor.trace
        return square_rate * gamma_rate / (2 * self._scale(gamma))

    def mean_square(self, t: Tensor) -> Tensor:
        """γ² + (1−γ)² + 2γ(1−γ)·tr(L)/n: below 1 between the ends, unless normalized. The mean
        over pixels: with a Cholesky factor the pixels differ (docs/noise.md)."""
        return torch.ones_like(t) if self.normalize else self._square(self.gamma(t)).to(t)

    # Shaping

    def _mix(self, z: Tensor, gamma: Tensor, applied: Tensor | None = None) -> Tensor:
        """L_t z; ``applied`` is L z, where it is known."""
        applied = self.factor.apply(z) if applied is None else applied
        c = self._scale(gamma)
        return per_sample(gamma / c, z) * z + per_sample((1 - gamma) / c, z) * applied

    def _unmix(self, eps: Tensor, gamma: Tensor) -> Tensor:
        self._check_mixture(eps.dtype, gamma)
        return self.factor.solve(per_sample(self._scale(gamma), eps) * eps, gamma)

    def color(self, latents: Mapping[str, Tensor], t: Tensor) -> Tensor:
        return self._mix(latents["z"], self.gamma(t))

    def whiten(self, eps: Tensor, t: Tensor) -> Tensor:
        return self._unmix(eps, self.gamma(t))

    def log_det(self, t: Tensor, shape: tuple[int, ...]) -> Tensor:
        gamma = self.gamma(t)
        self._check_mixture(torch.float64, gamma)
        per_channel = self.height * self.width * self._scale(gamma).log()
        return shape[0] * (self.factor.log_det(gamma) - per_channel)

    def whitened_power(self, eps: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """As in the protocol, over L's right-singular directions: for each of them ‖L_t v_k‖²
        decides. A measure of ε̂, by which no γ is trained."""
        gamma = self.gamma(t).detach()
        g = gamma[:, None]
        eigenvalues = self.factor.on("eigenvalues", g.device, g.dtype)
        overlap = self.factor.on("overlap", g.device, g.dtype)
        power = g**2 + (1 - g) ** 2 * eigenvalues + 2 * g * (1 - g) * overlap
        return self._energy_where(power, self.factor.apply(self._unmix(eps, gamma)))

    def _check_mixture(self, dtype: torch.dtype, gamma: Tensor) -> None:
        """γI + (1−γ)L is invertible to working precision where γ is large enough, whatever L is:
        its smallest singular value is at least γ with the spectral root, and has been γ/10 with
        Cholesky's; γ/20 is counted on. Asking for γ's minimum waits for the device, so only where
        it matters.
        """
        if self.factor.condition * torch.finfo(dtype).eps > MAX_ROUNDING:
            lowest = float(gamma.min()) / 20
            largest = float(self.factor.eigenvalues.max()) ** 0.5
            if lowest * MAX_ROUNDING < largest * torch.finfo(dtype).eps:
                self._check_condition(dtype)

    # How ε_t becomes ε_s

    def basis(self, latents: Mapping[str, Tensor]) -> Tensor:
        """h = (L−I)z, what the extra head predicts under ``transport=heads``."""
        if not self.heads:
            return super().basis(latents)
        return self.factor.apply(latents["z"]) - latents["z"]

    def color_and_basis(
        self, latents: Mapping[str, Tensor], t: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """As in the protocol; L z, the most of either, is computed once."""
        z = latents["z"]
        applied = self.factor.apply(z)
        return self._mix(z, self.gamma(t), applied), applied - z if self.heads else None

    def head_weight(self, t: Tensor, process: Process) -> Tensor:
        """BNDM's α_{t−1}²·Δγ/Δα at Δ = 1/T where α = t (their second output is α_{t−1}h); else
        (dγ/dt)·b²/c² (ours).
        """
        gamma = self.gamma(t)
        if law.is_linear(process):
            before = (t.double() - 1 / process.T).clamp(min=0)
            weight = before**2 * (gamma - self.gamma(before)) * process.T
        else:
            weight = self.gamma.rate(t) * process.noise_scale(t) ** 2
        return weight / self._scale(gamma) ** 2

    def transport(self, eps: Tensor, heads: Tensor | None, t: Tensor, s: Tensor) -> Tensor:
        """(c_t ε_t + (γ_t−γ_s)h)/c_s, or L_s L_t⁻¹ ε_t."""
        at, to = self.gamma(t), self.gamma(s)
        if not self.heads or heads is None:
            return self._mix(self._unmix(eps, at), to)
        c_t, c_s = self._scale(at), self._scale(to)
        return per_sample(c_t / c_s, eps) * eps + per_sample((at - to) / c_s, eps) * heads

    def transport_rate(self, eps: Tensor, heads: Tensor | None, t: Tensor) -> Tensor:
        """(−γ'h − c'ε)/c, with h = (L−I)L_t⁻¹ε where no head gives it."""
        gamma, rate = self.gamma(t), self.gamma.rate(t)
        if not self.heads or heads is None:
            z = self._unmix(eps, gamma)
            heads = self.factor.apply(z) - z
        c = self._scale(gamma)
        return (
            -per_sample(rate / c, eps) * heads
            - per_sample(self._scale_rate(gamma, rate) / c, eps) * eps
        )


class BlueTimeVarying(TimeVaryingNoise):
    """BNDM's noise: blue towards the data."""

    called = "blue"
    colour = staticmethod(blue)


class RedTimeVarying(TimeVaryingNoise):
    """Red towards the data; see :class:`noisereg.noises.blue.RedNoise`."""

    called = "red"
    colour = staticmethod(red)
