"""Numbers from samples, reference data and models: parameters and hook. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from noisereg.api import Component, Field, Params, hookimpl


class PrdcParams(Params):
    k: int = Field(5, ge=1, description="the neighbour whose distance is a point's radius")
    backend: Literal["blocked", "package"] = Field(
        "blocked",
        description="blocked: bounded memory; package: the prdc package itself, with its N×N "
        "matrices",
    )


class PrecisionRecallParams(Params):
    k: int = Field(3, ge=1, description="the neighbour whose distance is a point's radius")


class FidParams(Params):
    pass


class InceptionScoreParams(Params):
    splits: int = Field(10, ge=1, description="parts over which the score is averaged")


class KernelDistanceParams(Params):
    subsets: int = Field(
        100, ge=1, description="random subsets over which the estimate is averaged"
    )
    subset_size: int = Field(1000, ge=2, description="samples in a subset")


class FrechetParams(Params):
    pass


class MemorisationParams(Params):
    ratio: float = Field(
        1 / 3, gt=0, le=1, description="of the distances to the nearest and the next, for a copy"
    )


class PsnrParams(Params):
    pass


class SsimParams(Params):
    pass


class NllParams(Params):
    by: Literal["auto", "bound", "ode"] = Field(
        "auto",
        description="the variational bound, the flow's density, or what this model has of the two",
    )
    split: Literal["heldout", "train"] = Field("heldout", description="of the data")
    num: int = Field(200, ge=1, description="how many samples of it, evenly spaced")
    steps: int | None = Field(None, ge=1, description="of the bound; none: the process's T")
    eta: float = Field(
        1.0,
        gt=0,
        le=1,
        description="η of the bound's steps: without fresh noise there is no bound",
    )
    terms: bool = Field(
        False, description="a number for each part of the bound too: prior, steps, decoder"
    )
    ode_steps: int = Field(100, ge=2, multiple_of=2, description="of the flow, by Heun's method")
    grid: Literal["auto", "uniform", "logsnr", "edm"] = Field(
        "auto", description="of the steps; auto is the run's"
    )
    probes: int = Field(
        1, ge=0, description="Rademacher probes of the trace; 0: exact, a product a dimension"
    )
    seed: int = Field(0, ge=0, description="of noise, dequantisation and probes")
    batch_size: int = Field(
        100, ge=1, description="samples at once; changes memory and speed alone"
    )


class IsotropyGapParams(Params):
    times: int = Field(
        20, ge=1, description="times t = k/times at which the power of ε̂ is measured"
    )
    split: Literal["heldout", "train"] = Field("heldout", description="of the data")
    num: int = Field(500, ge=1, description="how many samples of it, evenly spaced")
    seed: int = Field(0, ge=0, description="of the noise")
    batch_size: int = Field(
        250, ge=1, description="samples at once; changes memory and speed alone"
    )


@hookimpl
def noisereg_metrics() -> Iterator[Component]:
    yield Component(
        name="prdc",
        impl="noisereg.metrics.prdc:Prdc",
        params=PrdcParams,
        summary="precision, recall, density and coverage by k-th neighbours, in any feature space",
        cite="Naeem et al. 2020, arXiv 2002.09797; Kynkäänniemi et al. 2019, arXiv 1904.06991",
    )
    yield Component(
        name="pr",
        impl="noisereg.metrics.fidelity:PrecisionRecall",
        params=PrecisionRecallParams,
        summary="precision and recall as torch-fidelity counts them, in any feature space",
        cite="Kynkäänniemi et al. 2019, arXiv 1904.06991",
    )
    yield Component(
        name="fid",
        impl="noisereg.metrics.fidelity:FID",
        params=FidParams,
        summary="Fréchet Inception distance, by torch-fidelity",
        cite="Heusel et al. 2017, arXiv 1706.08500",
    )
    yield Component(
        name="kid",
        impl="noisereg.metrics.fidelity:KID",
        params=KernelDistanceParams,
        summary="kernel Inception distance, by torch-fidelity",
        cite="Bińkowski et al. 2018, arXiv 1801.01401",
    )
    yield Component(
        name="is",
        impl="noisereg.metrics.fidelity:InceptionScore",
        params=InceptionScoreParams,
        summary="Inception score, by torch-fidelity; uses no reference",
        cite="Salimans et al. 2016, arXiv 1606.03498",
    )
    yield Component(
        name="fd",
        impl="noisereg.metrics.fidelity:FrechetDistance",
        params=FrechetParams,
        summary="Fréchet distance in any feature space, named after it: fd-pixels",
        cite="Dowson & Landau 1982; Heusel et al. 2017, eq. 6",
    )
    yield Component(
        name="kd",
        impl="noisereg.metrics.fidelity:KernelDistance",
        params=KernelDistanceParams,
        summary="kernel distance (cubic MMD²) in any feature space, named after it: kd-pixels",
        cite="Bińkowski et al. 2018, arXiv 1801.01401",
    )
    yield Component(
        name="isotropy",
        impl="noisereg.metrics.power:PredictedPower",
        params=IsotropyGapParams,
        summary="how far E‖ε̂‖² lies from the noise's own level, and the error of ε̂, beside the "
        "Gaussian optimum",
        cite="Iso-Diffusion, arXiv 2403.16790",
    )
    yield Component(
        name="nll",
        impl="noisereg.metrics.likelihood:NegativeLogLikelihood",
        params=NllParams,
        summary="bits a dimension of held-out data, by the variational bound and by the flow",
        cite="Nichol & Dhariwal 2021, arXiv 2102.09672; Song et al. 2021, arXiv 2011.13456",
    )
    yield Component(
        name="memorisation",
        impl="noisereg.metrics.memorisation:Memorisation",
        params=MemorisationParams,
        summary="the share of samples that are copies of a training sample, in any feature space",
        cite="Yoon et al. 2023; Gu et al. 2023, arXiv 2310.02664",
    )
    yield Component(
        name="psnr",
        impl="noisereg.metrics.paired:PSNR",
        params=PsnrParams,
        summary="peak signal-to-noise ratio of paired outputs (super-resolution), in dB",
    )
    yield Component(
        name="ssim",
        impl="noisereg.metrics.paired:SSIM",
        params=SsimParams,
        summary="structural similarity of paired outputs (super-resolution)",
        cite="Wang et al. 2004",
    )
