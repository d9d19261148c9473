"""``noisereg sample``."""

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


def sample(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    num: Annotated[
        int | None, typer.Option(help="How many samples. [the run's sample.num]")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Sampling steps. [the run's sample.steps]")
    ] = None,
    eta: Annotated[
        float | None, typer.Option(help="0: DDIM and IADB; 1: DDPM. [the run's]")
    ] = None,
    solver: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="ddim, heun (two evaluations a step), dpmpp-2m or a plugin's. [the run's]",
        ),
    ] = None,
    grid: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="Of the steps: uniform, chebyshev, logsnr, edm:rho=7, times:values=1,0.5. [the "
            "run's]",
        ),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(help="Classifier-free guidance of a --task class run; 1: off. [the run's]"),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(
            metavar="N|NAME",
            help="The label to draw, or its class's name; repeat for several. [all in turn]",
        ),
    ] = None,
    input_: Annotated[
        Path | None,
        typer.Option(
            "--input",
            metavar="FOLDER",
            help="Small images to enlarge (--task superres), sorted by path.",
        ),
    ] = None,
    many: Annotated[
        bool, typer.Option("--many", help="More than a million samples are meant.")
    ] = False,
    seed: Annotated[
        int, typer.Option(help="Sample i of a seed is the same whatever --num is.")
    ] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="A .png grid, an .npz, or a folder of PNGs. [RUN/samples/…png]"
        ),
    ] = None,
    checkpoint: CheckpointStep = None,
    raw_weights: RawWeights = False,
    plugin: Plugins = None,
    no_plugins: NoPlugins = False,
    as_json: Json = False,
) -> None:
    """Draw samples from a run: a picture, an .npz, or a folder of PNGs."""
    registry = open_registry(no_plugins, plugin)
    from noisereg.cli.progress import ConsoleReporter
    from noisereg.runs.output import check_out, write_samples
    from noisereg.runs.run import Run

    opened = Run.open(run, registry)
    target = out or run / "samples" / f"seed{seed}-{num or opened.config.sample.num}.png"
    check_out(target)
    if len(opened.shape) != 3 and not target.suffix:
        raise NoiseregError(
            f"--out {target}: points have no single pictures; expected a .png (a scatter plot) or "
            "an .npz"
        )
    samples = opened.sample(
        num,
        steps=steps,
        eta=eta,
        solver=solver,
        grid=grid,
        seed=seed,
        checkpoint=checkpoint,
        ema=not raw_weights,
        guidance=guidance,
        labels=label or None,
        inputs=input_,
        many=many,
        reporter=ConsoleReporter(),
    )
    from noisereg.runs.runtime import rank

    if rank() == 0:
        write_samples(samples, target)
        print(
            json.dumps({"samples": str(target), "num": len(samples), "seed": seed})
            if as_json
            else target
        )
