"""``noisereg export``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from noisereg.cli.options import (
    CheckpointStep,
    Json,
    NoPlugins,
    Plugins,
    RawWeights,
    open_registry,
)
from noisereg.errors import NoiseregError


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder.")],
    to: Annotated[str, typer.Option(help="The format: diffusers.")] = "diffusers",
    checkpoint: CheckpointStep = None,
    raw_weights: RawWeights = False,
    plugin: Plugins = None,
    no_plugins: NoPlugins = False,
    as_json: Json = False,
) -> None:
    """Write a run as a folder that diffusers' pipelines load and sample from."""
    if to != "diffusers":
        raise NoiseregError(f"--to {to}: expected diffusers")
    registry = open_registry(no_plugins, plugin)
    from noisereg.cli.progress import ConsoleReporter
    from noisereg.exchange.to_diffusers import export as to_diffusers
    from noisereg.runs.run import Run

    opened = Run.open(run, registry)
    for text in opened.revised():
        ConsoleReporter().note(text)
    step = None if checkpoint is None else opened.checkpoint_step(checkpoint)
    pipeline = to_diffusers(opened, out.expanduser(), step, not raw_weights)
    print(
        json.dumps({"folder": str(out), "pipeline": pipeline}) if as_json else f"{out}: {pipeline}"
    )
