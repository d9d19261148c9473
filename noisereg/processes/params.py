"""Parameters of the built-in processes; torch-free."""

from __future__ import annotations

from typing import Literal

from noisereg.api import Field, Params


class DDPMParams(Params):
    schedule: Literal["auto", "linear", "cosine"] = Field("auto", description="of β; auto is linear")
    T: int = Field(1000, ge=2, le=100_000, description="training times k/T; β is scaled by 1000/T (linear)")
    target: Literal["auto", "eps", "x0", "v"] = Field(
        "auto", description="what the network predicts; auto is eps, and v where eps cannot be had"
    )
    zero_terminal_snr: Literal["auto"] | bool = Field(
        "auto",
        description="rescale so that no signal is left at t = 1 (2305.08891); auto: only for static coloured noise",
    )
    variance: Literal["beta-tilde", "beta"] = Field(
        "beta-tilde", description="of the stochastic step: the posterior's, or β itself (η scales either)"
    )


class IADBParams(Params):
    T: int = Field(1000, ge=2, le=100_000, description="training times k/T")
