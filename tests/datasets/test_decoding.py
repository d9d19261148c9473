"""Any picture becomes uint8 pixels of the size and channels asked for."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from noisereg.datasets.decoding import is_grey, to_pixels, upright_size


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


def test_floating_point_pixels_are_refused():
    with pytest.raises(ValueError, match="floating-point"):
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
