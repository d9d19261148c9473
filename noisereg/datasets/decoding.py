"""From a picture of any kind to uint8 pixels (C, H, W)."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps

WIDE_GREY = ("I;16", "I;16L", "I;16B", "I;16N", "I")
"""Pillow's modes of a 16-bit grey image; its own conversion to 8 bits clips some of them."""


def is_grey(image: Image.Image) -> bool:
    """Whether the image has no colour, as its header says."""
    return image.mode in ("1", "L", "LA", "La", *WIDE_GREY)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) once a camera's orientation tag is applied. Reads all of a PNG, where the
    tag may come last.
    """
    turned = image.getexif().get(0x0112, 1) >= 5
    return (image.height, image.width) if turned else image.size


def to_pixels(image: Image.Image, size: int | None, channels: int) -> np.ndarray:
    """uint8 (C, H, W): upright, on white where it is transparent, its shorter side resized to
    ``size``, centre cut out.

    Resizing is Pillow's bicubic, which averages over the source pixels when it shrinks
    (antialiasing).

    Raises:
        OSError, ValueError, SyntaxError: for an image that cannot be decoded.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode in WIDE_GREY:
        wide = np.asarray(image, dtype=np.int64)
        if wide.min() < 0 or wide.max() > 65_535:
            raise ValueError("its grey values are not 8 or 16 bits")
        image = Image.fromarray((wide // 257).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("its grey values are floating-point numbers; expected 8 or 16 bits")
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        image = Image.alpha_composite(white, layer)
    image = image.convert("L" if channels == 1 else "RGB")
    if size is not None:
        image = _square(image, size)
    pixels = np.asarray(image)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _square(image: Image.Image, size: int) -> Image.Image:
    """The centre ``size``×``size`` of the image with its shorter side resized to ``size``."""
    width, height = image.size
    if width == height == size:
        return image
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    # Cut the centre while resizing: what the crop would drop is never made.
    box = (left, top, left + side, top + side)
    return image.resize((size, size), Image.Resampling.BICUBIC, box=box)
