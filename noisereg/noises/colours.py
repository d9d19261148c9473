"""The spectra that are known by name, at any size, and the choice of a factor for them."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from noisereg.api import Context
from noisereg.errors import NoiseregError
from noisereg.folders import cache_dir
from noisereg.noises import ColouredParams, MaskParams, PowerLawParams
from noisereg.noises.covariance import Array, mirrored, resize, with_jitter
from noisereg.noises.covariance import power_law as power_law_spectrum
from noisereg.noises.factors import CholeskyFactor, Factor, SpectralFactor, TiledFactor
from noisereg.noises.spectrum_file import SHIPPED, read, shipped

LARGEST_TILE = 64
"""Cholesky factors have at most this many pixels a side: their memory grows as its fourth power,
their time as its sixth.
"""

Colour = Callable[[int, int], Array]
"""(height, width) → λ, (height, width) with mean 1."""


def blue(params: MaskParams, height: int, width: int) -> Colour:
    """The spectrum of masks: of ``params.spectrum``, or shipped. ``height`` and ``width`` are the
    largest size wanted.

    Shipped sizes are as measured; others take the autocovariance of 64² at the new lags.

    Raises:
        NoiseregError: if the file is no spectrum file or of another size.
    """
    if params.spectrum is None:
        return _shipped_blue
    spectrum = read(params.spectrum)
    if spectrum.power.shape != (height, width):
        size = f"{height}" if height == width else f"{height}x{width}"
        raise NoiseregError(
            f"spectrum={params.spectrum} is of {spectrum.size} pixels and {height}×{width} are "
            "needed; make it with "
            f"'noisereg noise build --size {size} --out FILE', or leave spectrum out"
        )
    return partial(resize, spectrum.power)


def _shipped_blue(height: int, width: int) -> Array:
    if height == width and height in SHIPPED:
        return shipped(height).power
    return resize(shipped(64).power, height, width)


def red(params: MaskParams, height: int, width: int) -> Colour:
    """Blue mirrored in frequency."""
    original = blue(params, height, width)
    return lambda h, w: mirrored(original(h, w))


def power_law(params: PowerLawParams, height: int, width: int) -> Colour:
    """λ = |f|^(2p)."""
    return partial(power_law_spectrum, params.exponent)


def image_size(ctx: Context, name: str) -> tuple[int, int]:
    """
    Raises:
        NoiseregError: for data that are not images.
    """
    if len(ctx.shape) != 3:
        numbers = f"{math.prod(ctx.shape)} number" + ("s" if math.prod(ctx.shape) != 1 else "")
        raise NoiseregError(
            f"{name} noise is shaped in space and needs images; the data are points of {numbers}"
        )
    return ctx.shape[1], ctx.shape[2]


def even_parts(size: int) -> list[int]:
    """The fewest parts of at most :data:`LARGEST_TILE`, as equal as can be: a sliver of a tile
    would hardly be coloured.
    """
    count = -(-size // LARGEST_TILE)
    return [size // count + (i < size % count) for i in range(count)]


def tile_size(height: int, width: int, params: ColouredParams) -> tuple[int, int]:
    """The largest piece that is coloured in one."""
    if params.factor == "spectral":
        return height, width
    return even_parts(height)[0], even_parts(width)[0]


def make_factor(
    colour: Colour, height: int, width: int, params: ColouredParams, ctx: Context
) -> Factor:
    """The factor of Σ_j = (1−j)Σ + jI that ``params`` ask for."""
    if params.factor == "spectral":
        return SpectralFactor(with_jitter(colour(height, width), params.jitter))
    folder = (ctx.cache_dir or cache_dir()) / "factors"
    heights, widths = even_parts(height), even_parts(width)
    sizes = sorted({(h, w) for h in heights for w in widths}, reverse=True)
    factors: dict[tuple[int, int], Factor] = {
        (h, w): CholeskyFactor(with_jitter(colour(h, w), params.jitter), folder) for h, w in sizes
    }
    if len(heights) == len(widths) == 1:
        return factors[height, width]
    return TiledFactor(heights, widths, factors)
