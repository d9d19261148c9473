"""A folder of images."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from PIL import Image

from noisereg.api import Context
from noisereg.datasets import FolderParams
from noisereg.datasets.decoding import is_grey, upright_size
from noisereg.datasets.images import UNREADABLE, Decoders, ImageDataset, Part, unreadable
from noisereg.datasets.splits import holdout
from noisereg.errors import NoiseregError

T = TypeVar("T")

SUFFIXES = (
    ".png",
    ".jpg",
    ".jpeg",
    ".jfif",
    ".webp",
    ".bmp",
    ".gif",
    ".tif",
    ".tiff",
    ".ppm",
    ".pgm",
    ".jp2",
    ".avif",
)


def find_images(folder: Path) -> list[Path]:
    """Every image below ``folder``, by its ending, sorted by path; hidden files and folders are
    passed over.

    Raises:
        NoiseregError: if the folder is missing, is no folder, cannot be listed, or holds no image.
    """
    if not folder.exists():
        raise NoiseregError(
            f"there is no folder {folder}; expected path= to name a folder of images"
        )
    if not folder.is_dir():
        raise NoiseregError(
            f"{folder} is a file; expected a folder of images, such as path={folder.parent}"
        )

    def refused(error: OSError) -> None:
        raise NoiseregError(
            f"{error.filename} cannot be listed: {error.strerror}; expected a folder of images"
        )

    found: list[Path] = []
    seen: set[str] = set()  # linked folders are followed, once
    for directory, subfolders, files in os.walk(folder, followlinks=True, onerror=refused):
        real = os.path.realpath(directory)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        found += [
            Path(directory, name)
            for name in files
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES
        ]
    if not found:
        raise NoiseregError(
            f"there are no images in {folder}; expected files that end in .png, .jpg, .webp or "
            "the like, at any depth"
        )
    return sorted(found)


def class_names(folder: Path, files: list[Path]) -> list[str]:
    """The first-level subfolders, if there are two or more and every image is in one; else
    none.
    """
    parts = [file.relative_to(folder).parts for file in files]
    names = sorted({p[0] for p in parts})
    return names if len(names) > 1 and all(len(p) > 1 for p in parts) else []


class Folder(ImageDataset):
    """Images of any size and kind; a tenth is held out, unless ``heldout`` says otherwise.

    Raises:
        NoiseregError: names an image that cannot be read; images of different sizes and no
        ``size``.
    """

    def __init__(self, params: FolderParams, ctx: Context) -> None:
        super().__init__(params, ctx)
        self.files = find_images(params.path)
        names = class_names(params.path, self.files)
        self.classes = len(names)
        number = {name: i for i, name in enumerate(names)}
        self._labels = [number.get(file.relative_to(params.path).parts[0]) for file in self.files]
        with Decoders() as readers:  # what is no image is named before training starts
            if params.size is None:
                width, height = self._common_size(
                    list(readers.map(_read(upright_size), self.files))
                )
            else:
                width = height = params.size
            grey = all(list(readers.map(_read(is_grey), self.files)))
        channels = params.channels or (1 if grey else 3)
        train, heldout = (
            Part(self, indices, params.size, channels, lambda i: str(self.files[i]))
            for indices in holdout(len(self), params.heldout)
        )
        self.hold(train, heldout, height, width)

    def _common_size(self, sizes: list[tuple[int, int]]) -> tuple[int, int]:
        counts = Counter(sizes)
        if len(counts) > 1:
            (width, height), _ = counts.most_common(1)[0]
            other = next(i for i, size in enumerate(sizes) if size != (width, height))
            raise NoiseregError(
                f"the images differ in size (most are {width}×{height}, {self.files[other]} is "
                f"{sizes[other][0]}×{sizes[other][1]}); type size=64 or the like to bring them to "
                "one"
            )
        return sizes[0]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Image.Image, int | None]:
        return Image.open(self.files[index]), self._labels[index]


def _read(what: Callable[[Image.Image], T]) -> Callable[[Path], T]:
    """``what`` of the image in a file, which is named if it cannot be read."""

    def read(file: Path) -> T:
        try:
            with Image.open(file) as image:
                return what(image)
        except UNREADABLE as error:
            raise unreadable(str(file), error) from None

    return read
