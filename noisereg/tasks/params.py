"""Parameters of the built-in tasks; torch-free."""

from __future__ import annotations

from typing import Literal

from noisereg.api import Field, Params


class ClassParams(Params):
    """Labels, with classifier-free guidance."""

    dropout: float = Field(
        0.1,
        ge=0,
        le=1,
        description="share of the training labels withheld, so that guidance has an unconditional network; 0: no guidance",
    )
    classes: Literal["auto"] | int = Field("auto", description="how many labels there are; auto: as the data set says")


class SuperresParams(Params):
    """Large images from small ones."""

    factor: int = Field(4, ge=2, le=64, description="how many times smaller the given image's sides are")
