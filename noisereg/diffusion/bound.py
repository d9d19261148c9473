"""The terms of the variational bound on −log p(x0), in nats (Ho et al. 2020, arXiv 2006.11239, eq.
5; theory, §7).

For a step from t to s, q(x_s | x_t, x0) = N(m, σ²L_sL_sᵀ) and the model's p(x_s | x_t) = N(m̂,
σ̃²L_sL_sᵀ) share L_s, so everything is a function of u = L_s⁻¹(m − m̂)/σ and of ρ = log σ̃/σ. Both
may be of any shape that broadcasts; sums are over all but the first dimension.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from noisereg.api import Noise, Prediction, Process, per_sample
from noisereg.diffusion.law import posterior, step_scales


def step_kl(u: Tensor, log_ratio: Tensor) -> Tensor:
    """KL(N(m, σ²LLᵀ) ‖ N(m̂, σ̃²LLᵀ)), (B,), from u = L⁻¹(m − m̂)/σ (B, *shape) and log σ̃/σ.

    Where log σ̃/σ differs between the numbers of a sample, L must be diagonal.
    """
    each = ((1 + u.square()) * (-2 * log_ratio).exp() - 1 + 2 * log_ratio) / 2
    return each.flatten(1).sum(1)


def gaussian_nll(whitened: Tensor, log_std: Tensor, log_det: Tensor) -> Tensor:
    """−log N(x; m, σ̃²LLᵀ), (B,), from L⁻¹(x − m) (B, *shape), log σ̃ and log|det L| (B,): a
    density's.
    """
    each = (whitened * (-log_std).exp()).square() / 2 + log_std + math.log(2 * math.pi) / 2
    return each.flatten(1).sum(1) + log_det


def discretised_nll(x: Tensor, mean: Tensor, log_std: Tensor, levels: int) -> Tensor:
    """−log P(x), (B,), of x on ``levels`` values from −1 to 1: each integrates N(mean, σ̃²) over
    its bin, and the outer two reach to infinity (2006.11239, eq. 13). Computed from the tail that
    is away from the mean, so it does not cancel.
    """
    half = 1 / (levels - 1)
    scale, distance = (-log_std).exp(), (x - mean).abs()
    near, far = (half - distance) * scale, (-half - distance) * scale
    log_near = torch.special.log_ndtr(near)
    inside = log_near + (-torch.expm1(torch.special.log_ndtr(far) - log_near)).log()
    past_the_edge = (mean - x) * x > 0
    outer = torch.special.log_ndtr(torch.where(past_the_edge, -far, near))
    return -torch.where(x.abs() > 1 - half, outer, inside).flatten(1).sum(1)


def step_term(
    process: Process,
    noise: Noise,
    x0: Tensor,
    latents: Mapping[str, Tensor],
    here: Prediction,
    t: Tensor,
    s: Tensor,
    fraction: Tensor | float,
    eta: float = 1.0,
) -> Tensor:
    """The KL of the step from t to s, (B,), for x_t made of x0 and ``latents`` and what the
    network says of it; ``fraction`` is that of σ̃
    (:meth:`noisereg.api.Process.variance_fraction`). Finite and meaningless where s is 0.

    The gradient goes to ``fraction`` alone.
    """
    a_t, b_t, a_s, b_s = step_scales(process, t, s)
    end = s == 0
    with torch.no_grad():
        sigma, kept = posterior(a_t, b_t, a_s, b_s, eta)
        eps = noise.color(latents, s)
        eps_hat = noise.transport(here.eps_hat, here.heads, t, s)
        difference = per_sample(a_s, x0) * (x0 - here.x0_hat) + per_sample(kept, x0) * (
            eps - eps_hat
        )
        u = noise.whiten(difference, s) / per_sample(torch.where(end, 1.0, sigma), x0)
    log_ratio = torch.where(end, 0.0, (b_t / torch.where(end, 1.0, b_s)).log())
    return step_kl(u, fraction * per_sample(log_ratio, x0))


def decoder_term(
    process: Process,
    noise: Noise,
    x0: Tensor,
    here: Prediction,
    before: Tensor,
    t: Tensor,
    fraction: Tensor | float,
    levels: int = 0,
) -> Tensor:
    """−log p(x0 | x_t) of the last step, from t to 0, (B,); ``before`` is the time before t.

    With ``levels`` and a diagonal noise it is integrated over the width of a grey level, else it
    is a density. The gradient goes to ``fraction`` alone.
    """
    log_std = decoder_log_std(process, before, t, fraction)
    log_std = log_std if log_std.ndim > 1 else per_sample(log_std, x0)
    zero = torch.zeros_like(t)
    if levels and noise.diagonal:
        with torch.no_grad():  # L is diagonal, so that L⁻¹·1 is what each number's σ̃ is divided by
            log_entry = -noise.whiten(torch.ones_like(x0), zero).abs().log()
        return discretised_nll(x0, here.x0_hat.detach(), log_std + log_entry, levels)
    with torch.no_grad():
        whitened = noise.whiten(x0 - here.x0_hat, zero)
        log_det = noise.log_det(zero, tuple(x0.shape[1:])).to(whitened)
    return gaussian_nll(whitened, log_std, log_det)


def decoder_log_std(
    process: Process, before: Tensor, t: Tensor, fraction: Tensor | float
) -> Tensor:
    """log σ̃ of the last step, from t to 0, where β̃ is zero: that of the step from ``before`` to
    t at fraction 0, b_t at 1.

    As improved DDPM clips its posterior variance (2102.09672, §2.2, and its code). Where t is 1
    there is no step before it, and it is b_t. Shape (B,), or the fraction's.
    """
    a_before, b_before, a_t, b_t = step_scales(process, before, t)
    sigma, _ = posterior(a_before, b_before, a_t, b_t)
    low = torch.where(before > t, sigma, b_t).log()
    if isinstance(fraction, Tensor):
        return per_sample(low, fraction) + fraction * per_sample(b_t.log() - low, fraction)
    return low + fraction * (b_t.log() - low)
