"""Matching of power spectra. Importing this imports no torch."""

from collections.abc import Iterator

from noisereg.api import Component, Field, RegularizerParams, hookimpl


class SpectralParams(RegularizerParams):
    bands: int = Field(
        8, ge=1, le=256, description="rings of radial frequency in which power is compared"
    )
    floor: float = Field(
        0.01,
        gt=0,
        le=1,
        description="share of the mean power added to a band's own before dividing by it",
    )


@hookimpl
def noisereg_regularizers() -> Iterator[Component]:
    yield Component(
        name="spectral",
        impl="noisereg_spectral.spectral:Spectral",
        params=SpectralParams,
        summary="holds ε̂'s power in each band of frequency to that of the true noise",
        cite="after Hwang et al. 2025, arXiv 2509.07027, who match the power spectrum of latents "
        "to white noise's",
        api=1,
    )
