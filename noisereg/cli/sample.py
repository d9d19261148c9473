"""``noisereg sample``."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

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
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN…", help="A run folder; of several the same latents, side by side."
        ),
    ],
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
    eps_scale: Annotated[
        str | None,
        typer.Option(
            metavar="X|SPEC",
            help="A factor of ε̂, or as training with isotropy:weight=0.1 would scale it. [the "
            "run's]",
        ),
    ] = None,
    clip: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC", help="Of x̂0: none, static, dynamic:percentile=0.995. [the run's]"
        ),
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
            metavar="FOLDER|ZIP",
            help="Small images to enlarge (--task superres), sorted by path.",
        ),
    ] = None,
    trajectory: Annotated[
        bool,
        typer.Option(
            "--trajectory", help="From noise to data: a strip (.png), or moving (.gif, .webp)."
        ),
    ] = False,
    interpolate: Annotated[
        int | None,
        typer.Option(
            metavar="K",
            help="Rows of K samples between two latents, --num of them; η is 0 unless given.",
        ),
    ] = None,
    nearest: Annotated[
        bool,
        typer.Option("--nearest", help="Each sample beside its nearest training images."),
    ] = False,
    many: Annotated[
        bool, typer.Option("--many", help="More than a million samples are meant.")
    ] = False,
    seed: Annotated[
        int, typer.Option(min=0, help="Sample i of a seed is the same whatever --num is.")
    ] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="A .png grid, an .npz, a folder of PNGs; .gif, .webp. [RUN/samples/…png]",
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
    kind = _kind(runs, trajectory, interpolate, nearest)
    from noisereg.cli.progress import ConsoleReporter
    from noisereg.runs import views
    from noisereg.runs.output import check_out, names_of_inputs, write_samples
    from noisereg.runs.run import Run
    from noisereg.runs.runtime import rank
    from noisereg.store import write_atomically

    opened = [Run.open(run, registry) for run in runs]
    first = opened[0]
    asked: dict[str, object] = {
        "steps": steps,
        "eta": eta,
        "solver": solver,
        "grid": grid,
        "guidance": guidance,
        "eps_scale": eps_scale,
        "clip": clip,
        "checkpoint": checkpoint,
        "weights": "raw" if raw_weights else None,
        "labels": ",".join(label or ()) or None,
        "inputs": input_,
        "between": interpolate,
        "and": ",".join(run.name for run in runs[1:]) or None,
    }
    words = [f"{kind or 'seed'}{seed}-{num or first.config.sample.num}"]
    words += [f"{key}={value}" for key, value in asked.items() if value is not None]
    text = "-".join(words)
    plain = re.sub(r"[^A-Za-z0-9_.,=-]+", "-", text)[:150]
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    named = f"{plain}.png" if plain == text else f"{plain}-{digest}.png"
    target = out or runs[0] / "samples" / named
    check_out(target, moving=trajectory)
    if kind and not trajectory and target.suffix.lower() != ".png":
        raise NoiseregError(f"`out={target}`: expected a .png, which it is a picture of")
    if len(runs) > 1 and target.suffix.lower() != ".png":
        raise NoiseregError(f"`out={target}`: several runs are one picture; expected a .png")
    if not target.suffix and not first.draws_images:
        what = "latents without a decoder" if len(first.shape) == 3 else "points"
        raise NoiseregError(
            f"`out={target}`: {what} have no single pictures; expected a .png of all, or an .npz"
        )
    options: dict[str, Any] = {
        "steps": steps,
        "eta": eta,
        "solver": solver,
        "grid": grid,
        "seed": seed,
        "checkpoint": checkpoint,
        "ema": not raw_weights,
        "guidance": guidance,
        "eps_scale": eps_scale,
        "clip": clip,
        "labels": label or None,
        "inputs": input_,
        "reporter": ConsoleReporter(),
    }
    if not kind and len(opened) == 1:
        samples = first.sample(num, many=many, **options)
        drawn, share = len(samples), None
        if rank() == 0:
            inputs = input_.expanduser() if input_ is not None else None
            write_samples(samples, target, names_of_inputs(inputs, drawn) if inputs else ())
    else:
        view = views.draw(opened, kind, num, target.suffix.lower(), between=interpolate, **options)
        drawn, share = view.num, view.memorised
        if rank() == 0:
            write_atomically(target, view.data)
    if rank() == 0:
        said: dict[str, Any] = {"samples": str(target), "num": drawn, "seed": seed}
        if share is not None:
            said["memorised"] = share
        print(json.dumps(said) if as_json else target)
        if share is not None and not as_json:
            print(f"{share:.1%} of them are copies of a training image")


def _kind(
    runs: list[Path], trajectory: bool, interpolate: int | None, nearest: bool
) -> Literal["", "trajectory", "interpolation", "nearest"]:
    """
    Raises:
        NoiseregError: for two of them at once, and fewer than two samples between latents.
    """
    asked = {
        "trajectory": trajectory,
        "interpolation": interpolate is not None,
        "nearest": nearest,
    }
    given = [name for name, on in asked.items() if on]
    if len(given) > 1:
        raise NoiseregError(
            "`trajectory`, `interpolate` and `nearest` are a picture each; expected one of them"
        )
    if interpolate is not None and interpolate < 2:
        raise NoiseregError(f"`interpolate={interpolate}`: expected at least 2")
    return given[0] if given else ""  # type: ignore[return-value]
