"""BNDM's rectified mapping (Huang et al. 2024, arXiv 2402.04930, "in-context stratification")."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from noisereg.pairings.cost import DistancePairing


class Greedy(DistancePairing):
    """For each noise in order, the nearest image that is not yet taken."""

    def __call__(
        self, x0: Tensor, latents: Mapping[str, Tensor], eps: Tensor, t: Tensor
    ) -> Tensor:
        distances = self.distances(x0, latents, eps).numpy()
        noise_of = np.empty(len(distances), dtype=np.int64)
        for i, row in enumerate(distances):
            image = int(row.argmin())
            noise_of[image] = i
            distances[:, image] = np.inf
        return torch.from_numpy(noise_of).to(x0.device)
