"""scikit-learn's 1,797 handwritten digits of 8×8 pixels: the data set that needs no download."""

from __future__ import annotations

import numpy as np
from PIL import Image

from noisereg.api import Context
from noisereg.datasets import ImageParams
from noisereg.datasets.images import ImageDataset, ImageSplit
from noisereg.datasets.splits import holdout


class Digits(ImageDataset):
    """Grey levels 0 … 16 become 0 … 255. 1,617 images to train on, 180 held out."""

    classes, class_names, decoded = 10, tuple("0123456789"), True

    def __init__(self, params: ImageParams, ctx: Context) -> None:
        super().__init__(params, ctx)
        from sklearn.datasets import load_digits

        digits = load_digits()
        self._pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
        self._labels = digits.target
        train, heldout = (
            ImageSplit(self, indices, params.size, params.channels or 1, lambda i: f"digit {i}")
            for indices in holdout(len(self))
        )
        side = params.size or 8
        self.hold(train, heldout, side, side)

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self._pixels[index]), int(self._labels[index])
