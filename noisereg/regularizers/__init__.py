"""Terms that are added to the loss: parameters and hook. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from noisereg.api import Component, Field, RegularizerParams, hookimpl

Level = Literal["noise", "one"]
Space = Literal["plain", "whitened"]


class IsotropyParams(RegularizerParams):
    mean: Literal["batch", "timestep-bin", "sample", "timestep-bin-plain", "sample-plain"] = Field(
        "batch",
        description="where E is taken before the square: over the micro-batch of all ranks (eq. "
        "28), within bins of t, or in bins of two samples on average, both without the "
        "variance of the mean; timestep-bin-plain and sample-plain (the authors' "
        "improved-diffusion code: no mean at all) have it in them",
    )
    level: Level = Field(
        "noise",
        description="what E‖ε̂‖²/n is held to: the noise's own mean square, or 1 (the paper's "
        "form)",
    )
    space: Space = Field(
        "plain",
        description="of ε̂ itself, or of L_t⁻¹ε̂ over the directions with at least 1 % of the "
        "mean power",
    )
    bins: int = Field(
        10, ge=1, le=1000, description="equal bins of t, where the mean is taken in them"
    )


@hookimpl
def noisereg_regularizers() -> Iterator[Component]:
    yield Component(
        name="isotropy",
        impl="noisereg.regularizers.isotropy:Isotropy",
        params=IsotropyParams,
        summary="holds E‖ε̂‖²/n to the noise's own level",
        cite="Iso-Diffusion, arXiv 2403.16790, eq. 28",
        revision=2,
    )
