"""``noisereg eval``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from noisereg.cli.options import CheckpointStep, NoPlugins, Plugins, RawWeights, open_registry
from noisereg.errors import NoiseregError, nearest

SUFFIXES = {
    ".txt": "table",
    ".md": "markdown",
    ".csv": "csv",
    ".tex": "latex",
    ".json": "json",
    ".html": "html",
}
FORMATS = tuple(SUFFIXES.values())


def evaluate(
    paths: Annotated[list[Path], typer.Argument(metavar="RUN|SWEEP|FOLDER…", help="What to compare; .npz files too.")],
    metric: Annotated[
        list[str] | None, typer.Option(metavar="SPEC", help="prdc:k=5, fid, kid, is, pr, fd, …; repeat. [prdc]")
    ] = None,
    features: Annotated[
        str, typer.Option(metavar="SPEC", help="The space: pixels, inception, random-vgg16, classifier.")
    ] = "pixels",
    num: Annotated[int | None, typer.Option(help="Samples of each run. [the reference's, at most 10,000]")] = None,
    reference: Annotated[str, typer.Option(help="train, heldout, or fresh (data with a generator).")] = "train",
    data: Annotated[str | None, typer.Option(metavar="SPEC|PATH", help="The data set. [the runs' own]")] = None,
    steps: Annotated[str | None, typer.Option(help="Sampling steps; several at once: 10,50,250. [the runs']")] = None,
    eta: Annotated[float | None, typer.Option(help="0: DDIM and IADB; 1: DDPM. [the runs']")] = None,
    solver: Annotated[str | None, typer.Option(help="euler or heun. [the runs']")] = None,
    grid: Annotated[str | None, typer.Option(help="Of the steps: uniform, logsnr or edm. [the runs']")] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Classifier-free guidance of --task class runs; 1: off. [the runs']")
    ] = None,
    seed: Annotated[int, typer.Option(help="Added to each run's seed to draw its samples.")] = 0,
    checkpoint: CheckpointStep = None,
    raw_weights: RawWeights = False,
    inception_weights: Annotated[
        Path | None, typer.Option(metavar="FILE", help="torch-fidelity's weights file; else it is downloaded.")
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(metavar="KEY=VALUE,…", help="The row that others are compared with. [the plainest]")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="TEXT:KEY=VALUE,…", help="Another name for a row; repeat.")
    ] = None,
    columns: Annotated[
        str | None, typer.Option(metavar="KEY,…", help="What names the rows: noise,reg,train.steps. [what differs]")
    ] = None,
    pick: Annotated[
        str | None,
        typer.Option(metavar="NUMBER", help="Of several strengths keep the best by it, on half the seeds."),
    ] = None,
    format_: Annotated[
        str | None, typer.Option("--format", help="table, markdown, csv, latex, json or html. [by --out, else table]")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Where the table goes. [stdout]")] = None,
    pictures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the report's pictures there, as SVG and PNG.")
    ] = None,
    plugin: Plugins = None,
    no_plugins: NoPlugins = False,
) -> None:
    """Measure runs, sweeps and folders of images, and compare them in a table.

    Samples and numbers are kept beside each run: a further metric draws nothing again, and what was interrupted goes on.
    """
    form = _format(format_, out)
    counts = _steps(steps)
    registry = open_registry(no_plugins)
    from noisereg.cli.progress import ConsoleReporter
    from noisereg.evaluation.evaluate import Options, run_evaluation

    options = Options(
        features=features,
        num=num,
        reference=reference,
        data=data,
        steps=counts,
        eta=eta,
        solver=solver,
        grid=grid,
        guidance=guidance,
        seed=seed,
        checkpoint=checkpoint,
        ema=not raw_weights,
        inception_weights=inception_weights,
        plugins=tuple(plugin or ()),
        baseline=baseline,
        labels=tuple(label or ()),
        columns=tuple(columns.split(",")) if columns else None,
        pick=pick,
    )
    reporter = ConsoleReporter()
    found = run_evaluation(paths, metric or ["prdc"], options, registry, reporter)
    if not found.runtime.main:
        return
    from noisereg.engine.checkpoint import write_atomically
    from noisereg.evaluation import formats

    if form == "html":
        from noisereg.evaluation.report import html

        text = html(found, reporter)
    elif form == "table":
        color = out is None and sys.stdout.isatty()
        text = formats.terminal(found.table, color)
    else:
        render = {
            "markdown": formats.markdown,
            "csv": formats.csv_text,
            "latex": formats.latex,
            "json": formats.json_text,
        }
        text = render[form](found.table)
    if pictures is not None:
        from noisereg.evaluation.report import write_pictures

        write_pictures(found, pictures, reporter)
    if out is None:
        sys.stdout.write(text)
    else:
        write_atomically(out, text.encode())
        print(out)


def _format(name: str | None, out: Path | None) -> str:
    if name is None:
        return SUFFIXES.get(out.suffix, "table") if out else "table"
    if name not in FORMATS:
        raise NoiseregError(f"--format {name}: expected one of {', '.join(FORMATS)}{nearest(name, FORMATS)}")
    return name


def _steps(text: str | None) -> tuple[int, ...]:
    if text is None:
        return ()
    try:
        counts = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        counts = (0,)
    if min(counts) < 1:
        raise NoiseregError(f"--steps {text}: expected numbers of steps above 0, such as 10,50,250")
    return counts
