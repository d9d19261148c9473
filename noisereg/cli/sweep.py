"""``noisereg sweep``."""

from __future__ import annotations

import contextlib
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from noisereg.cli.options import (
    ConfigFile,
    Json,
    NoPlugins,
    Plugins,
    Set,
    component_flags,
    open_registry,
)
from noisereg.errors import NoiseregError
from noisereg.plugins.spec import Spec
from noisereg.terminal import printable

DEFINING = 60.0
"""Seconds that another process's writing of the same sweep's definition is waited for."""

if TYPE_CHECKING:
    from noisereg.api import Launcher
    from noisereg.sweeps.grid import Cell
    from noisereg.sweeps.resolve import Resolved
    from noisereg.sweeps.together import Together
    from noisereg.sweeps.training import SweepTraining


def sweep(
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="SWEEP", help="The sweep's folder; a cell is a run in it. [required to train]"
        ),
    ] = None,
    noise: Annotated[
        list[str] | None, typer.Option(metavar="SPEC", help="One value of this axis; repeat.")
    ] = None,
    reg: Annotated[
        list[str] | None,
        typer.Option(metavar="SPEC", help="One value of this axis: a spec, none, or A+B; repeat."),
    ] = None,
    pairing: Annotated[
        list[str] | None, typer.Option(metavar="SPEC", help="One value of this axis; repeat.")
    ] = None,
    process: Annotated[
        list[str] | None, typer.Option(metavar="SPEC", help="One value of this axis; repeat.")
    ] = None,
    axis: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE", help="One value of any other key: train.batch_size=64; repeat."
        ),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="Runs of each cell, counted from --seed. [1]")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The first seed. [0]")] = None,
    data: Annotated[
        str | None, typer.Option(metavar="SPEC|PATH", help="As in train. [digits]")
    ] = None,
    denoiser: Annotated[
        str | None, typer.Option(metavar="SPEC", help="As in train. [auto]")
    ] = None,
    task: Annotated[
        str | None, typer.Option(metavar="SPEC", help="As in train. [unconditional]")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps of each run. [4000]")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Global batch. [128]")] = None,
    log: Annotated[
        list[str] | None, typer.Option(metavar="SPEC", help="A logger; repeat for several.")
    ] = None,
    config: ConfigFile = None,
    sets: Set = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1, help="Runs at once. [local: 1, each with a GPU; a cluster: all, it queues them]"
        ),
    ] = None,
    together: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=2,
            help="Train up to N cells at once in this process, as one network: for small ones.",
        ),
    ] = None,
    launcher: Annotated[
        str,
        typer.Option(
            metavar="SPEC",
            help="Where cells are trained: local, or a plugin's: ray:address=auto,gpus=1, "
            "submitit:partition=gpu.",
        ),
    ] = "local",
    cell: Annotated[
        int | None,
        typer.Option(metavar="K", help="Train the K-th cell alone, from 0: for array jobs."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the cells and a guess at the time.")
    ] = False,
    print_commands: Annotated[
        bool,
        typer.Option(
            "--print-commands",
            help="Write the cells' configurations and print a command for each.",
        ),
    ] = False,
    plugin: Plugins = None,
    no_plugins: NoPlugins = False,
    as_json: Json = False,
) -> None:
    """Train the grid noise × regularizer × pairing × process × axes × seeds; the same command goes
    on with it.

    A YAML file may hold the grid under the key ``sweep``, beside the sections of a run. A cell
    that fails is reported at the end; the others are trained.
    """
    from noisereg.runs.config import apply_set, layer, load_plugins, read_config, validate
    from noisereg.sweeps.grid import COMPONENT_AXES, make_cells, parse_axes, read_grid

    if together is not None and ((jobs or 1) > 1 or print_commands or launcher != "local"):
        raise NoiseregError(
            "--together trains in this process, so it goes without --jobs, --launcher and "
            "--print-commands; "
            "to use another core, start the same command once more beside it"
        )
    if out is None and not dry_run:
        raise NoiseregError("no --out; expected the sweep's folder, such as --out sweeps/a")
    registry = open_registry(no_plugins)
    file = read_config(config) if config else {}
    grid = read_grid(file.pop("sweep", None))
    flags = component_flags(data=data, denoiser=denoiser, task=task, log=log, seed=seed)
    if train := component_flags(steps=steps, batch_size=batch_size):
        flags["train"] = train
    given: dict[str, Any] = {"noise": noise, "reg": reg, "pairing": pairing, "process": process}
    updates = {k: v for k, v in given.items() if v}
    updates["axes"] = _axes(
        grid.axes, parse_axes(axis or []), [*flags, *(f"train.{key}" for key in train)]
    )
    if seeds is not None:
        updates["seeds"] = seeds
    grid = read_grid(grid.model_dump() | updates | {"cells": []})
    base = load_plugins(registry, layer(file, flags), plugin or (), config or "")
    if sets:
        varied = [*(name for name in COMPONENT_AXES if getattr(grid, name)), *grid.axes]
        for key in (assignment.partition("=")[0] for assignment in sets):
            if any(f"{key}.".startswith(f"{name}.") for name in varied):
                raise NoiseregError(
                    f"--set {key} would change an axis of the sweep; give it in the axis's own "
                    "values"
                )
        base = apply_set(base, sets)
    validate(base)
    cells = make_cells(base, grid)
    if cell is not None and not 0 <= cell < len(cells):
        raise NoiseregError(f"--cell {cell}: the sweep has cells 0 to {len(cells) - 1}")

    from noisereg.api import Context
    from noisereg.cli.progress import ConsoleReporter
    from noisereg.inside import check_contents
    from noisereg.ownership import owned
    from noisereg.remote import address_of
    from noisereg.runs.config import RuntimeConfig
    from noisereg.runs.runtime import Runtime, pick_device
    from noisereg.sweeps.grid import check_continues, taking_part
    from noisereg.sweeps.resolve import resolve
    from noisereg.sweeps.together import Together, check_together, groups
    from noisereg.sweeps.training import SweepTraining, check_place

    spec = Spec.parse(launcher)
    engine: Launcher = registry.build("launcher", spec.name, spec.params, Context())
    if out is not None:
        check_place(out, engine, spec.name)
        if print_commands and (url := address_of(out)):
            raise NoiseregError(
                f"--out {url}: --print-commands prints commands for a folder of this machine; "
                "expected one, or the sweep without --print-commands"
            )
    at_once = jobs or engine.jobs
    runtime = RuntimeConfig(**base.get("runtime", {}))
    if not (dry_run or together):
        # The cells' own processes take the GPU; what is resolved does not depend on it.
        pick_device(runtime.device)
        runtime = runtime.model_copy(update={"device": "cpu"})
    resolved = resolve(cells, registry, Runtime.start(runtime), estimate=dry_run)
    reporter = ConsoleReporter()
    for note in resolved.notes:
        reporter.note(note)
    grouped = groups(resolved, together) if together is not None else []
    check_together(resolved, grouped, registry)
    if out is None or dry_run:
        if out is not None:
            check_continues(out, resolved.cells)
        _list(resolved, out, at_once, grouped, as_json)
        return
    # The definition has one writer at a time, and is fixed while anybody trains; the cells may be
    # trained by several (array jobs), each of which holds the locks of its own.
    check_contents(out)  # before the lock, which could be one
    with contextlib.ExitStack() as held:
        if not (print_commands or together):
            engine.open(out.absolute(), at_once)
            held.callback(engine.close)
        with owned(out, note=reporter.note, wait=DEFINING):
            check_continues(out, resolved.cells)
            written, lock = held.enter_context(taking_part(out, base, grid, resolved.cells))
        extra = ["--no-plugins"] if no_plugins else []
        if print_commands:
            for each in written.cells:
                print(shlex.join(["noisereg", *written.command(each), *extra]))
            return
        chosen = [written.cells[cell]] if cell is not None else written.cells
        training: SweepTraining | Together
        if together is not None:
            training = Together(written, grouped, registry, reporter)
        else:
            training = SweepTraining(written, engine, reporter, extra, lock, at_once)
        _train(training, chosen, reporter, as_json)


def _axes(
    file: dict[str, list[Any]], typed: dict[str, list[Any]], flags: list[str]
) -> dict[str, list[Any]]:
    """The other axes: the file's, but for those that ``--axis`` or a flag of that key (``--data``)
    replaces.

    Raises:
        NoiseregError: for a key given both ways.
    """
    for key in flags:
        if key in typed:
            raise NoiseregError(
                f"--axis {key}=… and the flag of {key} were given; expected one of them"
            )
    return {key: values for key, values in file.items() if key not in flags} | typed


def _list(
    resolved: Resolved,
    out: Path | None,
    jobs: int | None,
    groups: list[list[Cell]],
    as_json: bool,
) -> None:
    from noisereg.cli.progress import duration
    from noisereg.sweeps.grid import Sweep

    sweep = Sweep(out, resolved.cells) if out is not None else None
    states = {cell.name: sweep.state(cell) if sweep else "not started" for cell in resolved.cells}
    left = [cell for cell in resolved.cells if not sweep or not sweep.finished(cell)]
    seconds = sum(resolved.seconds[cell.combination] for cell in left)
    if as_json:
        listed = [
            {
                "cell": k,
                "name": c.name,
                "state": states[c.name],
                "seconds": resolved.seconds[c.combination],
            }
            for k, c in enumerate(resolved.cells)
        ]
        found: dict[str, Any] = {"cells": listed, "seconds": seconds, "jobs": jobs}
        if groups:
            found["together"] = [[c.name for c in group] for group in groups]
        print(json.dumps(found))
        return
    width = max(len(c.name) for c in resolved.cells)
    for k, c in enumerate(resolved.cells):
        print(
            f"{k:>4}  {c.name:<{width}}  about {duration(resolved.seconds[c.combination])}  "
            f"{states[c.name]}"
        )
    for group in groups:
        names = ", ".join(c.name for c in group)
        print(f"together: {len(group)}: {names}" if len(group) > 1 else f"alone: {names}")
    if jobs is None:
        at_once, seconds_left = " in all, on as many workers as there are", seconds
    else:
        at_once = f" with {jobs} at once" if jobs > 1 else " one after another" if groups else ""
        seconds_left = seconds / min(jobs, max(1, len(left)))
    print(
        f"{len(resolved.cells)} cells, {len(left)} to train: about {duration(seconds_left)} of "
        f"training{at_once}, and some seconds a cell to start · nothing written"
    )


def _train(
    training: SweepTraining | Together, cells: list[Cell], reporter: Any, as_json: bool
) -> None:
    from noisereg import remote
    from noisereg.sweeps.training import Stopped

    sweep = training.sweep
    place = remote.address_of(sweep.path) or str(sweep.path)
    try:
        tally = training.run(cells)
    except Stopped as stopped:
        reporter.note("stopped; the cells in training have saved. The same command goes on.")
        raise typer.Exit(128 + stopped.signum) from None
    if as_json:
        done = [cell.name for cell in tally.finished]
        outcome = {"sweep": place, "finished": done, "failed": tally.failed}
        print(json.dumps({**outcome, "diverged": tally.diverged}))
    else:
        print(f"{len(tally.finished)} of {len(cells)} cells finished · {place}")
        for name, said in tally.failed.items():
            what = "diverged" if name in tally.diverged else "failed"
            print(f"  {what}: {name}: {printable(said)} ({place}/cells/{name}.log)")
        print(f"  noisereg eval {place}")
    if tally.failed:
        raise typer.Exit(1)
