"""Ray as a launcher. Importing this imports neither torch nor ray."""

from collections.abc import Iterator

from noisereg.api import Component, Field, Params, hookimpl


class RayParams(Params):
    address: str | None = Field(
        None,
        description="of a cluster: auto, HOST:6379 or ray://HOST:10001; none: a new one on this "
        "machine, as long as the sweep lasts",
    )
    gpus: float = Field(0, ge=0, description="of each cell; a fraction shares one")
    cpus: float = Field(1, ge=0, description="of each cell")
    memory: float = Field(0, ge=0, description="of each cell, in GiB; 0: as much as it takes")
    retries: int = Field(
        3, ge=0, description="new tries of a cell whose worker or machine has died"
    )
    workers: int | None = Field(
        None, ge=1, description="processors of a new cluster on this machine; none: all there are"
    )


@hookimpl
def noisereg_launchers() -> Iterator[Component]:
    yield Component(
        name="ray",
        impl="noisereg_ray.launcher:RayLauncher",
        params=RayParams,
        summary="a cell is a task of a Ray cluster, or of one on this machine",
        cite="https://docs.ray.io",
        api=1,
    )
