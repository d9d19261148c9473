"""From a picture of any kind to uint8 pixels (C, H, W): faithfully, or not at all.

What 8 bits a channel cannot say is refused with its reason (:class:`Unfaithful`); the
conversions that are made are those of ``docs/data.md``, "Images".
"""

from __future__ import annotations

import contextlib
import lzma
import struct
import threading
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from noisereg.datasets.tree import Tree
from noisereg.errors import NoiseregError
from noisereg.reading import check_ordinary

WIDE_GREY = ("I;16", "I;16L", "I;16B", "I;16N", "I")
"""Pillow's modes of a 16-bit grey image; its own conversion to 8 bits clips some of them."""
MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "CMYK", "YCbCr", *WIDE_GREY)
"""Pillow's modes that have a faithful form in 8 bits a channel."""
NARROW = 4095
"""Where the largest value of a 16-bit picture is no larger, it holds 12 bits, or 8."""

ORIENTATION = 0x0112
"""Exif's tag of how a camera was held; 1 is upright."""

# TIFF's tags (TIFF 6.0) and what is looked up in them.
BITS, PHOTOMETRIC, SAMPLES, EXTRA, FORMAT = 258, 262, 277, 338, 339
COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3, 8: 3}
"""Samples a pixel without extra ones, by photometric interpretation."""
MIN_IS_WHITE = 0

SIGNATURES = (
    (0, (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "a TIFF of a kind that Pillow does not read "
     "(floating-point numbers, more than 16 bits, or a rare compression)"),
    (4, (b"ftypheic", b"ftypheix", b"ftyphevc", b"ftypmif1", b"ftypmsf1"), "HEIC"),
    (4, (b"ftypavif", b"ftypavis"), "AVIF, which this Pillow was built without"),
    (0, (b"\xff\x0a", b"\0\0\0\x0cJXL "), "JPEG XL"),
)  # fmt: skip
"""How files begin that are whole, and that Pillow does not read."""

SMALL = 2**16
"""Bytes up to which a file is read at once."""

UNREADABLE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    TypeError,  # of a tag of another kind than Pillow expects
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    Image.DecompressionBombError,
)
"""What Pillow, or the archive that a file lies in, raises for one that cannot be decoded."""


class Unfaithful(ValueError):
    """A whole picture that has no faithful form in 8 bits a channel, or none that Pillow reads, or
    is not as the others of its data set.
    """


def unreadable(name: str, error: Exception) -> NoiseregError:
    """What to tell the user of ``error``, which the picture ``name`` raised; only a file that is
    broken is to be repaired.
    """
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, Unfaithful):
        return NoiseregError(f"{name}: {reason}")
    if isinstance(error, Image.DecompressionBombError):
        return NoiseregError(
            f"{name} has too many pixels ({reason}); make it smaller or take it away"
        )
    if isinstance(error, OSError) and error.errno is not None:
        return NoiseregError(f"{name} cannot be read: {error.strerror or reason}")
    return NoiseregError(
        f"{name} cannot be read as an image ({reason}); repair it or take it away"
    )


def open_picture(source: Path | bytes) -> Image.Image:
    """The picture in a file, or in a file's contents, with what its header says checked.

    Raises:
        Unfaithful: for what cannot be shown in 8 bits a channel.
        OSError, ValueError, …: :data:`UNREADABLE`, for a file that is no picture.
    """
    if isinstance(source, Path):
        check_ordinary(source)
        source = _small(source) or source
    try:
        image = Image.open(source if isinstance(source, Path) else BytesIO(source))
    except UnidentifiedImageError:
        start = source[:16] if isinstance(source, bytes) else _start(source)
        for at, signatures, what in SIGNATURES:
            if start[at:].startswith(signatures):
                raise Unfaithful(f"it is {what}; convert it to PNG or JPEG") from None
        raise UnidentifiedImageError("Pillow knows no image format that begins so") from None
    # Pillow forgets it with the first look at the pixels, or at a PNG's orientation.
    image.noisereg_raw_mode = _raw_mode(image)  # type: ignore[attr-defined]
    check(image)
    return image


def _small(path: Path) -> bytes | None:
    """All of a small file, read at once where Pillow reads it piece by piece; None of others."""
    if not 0 < (size := path.stat().st_size) <= SMALL:
        return None
    with path.open("rb", buffering=0) as file:
        contents = file.read(size)
    return contents if len(contents) == size else None


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(16)


def check(image: Image.Image) -> None:
    """
    Raises:
        Unfaithful: for a picture whose header says that it has no faithful form in 8 bits.
    """
    if image.mode == "F":
        raise Unfaithful(
            "its grey values are floating-point numbers; expected 8 or 16 bits: convert it"
        )
    if image.mode not in MODES:
        raise Unfaithful(f"its colours are {image.mode}; convert it to RGB or grey")
    if image.format == "TIFF":
        _check_tiff(image)
    if image.mode == "RGB" and _sixteen_bits(image) and "transparency" in image.info:
        raise Unfaithful(
            "it marks one colour of 16 bits a channel as transparent, which is lost with its "
            "lower 8 bits; convert it to 8 bits with an alpha channel"
        )


def _check_tiff(image: Image.Image) -> None:
    tags = image.tag_v2  # type: ignore[attr-defined]
    formats = tuple(tags.get(FORMAT, (1,)))
    if any(f not in (1, 4) for f in formats):
        kind = {2: "signed whole numbers", 3: "floating-point numbers"}.get(
            formats[0], "no numbers"
        )
        raise Unfaithful(f"its values are {kind}; expected 8 or 16 bits without sign: convert it")
    bits = max(tags.get(BITS, (1,)))
    if bits > 16:
        raise Unfaithful(f"its values have {bits} bits; expected 8 or 16: convert it")
    samples, colours = tags.get(SAMPLES, 1), COLOURS.get(tags.get(PHOTOMETRIC, 1), 1)
    extra = tuple(tags.get(EXTRA, ()))
    if samples > colours + 1 or (samples > colours and extra[:1] not in ((1,), (2,))):
        raise Unfaithful(
            f"it has {samples} samples a pixel, {samples - colours} beyond its colours that "
            "Pillow would drop; save it as RGB, RGBA or grey"
        )
    pages = getattr(image, "n_frames", 1)
    if pages > 1:
        raise Unfaithful(f"it holds {pages} pages; save each as a file of its own")


def _raw_mode(image: Image.Image) -> str:
    """How Pillow reads the pixels: ``I;16B``, ``L;4``, ``RGB;16L``; of a picture that
    :func:`open_picture` has not opened it is empty once it has.
    """
    if (known := getattr(image, "noisereg_raw_mode", None)) is not None:
        return known
    tiles = getattr(image, "tile", None)
    args = tiles[0].args if tiles else ""
    first = args[0] if isinstance(args, tuple) and args else args
    return first if isinstance(first, str) else ""


def _sixteen_bits(image: Image.Image) -> bool:
    return ";16" in _raw_mode(image)


def is_grey(image: Image.Image) -> bool:
    """Whether the image has no colour, as its header says."""
    return image.mode in ("1", "L", "LA", "La", *WIDE_GREY) or _raw_mode(image).startswith("LA;")


def is_animated(image: Image.Image) -> bool:
    """Whether it holds several pictures, of which the first is taken."""
    return bool(getattr(image, "is_animated", False))


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) once a camera's orientation tag is applied. Reads all of a PNG, where the
    tag may come last.
    """
    turned = _orientation(image) >= 5
    return (image.height, image.width) if turned else image.size


def _orientation(image: Image.Image) -> int:
    """1 to 8; 1, upright, where the tag is absent or no number."""
    found = image.getexif().get(ORIENTATION, 1)
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def to_pixels(image: Image.Image, size: int | None, channels: int) -> np.ndarray:
    """uint8 (C, H, W): upright, on white where it is transparent, its shorter side resized to
    ``size``, centre cut out.

    Resizing is Pillow's bicubic, which averages over the source pixels when it shrinks
    (antialiasing). 16 bits become 8: grey by rounding down v/257, colour by its upper 8 bits, as
    Pillow reads it.

    Raises:
        Unfaithful: for an image that has no faithful form in 8 bits.
        OSError, ValueError, …: :data:`UNREADABLE`, for one that cannot be decoded.
    """
    check(image)
    raw, colour = _raw_mode(image), image.mode in ("RGB", "RGBA") and _sixteen_bits(image)
    tags = image.tag_v2 if image.format == "TIFF" else {}  # type: ignore[attr-defined]
    bits, white_is_low = max(tags.get(BITS, (16,))), tags.get(PHOTOMETRIC) == MIN_IS_WHITE
    # A portable graymap says its largest value, and Pillow has scaled by it.
    scaled = image.format == "PPM"
    image.load()
    if _orientation(image) != 1:
        image = ImageOps.exif_transpose(image)  # which copies what is upright, too
    if image.mode in WIDE_GREY:
        image = _narrow(image, bits, scaled, white_is_low)
    elif raw in ("L;2", "L;4") and isinstance(image.info.get("transparency"), int):
        # Pillow scales the values to 0 … 255, and not the one that is transparent.
        image.info["transparency"] *= 255 // (2 ** int(raw[2:]) - 1)
    if colour:
        top = max(high for _, high in image.getextrema()[:3])  # type: ignore[misc]
        if 0 < top <= NARROW >> 8:
            raise _too_narrow(f"below {(top + 1) << 8:,}")
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        image = Image.alpha_composite(white, layer)
    image = image.convert("L" if channels == 1 else "RGB")
    if size is not None:
        image = _square(image, size)
    pixels = np.asarray(image)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def read_all(
    tree: Tree, shape: tuple[int, ...], check: Callable[[str, Image.Image], None]
) -> np.ndarray:
    """The images of ``tree`` as they are, uint8 (N, *shape). ``check`` sees the name and the
    header of each, and raises for one of another size.

    Raises:
        NoiseregError: names the first that cannot be read.
    """
    pixels = []
    for file in tree.files:
        name = tree.place(file.name)
        try:
            with open_picture(tree.source(file.name)) as image:
                check(name, image)
                pixels.append(to_pixels(image, None, shape[0]))
        except UNREADABLE as error:
            raise unreadable(name, error) from None
    return np.stack(pixels)


def _narrow(image: Image.Image, bits: int, scaled: bool, white_is_low: bool) -> Image.Image:
    """Grey of up to 16 bits in 8, with an alpha channel where one value is transparent."""
    wide, limit = np.asarray(image, dtype=np.int64), 2**bits - 1
    if wide.min() < 0 or wide.max() > limit:
        raise Unfaithful("its grey values are not 8 or 16 bits; convert it")
    if bits == 16 and not scaled and 0 < wide.max() <= NARROW:
        raise _too_narrow(f"at {wide.max():,}")
    seen = limit - wide if white_is_low else wide
    grey = Image.fromarray((seen * 255 // limit).astype(np.uint8))
    clear = image.info.get("transparency")
    if not isinstance(clear, int):
        return grey
    return Image.merge(
        "LA", (grey, Image.fromarray(np.where(wide == clear, 0, 255).astype(np.uint8)))
    )


def _too_narrow(where: str) -> Unfaithful:
    return Unfaithful(
        f"its 16-bit values end {where} of 65,535, as those of 12 bits do, and would be seen "
        "nearly black; scale them to all of 16 bits, or to 8"
    )


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


# What the image library warns of

_reading = threading.local()


@contextlib.contextmanager
def reading(name: str) -> Iterator[None]:
    """What is warned of in this thread, within the block, is of the picture ``name``.

    Raises:
        NoiseregError: with that name, for what shows within the block that it cannot be decoded.
    """
    _reading.name = name
    try:
        yield
    except UNREADABLE as error:
        raise unreadable(name, error) from None
    finally:
        _reading.name = None


@contextlib.contextmanager
def heard(say: Callable[[str], None]) -> Iterator[None]:
    """Within the block a warning about a picture (in any thread) goes to ``say``, with its name;
    others go their way.
    """
    with warnings.catch_warnings():
        usual = warnings.showwarning

        def show(message, category, filename, lineno, file=None, line=None):
            name = getattr(_reading, "name", None)
            if name is None:
                usual(message, category, filename, lineno, file, line)
            else:
                say(f"{name}: {' '.join(str(message).split())}")

        warnings.filterwarnings("always", module=r"PIL\.")
        warnings.showwarning = show
        yield
