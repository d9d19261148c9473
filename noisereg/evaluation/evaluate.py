"""From runs, sweeps and folders to ablation tables: what ``noisereg eval`` and
``noisereg.evaluate`` do.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from noisereg import __version__
from noisereg.api import Context, Dataset, Launcher
from noisereg.data import tensor_hash
from noisereg.errors import NoiseregError
from noisereg.evaluation import measure, selection
from noisereg.evaluation.jobs import share_out
from noisereg.evaluation.measure import Against, Candidate, Request
from noisereg.evaluation.options import Options
from noisereg.evaluation.reference import Reference, reference
from noisereg.evaluation.samples import Drawing, draw_samples, plan, read_samples
from noisereg.evaluation.selection import SampleFiles, Selection
from noisereg.folders import cache_dir
from noisereg.plugins.registry import Registry
from noisereg.plugins.spec import Spec
from noisereg.runs import checkpoint_files
from noisereg.runs.checkpoint_files import name_of, steps_in
from noisereg.runs.config import RuntimeConfig, data_spec, validate
from noisereg.runs.output import check_num
from noisereg.runs.reporter import Reporter
from noisereg.runs.run import Run, shown
from noisereg.runs.runtime import Runtime, pick_device
from noisereg.store import Store
from noisereg.tables.ablation import build
from noisereg.tables.effects import check_factors
from noisereg.tables.naming import Words, spec_label, varying_params, where
from noisereg.tables.table import Measurement, Table

CHECKPOINT = "checkpoint"
"""The key of a table's rows that says which of a run's checkpoints was measured."""
DRAWN = 10_000
"""Samples drawn of a run where ``num`` is not given and the reference has more."""

SAMPLED = (
    "eta",
    "solver",
    "grid",
    "guidance",
    "eps_scale",
    "clip",
    "weights",
    "checkpoint",
    "bf16",
    "condition",
)
"""What a table's rows keep of how they were sampled, beside the steps."""


@dataclass
class Evaluation:
    """A table and what pictures of it are drawn from."""

    table: Table
    candidates: list[Candidate]
    reference: Reference
    dataset: Dataset
    runtime: Runtime


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

    All that can be refused without a sample is refused before the first is drawn.

    Raises:
        NoiseregError: for anything that cannot be evaluated, and rows that cannot be compared.
    """
    if not paths:
        raise NoiseregError("nothing to evaluate; expected a run, a sweep or a folder of images")
    for plugin in options.plugins:
        reg.load(plugin)
    selected = selection.select(paths, reg)
    if options.where is not None:
        selected = dataclasses.replace(selected, runs=_where(selected.runs, options.where))
    _check_keys(selected.runs, options)
    if options.rescaled and not any(not run.config.reg for run in selected.runs):
        raise NoiseregError(
            "`rescaled` adds a row beside each run without a regularizer, and there is none; give "
            "such a run too"
        )
    runtime = Runtime.start(RuntimeConfig())
    if not runtime.main:
        reporter = Reporter()
    launcher = _launcher(options, reg, runtime)
    groups = _groups(selected, options, metrics, reg)
    drawings: list[Drawing] = []
    requests: list[list[Request]] = []
    for group in groups:
        drawings += _plan(group, options, selected.diverged, reporter)
        if runtime.main:
            asked = measure.build_requests(metrics, options, group.against, reg, runtime)
            measure.check(asked, group.candidates, group.against.real)
            requests.append(asked)
    stores = [c.store for group in groups for c in group.candidates if c.run is not None]
    if launcher is not None and stores:
        measured = [run.path for run in selected.runs]
        bf16 = share_out(measured, metrics, options, launcher, stores[0].folder, reporter)
        if any(found != runtime.bf16 for found in bf16.values()):  # a login node has no GPU
            drawings = []
            for group in groups:
                group.candidates.clear()
                drawings += _plan(group, options, selected.diverged, Reporter(), bf16)
    draw_samples(drawings, runtime, reporter)
    if not runtime.main:
        return []
    told_apart = varying_params([[group.against.data] for group in groups])
    evaluations: list[Evaluation] = []
    for group, asked in zip(groups, requests, strict=True):
        data = group.against.data
        label = spec_label(data, told_apart[data.name])
        evaluations += _tables(group, asked, label, selected.notes, options, runtime, reporter)
    return evaluations


def _launcher(options: Options, reg: Registry, runtime: Runtime) -> Launcher | None:
    """What processes run by; None under torchrun, whose ranks share the work themselves.

    Raises:
        NoiseregError: for an unknown one, or one beside torchrun.
    """
    if runtime.world > 1:
        if options.launcher is not None:
            raise NoiseregError(
                f"`launcher={options.launcher}` and torchrun were given, whose ranks share the "
                "evaluation; expected one of them"
            )
        return None
    spec = Spec.parse(options.launcher or "local")
    launcher: Launcher = reg.build("launcher", spec.name, spec.params, Context())
    return launcher


def _tables(
    group: _Group,
    asked: Sequence[Request],
    data: str,
    notes: Sequence[str],
    options: Options,
    runtime: Runtime,
    reporter: Reporter,
) -> list[Evaluation]:
    real = group.against.real
    for candidate in group.candidates:
        if candidate.sampling is not None and candidate.n and not candidate.diverged:
            candidate.diverged = candidate.sampling.diverged
    better, said = measure.measure(group.candidates, asked, group.against, reporter)
    if group.candidates and all(c.diverged for c in group.candidates):
        raise NoiseregError(
            f"{group.candidates[0].source} has nothing to measure: {group.candidates[0].diverged}"
        )
    remarks = [
        *notes,
        *_unfinished(group.runs),
        *(text for run in group.runs for text in run.revised()),
        *([] if options.data is not None else _other_data(group)),
        *dict.fromkeys(said),
        *_summaries(asked),
    ]
    evaluations = []
    for phrases, some in _parts_of_table(group.candidates, options):
        table = build([_measurement(c) for c in some], better, **options.rows())
        table.context = _context(some, data, real, asked, phrases)
        table.provenance = _provenance(some, group.against.data, real, asked)
        table.remarks = remarks
        words = [data, *(phrase.replace("η ", "eta-") for phrase in phrases)]
        table.name = re.sub(r"[^A-Za-z0-9.=_-]+", "-", "_".join(words)).strip("-")
        evaluations.append(Evaluation(table, some, real, group.against.dataset, runtime))
    return evaluations


def _other_data(group: _Group) -> Iterator[str]:
    """A line of each run whose data are no longer those that it was trained on: another folder at
    its path, or files that came and went.
    """
    known: dict[int, dict[str, Any]] = {}
    for run, dataset in zip(group.runs, group.datasets, strict=True):
        if id(dataset) not in known:
            known[id(dataset)] = dataset.fingerprint()
        if changed := run.other_data(known[id(dataset)]):
            yield f"{shown(run.path)}: its data are not those that it was trained on: {changed}"


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
        Measurement(
            str(run.path),
            {},
            selection.components(run),
            selection.values(run),
            strengths=selection.strengths(run),
        )
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
    candidates: Sequence[Candidate], options: Options
) -> list[tuple[list[str], list[Candidate]]]:
    """The candidates of each table, with what its context says that the others' do not."""
    runs = [c for c in candidates if c.run is not None]
    if not runs or not (options.by or len(options.eta) > 1 or len(options.grid) > 1):
        return [([], list(candidates))]
    measurements = [_measurement(c) for c in runs]
    words = Words(measurements)
    parts: dict[tuple[str, ...], list[Candidate]] = {}
    for candidate, m in zip(runs, measurements, strict=True):
        phrases = [words.of(m, key) for key in options.by]
        if len(options.eta) > 1:
            phrases.append(f"η {m.sampling['eta']:g}")
        if len(options.grid) > 1:
            phrases.append(f"{m.sampling['grid']} grid")
        parts.setdefault(tuple(phrases), []).append(candidate)
    folders = [c for c in candidates if c.run is None]  # beside the runs of every table
    return [(list(phrases), [*some, *folders]) for phrases, some in parts.items()]


# What is compared


@dataclass
class _Group:
    """The runs and files that are compared with one set of real samples."""

    against: Against
    num: int
    runs: list[Run] = field(default_factory=list)
    datasets: list[Dataset] = field(default_factory=list)
    """Each run's own: another specification may give the same real samples (``flip``)."""
    files: list[SampleFiles] = field(default_factory=list)
    candidates: list[Candidate] = field(default_factory=list)


def _place(data: Spec, reg: Registry) -> torch.device:
    """Where real samples are read: on the CPU, but for those that an autoencoder decodes."""
    own: Any = getattr(reg.find("dataset", data.name).implementation(), "decoder", None)
    usual: Any = Dataset.decoder
    decodes = own is not None and getattr(own, "__func__", own) is not usual.__func__
    return pick_device("auto") if decodes else torch.device("cpu")


def _groups(
    selected: Selection, options: Options, metrics: Sequence[str], reg: Registry
) -> list[_Group]:
    """By real samples, in the order of the runs."""
    kinds = [reg.find("metric", Spec.parse(m).name).implementation() for m in metrics]
    apart = any(kind.needs_model or kind.reads_data for kind in kinds)

    def name(against: Against) -> tuple[str, str]:
        """What one table's runs share: the reference, and all data where a metric reads them."""
        return against.real.identity, against.identity if apart else ""

    given = None
    if options.data is not None:
        given = data_spec(validate({"data": options.data}).data, reg)
    of_runs = [given or run.config.data for run in selected.runs]
    specs: list[Spec | None] = [*of_runs] or [given]
    known: dict[str, Against] = {}
    groups: dict[tuple[str, str], _Group] = {}
    for data in specs:
        if data is None:
            raise NoiseregError(
                f"{selected.files[0].name} does not say what its images should look like; give "
                "`data`, such as `data=digits`"
            )
        if data.label() in known:
            continue
        dataset = reg.build("dataset", data.name, data.params, Context(device=_place(data, reg)))
        real = reference(dataset, data.name, options.reference, options.num, options.num_reference)
        against = known[data.label()] = Against(data, dataset, real)
        if name(against) not in groups:
            groups[name(against)] = _Group(against, _num(options, metrics, real, reg))
    for run, data in zip(selected.runs, of_runs, strict=True):
        against = known[data.label()]
        groups[name(against)].runs.append(run)
        groups[name(against)].datasets.append(against.dataset)
    if selected.files:
        if len(groups) > 1:
            raise NoiseregError(
                f"{selected.files[0].path} does not say which of the runs' data sets it belongs "
                "to; give `data`, or evaluate it apart"
            )
        next(iter(groups.values())).files.extend(selected.files)
    return list(groups.values())


def _num(options: Options, metrics: Sequence[str], real: Reference, reg: Registry) -> int:
    """How many samples are drawn of each run: none where only models are measured."""
    num = options.num if options.num is not None else min(len(real.x), DRAWN)
    check_num(num, real.x.shape[1:])
    kinds = {m: reg.find("metric", Spec.parse(m).name).implementation() for m in metrics}
    paired = next((m for m, kind in kinds.items() if kind.paired), None)
    if paired and num > len(real.x):
        raise NoiseregError(
            f"`num={num}`: {paired} compares each sample with its own right answer, and "
            f"{real.name} has {len(real.x):,}"
        )
    return 0 if all(kind.needs_model for kind in kinds.values()) else num


def _plan(
    group: _Group,
    options: Options,
    diverged: Mapping[Path, str],
    reporter: Reporter,
    bf16: Mapping[Path, bool] | None = None,
) -> list[Drawing]:
    """Add the group's candidates; what is to be drawn for them. ``bf16`` says by run what
    ``runtime.precision=auto`` is where that is not this machine's to say.
    """
    real, num = group.against.real, group.num
    drawings = []
    for run, dataset in zip(group.runs, group.datasets, strict=True):
        if run.shape != tuple(dataset.shape):
            raise NoiseregError(
                f"{run.path} makes samples of shape {run.shape} and {real.data} has "
                f"{tuple(dataset.shape)}"
            )
        task = run.task
        conditional = bool(task.channels or task.classes)
        if conditional and real.name == "fresh":
            raise NoiseregError(
                f"{run.path} is conditioned on data: expected `reference=train` or heldout"
            )
        own = Runtime.start(run.config.runtime.model_copy(update={"device": "auto"}))
        if run.config.runtime.precision == "auto":
            own = dataclasses.replace(own, bf16=(bf16 or {}).get(run.path, own.bf16))
        reason = diverged.get(run.path, "")
        untrained = reason.endswith(selection.UNTRAINED)
        # without a regularizer, and sampled as one would have it
        controls = options.rescaled if not run.config.reg else ()
        each = itertools.product(
            checkpoints(run, () if untrained else options.checkpoint),
            (None, *controls),
            options.grid or (None,),
            options.eta or (None,),
            options.steps or (None,),
        )
        for (asked, checkpoint), scale, grid, eta, steps in each:
            sampling = plan(
                run,
                own,
                steps=steps,
                eta=eta,
                grid=grid,
                eps_scale=options.eps_scale if scale is None else scale,
                checkpoint=checkpoint,
                condition=f"{real.name} {real.identity}" if conditional else "",
                untrained=untrained,
                reporter=reporter,
                **options.sampling(),
            )
            if num and not reason:
                drawings.append(
                    Drawing(sampling, num, own, (dataset, real) if conditional else None)
                )
            read = functools.partial(read_samples, sampling, num)
            source = str(run.path)
            if scale is not None:
                source += f" with eps_scale {scale}"
            group.candidates.append(
                Candidate(
                    source,
                    run,
                    sampling,
                    num,
                    sampling.key,
                    read,
                    sampling.store,
                    diverged=reason,
                    checkpoint=asked,
                    control=scale is not None,
                )
            )
    for files in group.files:
        x = selection.read_files(files, real.x, real.data)
        if options.num is not None and len(x) < options.num:
            raise NoiseregError(
                f"{files.path} has {len(x):,} samples and `num` asks for {options.num:,}"
            )
        x = x if options.num is None else x[: options.num]
        if x.is_floating_point() and not (finite := x.flatten(1).isfinite().all(1)).all():
            raise NoiseregError(
                f"{files.path}: {int((~finite).sum()):,} of {len(x):,} samples are not finite "
                "(inf or nan)"
            )
        store = Store(cache_dir() / "eval")
        group.candidates.append(
            Candidate(
                files.name, None, None, len(x), tensor_hash(x), functools.partial(_same, x), store
            )
        )
    return drawings


def _same(x: Any) -> Any:
    return x


def checkpoints(run: Run, asked: Sequence[int | str]) -> list[tuple[str, int | None]]:
    """What names each checkpoint in a table, and its step: of one that needs no name (the newest,
    the only one that was asked for) an empty text.

    Raises:
        NoiseregError: for text that is neither a step nor all nor best, and a step that there is
            no checkpoint of.
    """
    if not asked:
        return [("", None)]
    found: dict[str, int] = {}
    folder = run.path / "checkpoints"
    for text in map(str, asked):
        if text == "all":
            whole = [s for s in steps_in(folder) if checkpoint_files.whole(folder / name_of(s))]
            found |= {str(step): step for step in whole}
        else:
            found[text] = run.checkpoint_step(text)
    several = len(asked) > 1 or "all" in map(str, asked)
    return [(text if several else "", step) for text, step in found.items()]


# The table


def _measurement(candidate: Candidate) -> Measurement:
    if candidate.run is None or candidate.sampling is None:
        return Measurement(
            source=candidate.source, numbers=candidate.numbers, name=candidate.source
        )
    record = candidate.sampling.record()
    components = selection.components(candidate.run)
    strengths = selection.strengths(candidate.run)
    if candidate.control:
        spec = selection.control(candidate.sampling.settings.eps_scale)
        components["reg"] = [spec]
        del record["eps_scale"]  # what the row is called
        if "factor" in spec.params:
            strengths[spec.name] = ("factor",)
    named = {CHECKPOINT: candidate.checkpoint} if candidate.checkpoint else {}
    return Measurement(
        source=candidate.source,
        numbers=candidate.numbers,
        components=components,
        values=selection.values(candidate.run) | named,
        seed=candidate.run.config.seed,
        steps=record["steps"],
        sampling={
            **{k: record[k] for k in SAMPLED if k in record and not (k == CHECKPOINT and named)},
            "seed": record["seed"] - candidate.run.config.seed,  # what --seed adds to each run's
        },
        environment=selection.environment(candidate.run),
        diverged=candidate.diverged,
        strengths=strengths,
    )


def _one(values: Sequence[Any]) -> Any:
    """The only value, or None where there are several."""
    return values[0] if values and all(v == values[0] for v in values) else None


def _context(
    candidates: Sequence[Candidate],
    data: str,
    real: Reference,
    asked: Sequence[Request],
    apart: Sequence[str],
) -> list[str]:
    """``digits · ddpm · 3 seeds · 1,617 samples against 1,617 of train · pixels · k 5 · 100 steps,
    η 1, EMA``; with what sets this table ``apart`` from others of the same data, where it is not
    said anyway."""
    runs = [c for c in candidates if c.run is not None and c.sampling is not None]
    phrases = [data]
    if process := _one([c.run.config.process.name for c in runs if c.run]):
        phrases.append(process)
    said = [phrase for phrase in apart if phrase.startswith("η ") or phrase.endswith(" grid")]
    phrases += [phrase for phrase in apart if phrase != process and phrase not in said]
    if seeds := sorted({c.run.config.seed for c in runs if c.run}):
        phrases.append(f"{len(seeds)} seed{'s' * (len(seeds) > 1)}")
    counts = sorted({c.n for c in candidates})
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
    records = [c.sampling.record() for c in runs if c.sampling]
    if records:
        steps = sorted({r["steps"] for r in records})
        eta, weights = _one([r["eta"] for r in records]), _one([r["weights"] for r in records])
        words = [f"{', '.join(map(str, steps))} steps"]
        words += [f"η {eta:g}"] if eta is not None else []
        words += [r["solver"] for r in records[:1] if r["solver"] != "ddim"]
        words += (
            [f"{grid} grid"]
            if (grid := _one([r["grid"] for r in records])) is not None
            and (grid != "uniform" or f"{grid} grid" in said)
            else []
        )
        words += [str(weights)] if weights else []
        phrases.append(", ".join(words))
    return phrases


def _provenance(
    candidates: Sequence[Candidate], data: Spec, real: Reference, asked: Sequence[Request]
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
                "source": c.source,
                "n": c.n,
                **(c.sampling.record() if c.sampling else {"hash": c.key}),
            }
            for c in candidates
        ],
    }


def _summaries(asked: Sequence[Request]) -> list[str]:
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
