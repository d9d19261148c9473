"""The small JSON files of a run as pydantic models: environment.json and status.json. Imports no
torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from noisereg.errors import NoiseregError
from noisereg.reading import checked, read_json
from noisereg.runs import checkpoint_files


class _Record(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)


class ComponentRecord(_Record):
    """Which implementation of a component a run was started with."""

    name: str
    revision: int
    version: str


class Environment(_Record):
    """environment.json: what a run depends on beside its configuration."""

    shape: tuple[Annotated[int, Field(ge=1)], ...] = Field(description="of one item of the data")
    components: dict[str, ComponentRecord] = {}
    data: dict[str, Any] = Field({}, description="the data's fingerprint; empty in old runs")


class Status(_Record):
    """status.json: how far a run is."""

    status: Literal["running", "stopped", "finished", "failed"]
    step: int = Field(ge=0, description="of the newest checkpoint")
    error: str = Field("", description="why it failed")
    diverged: bool = Field(False, description="it failed because a number was not finite")


def read_environment(run: Path) -> dict[str, Any]:
    """What environment.json of a run's folder holds, with ``shape``, ``components`` and ``data``
    checked.

    Raises:
        NoiseregError: if it is missing or damaged; says what to do.
    """
    file = run / "environment.json"
    try:
        values = read_json(file)
        checked(Environment, values, str(file))
    except NoiseregError as error:
        raise NoiseregError(
            f"{error}; it records what the run was trained with: put it back from a copy, or "
            "train "
            f"again: noisereg train --config {run / 'config.yaml'} --out NEW"
        ) from None
    return {"components": {}, "data": {}, **values}


def read_status(run: Path) -> Status:
    """
    Raises:
        NoiseregError: if status.json is missing or damaged.
    """
    return checked(Status, read_json(run / "status.json"), str(run / "status.json"))


def status_of(run: Path, steps: int) -> tuple[Status, str]:
    """How far a run of ``steps`` is: what status.json says or, where that is missing or damaged,
    what the checkpoints show, and then also what is wrong with it.
    """
    try:
        return read_status(run), ""
    except NoiseregError as error:
        newest = checkpoint_files.latest(run / "checkpoints", lambda _: None)
        step = newest.step if newest else 0
        state = "finished" if step >= steps else "stopped"
        return Status(status=state, step=step), str(error)
