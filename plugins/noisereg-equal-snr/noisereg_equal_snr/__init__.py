"""EqualSNR noise. Importing this imports no torch."""

from collections.abc import Iterator

from noisereg.api import Component, Field, Params, hookimpl


class EqualSNRParams(Params):
    floor: float = Field(
        1e-3,
        gt=0,
        le=1,
        description="j of (1−j)·spectrum + j: the share of white noise, so that no frequency is "
        "without",
    )
    per_channel: bool = Field(True, description="a spectrum for each channel, or one for all")


@hookimpl
def noisereg_noises() -> Iterator[Component]:
    yield Component(
        name="equal-snr",
        impl="noisereg_equal_snr.noise:EqualSNRNoise",
        params=EqualSNRParams,
        summary="noise with the data's own power spectrum: one signal-to-noise ratio at all "
        "frequencies",
        cite="Falck et al. 2025, arXiv 2505.11278, 'EqualSNR'",
        api=1,
    )
