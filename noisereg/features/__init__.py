"""The spaces in which metrics measure: parameters and hook. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import field_validator

from noisereg.api import Component, Field, Params, hookimpl


class PixelsParams(Params):
    pass


class InceptionParams(Params):
    weights: Path | None = Field(
        None,
        description="a file of torch-fidelity's Inception weights; else its download",
        json_schema_extra={"option": "inception_weights"},  # what fills it
    )
    batch_size: int = Field(
        64, ge=1, description="images at once; the features change in their last digits with it"
    )

    @field_validator("weights")
    @classmethod
    def _expand(cls, value: Path | None) -> Path | None:
        return value.expanduser() if value else value


class RandomVgg16Params(Params):
    seed: int = Field(0, ge=0, description="seed of the random weights")
    batch_size: int = Field(64, ge=1, description="images at once")


class ClassifierParams(Params):
    steps: int = Field(600, ge=1, description="training steps of 128 images")
    width: int = Field(32, ge=4, description="channels of the first layer")
    seed: int = Field(
        0, ge=0, description="seed of the initial weights and of the order of the data"
    )
    batch_size: int = Field(256, ge=1, description="images at once when features are taken")


@hookimpl
def noisereg_features() -> Iterator[Component]:
    yield Component(
        name="pixels",
        impl="noisereg.features.spaces:Pixels",
        params=PixelsParams,
        summary="the pixels themselves, in uint8; points as they are",
        cite="Iso-Diffusion, arXiv 2403.16790, measures images so",
    )
    yield Component(
        name="inception",
        impl="noisereg.features.spaces:Inception",
        params=InceptionParams,
        summary="torch-fidelity's Inception v3, 2,048 pool features; weights from a file or its "
        "download",
        cite="Heusel et al. 2017, arXiv 1706.08500",
    )
    yield Component(
        name="random-vgg16",
        impl="noisereg.features.spaces:RandomVgg16",
        params=RandomVgg16Params,
        summary="512 features of a VGG-16 with random weights; no download",
        cite="Naeem et al. 2020, arXiv 2002.09797",
    )
    yield Component(
        name="classifier",
        impl="noisereg.features.classifier:Classifier",
        params=ClassifierParams,
        summary="64 features of a small classifier trained here on the data's own labels",
    )
