"""From runs, sweeps and folders to ablation tables: what ``noisereg eval`` and
``noisereg.evaluate`` do.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_args

from torch import Tensor

from noisereg import __version__
from noisereg.api import Context, Dataset, Metric
from noisereg.data import tensor_hash
from noisereg.errors import NoiseregError, nearest
from noisereg.evaluation import reference as references
from noisereg.evaluation import subjects as found_targets
from noisereg.evaluation.reference import Reference, reference
from noisereg.evaluation.samples import Sampling, draw_samples, plan, read_samples
from noisereg.evaluation.subjects import Images, Targets
from noisereg.features.spaces import Pixels, Space
from noisereg.plugins.registry import Entry, Registry, registry
from noisereg.plugins.spec import Spec
from noisereg.runs.config import RuntimeConfig, data_spec, validate
from noisereg.runs.model import RunModel
from noisereg.runs.output import check_num
from noisereg.runs.reporter import Reporter
from noisereg.runs.run import Run
from noisereg.runs.runtime import Runtime
from noisereg.store import JSON, Store, cache_dir
from noisereg.tables.ablation import build
from noisereg.tables.effects import check_factors, effects
from noisereg.tables.naming import Words, spec_label, varying_params, where
from noisereg.tables.table import Measurement, Table

MOST_SAMPLES = 10_000
"""Samples drawn of a run where ``--num`` is not given and the reference has more."""


@dataclass(frozen=True)
class Options:
    """What can be asked of an evaluation; the names are those of ``noisereg eval``'s options."""

    features: str = "pixels"
    num: int | None = None
    reference: str = "train"
    data: str | None = None
    steps: tuple[int, ...] = ()
    eta: tuple[float, ...] = ()
    solver: str | None = None
    grid: str | None = None
    guidance: float | None = None
    seed: int = 0
    checkpoint: int | None = None
    ema: bool = True
    inception_weights: Path | None = None
    plugins: tuple[str, ...] = ()
    baseline: str | None = None
    labels: tuple[str, ...] = ()
    columns: tuple[str, ...] | None = None
    where: str | None = None
    by: tuple[str, ...] = ()
    pick: str | None = None
    pick_on: tuple[int, ...] = ()
    effects: tuple[str, ...] = ()
    """The factors of a table of effects that is to be made of each table."""

    def rows(self) -> dict[str, Any]:
        """The part that :func:`~noisereg.tables.ablation.build` takes."""
        return {
            "baseline": self.baseline,
            "labels": self.labels,
            "columns": self.columns,
            "pick": self.pick,
            "pick_on": self.pick_on,
        }


@dataclass
class Subject:
    """What one column of numbers is measured on: a run under one way of sampling, or a folder of
    images.
    """

    source: str
    run: Run | None
    sampling: Sampling | None
    n: int
    key: Any
    """Of the samples: equal keys, equal samples."""
    read: Callable[[], Tensor]
    """The samples, from disk: many runs' need not fit in memory at once."""
    store: Store
    """Where what is computed of it is kept."""
    numbers: dict[str, float] = field(default_factory=dict)


@dataclass
class Evaluation:
    """A table and what pictures of it are drawn from."""

    table: Table
    subjects: list[Subject]
    reference: Reference
    dataset: Dataset
    runtime: Runtime


@dataclass(frozen=True)
class _Asked:
    """One metric as it was asked for."""

    spec: Spec
    entry: Entry
    params: dict[str, Any]
    metric: Metric
    space: Space


def evaluate(
    paths: Sequence[str | Path], metrics: Sequence[str] = ("prdc",), **options: Any
) -> list[dict[str, Any]]:
    """The rows of the table as mappings, those of several tables one after another; ``options``
    are the fields of :class:`Options`.

    Raises:
        NoiseregError: for a mistake, in one line.
    """
    known = {f.name for f in fields(Options)}
    if unknown := next((key for key in options if key not in known), None):
        raise NoiseregError(f"evaluate() has no option {unknown!r}{nearest(unknown, known)}")
    for name in ("steps", "eta", "labels", "plugins", "columns", "by", "pick_on", "effects"):
        if options.get(name) is not None:
            value = options[name]
            options[name] = (value,) if isinstance(value, int | float | str) else tuple(value)
    given = Options(**options)
    tables = [each.table for each in run_evaluation(paths, metrics, given, registry(), Reporter())]
    if given.effects:
        tables = [effects(table, given.effects) for table in tables]
    return [row for table in tables for row in table.as_rows()]


def run_evaluation(
    paths: Sequence[str | Path],
    metrics: Sequence[str],
    options: Options,
    reg: Registry,
    reporter: Reporter,
) -> list[Evaluation]:
    """Sample what is missing, measure what is missing, and make the tables: one for each data set,
    each of several η, and each value of ``options.by``. None on ranks other than the first, which
    only draw samples.

    Raises:
        NoiseregError: for anything that cannot be evaluated, and rows that cannot be compared.
    """
    if not paths:
        raise NoiseregError("nothing to evaluate; expected a run, a sweep or a folder of images")
    for plugin in options.plugins:
        reg.load(plugin)
    targets = found_targets.find(paths, reg)
    if options.where is not None:
        targets = dataclasses.replace(targets, runs=_where(targets.runs, options.where))
    _check_keys(targets.runs, options)
    runtime = Runtime.start(RuntimeConfig())
    if not runtime.main:
        reporter = Reporter()
    found: list[Evaluation] = []
    groups = _groups(targets, options, metrics, reg)
    told_apart = varying_params([[group.data] for group in groups])
    for group in groups:
        data = spec_label(group.data, told_apart[group.data.name])
        subjects = list(_subjects(group, options, reg, runtime, reporter))
        if runtime.main:
            asked = _metrics(metrics, options, group.dataset, group.real, reg, runtime)
            better, notes = _measure(subjects, asked, group.real, group.dataset, reporter)
            remarks = [
                *targets.notes,
                *_unfinished(group.runs),
                *dict.fromkeys(notes),
                *_summaries(asked),
            ]
            for phrases, some in _parts_of_table(subjects, options):
                table = build([_measurement(s) for s in some], better, **options.rows())
                table.context = _context(some, data, group.real, asked, phrases)
                table.provenance = _provenance(some, group.data, group.real, asked)
                table.remarks = remarks
                words = [data, *(phrase.replace("η ", "eta-") for phrase in phrases)]
                table.name = re.sub(r"[^A-Za-z0-9.=_-]+", "-", "_".join(words)).strip("-")
                found.append(Evaluation(table, some, group.real, group.dataset, runtime))
    return found


def _where(runs: Sequence[Run], match: str) -> list[Run]:
    if "sample." in match:
        raise NoiseregError(
            f"`where={match}`: runs are sampled as `steps`, `eta` and the like say; `where` is "
            "for the rest"
        )
    if not runs:
        raise NoiseregError(f"`where={match}`: there is no run; expected runs or sweeps")
    kept = {m.source for m in where(_settings(runs), match)}
    if not kept:
        raise NoiseregError(f"`where={match}`: none of the {len(runs)} runs has it")
    return [run for run in runs if str(run.path) in kept]


def _settings(runs: Sequence[Run]) -> list[Measurement]:
    return [
        Measurement(str(run.path), {}, found_targets.components(run), found_targets.values(run))
        for run in runs
    ]


def _check_keys(runs: Sequence[Run], options: Options) -> None:
    """
    Raises:
        NoiseregError: for keys that no run has, before anything is sampled.
    """
    words = Words(_settings(runs))
    for key in options.by if runs else ():
        words.check(key, "`by`")
    for key in (options.columns or ()) if runs else ():
        words.check(key, "`columns`")
    if options.effects:
        check_factors(options.effects, words)


def _parts_of_table(
    subjects: Sequence[Subject], options: Options
) -> list[tuple[list[str], list[Subject]]]:
    """The subjects of each table, with what its context says that the others' do not."""
    runs = [s for s in subjects if s.run is not None]
    if not runs or (not options.by and len(options.eta) < 2):
        return [([], list(subjects))]
    measurements = [_measurement(s) for s in runs]
    words = Words(measurements)
    parts: dict[tuple[str, ...], list[Subject]] = {}
    for subject, m in zip(runs, measurements, strict=True):
        phrases = [words.of(m, key) for key in options.by]
        if len(options.eta) > 1:
            phrases.append(f"η {m.sampling['eta']:g}")
        parts.setdefault(tuple(phrases), []).append(subject)
    folders = [s for s in subjects if s.run is None]  # beside the runs of every table
    return [(list(phrases), [*some, *folders]) for phrases, some in parts.items()]


# What is compared


def _reference_name(name: str) -> references.Name:
    names = get_args(references.Name)
    if name not in names:
        raise NoiseregError(
            f"`reference={name}`: expected {', '.join(names[:-1])} or "
            f"{names[-1]}{nearest(name, names)}"
        )
    return name  # type: ignore[return-value]


@dataclass(frozen=True)
class _Group:
    """The runs and folders that are compared with one set of real samples."""

    data: Spec
    dataset: Dataset
    real: Reference
    runs: list[Run]
    datasets: list[Dataset]
    """Each run's own: another specification may give the same real samples (``flip``)."""
    images: list[Images]
    num: int


def _groups(
    targets: Targets, options: Options, metrics: Sequence[str], reg: Registry
) -> list[_Group]:
    """By real samples, in the order of the runs."""
    given = None
    if options.data is not None:
        given = data_spec(validate({"data": options.data}).data, reg)
    of_runs = [given or run.config.data for run in targets.runs]
    specs: list[Spec | None] = [*of_runs] or [given]
    known: dict[str, tuple[Dataset, Reference]] = {}
    for data in specs:
        if data is None:
            raise NoiseregError(
                "a folder of images does not say what it should look like; give `data`, such as "
                "`data=digits`"
            )
        if data.label() not in known:
            dataset = reg.build("dataset", data.name, data.params, Context(device="cpu"))
            known[data.label()] = (
                dataset,
                reference(dataset, data.name, _reference_name(options.reference), options.num),
            )
    kinds = {m: reg.find("metric", Spec.parse(m).name).implementation() for m in metrics}
    needs_samples = not all(kind.needs_model for kind in kinds.values())
    paired = next((m for m, kind in kinds.items() if kind.paired), None)
    groups: dict[str, _Group] = {}
    for data in filter(None, specs):
        dataset, real = known[data.label()]
        if real.identity not in groups:
            num = options.num if options.num is not None else min(len(real.x), MOST_SAMPLES)
            check_num(num, real.x.shape[1:])
            if paired and num > len(real.x):
                raise NoiseregError(
                    f"`num={num}`: {paired} compares each sample with its own right answer, and "
                    f"{real.name} has "
                    f"{len(real.x):,}"
                )
            # what is measured on the model itself needs no samples
            groups[real.identity] = _Group(
                data, dataset, real, [], [], [], num if needs_samples else 0
            )
    for run, data in zip(targets.runs, of_runs, strict=True):
        dataset, real = known[data.label()]
        groups[real.identity].runs.append(run)
        groups[real.identity].datasets.append(dataset)
    if targets.images:
        if len(groups) > 1:
            raise NoiseregError(
                f"{targets.images[0].path} does not say which of the runs' data sets it belongs "
                "to; give `data`, or "
                "evaluate it apart"
            )
        next(iter(groups.values())).images.extend(targets.images)
    return list(groups.values())


def _subjects(
    group: _Group, options: Options, reg: Registry, runtime: Runtime, reporter: Reporter
) -> Iterator[Subject]:
    real, num = group.real, group.num
    for run, dataset in zip(group.runs, group.datasets, strict=True):
        if run.shape != tuple(dataset.shape):
            raise NoiseregError(
                f"{run.path} makes samples of shape {run.shape} and {real.data} has "
                f"{tuple(dataset.shape)}"
            )
        task = run.task
        condition = None
        if task.channels or task.classes:
            if real.name == "fresh":
                raise NoiseregError(
                    f"{run.path} is conditioned on data: expected `reference=train` or heldout"
                )
            condition = (dataset, real.name)
        own = Runtime.start(run.config.runtime.model_copy(update={"device": "auto"}))
        for eta, steps in itertools.product(options.eta or (None,), options.steps or (None,)):
            sampling = plan(
                run,
                own,
                steps=steps,
                eta=eta,
                solver=options.solver,
                grid=options.grid,
                guidance=options.guidance,
                seed=options.seed,
                checkpoint=options.checkpoint,
                ema=options.ema,
                condition=f"{real.name} {real.identity}" if condition else "",
                reporter=reporter,
            )
            if num:
                draw_samples(sampling, num, own, reporter, condition)
            read = functools.partial(read_samples, sampling, num)
            yield Subject(str(run.path), run, sampling, num, sampling.key(), read, sampling.store)
    for images in group.images:
        x = found_targets.read_images(images, real.x, real.data)
        if options.num is not None and len(x) < options.num:
            raise NoiseregError(
                f"{images.path} has {len(x):,} samples and `num` asks for {options.num:,}"
            )
        x = x if options.num is None else x[: options.num]
        store = Store(cache_dir() / "eval")
        yield Subject(images.name, None, None, len(x), tensor_hash(x), lambda x=x: x, store)  # type: ignore[misc]


# Measuring


def _metrics(
    metrics: Sequence[str],
    options: Options,
    dataset: Dataset,
    real: Reference,
    reg: Registry,
    runtime: Runtime,
) -> list[_Asked]:
    if not metrics:
        raise NoiseregError(
            "no metric; give `metric=prdc`, or another (noisereg plugins list --kind metric)"
        )
    ctx = Context(
        shape=tuple(real.x.shape[1:]),
        device=runtime.device,
        dataset=dataset,
        cache_dir=cache_dir(),
        batches=None,
    )
    spaces: dict[str, Space] = {}

    def space(text: str) -> Space:
        spec = Spec.parse(text)
        params = dict(spec.params)
        if spec.name == "inception" and options.inception_weights is not None:
            params["weights"] = str(options.inception_weights)
        key = json.dumps([spec.name, params], sort_keys=True)
        if key not in spaces:
            spaces[key] = Space(
                reg.build("features", spec.name, params, ctx), spec.name.rpartition("/")[2]
            )
            if not isinstance(spaces[key].inner, Pixels):
                spaces[key].keep(real.x, real.identity, Store(cache_dir() / "eval"))
        return spaces[key]

    asked = []
    for text in dict.fromkeys(metrics):
        spec = Spec.parse(text)
        entry = reg.find("metric", spec.name)
        params = reg.params(entry, spec.params)
        metric: Metric = entry.implementation()(params, ctx)
        wanted = options.features
        if metric.space and Spec.parse(wanted).name != metric.space:
            wanted = metric.space
        asked.append(_Asked(spec, entry, params.model_dump(mode="json"), metric, space(wanted)))
    return asked


def _measure(
    subjects: Sequence[Subject],
    asked: Sequence[_Asked],
    real: Reference,
    dataset: Dataset,
    reporter: Reporter,
) -> tuple[dict[str, str], list[str]]:
    """Fill in the subjects' numbers; each number's better direction, and what metrics have to
    say.
    """
    better: dict[str, str] = {}
    notes: list[str] = []
    reporter.begin("measure", len(subjects) * len(asked))
    try:
        for i, subject in enumerate(subjects):
            read = functools.cache(subject.read)
            for j, one in enumerate(asked):
                result = _cached(subject, one, real, dataset, read)
                for name, value in result["numbers"].items():
                    if name in subject.numbers and (
                        subject.numbers[name] != value or better[name] is None
                    ):
                        raise NoiseregError(
                            f"two metrics give a number called {name}, with different values; ask "
                            "for one of them"
                        )
                    subject.numbers[name] = value
                better |= result["better"]
                notes += result["notes"]
                reporter.advance(i * len(asked) + j + 1)
            for one in asked:
                one.space.forget_all_but(real.x)
    finally:
        reporter.end()
    return better, notes


def _cached(
    subject: Subject, one: _Asked, real: Reference, dataset: Dataset, read: Callable[[], Tensor]
) -> dict[str, Any]:
    """A metric's result, computed where it is not on disk."""
    if one.metric.needs_model and subject.run is None:
        raise NoiseregError(
            f"{one.spec.name} is measured on a model, and {subject.source} is a folder of images"
        )
    if (
        one.metric.paired
        and subject.run is not None
        and not (subject.sampling and subject.sampling.condition)
    ):
        raise NoiseregError(
            f"{one.spec.name} compares each output with its own right answer, and "
            f"{subject.source} is unconditional; "
            "expected a run with `task=superres`"
        )
    record = {
        "samples": subject.key,
        "n": subject.n,
        "reference": [real.data, real.name, len(real.x), real.identity],
        "metric": [one.entry.qualified, one.entry.component.revision, one.params],
        "features": one.space.identity,
    }

    def result() -> dict[str, Any]:
        try:
            if one.metric.needs_model:
                numbers = one.metric.of_model(_model(subject), dataset)
            else:
                numbers = one.metric.compute(
                    read(), real.x[: subject.n] if one.metric.paired else real.x, one.space
                )
        except NoiseregError as error:
            raise NoiseregError(f"{subject.source}: {error}") from None
        return {
            "numbers": {name: float(value) for name, value in numbers.items()},
            "better": {name: _direction(one, name) for name in numbers},
            "notes": list(one.metric.notes()),
        }

    name = f"metrics/{one.spec.name.rpartition('/')[2]}"
    return subject.store.cached(name, record, JSON, result)


def _model(subject: Subject) -> RunModel:
    """The subject's network, with the weights and the sampling that its samples are drawn by."""
    assert subject.run is not None
    assert subject.sampling is not None
    runtime = Runtime.start(subject.run.config.runtime.model_copy(update={"device": "auto"}))
    return subject.sampling.model(runtime)


def _direction(one: _Asked, name: str) -> str:
    direction = one.metric.better.get(name)
    if direction not in ("higher", "lower"):
        raise NoiseregError(
            f"the metric {one.entry.qualified} gives {name!r} and does not say which direction is "
            "better; "
            "its author adds it to 'better'"
        )
    return direction


# The table


def _measurement(subject: Subject) -> Measurement:
    if subject.run is None or subject.sampling is None:
        return Measurement(source=subject.source, numbers=subject.numbers, name=subject.source)
    record = subject.sampling.record()
    return Measurement(
        source=subject.source,
        numbers=subject.numbers,
        components=found_targets.components(subject.run),
        values=found_targets.values(subject.run),
        seed=subject.run.config.seed,
        steps=record["steps"],
        sampling={
            k: record[k]
            for k in (
                "eta",
                "solver",
                "grid",
                "guidance",
                "weights",
                "checkpoint",
                "bf16",
                "condition",
            )
        },
        environment=found_targets.environment(subject.run),
    )


def _one(values: Sequence[Any]) -> Any:
    """The only value, or None where there are several."""
    return values[0] if values and all(v == values[0] for v in values) else None


def _context(
    subjects: Sequence[Subject],
    data: str,
    real: Reference,
    asked: Sequence[_Asked],
    apart: Sequence[str],
) -> list[str]:
    """``digits · ddpm · 3 seeds · 1,617 samples against 1,617 of train · pixels · k 5 · 100 steps,
    η 1, EMA``; with what sets this table ``apart`` from others of the same data, where it is not
    said anyway."""
    runs = [s for s in subjects if s.run is not None and s.sampling is not None]
    phrases = [data]
    if process := _one([s.run.config.process.name for s in runs if s.run]):
        phrases.append(process)
    phrases += [phrase for phrase in apart if phrase != process and not phrase.startswith("η ")]
    if seeds := sorted({s.run.config.seed for s in runs if s.run}):
        phrases.append(f"{len(seeds)} seed{'s' * (len(seeds) > 1)}")
    counts = sorted({s.n for s in subjects})
    if counts != [0]:
        drawn = " or ".join(f"{n:,}" for n in counts)
        used = drawn if all(one.metric.paired for one in asked) else f"{len(real.x):,}"
        phrases.append(f"{drawn} samples against {used} of {real.name}")
        phrases.append(
            ", ".join(dict.fromkeys(one.space.name for one in asked if not one.metric.needs_model))
        )
    for one in asked:
        if "k" in one.params:
            phrases.append(f"{one.spec.name} k {one.params['k']}")
    records = [s.sampling.record() for s in runs if s.sampling]
    if records:
        steps = sorted({r["steps"] for r in records})
        eta, weights = _one([r["eta"] for r in records]), _one([r["weights"] for r in records])
        words = [f"{', '.join(map(str, steps))} steps"]
        words += [f"η {eta:g}"] if eta is not None else []
        words += [r["solver"] for r in records[:1] if r["solver"] != "ddim"]
        words += (
            [f"{grid} grid"]
            if (grid := _one([r["grid"] for r in records])) not in (None, "uniform")
            else []
        )
        words += [str(weights)] if weights else []
        phrases.append(", ".join(words))
    return phrases


def _provenance(
    subjects: Sequence[Subject], data: Spec, real: Reference, asked: Sequence[_Asked]
) -> dict[str, Any]:
    return {
        "noisereg": __version__,
        "data": data.model_dump(),
        "reference": {"split": real.name, "n": len(real.x), "hash": real.identity},
        "metrics": [
            {
                "name": one.entry.qualified,
                "revision": one.entry.component.revision,
                "params": one.params,
                "features": one.space.name,
                "extractor": one.space.identity,
                "about": one.space.summary,
            }
            for one in asked
        ],
        "samples": [
            {
                "source": s.source,
                "n": s.n,
                **(s.sampling.record() if s.sampling else {"hash": s.key}),
            }
            for s in subjects
        ],
    }


def _summaries(asked: Sequence[_Asked]) -> list[str]:
    return list(dict.fromkeys(one.space.summary for one in asked if one.space.summary))


def _unfinished(runs: Sequence[Run]) -> list[str]:
    notes = []
    for run in runs:
        with contextlib.suppress(OSError, ValueError, KeyError):
            status: Mapping[str, Any] = run.status
            if status["status"] != "finished":
                notes.append(
                    f"{run.path} is {status['status']} at step {status['step']:,} of "
                    f"{run.config.train.steps:,}"
                )
    return notes
