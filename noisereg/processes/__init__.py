"""Forward processes: parameters and hook. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, Self

from pydantic import model_validator

from noisereg.api import Component, Field, Params, hookimpl
from noisereg.plugins.validation import check_used


class WeightingParams(Params):
    """How the loss weighs times."""

    weighting: Literal["none", "min-snr", "p2"] = Field(
        "none", description="of the loss over t: none on the network's own target, min-SNR or P2"
    )
    snr_cap: float = Field(
        5.0, gt=0, allow_inf_nan=False, description="γ of min-snr: SNR above it count as it"
    )
    p2_k: float = Field(1.0, gt=0, allow_inf_nan=False, description="k of p2's 1/(k + SNR)^γ")
    p2_gamma: float = Field(1.0, ge=0, allow_inf_nan=False, description="γ of p2's 1/(k + SNR)^γ")

    @model_validator(mode="after")
    def _used(self) -> Self:
        check_used(self, "weighting", "min-snr", "snr_cap")
        check_used(self, "weighting", "p2", "p2_k", "p2_gamma")
        return self


class TrainingTimesParams(Params):
    """By what law training draws its times; :func:`noisereg.processes.times.draw` reads it."""

    times: Literal["uniform", "logit-normal"] = Field(
        "uniform",
        description="law of training times: uniform, or logit t ~ N(times_mean, times_std²), "
        "which "
        "trains the middle most (2403.03206)",
    )
    times_mean: float = Field(
        0.0,
        ge=-10,
        le=10,
        description="of logit t: below 0 nearer to the data, above to the noise",
    )
    times_std: float = Field(
        1.0, gt=0, le=10, description="of logit t: less is closer about its mean"
    )

    @model_validator(mode="after")
    def _times_used(self) -> Self:
        check_used(self, "times", "logit-normal", "times_mean", "times_std")
        return self


class DDPMParams(WeightingParams, TrainingTimesParams):
    schedule: Literal["auto", "linear", "cosine"] = Field(
        "auto", description="of β; auto is linear"
    )
    T: int = Field(
        1000, ge=2, le=100_000, description="training times k/T; β is scaled by 1000/T (linear)"
    )
    target: Literal["auto", "eps", "x0", "v"] = Field(
        "auto", description="what the network predicts; auto is eps, and v where eps cannot be had"
    )
    zero_terminal_snr: Literal["auto"] | bool = Field(
        "auto",
        description="rescale so that no signal is left at t = 1 (2305.08891); auto: only for "
        "static coloured noise",
    )
    variance: Literal["beta-tilde", "beta", "learned"] = Field(
        "beta-tilde",
        description="of the stochastic step: the posterior's, β itself, or learned between the "
        "two (× η²)",
    )
    bound_weight: float = Field(
        1e-3,
        ge=0,
        allow_inf_nan=False,
        description="λ of the hybrid loss L_simple + λ·(bound in bits/dim), which trains "
        "variance=learned",
    )

    @model_validator(mode="after")
    def _learned(self) -> Self:
        check_used(self, "variance", "learned", "bound_weight")
        if self.variance == "learned" and self.times != "uniform":
            raise ValueError(
                "variance=learned is trained by the variational bound, whose terms count alike: "
                "expected times=uniform"
            )
        return self


class IADBParams(WeightingParams, TrainingTimesParams):
    T: int = Field(1000, ge=2, le=100_000, description="training times k/T")


@hookimpl
def noisereg_processes() -> Iterator[Component]:
    yield Component(
        name="ddpm",
        impl="noisereg.processes.ddpm:DDPM",
        params=DDPMParams,
        summary="variance-preserving: a = √ᾱ, b = √(1−ᾱ); linear or cosine schedule; predicts ε, "
        "x0 or v",
        cite="Ho et al. 2020, arXiv 2006.11239; Nichol & Dhariwal 2021, arXiv 2102.09672",
    )
    yield Component(
        name="iadb",
        impl="noisereg.processes.iadb:IADB",
        params=IADBParams,
        summary="a = 1 − t, b = t; predicts x0 − ε",
        cite="Heitz et al. 2023, arXiv 2305.03486",
    )
