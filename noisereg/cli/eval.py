"""``noisereg eval``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from noisereg.cli.options import CheckpointStep, NoPlugins, Plugins, RawWeights, open_registry
from noisereg.errors import NoiseregError, nearest

if TYPE_CHECKING:
    from noisereg.tables.table import Table

Number = TypeVar("Number", int, float)

SUFFIXES = {
    ".txt": "table",
    ".md": "markdown",
    ".csv": "csv",
    ".tex": "latex",
    ".json": "json",
    ".html": "html",
}
FORMATS = tuple(SUFFIXES.values())
STORED = (
    "format",
    "out",
    "where",
    "baseline",
    "label",
    "columns",
    "pick",
    "pick-on",
    "effects",
    "pictures",
)
"""Options for tables that were measured before."""


def evaluate(
    ctx: typer.Context,
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN|SWEEP|FOLDER…",
            help="What to compare; .npz files too. Or an earlier table's .json, to show it anew.",
        ),
    ],
    metric: Annotated[
        list[str] | None,
        typer.Option(metavar="SPEC", help="prdc:k=5, fid, kid, is, pr, fd, …; repeat. [prdc]"),
    ] = None,
    features: Annotated[
        str,
        typer.Option(
            metavar="SPEC", help="The space: pixels, inception, random-vgg16, classifier."
        ),
    ] = "pixels",
    num: Annotated[
        int | None, typer.Option(help="Samples of each run. [the reference's, at most 10,000]")
    ] = None,
    reference: Annotated[
        str, typer.Option(help="train, heldout, or fresh (data with a generator).")
    ] = "train",
    data: Annotated[
        str | None, typer.Option(metavar="SPEC|PATH", help="The data set. [the runs' own]")
    ] = None,
    steps: Annotated[
        str | None, typer.Option(help="Sampling steps; several at once: 10,50,250. [the runs']")
    ] = None,
    eta: Annotated[
        str | None,
        typer.Option(
            help="0: DDIM and IADB; 1: DDPM; several make a table each: 0,1. [the runs']"
        ),
    ] = None,
    solver: Annotated[str | None, typer.Option(help="euler or heun. [the runs']")] = None,
    grid: Annotated[
        str | None, typer.Option(help="Of the steps: uniform, logsnr or edm. [the runs']")
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(help="Classifier-free guidance of --task class runs; 1: off. [the runs']"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Added to each run's seed to draw its samples.")] = 0,
    checkpoint: CheckpointStep = None,
    raw_weights: RawWeights = False,
    inception_weights: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="torch-fidelity's weights file; else it is downloaded."),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="KEY=VALUE,…", help="The row that others are compared with. [the plainest]"
        ),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT:KEY=VALUE,…", help="Another name for a row; repeat."),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            metavar="KEY,…", help="What names the rows: noise,reg,train.steps. [what differs]"
        ),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(
            metavar="KEY=VALUE,…", help="Only the runs that have it: process=iadb,reg=none."
        ),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            metavar="KEY,…",
            help="A table for each value of it: process. Each data set has one anyway.",
        ),
    ] = None,
    pick: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER", help="Of several strengths keep the best by it, on half the seeds."
        ),
    ] = None,
    pick_on: Annotated[
        str | None,
        typer.Option(
            metavar="SEED,…", help="Pick on these seeds, report on the others. [the first half]"
        ),
    ] = None,
    effects: Annotated[
        str | None,
        typer.Option(
            metavar="KEY,KEY",
            help="Differences instead: each factor's own effect, and the interaction: noise,reg.",
        ),
    ] = None,
    format_: Annotated[
        str | None,
        typer.Option(
            "--format", help="table, markdown, csv, latex, json or html. [by --out, else table]"
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where the table goes. [stdout]")
    ] = None,
    pictures: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write the report's pictures there, as SVG and PNG; of stored tables those of "
            "numbers alone.",
        ),
    ] = None,
    plugin: Plugins = None,
    no_plugins: NoPlugins = False,
) -> None:
    """Measure runs, sweeps and folders of images, and compare them in a table.

    Samples and numbers are kept beside each run: a further metric draws nothing again, and what
    was interrupted goes on.
    """
    form = _format(format_, out)
    counts = _steps(steps)
    for flag, given in (
        ("where", where),
        ("by", by),
        ("effects", effects),
        ("columns", columns),
        ("pick", pick),
    ):
        if given is not None and not given.strip():
            raise NoiseregError(
                f"--{flag} is empty; expected what noisereg eval --help says, or leave it out"
            )
    picking = _numbers("--pick-on", pick_on, int, "seeds, such as 5,6")
    if pick_on and not pick:
        raise NoiseregError(
            "--pick-on says on which seeds; give --pick NUMBER too, such as --pick precision"
        )
    factors = tuple(key.strip() for key in effects.split(",")) if effects is not None else ()
    if pictures is not None and pictures.exists() and not pictures.is_dir():
        raise NoiseregError(f"--pictures {pictures} is a file; expected a folder")
    rows: dict[str, Any] = {
        "baseline": baseline,
        "labels": tuple(label or ()),
        "columns": tuple(columns.split(",")) if columns else None,
        "pick": pick,
        "pick_on": picking,
    }
    if any(path.suffix == ".json" for path in paths):
        _show_stored(ctx, paths, form, out, {"keep": where, **rows}, factors, pictures)
        return
    registry = open_registry(no_plugins)
    from noisereg.cli.progress import ConsoleReporter
    from noisereg.evaluation.evaluate import Options, run_evaluation

    options = Options(
        features=features,
        num=num,
        reference=reference,
        data=data,
        steps=counts,
        eta=_numbers("--eta", eta, float, "numbers from 0 to 1, such as 0,1"),
        solver=solver,
        grid=grid,
        guidance=guidance,
        seed=seed,
        checkpoint=checkpoint,
        ema=not raw_weights,
        inception_weights=inception_weights,
        plugins=tuple(plugin or ()),
        where=where,
        by=tuple(by.split(",")) if by else (),
        effects=factors,
        **rows,
    )
    reporter = ConsoleReporter()
    found = run_evaluation(paths, metric or ["prdc"], options, registry, reporter)
    if not found:  # a rank that only draws samples
        return
    tables = [each.table for each in found]
    from noisereg.tables.effects import effects as effects_of

    differences = [effects_of(table, factors) for table in tables] if factors else []
    if form != "html":
        _show(differences or tables, form, out)
    if form == "html" or pictures is not None:
        from noisereg.report.report import all_pictures, html, number_pictures, write_pictures

        drawn = [all_pictures(each, reporter) for each in found]
        if form == "html":
            _write(html(found, differences, drawn), out)
        if pictures is not None:
            for some, table in zip(drawn, differences, strict=bool(differences)):
                some += number_pictures(table)
            write_pictures(list(zip(tables, drawn, strict=True)), pictures)


def _show(tables: Sequence[Table], form: str, out: Path | None) -> None:
    from noisereg.tables.formats import text

    _write(text(tables, form, color=out is None and sys.stdout.isatty()), out)


def _write(text: str, out: Path | None) -> None:
    if out is None:
        sys.stdout.write(text)
        return
    from noisereg.store import write_atomically

    write_atomically(out, text.encode())
    print(out)


def _show_stored(
    ctx: typer.Context,
    paths: Sequence[Path],
    form: str,
    out: Path | None,
    rows: dict[str, Any],
    factors: tuple[str, ...],
    pictures: Path | None,
) -> None:
    """Tables that an earlier ``--format json`` wrote, in another form; with other rows where that
    is asked for.
    """
    from noisereg.tables.ablation import rebuild
    from noisereg.tables.effects import effects as effects_of
    from noisereg.tables.formats import read_json

    if other := next((path for path in paths if path.suffix != ".json"), None):
        raise NoiseregError(
            f"{other} cannot stand beside a table that is finished; expected .json files alone"
        )
    for name in ctx.params:
        flag = name.rstrip("_").replace("_", "-")
        given = ctx.get_parameter_source(name)
        if (
            name != "paths"
            and flag not in STORED
            and given is not None
            and given.name == "COMMANDLINE"
        ):
            raise NoiseregError(
                f"--{flag} is for measuring, and {paths[0]} was measured before; expected "
                f"--{', --'.join(STORED)}"
            )
    if form == "html":
        raise NoiseregError(
            f"--format html needs the runs for its pictures, and {paths[0]} holds numbers alone"
        )
    tables = [table for path in paths for table in read_json(path)]
    if any(rows.values()):
        rebuilt = [rebuild(table, **rows) for table in tables]
        tables = [table for table in rebuilt if table is not None]
        if not tables:
            raise NoiseregError(f"--where {rows['keep']}: no row of {paths[0]} has it")
    if factors:
        tables = [effects_of(table, factors) for table in tables]
    if pictures is not None:
        from noisereg.report.report import number_pictures, write_pictures

        drawn = [(table, number_pictures(table)) for table in tables]
        if not any(some for _, some in drawn):
            raise NoiseregError(
                f"--pictures: {paths[0]} holds numbers alone, and neither several --steps nor "
                "several strengths to draw "
                "them over; give the runs, or --effects too"
            )
        write_pictures(drawn, pictures)
    _show(tables, form, out)


def _format(name: str | None, out: Path | None) -> str:
    if name is None:
        return SUFFIXES.get(out.suffix, "table") if out else "table"
    if name not in FORMATS:
        raise NoiseregError(
            f"--format {name}: expected one of {', '.join(FORMATS)}{nearest(name, FORMATS)}"
        )
    return name


def _steps(text: str | None) -> tuple[int, ...]:
    counts = _numbers("--steps", text, int, "numbers of steps above 0, such as 10,50,250")
    if counts and min(counts) < 1:
        raise NoiseregError(
            f"--steps {text}: expected numbers of steps above 0, such as 10,50,250"
        )
    return counts


def _numbers(
    flag: str, text: str | None, kind: Callable[[str], Number], expected: str
) -> tuple[Number, ...]:
    if text is None:
        return ()
    try:
        return tuple(dict.fromkeys(kind(part) for part in text.split(",")))
    except ValueError:
        raise NoiseregError(f"{flag} {text}: expected {expected}") from None
