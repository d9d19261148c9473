"""DDPM: x_t = √ᾱ x0 + √(1−ᾱ) ε_t (Ho et al. 2020, arXiv 2006.11239, eq. 4; cosine: Nichol &
Dhariwal 2021, eq. 17).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from noisereg.api import Context, NoiseregError, Prediction, Process, TrainStep, per_sample
from noisereg.diffusion import compatible
from noisereg.diffusion.bound import decoder_term, step_term
from noisereg.diffusion.law import NO_SIGNAL
from noisereg.processes import DDPMParams, times
from noisereg.processes.weighting import LEAST, loss_weight


def linear_betas(T: int) -> Tensor:
    """β from 1e-4 to 0.02 at T = 1000, scaled by 1000/T elsewhere (2102.09672, §3.2); (T,)
    float64.
    """
    scale = 1000 / T
    return torch.linspace(1e-4 * scale, min(0.02 * scale, 0.999), T, dtype=torch.float64)


def cosine_betas(T: int) -> Tensor:
    """β = 1 − ᾱ_k/ᾱ_{k−1} ≤ 0.999 with ᾱ = cos²((k/T + 0.008)/1.008·π/2); (T,) float64."""
    k = torch.arange(T + 1, dtype=torch.float64) / T
    alpha_bar = torch.cos((k + 0.008) / 1.008 * math.pi / 2) ** 2
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=0.999)


def rescale_to_zero_snr(alpha_bar: Tensor) -> Tensor:
    """√ᾱ shifted to 0 at its end and scaled to keep its start (Lin et al. 2023, arXiv 2305.08891,
    algorithm 1).
    """
    root = alpha_bar.sqrt()
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])).square()


class DDPM(Process):
    """Variance-preserving process with float64 tables at t = k/T.

    Between the table's points the angle φ = atan2(b, a) is interpolated linearly, so a² + b² = 1
    at every t and no step count needs rounding.

    Raises:
        NoiseregError: for a schedule that leaves a signal at t = 1 under a noise that cannot hide
        it, for a target that
            cannot be read at a zero signal, and for a learned variance under a noise for which
            there is no bound.
    """

    default_eta = 1.0
    params: DDPMParams

    def __init__(self, params: DDPMParams, ctx: Context) -> None:
        weak = compatible.is_weak(ctx.noise)
        self.params = self._resolve(params, weak)
        self.T = self.params.T
        self.prediction = self.params.target
        betas = linear_betas(self.T) if self.params.schedule == "linear" else cosine_betas(self.T)
        alpha_bar = (1 - betas).cumprod(0)
        if self.params.zero_terminal_snr:
            alpha_bar = rescale_to_zero_snr(alpha_bar)
        angle = torch.atan2((1 - alpha_bar).sqrt(), alpha_bar.sqrt())
        self.angle = torch.cat(
            [torch.zeros(1, dtype=torch.float64), angle]
        )  # φ(0) = 0: no noise at t = 0
        self._angles: dict[torch.device, Tensor] = {}
        symbol = {"eps": "ε", "x0": "x0", "v": "v"}[self.prediction]
        zero = ", zero terminal SNR" if self.params.zero_terminal_snr else ""
        weighting = (
            "" if self.params.weighting == "none" else f", {self.params.weighting} weighting"
        )
        learned = self.params.variance == "learned"
        self.summary = (
            f"{self.params.schedule}, T {self.T}{zero}, target {symbol}{weighting}"
            + times.described(self.params)
            + (", learned variance" if learned else "")
        )
        self.levels = ctx.dataset.levels if ctx.dataset is not None else 0
        self.diagonal = ctx.noise is None or ctx.noise.diagonal
        if learned:
            self.extra_heads, self.trains_bound = 1, True
            if ctx.noise is not None:
                compatible.check_bound(
                    ctx.noise,
                    ctx.shape,
                    "ddpm: variance=learned, trained by the variational bound,",
                    "give variance=beta-tilde",
                )
        if weak and params.zero_terminal_snr == "auto" and self.params.zero_terminal_snr:
            self.notes = (
                "this noise has almost no power in some directions, where a signal left at t = 1 "
                f"would stay: schedule {self.params.schedule} with zero_terminal_snr, target "
                f"{self.params.target}",
            )
        if ctx.noise is not None:
            compatible.check_path(self, ctx.noise)

    @staticmethod
    def _resolve(params: DDPMParams, weak: bool) -> DDPMParams:
        schedule = "linear" if params.schedule == "auto" else params.schedule
        zero = params.zero_terminal_snr
        if zero == "auto":
            zero = weak and schedule == "linear"
        target = params.target
        if target == "auto":
            target = "v" if zero or weak else "eps"
        if target == "eps" and (zero or weak):
            raise NoiseregError(
                "ddpm: x̂0 cannot be read from ε where no signal is left at t = 1"
                + (" (static coloured noise needs that)" if weak else "")
                + "; give target=v or target=x0"
            )
        return params.model_copy(
            update={"schedule": schedule, "zero_terminal_snr": zero, "target": target}
        )

    def _angle(self, t: Tensor) -> Tensor:
        angle = self._angles.get(t.device)
        if angle is None:  # once: each copy to a device waits for it
            with torch.inference_mode(False):
                angle = self._angles[t.device] = self.angle.to(t.device)
        position = t.double().clamp(0, 1) * self.T
        below = position.floor().long().clamp(max=self.T - 1)
        return torch.lerp(angle[below], angle[below + 1], position - below)

    def time(self, u: Tensor) -> Tensor:
        return times.on_grid(self.params, u, self.T)

    def signal_scale(self, t: Tensor) -> Tensor:
        a = torch.cos(self._angle(t))
        # cos π/2 is 6e-17, from which a solver would read a signal.
        return torch.where(a < NO_SIGNAL, torch.zeros_like(a), a)

    def noise_scale(self, t: Tensor) -> Tensor:
        return torch.sin(self._angle(t))

    def target(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """ε, x0, or v = aε − b·x0 (Salimans & Ho 2022, arXiv 2202.00512)."""
        if self.prediction == "eps":
            return eps
        if self.prediction == "x0":
            return x0
        return (
            per_sample(self.signal_scale(t), eps) * eps - per_sample(self.noise_scale(t), x0) * x0
        )

    def split(self, out: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        a, b = per_sample(self.signal_scale(t), x_t), per_sample(self.noise_scale(t), x_t)
        if self.prediction == "eps":
            return (x_t - b * out) / a, out
        if self.prediction == "x0":  # b(0) is 0
            return out, (x_t - a * out) / b.clamp(min=max(LEAST, torch.finfo(b.dtype).tiny))
        return a * x_t - b * out, b * x_t + a * out

    def noise_gain(self, t: Tensor) -> Tensor:
        a, b = self.signal_scale(t), self.noise_scale(t)
        return {"eps": torch.ones_like(a), "x0": a / b, "v": a}[self.prediction]

    def weight(self, t: Tensor) -> Tensor:
        return loss_weight(
            self.params, self.signal_scale(t), self.noise_scale(t), self.noise_gain(t)
        )

    def variance_fraction(self, own: Tensor | None) -> Tensor | float:
        """0, 1, or (v + 1)/2 from the head v (2102.09672, eq. 15).

        Under a noise whose numbers are correlated the fraction is the sample's mean, (B, 1, …):
        one σ̃ for all of L keeps the step's covariance, and the bound, in closed form (theory,
        §9).
        """
        if own is None:
            return 1.0 if self.params.variance == "beta" else 0.0
        fraction = (own + 1) / 2
        return (
            fraction if self.diagonal else fraction.mean(tuple(range(1, own.ndim)), keepdim=True)
        )

    def head_loss(self, s: TrainStep) -> Tensor:
        """λ·T·L_t in bits/dim, L_t being t's term of the bound, whose mean over t is the bound
        without its constant; only σ̃ is trained by it (2102.09672, eq. 16 and 17)."""
        fraction = self.variance_fraction(s.own)
        t, before = s.t, (s.t - 1 / self.T).clamp(min=0)
        last = before < 0.5 / self.T
        before = torch.where(last, 0.0, before)
        after = (t + 1 / self.T).clamp(max=1)
        here = Prediction(s.x0_hat, s.eps_hat, s.heads)
        # Away from the last step x̂0 may be far off, and what is not used must have a finite
        # gradient all the same.
        near = torch.where(per_sample(last, s.x0).bool(), s.x0_hat, s.x0)
        term = torch.where(
            last,
            decoder_term(
                self, s.noise, s.x0, Prediction(near, near), after, t, fraction, self.levels
            ),
            step_term(self, s.noise, s.x0, s.latents, here, t, before, fraction),
        )
        return self.params.bound_weight * self.T * term / (s.x0[0].numel() * math.log(2))
