"""Whether samples are copies of training samples."""

from __future__ import annotations

import torch
from torch import Tensor

from noisereg.api import Context, Features, Metric
from noisereg.data import read_split
from noisereg.errors import NoiseregError
from noisereg.metrics import MemorisationParams

BLOCK = 1024
NUMBERS = 2**24
"""Of the exact differences, or of the training set, at once: 128 MiB in float64."""


def nearest(x: Tensor, train: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The distances from features x (N, D) to their k nearest of ``train`` (M, D), and which they
    are, each (N, k), the nearest first. In float64 from the differences themselves: distances by
    the expanded square would not tell a copy from what is close. The candidates are found by that
    square, of integers in float32 and of others in float64.
    """
    distances, places = [], []
    parts = train.split(max(1, NUMBERS // train.shape[1]))
    centre = torch.stack([part.double().sum(0) for part in parts]).sum(0) / len(train)
    exact_in_32 = not (train.is_floating_point() or x.is_floating_point())
    centre = centre.float() if exact_in_32 else centre
    candidates = min(k + 4, len(train))
    for some in x.split(max(1, min(BLOCK, NUMBERS // (candidates * x.shape[1])))):
        query = some.to(centre) - centre
        rough = query.new_empty(len(some), 0)
        wide = query.new_empty(len(some), 0, dtype=torch.int64)
        start = 0
        for part in parts:
            near = torch.cdist(query, part.to(centre) - centre)
            best = near.topk(min(candidates, len(part)), largest=False)
            rough = torch.cat([rough, best.values], 1)
            wide = torch.cat([wide, best.indices + start], 1)
            start += len(part)
        wide = wide.gather(1, rough.topk(candidates, largest=False).indices)
        exact = (some[:, None].double() - train[wide].double()).square().sum(2).sqrt()
        best = exact.topk(k, largest=False)
        distances.append(best.values)
        places.append(wide.gather(1, best.indices))
    return torch.cat(distances), torch.cat(places)


def is_copy(distances: Tensor, ratio: float = 1 / 3) -> Tensor:
    """(N,) bool from distances (N, k ≥ 2) to the nearest training samples."""
    first, second = distances[:, 0], distances[:, 1]
    return (first < ratio * second) | (first == 0)


class Memorisation(Metric):
    """The share of samples that lie nearer to one training sample than a third (``ratio``) of the
    distance to the next: copies of it (Yoon et al. 2023; Gu et al. 2023, arXiv 2310.02664).

    The training split is read whatever the reference is.
    """

    better = {"memorised": "lower"}
    reads_data = True

    def __init__(self, params: MemorisationParams, ctx: Context) -> None:
        self.params, self._dataset = params, ctx.dataset
        self._train: Tensor | None = None

    def check_counts(self, samples: int, reference: int) -> None:
        if self._dataset is None:
            raise NoiseregError("memorisation needs the training data, which are not known here")
        if len(self._dataset.split("train")) < 2:
            raise NoiseregError("memorisation needs at least 2 training samples")

    def compute(self, samples: Tensor, reference: Tensor, features: Features) -> dict[str, float]:
        self.check_counts(len(samples), len(reference))
        if self._train is None:
            assert self._dataset is not None
            self._train = features(read_split(self._dataset, "train", most=None)).flatten(1)
        distances, _ = nearest(features(samples).flatten(1), self._train, 2)
        return {"memorised": is_copy(distances, self.params.ratio).double().mean().item()}
