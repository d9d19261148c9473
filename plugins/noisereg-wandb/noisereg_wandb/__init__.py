"""Weights & Biases as a logger. Importing this imports neither torch nor wandb."""

from collections.abc import Iterator
from typing import Literal

from noisereg.api import Component, Field, Params, hookimpl


class WandbParams(Params):
    project: str = Field("noisereg", min_length=1, description="of Weights & Biases")
    entity: str | None = Field(None, description="user or team; none: the account's own")
    title: str | None = Field(None, description="of the run; none: the name of its folder")
    group: str | None = Field(None, description="shared by the runs of a sweep")
    tags: tuple[str, ...] = Field((), description="words to find it by, separated by commas")
    mode: Literal["online", "offline", "disabled"] | None = Field(
        None, description="none: as WANDB_MODE says; offline: `wandb sync` uploads it later"
    )


@hookimpl
def noisereg_loggers() -> Iterator[Component]:
    yield Component(
        name="wandb",
        impl="noisereg_wandb.logger:WandbLogger",
        params=WandbParams,
        summary="Weights & Biases, online or offline, in RUN/wandb",
        cite="https://docs.wandb.ai",
        api=1,
    )
