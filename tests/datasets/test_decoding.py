"""Any picture becomes uint8 pixels of the size and channels asked for."""

from __future__ import annotations

import importlib.util
import io
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from noisereg.datasets.decoding import (
    SMALL,
    UNREADABLE,
    Unfaithful,
    is_grey,
    open_picture,
    to_pixels,
    unreadable,
    upright_size,
)
from noisereg.datasets.tree import SUFFIXES


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


def test_pixels_pass_through_unchanged_where_nothing_is_asked():
    array = noise(5, 7)
    np.testing.assert_array_equal(
        to_pixels(Image.fromarray(array), None, 3), array.transpose(2, 0, 1)
    )


def test_transparent_pixels_are_seen_on_white():
    array = np.zeros((2, 2, 4), dtype=np.uint8)
    array[0, 0] = (200, 100, 0, 255)
    array[0, 1] = (200, 100, 0, 0)
    array[1, 0] = (0, 0, 0, 128)
    pixels = to_pixels(Image.fromarray(array), None, 3)
    np.testing.assert_array_equal(pixels[:, 0, 0], (200, 100, 0))
    np.testing.assert_array_equal(pixels[:, 0, 1], (255, 255, 255))
    np.testing.assert_allclose(pixels[:, 1, 0].astype(int), 127, atol=1)


def test_a_palettes_transparent_colour_is_seen_on_white(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 255, 10, 20, 30])
    image.putdata([0, 1])
    image.save(tmp_path / "p.png", transparency=0)
    with Image.open(tmp_path / "p.png") as read:
        assert read.mode == "P"
        np.testing.assert_array_equal(
            to_pixels(read, None, 3)[:, 0].T, [(255, 255, 255), (10, 20, 30)]
        )


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_kind_of_image_has_the_channels_asked_for(mode, channels):
    image = Image.fromarray(np.full((4, 6, 3), 255, dtype=np.uint8)).convert(mode)
    pixels = to_pixels(image, None, channels)
    assert pixels.shape == (channels, 4, 6)
    assert pixels.dtype == np.uint8
    assert pixels.min() >= 253


def test_sixteen_bit_grey_is_scaled_and_not_clipped(tmp_path):
    wide = np.array([[0, 257, 32_896, 65_535]], dtype=np.uint16)
    Image.fromarray(wide).save(tmp_path / "w.png")
    with Image.open(tmp_path / "w.png") as image:
        assert is_grey(image)
        np.testing.assert_array_equal(to_pixels(image, None, 1), [[[0, 1, 128, 255]]])


def png(depth: int, kind: int, row: bytes, width: int, *, transparent: bytes = b"") -> bytes:
    """A PNG of one row, as it stands in the specification, since Pillow writes few kinds."""

    def chunk(name: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, 1, depth, kind, 0, 0, 0)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            chunk(b"tRNS", transparent) if transparent else b"",
            chunk(b"IDAT", zlib.compress(b"\0" + row)),
            chunk(b"IEND", b""),
        )
    )


def tiff(array: np.ndarray, **options) -> bytes:
    tifffile = pytest.importorskip("tifffile")  # scikit-image brings it
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("depth", "row", "clear", "seen"),
    [
        (16, struct.pack(">2H", 1000, 40_000), 1000, [255, 155]),
        (8, bytes([10, 200]), 10, [255, 200]),
        (4, bytes([0x3A]), 3, [255, 170]),
        (2, bytes([0b01_10_00_00]), 1, [255, 170]),
        (1, bytes([0b0100_0000]), 0, [255, 255]),
    ],
)
def test_the_transparent_value_of_a_grey_png_is_seen_on_white(depth, row, clear, seen):
    data = png(depth, 0, row, 2, transparent=struct.pack(">H", clear))
    assert to_pixels(open_picture(data), None, 1)[0, 0].tolist() == seen


def test_a_transparent_colour_of_16_bits_is_refused():
    row, clear = struct.pack(">3H", 1000, 2000, 3000), struct.pack(">3H", 1000, 2000, 3001)
    with pytest.raises(Unfaithful, match="16 bits a channel as transparent"):
        open_picture(png(16, 2, row, 1, transparent=clear))


def test_colour_and_grey_with_alpha_of_16_bits_keep_their_upper_8():
    pixels = to_pixels(open_picture(png(16, 2, struct.pack(">3H", 65_535, 511, 512), 1)), None, 3)
    assert pixels.ravel().tolist() == [255, 1, 2]
    grey = open_picture(png(16, 4, struct.pack(">2H", 0x41FF, 65_535), 1))
    assert is_grey(grey)
    assert to_pixels(grey, None, 1).tolist() == [[[0x41]]]


@pytest.mark.parametrize("first", [lambda image: None, upright_size, lambda image: image.load()])
def test_a_look_at_its_size_changes_nothing_of_a_picture(first):
    """Pillow loads a PNG for its orientation, and then has forgotten how its pixels were kept."""
    grey = open_picture(png(16, 4, struct.pack(">2H", 0x41FF, 65_535), 1))
    narrow = open_picture(png(16, 2, struct.pack(">3H", 4000, 4000, 4000), 1))
    clear = open_picture(png(4, 0, bytes([0x3A]), 2, transparent=struct.pack(">H", 3)))
    for image in (grey, narrow, clear):
        first(image)
    assert is_grey(grey)
    assert to_pixels(clear, None, 1)[0, 0].tolist() == [255, 170]
    with pytest.raises(Unfaithful, match="16-bit values end below 4,096"):
        to_pixels(narrow, None, 3)


RAMP = np.arange(16).reshape(4, 4)


@pytest.mark.parametrize("top", [200, 4095])
def test_values_of_12_bits_in_16_are_refused(top):
    wide = (RAMP * (top / 15)).astype(np.uint16)
    for data in (tiff(wide), png(16, 0, wide[3].astype(">u2").tobytes(), 4)):
        with pytest.raises(Unfaithful, match=rf"16-bit values end at {top:,} of 65,535"):
            to_pixels(open_picture(data), None, 1)
    if top == 4095:
        colour = np.stack([wide] * 3, 2)
        with pytest.raises(Unfaithful, match="16-bit values end below 4,096"):
            to_pixels(open_picture(tiff(colour, photometric="rgb")), None, 3)


def test_a_black_picture_of_16_bits_is_black():
    black = tiff(np.zeros((4, 4), np.uint16))
    np.testing.assert_array_equal(to_pixels(open_picture(black), None, 1), 0)


def test_a_graymap_of_12_bits_says_so_and_is_scaled():
    data = b"P5 2 1 4095\n" + struct.pack(">2H", 4095, 100)
    assert to_pixels(open_picture(data), None, 1)[0, 0].tolist() == [255, 6]


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_where_the_least_value_is_white_it_is_seen_white(kind):
    array = (RAMP * (np.iinfo(kind).max // 15)).astype(kind)
    data = tiff(array, photometric="miniswhite")
    np.testing.assert_array_equal(to_pixels(open_picture(data), None, 1)[0], 255 - RAMP * 17)


@pytest.mark.parametrize(
    ("array", "options", "said"),
    [
        (RAMP.astype(np.int8), {}, "values are signed whole numbers"),
        (RAMP.astype(np.int16), {}, "values are signed whole numbers"),
        (RAMP.astype(np.uint32), {}, "values have 32 bits"),
        (RAMP.astype(np.float32), {}, "are floating-point numbers"),
        (RAMP.astype(np.float16), {}, "a TIFF of a kind that Pillow does not read"),
        (RAMP.astype(np.float64), {}, "a TIFF of a kind that Pillow does not read"),
        (np.stack([RAMP] * 3).astype(np.uint8), {"photometric": "minisblack"}, "holds 3 pages"),
        (noise(4, 4, 4), {"photometric": "rgb", "extrasamples": [0]}, "4 samples a pixel, 1 bey"),
        (noise(4, 4, 5), {"photometric": "rgb", "extrasamples": [0, 0],
         "planarconfig": "contig"}, "5 samples a pixel, 2 bey"),
        (noise(4, 4, 2), {"photometric": "minisblack", "extrasamples": [0],
         "planarconfig": "contig"}, "2 samples a pixel, 1 bey"),
    ],
)  # fmt: skip
def test_what_8_bits_cannot_say_is_refused_before_it_is_decoded(array, options, said):
    with pytest.raises(Unfaithful, match=said) as caught:
        open_picture(tiff(array, **options))
    told = str(unreadable("x/y.tif", caught.value))
    assert told.startswith("x/y.tif: it")
    assert "repair" not in told


def test_a_tiff_of_the_usual_kinds_is_read():
    colour = noise(4, 4)
    np.testing.assert_array_equal(
        to_pixels(open_picture(tiff(colour, photometric="rgb")), None, 3),
        colour.transpose(2, 0, 1),
    )
    alpha = np.concatenate([colour, np.full((4, 4, 1), 255, np.uint8)], 2)
    np.testing.assert_array_equal(
        to_pixels(open_picture(tiff(alpha, photometric="rgb", extrasamples=[2])), None, 3),
        colour.transpose(2, 0, 1),
    )
    wide = tiff((colour.astype(np.uint16)) * 257, photometric="rgb")
    np.testing.assert_array_equal(
        to_pixels(open_picture(wide), None, 3), colour.transpose(2, 0, 1)
    )


def test_colours_without_a_form_in_rgb_are_refused():
    with pytest.raises(Unfaithful, match="its colours are LAB; convert it to RGB"):
        to_pixels(Image.new("LAB", (2, 2)), None, 3)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0", r"x.jpg: it is HEIC; convert it to PNG or JPEG"),
        (b"\xff\x0a\xfa\x7f", r"x.jpg: it is JPEG XL; convert it to PNG or JPEG"),
        (
            b"no image at all",
            r"x.jpg cannot be read as an image \(.*\); repair it or take it away",
        ),
        (b"", r"x.jpg cannot be read as an image \(.*\); repair it or take it away"),
    ],
)
def test_only_a_broken_file_is_to_be_repaired(data, said):
    with pytest.raises((Unfaithful, OSError)) as caught:
        open_picture(data)
    assert re.fullmatch(said, str(unreadable("x.jpg", caught.value)))


def test_a_file_that_may_not_be_read_or_is_too_large_is_not_to_be_repaired():
    assert str(unreadable("x.png", PermissionError(13, "Permission denied"))) == (
        "x.png cannot be read: Permission denied"
    )
    bomb = Image.DecompressionBombError("a billion pixels")
    assert "too many pixels (a billion pixels); make it smaller" in str(unreadable("x", bomb))


@pytest.mark.parametrize("more", [0, 1, 70_000])
def test_files_small_and_large_are_read_alike(tmp_path, more):
    """Small ones are read at once, and others by Pillow; what follows a picture is no part of
    it.
    """
    pixels = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    fill = SMALL - path.stat().st_size if more < 2 else 0
    with path.open("ab") as file:
        file.write(bytes(fill + more))
    assert (to_pixels(open_picture(path), None, 3) == pixels.transpose(2, 0, 1)).all()


def test_an_empty_file_is_no_picture(tmp_path):
    path = tmp_path / "a.png"
    path.touch()
    with pytest.raises(UnidentifiedImageError):
        open_picture(path)


def test_floating_point_pixels_are_refused():
    with pytest.raises(Unfaithful, match="floating-point"):
        to_pixels(Image.fromarray(np.zeros((2, 2), dtype=np.float32)), None, 1)


def test_the_cameras_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn a quarter clockwise"
    Image.fromarray(noise(4, 6)).save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as image:
        assert upright_size(image) == (4, 6)
        pixels = to_pixels(image, None, 3)
    np.testing.assert_array_equal(pixels, np.rot90(noise(4, 6), -1).transpose(2, 0, 1))


@pytest.mark.parametrize(("height", "width"), [(48, 48), (48, 96), (96, 48)])
def test_the_centre_is_cut_out_of_the_image_with_its_shorter_side_resized(height, width):
    """As torchvision's resize (bicubic, antialias) and centre crop, for sizes where both cut at
    whole pixels.
    """
    from torchvision.transforms import functional

    image = Image.fromarray(noise(height, width))
    resized = functional.resize(image, 16, functional.InterpolationMode.BICUBIC, antialias=True)
    expected = np.asarray(functional.center_crop(resized, 16)).transpose(2, 0, 1)
    np.testing.assert_allclose(to_pixels(image, 16, 3).astype(int), expected.astype(int), atol=1)


def test_shrinking_averages():
    """Every second column black: without antialiasing an eighth of the size would be black or
    white.
    """
    stripes = np.zeros((64, 64), dtype=np.uint8)
    stripes[:, ::2] = 255
    assert to_pixels(Image.fromarray(stripes), 8, 1)[:, 2:-2, 2:-2] == pytest.approx(127.5, abs=3)


def test_a_small_image_is_enlarged():
    assert to_pixels(Image.fromarray(noise(8, 10)), 20, 3).shape == (3, 20, 20)


def real_files() -> list[Path]:
    """The pictures that scikit-image and scikit-learn bring."""
    found = []
    for name, folder in (("skimage", "data"), ("sklearn", "datasets/images")):
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            found += [f for f in (Path(spec.origin).parent / folder).rglob("*") if f.is_file()]
    return [f for f in found if f.suffix.lower() in SUFFIXES]


@pytest.mark.skipif(not real_files(), reason="neither scikit-image's nor scikit-learn's pictures")
@pytest.mark.parametrize("file", real_files(), ids=lambda f: f.name)
def test_real_pictures_are_read_or_refused_by_name(file):
    refused = None
    try:
        with open_picture(file) as image:
            pixels = to_pixels(image, 32, 1 if is_grey(image) else 3)
    except UNREADABLE as error:
        refused = error
    if refused is None:
        assert pixels.shape[1:] == (32, 32)
        assert pixels.std() > 1
    else:
        assert isinstance(refused, Unfaithful)
        assert str(unreadable(str(file), refused)).startswith(str(file))
