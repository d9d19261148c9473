"""The assignment of least total distance, as in immiscible diffusion (Li et al. 2024, arXiv
2406.12303).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from noisereg.pairings.cost import DistancePairing


class Optimal(DistancePairing):
    """scipy's linear assignment; O(B³) at worst."""

    def __call__(
        self, x0: Tensor, latents: Mapping[str, Tensor], eps: Tensor, t: Tensor
    ) -> Tensor:
        _, noise_of = linear_sum_assignment(self.distances(x0, latents, eps).numpy().T)
        return torch.from_numpy(noise_of).to(x0.device)
