"""Terms that are added to the loss: parameters and hook. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from noisereg.api import Component, Field, RegularizerParams, hookimpl


class IsotropyParams(RegularizerParams):
    mean: Literal["batch", "sample", "timestep-bin"] = Field(
        "batch",
        description="where E is taken before the square: over the micro-batch of all ranks (eq. "
        "28), not at all (the "
        "authors' improved-diffusion code), or within bins of t",
    )
    level: Literal["noise", "one"] = Field(
        "noise",
        description="what E‖ε̂‖²/n is held to: the noise's own mean square, or 1 (the paper's "
        "form)",
    )
    space: Literal["plain", "whitened"] = Field(
        "plain",
        description="of ε̂ itself, or of L_t⁻¹ε̂ over the directions with at least 1 % of the "
        "mean power",
    )
    bins: int = Field(10, ge=1, le=1000, description="equal bins of t, for mean=timestep-bin")


@hookimpl
def noisereg_regularizers() -> Iterator[Component]:
    yield Component(
        name="isotropy",
        impl="noisereg.regularizers.isotropy:Isotropy",
        params=IsotropyParams,
        summary="holds E‖ε̂‖²/n to the noise's own level",
        cite="Iso-Diffusion, arXiv 2403.16790, eq. 28",
    )
