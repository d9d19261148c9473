"""What samples are compared with: one split of a data set, or new draws of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from noisereg import draws
from noisereg.api import Dataset, Task
from noisereg.data import MOST, as_output, read_split, spaced, tensor_hash
from noisereg.draws import Stream
from noisereg.errors import NoiseregError, nearest

Name = Literal["train", "heldout", "fresh"]
FRESH = 10_000
"""Fresh samples where nobody says how many, and the training set has as many."""
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
    places: Tensor | None = None
    """Where they stand in their split, (M,) int64; None for fresh samples."""


def reference(
    dataset: Dataset, data: str, name: str, num: int | None, num_reference: int | None = None
) -> Reference:
    """
    Args:
        num: how many samples are drawn of each run, if that was said.
        num_reference: how many real ones to take, evenly spaced.

    Raises:
        NoiseregError: for an unknown name, a split with too few samples, values that are not
            finite, and fresh samples of data that have no generator.
    """
    kind = _name(name)
    if num_reference is not None and num_reference < 1:
        raise NoiseregError(f"`num_reference={num_reference}`: expected at least 1")
    places = None
    if kind == "fresh":
        if dataset.fresh is None:
            raise NoiseregError(
                f"{data} has no generator of fresh samples; expected `reference=train` or "
                "`reference=heldout`"
            )
        wanted = num if num_reference is None else num_reference
        count = min(FRESH, len(dataset.split("train"))) if wanted is None else wanted
        x = as_output(
            dataset.fresh(count, draws.generator(FRESH_SEED, Stream.FRESH_DATA)), dataset.decode
        )
    else:
        total = len(dataset.split(kind))
        if not total:
            raise NoiseregError(f"{data} has no samples in its {kind} split")
        if num_reference is not None and num_reference > total:
            raise NoiseregError(
                f"`num_reference={num_reference}`: {data} has {total:,} samples in its {kind} "
                "split"
            )
        most = MOST if num_reference is None else num_reference
        places, x = spaced(total, most), read_split(dataset, kind, most)
    if x.is_floating_point() and not x.isfinite().all():
        raise NoiseregError(f"{data}: the {kind} samples are not all finite (inf or nan)")
    return Reference(data, kind, x, tensor_hash(x), places)


def _name(name: str) -> Name:
    names = get_args(Name)
    if name not in names:
        raise NoiseregError(
            f"`reference={name}`: expected {', '.join(names[:-1])} or "
            f"{names[-1]}{nearest(name, names)}"
        )
    return name  # type: ignore[return-value]


def reference_condition(
    task: Task, dataset: Dataset, real: Reference, indices: Tensor
) -> Tensor | None:
    """The condition of samples ``indices``: that of the reference samples of the same numbers."""
    assert real.places is not None
    part = dataset.split(real.name)
    return task.cond(part.batch(real.places[indices % len(real.places)]))
