"""How the loss weighs times: min-SNR (Hang et al. 2023, arXiv 2303.09556) and P2 (Choi et al.
2022, arXiv 2204.00227).

Both are weights of ε̂'s squared error, as functions of SNR = a²/b². An error of the network
reaches ε̂ multiplied by ``noise_gain`` (1 for an ε target, a/b for x0, a for v and for x0 − ε), so
the weight of the network's own error is that of ε̂'s times noise_gain². For min-SNR this gives the
paper's min(SNR, γ) for x0, min(SNR, γ)/SNR for ε and min(SNR, γ)/(SNR + 1) for v.
"""

from __future__ import annotations

import torch
from torch import Tensor

from noisereg.processes import WeightingParams

LEAST = 1e-9
"""What b is taken for where it is less: at t = 0, where an x0 target's gain divides by it."""


def loss_weight(params: WeightingParams, signal: Tensor, noise: Tensor, gain: Tensor) -> Tensor:
    """The weight, (B,) float64, from a, b and ``noise_gain``, each (B,)."""
    if params.weighting == "none":
        return torch.ones_like(signal)
    # At t = 0 SNR and an x0 target's gain are infinite, and only their quotient is not.
    noise, gain = noise.clamp(min=LEAST), gain.clamp(max=1 / LEAST)
    snr = (signal / noise) ** 2
    if params.weighting == "min-snr":
        of_eps = (params.snr_cap / snr).clamp(max=1)
    else:
        of_eps = (params.p2_k + snr) ** -params.p2_gamma
    return of_eps * gain**2
