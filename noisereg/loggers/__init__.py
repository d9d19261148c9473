"""Where a run's numbers are sent: the hook. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator

from noisereg.api import Component, hookimpl


@hookimpl
def noisereg_loggers() -> Iterator[Component]:
    yield Component(
        name="tensorboard",
        impl="noisereg.loggers.tensorboard:TensorBoard",
        summary="event files in RUN/tensorboard (extra: tensorboard)",
    )
