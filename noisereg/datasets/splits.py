"""The parts of a data set: which samples are held out, and batches from tensors held in memory."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from noisereg.api import Batch, Dataset, Split
from noisereg.data import unit_range
from noisereg.errors import NoiseregError, nearest
from noisereg.transfer import to_device


def holdout(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices (train, held out) of ``n`` samples: a tenth of them is held out, always the same
    ones; at least one of two, and never all.

    The draw is ``RandomState``'s: NumPy promises that stream for good, which it does not for
    ``Generator``'s.
    """
    count = min(max(1, round(n * 0.1)), n - 1)
    order = np.random.RandomState(0).permutation(n)
    return np.sort(order[count:]), np.sort(order[:count])


def holdout_by_name(names: Sequence[str], share: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Indices (train, held out): held out is each item whose name hashes into the first ``share``,
    so that an item that comes or goes moves no other.

    Where that is none and ``share`` is not 0, it is the one with the smallest hash, and where it
    is all, all but the one with the largest; a single item is trained on. The hash is of the name
    as Unicode composes it (NFC): file systems differ in that.
    """
    hashes = np.array([_unit_hash(name) for name in names])
    held = hashes < share
    if share > 0 and len(names) > 1:
        held[hashes.argmin()] = True
        held[hashes.argmax()] = False
    elif len(names) == 1:
        held[:] = False
    return np.flatnonzero(~held), np.flatnonzero(held)


def _unit_hash(name: str) -> float:
    """A number in [0, 1) that is the same everywhere and for good."""
    text = unicodedata.normalize("NFC", name).encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.sha256(text).digest()[:6]) / 2**48


class PointSplit:
    """Numbers in memory, (N, *shape), as batches have them, and labels (N,) if there are any."""

    def __init__(self, x: Tensor, labels: Tensor | None = None) -> None:
        self.x = x
        self.labels = labels

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, indices: Tensor) -> Batch:
        indices = to_device(indices, self.x.device)
        return Batch(self.x[indices], None if self.labels is None else self.labels[indices])


class ResidentSplit:
    """Images held as uint8, (N, C, H, W), where ``pixels`` lies; batches are on ``device``."""

    def __init__(self, pixels: Tensor, labels: Tensor | None, device: torch.device | str) -> None:
        self.pixels = pixels
        self.labels = labels
        self.device = torch.device(device)

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, indices: Tensor) -> Batch:
        here = to_device(indices, self.pixels.device)
        pixels = to_device(self.pixels[here], self.device)
        labels = (
            None
            if self.labels is None
            else to_device(self.labels[to_device(here, self.labels.device)], self.device)
        )
        return Batch(unit_range(pixels), labels)


class TwoSplits(Dataset):
    """A data set whose two splits are made when it is built."""

    train: Split
    heldout: Split

    def split(self, name: str) -> Split:
        """``"train"`` or ``"heldout"``.

        Raises:
            NoiseregError: for any other name.
        """
        if name not in ("train", "heldout"):
            raise NoiseregError(
                f"no split is called {name!r}; expected 'train' or "
                f"'heldout'{nearest(name, ['train', 'heldout'])}"
            )
        return self.train if name == "train" else self.heldout
