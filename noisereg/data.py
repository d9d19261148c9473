"""Samples of data as a user gets them, and which of many are taken."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from noisereg.api import Dataset
from noisereg.errors import NoiseregError

MOST = 50_000
"""Samples taken from a larger split, evenly spaced; FID is by custom against so many."""


class NotFinite(NoiseregError):
    """A number that should be finite is infinite or nan."""


def check_finite(x: Tensor) -> None:
    """
    Raises:
        NotFinite: if a number of the samples x, (N, …), is infinite or nan.
    """
    if not x.is_floating_point():
        return
    finite = torch.isfinite(x).flatten(1).all(1)
    if bad := int((~finite).sum()):
        raise NotFinite(
            f"{bad:,} of {len(x):,} samples are not finite (inf or nan): the network diverged, in "
            "training or "
            "under this way of sampling; draw from an earlier one (`checkpoint`), or train "
            "at a lower rate"
        )


def to_uint8(x: Tensor) -> Tensor:
    """Images (N, C, H, W) in [−1, 1] as uint8.

    Raises:
        NotFinite: for what no pixel can be.
    """
    check_finite(x)
    return ((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def unit_range(x: Tensor) -> Tensor:
    """uint8 values as float32 in [−1, 1], the range that images are trained in; floats as they
    are.
    """
    return x.float().div_(127.5).sub_(1) if x.dtype == torch.uint8 else x


def as_output(x: Tensor, decode: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """What a user gets, on the CPU: uint8 images (N, C, H, W), float32 points (N, D), or what the
    data's ``decode`` makes.

    Raises:
        NoiseregError: if a number is not finite.
    """
    check_finite(x)
    if decode is not None:
        x = decode(x)
        check_finite(x)
        return x.cpu()
    return to_uint8(x).cpu() if x.ndim == 4 else x.float().cpu()


def spaced(total: int, most: int) -> Tensor:
    """At most ``most`` of ``range(total)``, evenly spaced, int64."""
    return torch.arange(total) if total <= most else torch.arange(most) * total // most


def batches(dataset: Dataset, split: str, size: int = 500) -> Iterator[Tensor]:
    """The data of one split, once, in order."""
    part = dataset.split(split)
    for start in range(0, len(part), size):
        yield part.batch(torch.arange(start, min(start + size, len(part)))).x


def read_split(dataset: Dataset, split: str, most: int | None = MOST) -> Tensor:
    """The samples of a split as a user gets them, at most ``most``; all of them if it is None."""
    part = dataset.split(split)
    indices = spaced(len(part), len(part) if most is None else most)
    return torch.cat(
        [as_output(part.batch(some).x, dataset.decode) for some in indices.split(500)]
    )


def data_hash(dataset: Dataset) -> str:
    """SHA-256 of what tells a data set from others, of both splits; 16 hex digits."""
    said = json.dumps(dataset.fingerprint(), sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def tensor_hash(x: Tensor) -> str:
    """SHA-256 of shape, type and values, 16 hex digits."""
    digest = hashlib.sha256(f"{tuple(x.shape)} {x.dtype}".encode())
    for part in x.split(4096):
        digest.update(part.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
