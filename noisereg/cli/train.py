"""``noisereg train``."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from noisereg.cli.options import (
    ConfigFile,
    Json,
    NoPlugins,
    Plugins,
    Set,
    component_flags,
    make_config,
    open_registry,
)
from noisereg.cli.parameters import parameter_lines
from noisereg.errors import NoiseregError
from noisereg.plugins.registry import Registry
from noisereg.plugins.spec import Spec
from noisereg.runs.config import SECTION_KIND, Config, data_spec, validate


def train(
    ctx: typer.Context,
    noise: Annotated[
        str | None,
        typer.Option(metavar="SPEC", help="The noise: name or name:key=value,… [white]"),
    ] = None,
    reg: Annotated[
        list[str] | None,
        typer.Option(metavar="SPEC", help="A regularizer; repeat to add several. [none]"),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC|PATH", help="The data set, or a folder, .zip, .npy or .npz. [digits]"
        ),
    ] = None,
    process: Annotated[
        str | None, typer.Option(metavar="SPEC", help="ddpm or iadb. [ddpm]")
    ] = None,
    denoiser: Annotated[
        str | None, typer.Option(metavar="SPEC", help="The network. [auto: by the data's shape]")
    ] = None,
    pairing: Annotated[
        str | None, typer.Option(metavar="SPEC", help="Which noise goes with which image. [none]")
    ] = None,
    task: Annotated[
        str | None, typer.Option(metavar="SPEC", help="What it is conditioned on. [unconditional]")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps. [4000]")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Global batch. [128]")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Fixes weights, data order, t and latents. [0]")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="RUN", help="The run's folder. [runs/<date>-…]")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out, or start it.")
    ] = False,
    accept_data: Annotated[
        bool,
        typer.Option("--accept-data", help="Resume though the data are not those of the run."),
    ] = False,
    config: ConfigFile = None,
    sets: Set = None,
    init: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Start from a pretrained U-Net: of diffusers, a pipeline, an export, or a run.",
        ),
    ] = None,
    parent: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="RUN[@STEP|@best]",
            help="A new run from another run's weights, with its settings but for those given.",
        ),
    ] = None,
    log: Annotated[
        list[str] | None, typer.Option(metavar="SPEC", help="A logger; repeat for several.")
    ] = None,
    plugin: Plugins = None,
    no_plugins: NoPlugins = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Build everything, say what it is, write nothing.")
    ] = False,
    as_json: Json = False,
    help_: Annotated[
        bool,
        typer.Option(
            "--help",
            "-h",
            help="Show this; with a component, its parameters too: --noise blue-tv --help.",
        ),
    ] = False,
) -> None:
    """Train a model, or go on training it; the result is a run folder.

    The defaults train white noise by DDPM on scikit-learn's digits in about two minutes on a CPU.
    """
    flags = component_flags(
        noise=noise,
        reg=reg,
        data=data,
        process=process,
        denoiser=denoiser,
        pairing=pairing,
        task=task,
        log=log,
        seed=seed,
    )
    if help_:
        print(ctx.get_help())
        if named := {k: v for k, v in flags.items() if k in SECTION_KIND}:
            _component_help(named, plugin, no_plugins)
        raise typer.Exit
    if init is not None:
        flags["init"] = {"path": str(init)}
    if parent is not None:
        if init is not None:
            raise NoiseregError("--from and --init both name weights to start from; expected one")
        flags["parent"] = parent
    if train_flags := component_flags(steps=steps, batch_size=batch_size):
        flags["train"] = train_flags
    if accept_data and not resume:
        raise NoiseregError("--accept-data goes with --resume, of a run whose data have changed")
    if resume and out is None:
        raise NoiseregError("--resume needs --out RUN, the folder of the run to go on with")
    registry = open_registry(no_plugins)
    base = None
    if resume and out is not None and (out / "config.yaml").is_file():
        from noisereg.runs.config import read_complete

        base = read_complete(out / "config.yaml").dump()
    elif parent is not None:
        from noisereg.runs.parentage import base_of

        base = base_of(parent, set(flags))
    full = make_config(registry, flags, config, sets, plugin, base)
    if dry_run:
        _dry_run(full, registry, as_json)
        return
    _train(full, out, resume, registry, as_json, accept_data)


def _train(
    config: Config,
    out: Path | None,
    resume: bool,
    registry: Registry,
    as_json: bool,
    accept_data: bool,
) -> None:
    from noisereg.cli.progress import ConsoleReporter, duration
    from noisereg.runs.run import shown
    from noisereg.runs.stopping import Interrupted
    from noisereg.runs.train import train as engine_train

    reporter = ConsoleReporter()
    began = time.monotonic()
    try:
        run = engine_train(config, out, resume, registry, reporter, accept_data)
    except Interrupted as stopped:
        reporter.note(
            f"{stopped}; the checkpoint is written. To go on: noisereg train --resume --out "
            f"{shown(stopped.out)}"
        )
        raise typer.Exit(128 + stopped.signum) from None
    if run.registry is None:  # not rank 0
        return
    folder = shown(run.path)
    picture = shown(run.path / "samples" / f"{config.train.steps:06d}.png")
    if as_json:
        print(json.dumps({"run": folder, "steps": config.train.steps, "samples": picture}))
        return
    print(f"finished in {duration(time.monotonic() - began)} · {picture}")
    told = "--input FOLDER" if run.task.input_shape else "--num 64"
    print(f"  noisereg sample {folder} {told} --out grid.png")
    print(f"  noisereg eval   {folder}")


def _dry_run(config: Config, registry: Registry, as_json: bool) -> None:
    from noisereg.cli.progress import ConsoleReporter
    from noisereg.reading import write_yaml
    from noisereg.runs.build import build_parts
    from noisereg.runs.parentage import start
    from noisereg.runs.prepare import check_range
    from noisereg.runs.pretrained import initialise
    from noisereg.runs.runtime import Runtime
    from noisereg.runs.validation import Validation

    runtime = Runtime.start(config.runtime)
    parts = build_parts(config, registry, runtime)
    reporter = ConsoleReporter()
    parts.notes += check_range(parts) + initialise(parts)
    start(parts, reporter.note)
    if parts.config.train.eval_every:
        Validation(parts, registry, runtime)
    for name, text in parts.lines.items():
        reporter.fact(name, text)
    for text in parts.notes:
        reporter.note(text)
    reporter.fact(
        "",
        f"{runtime.describe()} · {config.train.steps:,} steps of {config.train.batch_size} · "
        "nothing written",
    )
    sys.stdout.write(
        json.dumps(parts.config.dump()) + "\n" if as_json else write_yaml(parts.config.dump())
    )


def _component_help(named: dict[str, Any], plugins: list[str] | None, no_plugins: bool) -> None:
    """The parameters of every component that was named beside ``--help``."""
    registry = open_registry(no_plugins, plugins)
    for section, value in named.items():
        for text in value if isinstance(value, list) else [value]:
            if text == "none":
                continue
            spec = Spec.parse(text)
            if section == "data":  # a path's own help is that of what reads it
                spec = data_spec(validate({"data": text}).data, registry)
            entry = registry.find(SECTION_KIND[section], spec.name)
            print(f"\n--{section} {entry.name}: {entry.component.summary}")
            for line in parameter_lines(entry.component.params):
                print(f"  {line}")
