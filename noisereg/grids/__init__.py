"""The times of sampling's steps: parameters and hook; the grids are in noisereg.diffusion.grids.
Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from pydantic import field_validator

from noisereg.api import Component, Context, Field, Grid, Params, hookimpl


class EDMParams(Params):
    rho: float = Field(
        7.0,
        ge=1,
        le=100,
        description="ρ: b/a is uniform to the power 1/ρ; more puts more steps near the data",
    )


class TimesParams(Params):
    values: tuple[float, ...] = Field(
        min_length=1, description="the times themselves, from 1 down: values=1,0.5,0.1; 0 is added"
    )

    @field_validator("values")
    @classmethod
    def _fall(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        ends = values if values[-1] == 0 else (*values, 0.0)
        if len(ends) < 2 or ends[0] != 1 or not all(t > s for t, s in pairwise(ends)):
            raise ValueError("expected times that fall from 1 to 0, such as values=1,0.5,0.1")
        return ends


def edm(params: EDMParams, ctx: Context) -> Grid:
    """EDM's grid with its ρ."""
    from noisereg.diffusion.grids import EDM

    return EDM(params.rho)


def times(params: TimesParams, ctx: Context) -> Grid:
    """The times that are given."""
    from noisereg.diffusion.grids import Times

    return Times(params.values)


@hookimpl
def noisereg_grids() -> Iterator[Component]:
    yield Component(
        name="uniform", impl="noisereg.diffusion.grids:Uniform", summary="equal steps in t"
    )
    yield Component(
        name="chebyshev",
        impl="noisereg.diffusion.grids:Chebyshev",
        summary="t = (1 + cos(πk/N))/2, closer towards both ends; dpmpp-2m's own",
    )
    yield Component(
        name="logsnr",
        impl="noisereg.diffusion.grids:LogSNR",
        summary="equal steps in log(a/b), for static coloured noise",
    )
    yield Component(
        name="edm",
        impl="noisereg.grids:edm",
        params=EDMParams,
        summary="b/a uniform to the power 1/ρ",
        cite="Karras et al. 2022, arXiv 2206.00364, eq. 5",
    )
    yield Component(
        name="times",
        impl="noisereg.grids:times",
        params=TimesParams,
        summary="times that are given; the number of steps is theirs",
    )
