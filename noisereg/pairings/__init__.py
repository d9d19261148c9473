"""Which noise goes with which image of a batch: parameters and hook. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from noisereg.api import Component, Field, Params, hookimpl


class PairingParams(Params):
    cost: Literal["latent", "noised"] = Field(
        "latent",
        description="between noise i and image j: ‖z_i − x_j‖, under which z given t stays N(0, "
        "I); or BNDM's "
        "‖L_{t_i}z_i − x_j‖, which moves (z_i, t_i) together",
    )


@hookimpl
def noisereg_pairings() -> Iterator[Component]:
    yield Component(
        name="greedy",
        impl="noisereg.pairings.greedy:Greedy",
        params=PairingParams,
        summary="each noise in turn takes the nearest image left in the batch (rectified mapping)",
        cite="BNDM, arXiv 2402.04930",
    )
    yield Component(
        name="optimal",
        impl="noisereg.pairings.optimal:Optimal",
        params=PairingParams,
        summary="the assignment of least total distance in the batch",
        cite="Immiscible diffusion, arXiv 2406.12303",
    )
