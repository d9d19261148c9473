"""Noises with more power at low frequencies than white noise has. Importing this imports no
torch.
"""

from collections.abc import Iterator

from noisereg.api import Component, Field, Params, hookimpl


class OffsetParams(Params):
    strength: float = Field(
        0.1,
        ge=0,
        le=10,
        description="standard deviation of each channel's shift, that of the noise being 1",
    )


class PyramidParams(Params):
    discount: float = Field(
        0.9, ge=0, le=1, description="by which each coarser level is weaker than the one before"
    )
    levels: int | None = Field(
        None,
        ge=0,
        le=12,
        description="how many coarser levels, each half the size; none: down to one pixel",
    )


@hookimpl
def noisereg_noises() -> Iterator[Component]:
    yield Component(
        name="offset",
        impl="noisereg_offset.offset:OffsetNoise",
        params=OffsetParams,
        summary="white noise plus one random shift a channel",
        cite="Guttenberg 2023, 'Diffusion with offset noise'",
        api=1,
    )
    yield Component(
        name="pyramid",
        impl="noisereg_offset.pyramid:PyramidNoise",
        params=PyramidParams,
        summary="white noise plus enlarged white noise of every coarser size, scaled to unit "
        "power",
        cite="Whitaker 2023, 'Multi-resolution noise for diffusion model training'",
        api=1,
    )
