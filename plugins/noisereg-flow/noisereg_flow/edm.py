"""EDM (Karras et al. 2022, arXiv 2206.00364): noise is added to data that keep their scale."""

from __future__ import annotations

import torch
from torch import Tensor

from noisereg.api import Context, Process, per_sample
from noisereg_flow import EDMParams

RHO = 7.0
"""σ(t)^(1/ρ) is linear in t, so that a grid uniform in t is the paper's (eq. 5)."""


class EDM(Process):
    """x_t = x0 + σ(t)·ε with σ(t) = σ_max·t⁷, and D(x, σ) = c_skip·x + c_out·F(c_in·x) (eq. 7).

    The network is F. With λ(σ) = 1/c_out² (eq. 8) the loss is the plain mean squared error of F
    against (x0 − c_skip·x_t)/c_out, so :meth:`weight` is 1, and input and target have variance 1
    at every σ. ln σ ~ N(P_mean, P_std²) in training. Nothing is divided by σ: what the paper's
    table 1 gives is written out, so that both ends are exact. The network is told t as the run
    counts it, where the paper's is told ln(σ)/4; one rises with the other.
    """

    default_grid = f"edm:rho={RHO:g}"

    def __init__(self, params: EDMParams, ctx: Context) -> None:
        self.params = params
        self.summary = (
            f"σ to {params.sigma_max:g}, ln σ ~ N({params.log_mean:g}, {params.log_std:g}²), "
            "preconditioned"
        )

    def time(self, u: Tensor) -> Tensor:
        """t with ln σ(t) = P_mean + P_std·Φ⁻¹(u); σ above σ_max counts as it."""
        u = u.double().clamp(2.0**-53, 1 - 2.0**-53)
        log_sigma = self.params.log_mean + self.params.log_std * torch.special.ndtri(u)
        return (log_sigma / RHO).exp().div(self.params.sigma_max ** (1 / RHO)).clamp(max=1)

    def signal_scale(self, t: Tensor) -> Tensor:
        return torch.ones_like(t, dtype=torch.float64)

    def noise_scale(self, t: Tensor) -> Tensor:
        return self.params.sigma_max * t.double() ** RHO

    def input_scale(self, t: Tensor) -> Tensor:
        """c_in = 1/√(σ² + σ_data²)."""
        return 1 / self._total(t)

    def target(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """(x0 − c_skip·x_t)/c_out = (σ·x0/σ_data − σ_data·ε)/√(σ² + σ_data²)."""
        sigma, data, total = self.noise_scale(t), self.params.sigma_data, self._total(t)
        return per_sample(sigma / (data * total), x0) * x0 - per_sample(data / total, eps) * eps

    def split(self, out: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """x̂0 = c_skip·x_t + c_out·F, ε̂ = (x_t − x̂0)/σ."""
        sigma, data, total = self.noise_scale(t), self.params.sigma_data, self._total(t)
        skip, scaled = (data / total) ** 2, sigma * data / total
        x0_hat = per_sample(skip, x_t) * x_t + per_sample(scaled, x_t) * out
        eps_hat = per_sample(sigma / total**2, x_t) * x_t - per_sample(data / total, x_t) * out
        return x0_hat, eps_hat

    def noise_gain(self, t: Tensor) -> Tensor:
        return self.params.sigma_data / self._total(t)

    def _total(self, t: Tensor) -> Tensor:
        """√(σ² + σ_data²), the standard deviation of x_t."""
        return (self.noise_scale(t) ** 2 + self.params.sigma_data**2).sqrt()
