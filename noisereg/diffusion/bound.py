"""The terms of the variational bound on −log p(x0), in nats (Ho et al. 2020, arXiv 2006.11239, eq.
5; theory, §7).

For a step from t to s, q(x_s | x_t, x0) = N(m, σ²L_sL_sᵀ) and the model's p(x_s | x_t) = N(m̂,
σ̃²L_sL_sᵀ) share L_s, so everything is a function of u = L_s⁻¹(m − m̂)/σ and of ρ = log σ̃/σ. Both
may be of any shape that broadcasts; sums are over all but the first dimension.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from noisereg.api import Process, per_sample
from noisereg.diffusion.law import posterior


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


def decoder_log_std(
    process: Process, before: Tensor, t: Tensor, fraction: Tensor | float
) -> Tensor:
    """log σ̃ of the last step, from t to 0, where β̃ is zero: that of the step from ``before`` to
    t at fraction 0, b_t at 1.

    As improved DDPM clips its posterior variance (2102.09672, §2.2, and its code). Where t is 1
    there is no step before it, and it is b_t. Shape (B, 1, …), or the fraction's.
    """
    b_t = process.noise_scale(t)
    b_before = process.noise_scale(before)
    a_before, a_t = process.signal_scale(before), process.signal_scale(t)
    sigma, _ = posterior(a_before, b_before, a_t, b_t)
    low = torch.where(before > t, sigma, b_t).log()
    if isinstance(fraction, Tensor):
        return per_sample(low, fraction) + fraction * per_sample(b_t.log() - low, fraction)
    return low + fraction * (b_t.log() - low)
