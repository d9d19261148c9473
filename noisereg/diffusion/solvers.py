"""From x_t to x_s, s < t. Each solver's docstring states its update; all are right under any noise
(theory, §3).

Along the deterministic path d(x/b) = x̂0 d(a/b) + dε̂, where dε̂ is how the noise itself moves
with its latents held fixed: nothing for static noise, ``noise.transport`` for a time-varying one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from noisereg.api import SampleStep, Solver, per_sample
from noisereg.diffusion.law import log_ratio, posterior


def step(
    x0_hat: Tensor,
    eps_s: Tensor,
    fresh: Tensor | None,
    a_t: Tensor,
    b_t: Tensor,
    a_s: Tensor,
    b_s: Tensor,
    eta: float,
    fraction: Tensor | float = 0.0,
) -> Tensor:
    """x_s from (x̂0, ε̂_s): DDIM and IADB at eta 0, DDPM at eta 1; keeps N(a_s x0, b_s² L_s L_sᵀ).
    Theory, §3.

    The scales are (B, 1, …) or scalars; ``fresh`` is color(z', s) for new latents z' and may be
    None where eta is 0 or b_s is. It is added with σ̃ = σ·(b_t/b_s)^fraction: 0 is the posterior's
    β̃, 1 is β_{t|s} (DDPM's two choices, §3.2 there), and log σ̃² lies linearly between (improved
    DDPM, 2102.09672, eq. 15).
    """
    sigma, kept = posterior(a_t, b_t, a_s, b_s, eta)
    x = a_s * x0_hat + kept * eps_s
    return x if fresh is None else x + sigma * (b_t / b_s) ** fraction * fresh


class DDIM(Solver):
    """x_s = a_s·x̂0 + √(b_s² − σ²)·ε̂_s + σ̃·color(z', s): :func:`step`, of first order.

    η = 0 is DDIM (Song et al. 2020, arXiv 2010.02502) and IADB's Euler step, η = 1 DDPM's
    ancestral one.
    """

    def __init__(self, eta: float = 0.0) -> None:
        self.eta = eta
        self.deterministic = eta == 0
        self.summary = f"eta {eta:g}"

    def step(self, s: SampleStep) -> Tensor:
        fresh = None if self.deterministic or s.last else s.fresh()
        fraction = s.process.variance_fraction(s.here.own)
        return step(s.here.x0_hat, s.moved, fresh, *s.scales, self.eta, fraction)


class Heun(Solver):
    """x_s = x_t + (a_s − a_t)(x̂0 + x̂0')/2 + (b_s ε̂_{t→s} − b_t ε̂_t + b_s ε̂'_s − b_t ε̂'_{s→t})/2.

    The trapezoidal rule on dx = x̂0 da + d(b ε̂), primes being the prediction at DDIM's x_s
    (Karras et al. 2022, arXiv 2206.00364, algorithm 1, in these coordinates). Second order, two
    evaluations a step.
    """

    order = 2
    evaluations = 2

    def step(self, s: SampleStep) -> Tensor:
        a_t, b_t, a_s, b_s = s.scales
        euler = step(s.here.x0_hat, s.moved, None, a_t, b_t, a_s, b_s, 0.0)
        if s.last:
            return euler
        there = s.predict(euler, s.s)
        back = s.noise.transport(there.eps_hat, there.heads, s.s, s.t)
        signal = (a_s - a_t) * (s.here.x0_hat + there.x0_hat) / 2
        noise = (b_s * s.moved - b_t * s.here.eps_hat + b_s * there.eps_hat - b_t * back) / 2
        return s.x_t + signal + noise


class DPMSolver2M(Solver):
    """x_s = (b_s/b_t)·x_t + (a_s − a_t·b_s/b_t)·x̂0* + b_s·Δ*: DPM-Solver++(2M) for any noise
    (theory, §3).

    (Lu et al. 2022, arXiv 2211.01095, algorithm 2.) With u the prediction before, at r > t, and λ
    = log(a/b):

        x̂0* = x̂0_t + w·(x̂0_t − x̂0_u),    Δ* = Δ_t + w·(Δ_t − Δ_u),
        w = (λ_s − λ_t) / (2(λ_t − λ_r))

    Δ_p is how far the noise of prediction p moves from t to s: 0 for static noise, where this is
    the published solver. Second order, one evaluation a step. The first step, the one after a time
    without signal, and the last are of first order, as there.
    """

    order = 2
    memory = 1
    default_grid = "chebyshev"

    def step(self, s: SampleStep) -> Tensor:
        a_t, b_t, a_s, b_s = s.scales
        x0, moved = s.here.x0_hat, s.moved - s.here.eps_hat
        if s.history and not s.last:
            r, before = s.history[-1]
            at_r, at_t, at_s = (log_ratio(s.process, time) for time in (r, s.t, s.s))
            weight = per_sample(
                torch.nan_to_num((at_s - at_t) / (2 * (at_t - at_r)), nan=0.0, posinf=0.0), x0
            )
            to_s = s.noise.transport(before.eps_hat, before.heads, r, s.s)
            to_t = s.noise.transport(before.eps_hat, before.heads, r, s.t)
            x0 = x0 + weight * (x0 - before.x0_hat)
            moved = moved + weight * (moved - (to_s - to_t))
        ratio = b_s / b_t
        return ratio * s.x_t + (a_s - a_t * ratio) * x0 + b_s * moved
