"""``noisereg eval``."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from noisereg.cli.groups import grouped, on_command_line
from noisereg.cli.options import NoPlugins, Plugins, RawWeights, open_registry
from noisereg.errors import NoiseregError, nearest
from noisereg.terminal import printable

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


@dataclass(frozen=True)
class Measuring:
    """What is measured, on how many samples, against what."""

    metric: Annotated[
        list[str] | None,
        typer.Option(metavar="SPEC", help="prdc:k=5, fid, kid, is, pr, fd, …; repeat. [prdc]"),
    ] = None
    features: Annotated[
        str,
        typer.Option(
            metavar="SPEC", help="The space: pixels, inception, random-vgg16, classifier."
        ),
    ] = "pixels"
    num: Annotated[
        int | None, typer.Option(help="Samples of each run. [the reference's, at most 10,000]")
    ] = None
    reference: Annotated[
        str, typer.Option(help="train, heldout, or fresh (data with a generator).")
    ] = "train"
    num_reference: Annotated[
        int | None, typer.Option(help="Real samples, evenly spaced. [all, at most 50,000]")
    ] = None
    data: Annotated[
        str | None, typer.Option(metavar="SPEC|PATH", help="The data set. [the runs' own]")
    ] = None
    inception_weights: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="torch-fidelity's weights file; else it is downloaded."),
    ] = None
    jobs: Annotated[
        int | None,
        typer.Option(
            help="Processes at once. [local: 1, each with a GPU; a cluster: one a run, it queues "
            "them]"
        ),
    ] = None
    launcher: Annotated[
        str,
        typer.Option(
            metavar="SPEC",
            help="Where runs are drawn and measured: local, or a plugin's: "
            "ray:address=auto,gpus=1, submitit:partition=gpu.",
        ),
    ] = "local"
    by: Annotated[
        str | None,
        typer.Option(
            metavar="KEY,…",
            help="A table for each value of it: process. Each data set has one anyway.",
        ),
    ] = None


@dataclass(frozen=True)
class Sampling:
    """How the runs are sampled, where not as they say themselves."""

    steps: Annotated[
        str | None, typer.Option(help="Sampling steps; several at once: 10,50,250. [the runs']")
    ] = None
    eta: Annotated[
        str | None,
        typer.Option(
            help="0: DDIM and IADB; 1: DDPM; several make a table each: 0,1. [the runs']"
        ),
    ] = None
    solver: Annotated[
        str | None,
        typer.Option(metavar="SPEC", help="ddim, heun, dpmpp-2m or a plugin's. [the runs']"),
    ] = None
    grid: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SPEC",
            help="Of the steps: uniform, chebyshev, logsnr, edm:rho=7, times:values=1,0.5; "
            "several make a table each: repeat. [the runs']",
        ),
    ] = None
    guidance: Annotated[
        float | None,
        typer.Option(help="Classifier-free guidance of --task class runs; 1: off. [the runs']"),
    ] = None
    eps_scale: Annotated[
        str | None,
        typer.Option(
            metavar="X|SPEC",
            help="A factor of ε̂, or as training with isotropy:weight=0.1 would scale it. [the "
            "runs']",
        ),
    ] = None
    rescaled: Annotated[
        list[str] | None,
        typer.Option(
            metavar="X|SPEC",
            help="Beside each run without a regularizer a row that is sampled with this "
            "--eps-scale; repeat.",
        ),
    ] = None
    clip: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC", help="Of x̂0: none, static, dynamic:percentile=0.995. [the runs']"
        ),
    ] = None
    seed: Annotated[
        int, typer.Option(min=0, help="Added to each run's seed to draw its samples.")
    ] = 0
    checkpoint: Annotated[
        str | None,
        typer.Option(
            metavar="STEP,…|all|best",
            help="Checkpoints; several are a row each: 300,400. best: the one that "
            "train.keep_best kept. [the newest]",
        ),
    ] = None
    raw_weights: RawWeights = False


@dataclass(frozen=True)
class Rows:
    """Which rows a table has, and what they are called and compared with; for tables that were
    measured before, too."""

    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="KEY=VALUE,…", help="The row that others are compared with. [the plainest]"
        ),
    ] = None
    label: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT:KEY=VALUE,…", help="Another name for a row; repeat."),
    ] = None
    columns: Annotated[
        str | None,
        typer.Option(
            metavar="KEY,…", help="What names the rows: noise,reg,train.steps. [what differs]"
        ),
    ] = None
    where: Annotated[
        str | None,
        typer.Option(
            metavar="KEY=VALUE,…", help="Only the runs that have it: process=iadb,reg=none."
        ),
    ] = None
    pick: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER", help="Of several strengths keep the best by it, on half the seeds."
        ),
    ] = None
    pick_on: Annotated[
        str | None,
        typer.Option(
            metavar="SEED,…", help="Pick on these seeds, report on the others. [the first half]"
        ),
    ] = None
    effects: Annotated[
        str | None,
        typer.Option(
            metavar="KEY,KEY",
            help="Differences instead: each factor's own effect, and the interaction: noise,reg.",
        ),
    ] = None

    def check(self) -> None:
        for name in ("where", "effects", "columns", "pick"):
            _check_not_empty(name, getattr(self, name))
        if self.pick_on and not self.pick:
            raise NoiseregError(
                "--pick-on says on which seeds; give --pick NUMBER too, such as --pick precision"
            )

    def chosen(self) -> dict[str, Any]:
        """The fields of :class:`~noisereg.evaluation.options.Options` that say what is in the
        rows, which :func:`~noisereg.tables.ablation.rebuild` takes too.
        """
        return {
            "baseline": self.baseline,
            "labels": tuple(self.label or ()),
            "columns": _keys(self.columns) or None,
            "pick": self.pick,
            "pick_on": _numbers("--pick-on", self.pick_on, int, "seeds, such as 5,6"),
        }

    @property
    def factors(self) -> tuple[str, ...]:
        return tuple(key.strip() for key in _keys(self.effects))


@dataclass(frozen=True)
class Output:
    """What is made of a table, and where it goes."""

    format_: Annotated[
        str | None,
        typer.Option(
            "--format", help="table, markdown, csv, latex, json or html. [by --out, else table]"
        ),
    ] = None
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where the table goes. [stdout]")
    ] = None
    pictures: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write the report's pictures there, as SVG, PDF and PNG; of stored tables those "
            "of "
            "numbers alone.",
        ),
    ] = None

    def check(self) -> None:
        if self.format_ is not None and self.format_ not in FORMATS:
            raise NoiseregError(
                f"--format {self.format_}: expected one of {', '.join(FORMATS)}"
                f"{nearest(self.format_, FORMATS)}"
            )
        suffix = self.out.suffix.lower() if self.out else ""
        if self.format_ is None and suffix and suffix not in SUFFIXES:
            raise NoiseregError(
                f"`out={self.out}`: expected a file that ends in one of {', '.join(SUFFIXES)}"
                f"{nearest(suffix, SUFFIXES)}, or `format` too"
            )
        if self.pictures is not None and self.pictures.exists() and not self.pictures.is_dir():
            raise NoiseregError(f"--pictures {self.pictures} is a file; expected a folder")

    @property
    def form(self) -> str:
        if self.format_ is not None:
            return self.format_
        return SUFFIXES.get(self.out.suffix.lower(), "table") if self.out else "table"


@dataclass(frozen=True)
class WhichPlugins:
    plugin: Plugins = None
    no_plugins: NoPlugins = False


FOR_STORED = tuple(field.name for group in (Rows, Output) for field in fields(group))
"""The options that tables have that were measured before."""


@grouped
def evaluate(
    ctx: typer.Context,
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN|SWEEP|FOLDER…",
            help="What to compare; .npz files too. Or earlier tables' .json, shown anew as one.",
        ),
    ],
    measuring: Measuring,
    sampling: Sampling,
    rows: Rows,
    output: Output,
    plugins: WhichPlugins,
) -> None:
    """Measure runs, sweeps and folders of images, and compare them in a table.

    Samples and numbers are kept beside each run: a further metric draws nothing again, and what
    was interrupted goes on.
    """
    output.check()
    rows.check()
    _check_not_empty("by", measuring.by)
    if any(path.suffix.lower() == ".json" for path in paths):
        _check_stored(paths, on_command_line(ctx))
        _show_stored(paths, rows, output)
    else:
        _measure(paths, measuring, sampling, rows, output, plugins)


def _measure(
    paths: Sequence[Path],
    measuring: Measuring,
    sampling: Sampling,
    rows: Rows,
    output: Output,
    plugins: WhichPlugins,
) -> None:
    options: dict[str, Any] = {
        "features": measuring.features,
        "num": measuring.num,
        "reference": measuring.reference,
        "num_reference": measuring.num_reference,
        "data": measuring.data,
        "jobs": measuring.jobs,
        "launcher": None if measuring.launcher == "local" else measuring.launcher,
        "inception_weights": measuring.inception_weights,
        "by": _keys(measuring.by),
        "steps": _steps(sampling.steps),
        "eta": _numbers("--eta", sampling.eta, float, "numbers from 0 to 1, such as 0,1"),
        "solver": sampling.solver,
        "grid": tuple(sampling.grid or ()),
        "guidance": sampling.guidance,
        "eps_scale": sampling.eps_scale,
        "rescaled": tuple(sampling.rescaled or ()),
        "clip": sampling.clip,
        "seed": sampling.seed,
        "checkpoint": _keys(sampling.checkpoint),
        "ema": not sampling.raw_weights,
        "plugins": tuple(plugins.plugin or ()),
        "where": rows.where,
        "effects": rows.factors,
        **rows.chosen(),
    }
    registry = open_registry(plugins.no_plugins)
    from noisereg.cli.progress import ConsoleReporter
    from noisereg.evaluation.evaluate import run_evaluation
    from noisereg.evaluation.options import Options

    reporter = ConsoleReporter()
    evaluations = run_evaluation(
        paths, measuring.metric or ["prdc"], Options.of(options), registry, reporter
    )
    if not evaluations:  # a rank that only draws samples
        return
    tables = [each.table for each in evaluations]
    from noisereg.tables.effects import effects as effects_of

    differences = [effects_of(table, rows.factors) for table in tables] if rows.factors else []
    if output.form != "html":
        _show(differences or tables, output)
    if output.form == "html" or output.pictures is not None:
        from noisereg.report.report import all_pictures, html, number_pictures, write_pictures

        drawn = [all_pictures(each, reporter) for each in evaluations]
        if output.form == "html":
            _write(html(evaluations, differences, drawn), output.out)
        if output.pictures is not None:
            for some, table in zip(drawn, differences, strict=bool(differences)):
                some += number_pictures(table)
            write_pictures(list(zip(tables, drawn, strict=True)), output.pictures)


def _show(tables: Sequence[Table], output: Output) -> None:
    from noisereg.tables.formats import notes_of, text

    terminal = output.out is None and sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if terminal else None
    shown = text(tables, output.form, color=terminal, width=width)
    if output.out is None and not terminal:
        shown = printable(shown, json=output.form == "json")
    _write(shown, output.out)
    if output.form == "csv":  # has no place for what the other formats say below the table
        for note in dict.fromkeys(note for table in tables for note in notes_of(table)):
            print(printable(f"noisereg: {note}"), file=sys.stderr)


def _write(text: str, out: Path | None) -> None:
    if out is None:
        sys.stdout.write(text)
        return
    from noisereg.paths import address, is_remote
    from noisereg.remote import write_file
    from noisereg.store import write_atomically

    if is_remote(out):
        write_file(out, text.encode())
        print(address(out))
        return
    write_atomically(out, text.encode())
    print(out)


# Tables that were measured before


def _check_stored(paths: Sequence[Path], typed: Mapping[str, str]) -> None:
    if other := next((path for path in paths if path.suffix.lower() != ".json"), None):
        raise NoiseregError(
            f"{other} cannot stand beside a table that is finished; expected .json files alone"
        )
    if flag := next((f for n, f in typed.items() if n not in ("paths", *FOR_STORED)), None):
        flags = ", ".join(f"--{name.rstrip('_').replace('_', '-')}" for name in FOR_STORED)
        raise NoiseregError(
            f"{flag} is for measuring, and {paths[0]} was measured before; expected {flags}"
        )


def _show_stored(paths: Sequence[Path], rows: Rows, output: Output) -> None:
    """Tables that an earlier ``--format json`` wrote, in another form, joined where they are
    of one kind; with other rows where that is asked for.
    """
    from noisereg.tables.ablation import join, rebuild
    from noisereg.tables.effects import effects as effects_of
    from noisereg.tables.formats import read_json

    if output.form == "html":
        raise NoiseregError(
            f"--format html needs the runs for its pictures, and {paths[0]} holds numbers alone"
        )
    chosen = {"keep": rows.where, **rows.chosen()}
    tables = join([table for path in paths for table in read_json(path)])
    if any(chosen.values()):
        rebuilt = [rebuild(table, **chosen) for table in tables]
        tables = [table for table in rebuilt if table is not None]
        if not tables:
            raise NoiseregError(f"--where {rows.where}: no row of {paths[0]} has it")
    if rows.factors:
        tables = [effects_of(table, rows.factors) for table in tables]
    if output.pictures is not None:
        from noisereg.report.report import number_pictures, write_pictures

        drawn = [(table, number_pictures(table)) for table in tables]
        if not any(some for _, some in drawn):
            raise NoiseregError(
                f"--pictures: {paths[0]} holds numbers alone, and neither several --steps nor "
                "several strengths to draw them over; give the runs, or --effects too"
            )
        write_pictures(drawn, output.pictures)
    _show(tables, output)


# What is typed


def _check_not_empty(name: str, text: str | None) -> None:
    if text is not None and not text.strip():
        raise NoiseregError(
            f"--{name} is empty; expected what noisereg eval --help says, or leave it out"
        )


def _keys(text: str | None) -> tuple[str, ...]:
    return tuple(text.split(",")) if text else ()


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
