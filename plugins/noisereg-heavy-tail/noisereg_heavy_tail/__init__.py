"""Student-t noise. Importing this imports no torch."""

from collections.abc import Iterator

from noisereg.api import Component, Field, Params, hookimpl


class StudentParams(Params):
    dof: float = Field(
        8.0, gt=2, le=1e6, description="degrees of freedom: few make heavy tails, many a Gaussian"
    )


@hookimpl
def noisereg_noises() -> Iterator[Component]:
    yield Component(
        name="student-t",
        impl="noisereg_heavy_tail.student:StudentNoise",
        params=StudentParams,
        summary="multivariate Student-t noise of unit power, by a map of the radius",
        cite="t-EDM: Pandey et al. 2024, arXiv 2410.14171; here as the map ε = (z/‖z‖)·G(‖z‖)",
        api=1,
    )
