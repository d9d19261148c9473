"""Where a sweep's cells are trained: parameters and hook. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator

from noisereg.api import Component, hookimpl


@hookimpl
def noisereg_launchers() -> Iterator[Component]:
    yield Component(
        name="local",
        impl="noisereg.launchers.local:Local",
        summary="processes of this machine, `jobs` at once, each with a GPU of its own",
    )
