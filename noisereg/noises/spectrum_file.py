"""The stored form of a mask covariance: its power spectrum, with what it was made from, in a few
KiB.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from io import BytesIO
from pathlib import Path

import numpy as np

from noisereg.arrays import DAMAGED, ArrayFile
from noisereg.errors import NoiseregError
from noisereg.noises.covariance import Array, unit_mean
from noisereg.reading import check_ordinary

FORMAT = "noisereg-spectrum-1"
SHIPPED = (8, 16, 32, 64)
"""Sides of the spectra in the package, each made by ``noisereg noise build --size N --masks 4000
--seed 0``.
"""


LARGEST = 2**24
"""Pixels of the largest spectrum that is read."""


@dataclass(frozen=True)
class Spectrum:
    """Mean power of masks, (H, W) in ``fft2``'s order, mean 1."""

    power: Array
    masks: int
    seed: int
    method: str

    @property
    def size(self) -> str:
        return f"{self.power.shape[0]}×{self.power.shape[1]}"


def encode(spectrum: Spectrum) -> bytes:
    """An .npz with the non-redundant half in float32 and a line of JSON; the same spectrum gives
    the same bytes.
    """
    height, width = spectrum.power.shape
    about = {
        "format": FORMAT,
        "height": height,
        "width": width,
        "masks": spectrum.masks,
        "seed": spectrum.seed,
        "method": spectrum.method,
    }
    half = spectrum.power[:, : width // 2 + 1].astype(np.float32)
    buffer = BytesIO()
    np.savez_compressed(buffer, power=half, about=np.array(json.dumps(about)))
    return buffer.getvalue()


def decode(data: bytes, name: str) -> Spectrum:
    """
    Raises:
        NoiseregError: if ``data`` is not a spectrum file, or is damaged.
    """
    try:
        file = ArrayFile(data)
        if file.headers["about"][1].itemsize > 2**16:
            raise ValueError("its description is no line of JSON")
        about = json.loads(str(file.read("about")))
        if about["format"] != FORMAT:
            raise ValueError(f"its format is {about['format']!r}")
        height, width = int(about["height"]), int(about["width"])
        shape, dtype = file.headers["power"]
        # Before it is read: a header can claim any shape.
        if shape != (height, width // 2 + 1) or height * width > LARGEST or dtype.kind != "f":
            raise ValueError(f"it claims {'×'.join(map(str, shape))} {dtype}")
        half = file.read("power").astype(np.float64)
        if not np.isfinite(half).all() or half.min() < 0 or half.sum() <= 0:
            raise ValueError("its numbers are no power spectrum")
        power = unit_mean(_whole(half, width))
        return Spectrum(power, int(about["masks"]), int(about["seed"]), str(about["method"]))
    except DAMAGED as e:
        cause = "it is cut short or damaged" if data[:2] == b"PK" else "it is something else"
        raise NoiseregError(
            f"{name} is not a spectrum file ({cause}: "
            f"{' '.join(str(e).split()) or type(e).__name__}); "
            "make one with 'noisereg noise build --size 64 --out FILE'"
        ) from None


def _whole(half: Array, width: int) -> Array:
    """All of an (H, W) spectrum from its ``rfft2`` half: λ(−k) = λ(k)."""
    rest = np.arange(half.shape[1], width)
    other = np.roll(half[::-1], 1, axis=0)[:, (width - rest) % width]
    return np.concatenate([half, other], axis=1)


def read(path: Path) -> Spectrum:
    """
    Raises:
        NoiseregError: if the file is missing, unreadable, damaged or no spectrum.
    """
    path = path.expanduser()
    check_ordinary(path)
    try:
        if path.stat().st_size > 16 * LARGEST:
            raise NoiseregError(f"spectrum={path} is too large for a spectrum file; expected one")
        return decode(path.read_bytes(), str(path))
    except OSError as error:
        raise NoiseregError(
            f"spectrum={path}: {error.strerror}; expected a file made by 'noisereg noise build'"
        ) from None


def check_free(path: Path) -> None:
    """
    Raises:
        NoiseregError: if something other than a spectrum file is there, which is never
        overwritten.
    """
    if path.is_dir():
        raise NoiseregError(f"`out={path}` is a folder; expected a file's name")
    if not path.exists():
        return
    try:
        read(path)
    except NoiseregError:
        raise NoiseregError(
            f"`out={path}` is there and is no spectrum file, so it is left as it is; give another "
            "name"
        ) from None


@lru_cache(maxsize=len(SHIPPED))
def shipped(size: int) -> Spectrum:
    """The package's own spectrum of ``size``², one of :data:`SHIPPED`."""
    file = resources.files("noisereg.noises") / "spectra" / f"{size}.npz"
    return decode(file.read_bytes(), f"spectra/{size}.npz")
