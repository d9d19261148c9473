"""What samples are compared with: one split of a data set, or new draws of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from noisereg.api import Dataset
from noisereg.errors import NoiseregError
from noisereg.runs import draws
from noisereg.runs.draws import Stream
from noisereg.runs.run import as_output

Name = Literal["train", "heldout", "fresh"]
MOST = 50_000
"""Reference samples taken from a larger split, evenly spaced; FID is by custom against so many."""
FRESH_SEED = 2026
"""Fresh samples are the same for every run they are compared with."""


@dataclass(frozen=True)
class Reference:
    """The real samples: uint8 images (M, C, H, W) or float32 points (M, D), on the CPU."""

    data: str
    name: Name
    x: Tensor
    identity: str
    """A hash of the samples."""


def spaced(total: int, most: int) -> Tensor:
    """At most ``most`` of ``range(total)``, evenly spaced, int64."""
    return torch.arange(total) if total <= most else torch.arange(most) * total // most


def read_split(dataset: Dataset, split: str, most: int = MOST, at_once: int = 500) -> Tensor:
    """The samples of a split as a user gets them, at most ``most``."""
    part = dataset.split(split)
    indices = spaced(len(part), most)
    return torch.cat(
        [as_output(part.batch(some).x, dataset.decode) for some in indices.split(at_once)]
    )


def reference(dataset: Dataset, data: str, name: Name, num: int | None) -> Reference:
    """
    Raises:
        NoiseregError: for a split with no samples, and for fresh samples of data that have no
        generator.
    """
    if name == "fresh":
        if dataset.fresh is None:
            raise NoiseregError(
                f"{data} has no generator of fresh samples; expected `reference=train` or "
                "`reference=heldout`"
            )
        count = num if num is not None else min(10_000, len(dataset.split("train")))
        x = as_output(
            dataset.fresh(count, draws.generator(FRESH_SEED, Stream.FRESH_DATA)), dataset.decode
        )
    else:
        if not len(dataset.split(name)):
            raise NoiseregError(f"{data} has no samples in its {name} split")
        x = read_split(dataset, name)
    return Reference(data, name, x, tensor_hash(x))


def tensor_hash(x: Tensor) -> str:
    """SHA-256 of shape, type and values, 16 hex digits."""
    digest = hashlib.sha256(f"{tuple(x.shape)} {x.dtype}".encode())
    for part in x.split(4096):
        digest.update(part.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
