"""scikit-learn's 1,797 handwritten digits of 8×8 pixels: the data set that needs no download."""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from noisereg.api import Context
from noisereg.datasets import ImageParams
from noisereg.datasets.images import ImageDataset, ImageSplit
from noisereg.datasets.splits import holdout


class Digits(ImageDataset):
    """Grey levels 0 … 16 become 0 … 255. 1,617 images to train on, 180 held out."""

    classes, class_names = 10, tuple("0123456789")

    def __init__(self, params: ImageParams, ctx: Context) -> None:
        super().__init__(params, ctx)
        table = _table()
        self._pixels = np.rint(table[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
        self._labels = table[:, -1].astype(int)
        kind = ImageSplit if params.size else AsTheyAre
        train, heldout = (
            kind(self, indices, params.size, params.channels or 1, lambda i: f"digit {i}")
            for indices in holdout(len(self))
        )
        side = params.size or 8
        self.hold(train, heldout, side, side)

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self._pixels[index]), int(self._labels[index])


class AsTheyAre(ImageSplit):
    """Pixels of the size that is asked for need no image library, which takes longer than all
    else that a short run does before it trains.
    """

    source: Digits

    def decode(self, position: int) -> tuple[np.ndarray, int]:
        index = int(self.indices[position])
        pixels = self.source._pixels[index]
        return np.broadcast_to(pixels, (self.channels, *pixels.shape)), self.source._labels[index]


def _table() -> np.ndarray:
    """Rows of 64 grey levels and the digit, float64 (1797, 65), as ``load_digits`` reads them.

    Its file is read where it lies: importing scikit-learn takes as long as importing torch.
    """
    package = find_spec("sklearn")
    for folder in package.submodule_search_locations or () if package else ():
        file = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if file.is_file():
            with gzip.open(file, "rt", encoding="utf-8") as lines:
                return np.loadtxt(lines, delimiter=",")
    from sklearn.datasets import load_digits

    digits = load_digits()
    return np.column_stack([digits.data, digits.target])
