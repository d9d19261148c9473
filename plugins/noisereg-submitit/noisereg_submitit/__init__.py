"""submitit as a launcher. Importing this imports neither torch nor submitit."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import field_validator

from noisereg.api import Component, Field, Params, hookimpl


class SubmititParams(Params):
    cluster: Literal["slurm", "local"] = Field(
        "slurm", description="local: processes of this machine, to try it"
    )
    folder: Path | None = Field(
        None, description="submitit's files, which every machine must see; none: SWEEP/submitit"
    )
    partition: str | None = Field(None, description="Slurm's; none: its default")
    gpus: int = Field(0, ge=0, description="of each cell")
    cpus: int = Field(4, ge=1, description="of each cell")
    memory: int | None = Field(None, ge=1, description="GiB of each cell; none: Slurm's default")
    minutes: int = Field(
        720, ge=1, description="limit of a job; before it the cell saves and the job is requeued"
    )
    retries: int = Field(3, ge=0, description="new tries of a cell whose job was lost")
    slurm: dict[str, Any] = Field(
        {}, description="anything else that sbatch takes: slurm.account=ml,slurm.qos=high"
    )

    @field_validator("folder")
    @classmethod
    def _home(cls, value: Path | None) -> Path | None:
        return value.expanduser() if value else None


@hookimpl
def noisereg_launchers() -> Iterator[Component]:
    yield Component(
        name="submitit",
        impl="noisereg_submitit.launcher:SubmititLauncher",
        params=SubmititParams,
        summary="cells as one Slurm array",
        cite="https://github.com/facebookincubator/submitit",
        api=1,
    )
