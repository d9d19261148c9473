"""Images or points in a ``.npy`` or ``.npz``."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from PIL import Image

from noisereg.api import Context
from noisereg.datasets import ArraysParams
from noisereg.datasets.array_file import read_samples
from noisereg.datasets.images import ImageDataset, ImageSplit
from noisereg.datasets.splits import PointSplit, holdout_by_name
from noisereg.errors import NoiseregError
from noisereg.memory import held_on
from noisereg.remote import fetched

HASHED = 256 * 2**20
"""Up to so many bytes are hashed whole for the fingerprint; of more, a part."""


class Arrays(ImageDataset):
    """uint8 images, float images in [−1, 1] or float points, with ``labels`` if there are any.

    Held out is a share ``heldout`` by a hash of each item's index: rows added at the end move
    none.

    Raises:
        NoiseregError: for a file that is not of this form, and for ``size``, ``channels`` or
        ``flip`` where there are no pixels to change.
    """

    def __init__(self, params: ArraysParams, ctx: Context) -> None:
        super().__init__(params, ctx)
        layout, unit = params.layout, params.range == "unit"
        content = read_samples(fetched(params.path), key=params.key, layout=layout, unit=unit)
        self._x, self._labels = content.x, content.labels
        self.classes = 0 if content.labels is None else int(content.labels.max()) + 1
        self.notes = (content.said,)
        self._hash = ""
        if content.x.nbytes <= HASHED:
            digest = hashlib.sha256(np.ascontiguousarray(content.x).data)
            self._hash = digest.hexdigest()[:16]
        splits = holdout_by_name([str(k) for k in range(len(content.x))], params.heldout)
        if content.x.dtype == np.uint8:
            channels, height, width = content.x.shape[1:]
            train, heldout = (
                ImageSplit(self, indices, params.size, params.channels or channels, self._place_of)
                for indices in splits
            )
            self.hold(train, heldout, params.size or height, params.size or width)
        else:
            self._hold_floats(splits)

    def _hold_floats(self, splits: tuple[np.ndarray, np.ndarray]) -> None:
        points = self._x.ndim == 2
        for name in ("size", "channels", *(["flip"] if points else [])):
            if getattr(self.params, name):
                what = "points" if points else "images as floats, which are taken as they are"
                raise NoiseregError(
                    f"arrays:{name}={getattr(self.params, name)}: these are {what}; leave it out"
                    + ("" if points else ", or save uint8")
                )
        self.levels = 0
        self.shape = tuple(self._x.shape[1:])
        where = held_on(self._x.nbytes, self.device)
        self.train, self.heldout = (
            PointSplit(
                torch.from_numpy(self._x[some]).to(where),
                None if self._labels is None else torch.from_numpy(self._labels[some]).to(where),
            )
            for some in splits
        )
        sides = "×".join(map(str, self.shape))
        what = f"points of {sides} numbers" if points else f"images of {sides}, floats"
        self.summary = f"{len(splits[0]):,} {what} ({len(splits[1]):,} held out), in memory"

    def fingerprint(self) -> dict[str, Any]:
        """As any data set's, and a hash of all samples where they are not too many."""
        return super().fingerprint() | ({"content": self._hash} if self._hash else {})

    def _place_of(self, index: int) -> str:
        assert isinstance(self.params, ArraysParams)
        return f"{self.params.path}, image {index}"

    def __len__(self) -> int:
        return len(self._x)

    def __getitem__(self, index: int) -> tuple[Image.Image, int | None]:
        pixels = self._x[index]
        image = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
        return image, None if self._labels is None else int(self._labels[index])
