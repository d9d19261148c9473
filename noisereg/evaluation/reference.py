"""What samples are compared with: one split of a data set, or new draws of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from noisereg import draws
from noisereg.api import Dataset
from noisereg.data import as_output, read_split, tensor_hash
from noisereg.draws import Stream
from noisereg.errors import NoiseregError

Name = Literal["train", "heldout", "fresh"]
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
