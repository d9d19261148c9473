"""Parameters of the built-in metrics and feature spaces. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import field_validator

from noisereg.api import Field, Params


class PrdcParams(Params):
    k: int = Field(5, ge=1, description="the neighbour whose distance is a point's radius")
    backend: Literal["blocked", "package"] = Field(
        "blocked", description="blocked: bounded memory; package: the prdc package itself, with its N×N matrices"
    )


class PrecisionRecallParams(Params):
    k: int = Field(3, ge=1, description="the neighbour whose distance is a point's radius")


class FidParams(Params):
    pass


class InceptionScoreParams(Params):
    splits: int = Field(10, ge=1, description="parts over which the score is averaged")


class KernelDistanceParams(Params):
    subsets: int = Field(100, ge=1, description="random subsets over which the estimate is averaged")
    subset_size: int = Field(1000, ge=2, description="samples in a subset")


class FrechetParams(Params):
    pass


class PsnrParams(Params):
    pass


class SsimParams(Params):
    pass


class PixelsParams(Params):
    pass


class InceptionParams(Params):
    weights: Path | None = Field(None, description="a file of torch-fidelity's Inception weights; else its download")
    batch_size: int = Field(64, ge=1, description="images at once; the features change in their last digits with it")

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
    seed: int = Field(0, ge=0, description="seed of the initial weights and of the order of the data")
    batch_size: int = Field(256, ge=1, description="images at once when features are taken")


class NllParams(Params):
    by: Literal["auto", "bound", "ode"] = Field(
        "auto", description="the variational bound, the flow's density, or what this model has of the two"
    )
    split: Literal["heldout", "train"] = Field("heldout", description="of the data")
    num: int = Field(200, ge=1, description="how many samples of it, evenly spaced")
    steps: int | None = Field(None, ge=1, description="of the bound; none: the process's T")
    eta: float = Field(1.0, gt=0, le=1, description="η of the bound's steps: without fresh noise there is no bound")
    terms: bool = Field(False, description="a number for each part of the bound too: prior, steps, decoder")
    ode_steps: int = Field(100, ge=2, multiple_of=2, description="of the flow, by Heun's method")
    grid: Literal["auto", "uniform", "logsnr", "edm"] = Field("auto", description="of the steps; auto is the run's")
    probes: int = Field(1, ge=0, description="Rademacher probes of the trace; 0: exact, a product a dimension")
    seed: int = Field(0, ge=0, description="of noise, dequantisation and probes")
    batch_size: int = Field(100, ge=1, description="samples at once; changes memory and speed alone")


class IsotropyGapParams(Params):
    times: int = Field(20, ge=1, description="times t = k/times at which the power of ε̂ is measured")
    split: Literal["heldout", "train"] = Field("heldout", description="of the data")
    num: int = Field(500, ge=1, description="how many samples of it, evenly spaced")
    seed: int = Field(0, ge=0, description="of the noise")
    batch_size: int = Field(250, ge=1, description="samples at once; changes memory and speed alone")
