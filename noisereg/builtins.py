"""The built-in components, registered through the same hooks as everybody's. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator

from noisereg.api import Component, hookimpl
from noisereg.processes.params import DDPMParams, IADBParams
from noisereg.regularizers.params import IsotropyParams


@hookimpl
def noisereg_regularizers() -> Iterator[Component]:
    yield Component(
        name="isotropy",
        impl="noisereg.regularizers.isotropy:Isotropy",
        params=IsotropyParams,
        summary="holds E‖ε̂‖²/n to the noise's own level",
        cite="Iso-Diffusion, arXiv 2403.16790, eq. 28",
    )


@hookimpl
def noisereg_processes() -> Iterator[Component]:
    yield Component(
        name="ddpm",
        impl="noisereg.processes.ddpm:DDPM",
        params=DDPMParams,
        summary="variance-preserving: a = √ᾱ, b = √(1−ᾱ); linear or cosine schedule; predicts ε, x0 or v",
        cite="Ho et al. 2020, arXiv 2006.11239; Nichol & Dhariwal 2021, arXiv 2102.09672",
    )
    yield Component(
        name="iadb",
        impl="noisereg.processes.iadb:IADB",
        params=IADBParams,
        summary="a = 1 − t, b = t; predicts x0 − ε",
        cite="Heitz et al. 2023, arXiv 2305.03486",
    )


@hookimpl
def noisereg_tasks() -> Iterator[Component]:
    yield Component(
        name="unconditional",
        impl="noisereg.api:Task",
        summary="the network is told x_t and t alone",
    )
