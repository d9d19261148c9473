"""What the network is conditioned on: parameters and hook. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from noisereg.api import Component, Field, Params, hookimpl


class ClassParams(Params):
    """Labels, with classifier-free guidance."""

    dropout: float = Field(
        0.1,
        ge=0,
        le=1,
        description="share of the training labels withheld, so that guidance has an unconditional "
        "network; 0: no guidance",
    )
    classes: Literal["auto"] | int = Field(
        "auto", description="how many labels there are; auto: as the data set says"
    )


class SuperresParams(Params):
    """Large images from small ones."""

    factor: int = Field(
        4, ge=2, le=64, description="how many times smaller the given image's sides are"
    )


@hookimpl
def noisereg_tasks() -> Iterator[Component]:
    yield Component(
        name="unconditional",
        impl="noisereg.api:Task",
        summary="the network is told x_t and t alone",
    )
    yield Component(
        name="class",
        impl="noisereg.tasks.class_label:ClassLabel",
        params=ClassParams,
        summary="class labels, with classifier-free guidance",
        cite="Ho & Salimans 2022, arXiv 2207.12598",
    )
    yield Component(
        name="superres",
        impl="noisereg.tasks.superres:SuperResolution",
        params=SuperresParams,
        summary="large images from small ones",
        cite="BNDM, arXiv 2402.04930, super-resolution",
    )
