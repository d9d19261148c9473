"""Parameters of the built-in regularizers; torch-free."""

from __future__ import annotations

from typing import Literal

from noisereg.api import Field, RegularizerParams


class IsotropyParams(RegularizerParams):
    mean: Literal["batch", "sample", "timestep-bin"] = Field(
        "batch",
        description="where E is taken before the square: over the micro-batch of all ranks (eq. 28), not at all (the "
        "authors' improved-diffusion code), or within bins of t",
    )
    level: Literal["noise", "one"] = Field(
        "noise", description="what E‖ε̂‖²/n is held to: the noise's own mean square, or 1 (the paper's form)"
    )
    space: Literal["plain", "whitened"] = Field(
        "plain", description="of ε̂ itself, or of L_t⁻¹ε̂ over the directions with at least 1 % of the mean power"
    )
    bins: int = Field(10, ge=1, le=1000, description="equal bins of t, for mean=timestep-bin")
