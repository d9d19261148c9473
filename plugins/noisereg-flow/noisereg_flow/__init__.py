"""Rectified flow and EDM as processes. Importing this imports no torch."""

from collections.abc import Iterator
from typing import Literal

from noisereg.api import Component, Field, Params, hookimpl
from noisereg.processes import TrainingTimesParams


class RectifiedFlowParams(TrainingTimesParams):
    times: Literal["uniform", "logit-normal"] = Field(
        "logit-normal",
        description="law of training times: uniform, or logit t ~ N(times_mean, times_std²)",
    )


class EDMParams(Params):
    sigma_max: float = Field(
        80.0, ge=10, le=1000, description="σ(1), the data's standard deviation being sigma_data"
    )
    sigma_data: float = Field(
        0.5, ge=0.01, le=10, description="standard deviation of the data, for the preconditioning"
    )
    log_mean: float = Field(-1.2, ge=-10, le=10, description="P_mean: of ln σ in training")
    log_std: float = Field(1.2, gt=0, le=10, description="P_std: of ln σ in training")


@hookimpl
def noisereg_processes() -> Iterator[Component]:
    yield Component(
        name="rectified-flow",
        impl="noisereg_flow.rectified_flow:RectifiedFlow",
        params=RectifiedFlowParams,
        summary="a = 1 − t, b = t; predicts ε − x0; logit-normal times",
        cite="Liu et al. 2022, arXiv 2209.03003; Esser et al. 2024, arXiv 2403.03206",
        api=1,
    )
    yield Component(
        name="edm",
        impl="noisereg_flow.edm:EDM",
        params=EDMParams,
        summary="a = 1, b = σ(t) up to 80, preconditioned; log-normal σ",
        cite="Karras et al. 2022, arXiv 2206.00364, table 1 and eq. 5 to 8",
        api=1,
    )
