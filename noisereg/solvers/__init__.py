"""How sampling steps: parameters and hook; the steps are in noisereg.diffusion.solvers. Imports no
torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import field_validator

from noisereg.api import Component, Context, Field, Params, Solver, hookimpl


class DDIMParams(Params):
    eta: Literal["auto"] | float = Field(
        "auto", description="0: DDIM and IADB; 1: DDPM; auto: the process's (sample.eta)"
    )

    @field_validator("eta")
    @classmethod
    def _in_range(cls, value: Any) -> Any:
        if value != "auto" and not 0 <= value <= 1:
            raise ValueError("expected 0 ≤ eta ≤ 1, or auto")
        return value


def ddim(params: DDIMParams, ctx: Context) -> Solver:
    """DDIM with its η; ``auto``, which a run resolves, is 0."""
    from noisereg.diffusion.solvers import DDIM

    return DDIM(0.0 if params.eta == "auto" else params.eta)


@hookimpl
def noisereg_solvers() -> Iterator[Component]:
    yield Component(
        name="ddim",
        impl="noisereg.solvers:ddim",
        params=DDIMParams,
        summary="first order; η 0 is DDIM and IADB's Euler step, η 1 DDPM's ancestral one",
        cite="Song et al. 2020, arXiv 2010.02502",
    )
    yield Component(
        name="heun",
        impl="noisereg.diffusion.solvers:Heun",
        summary="second order, two evaluations a step, deterministic",
        cite="Karras et al. 2022, arXiv 2206.00364, algorithm 1",
    )
    yield Component(
        name="dpmpp-2m",
        revision=2,
        impl="noisereg.diffusion.solvers:DPMSolver2M",
        summary="DPM-Solver++(2M): second order, one evaluation a step, deterministic",
        cite="Lu et al. 2022, arXiv 2211.01095, algorithm 2",
    )
