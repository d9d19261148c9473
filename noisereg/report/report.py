"""A report as one HTML file: the tables, what they were computed from, and the pictures. It needs
no network and no script.
"""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from torch import Tensor

from noisereg.data import as_output, read_split
from noisereg.evaluation.evaluate import Evaluation
from noisereg.evaluation.measure import Candidate
from noisereg.evaluation.reference import reference_condition
from noisereg.metrics.prdc import manifolds
from noisereg.plugins.spec import flatten
from noisereg.report import pictures
from noisereg.report.curves import Curves, curves, training_log
from noisereg.runs.logged import Log
from noisereg.runs.model import RunModel
from noisereg.runs.output import STRIP, between, picture, strip
from noisereg.runs.reporter import Reporter
from noisereg.runs.run import draw, kept_steps
from noisereg.runs.sampling import build_solver, override
from noisereg.runs.views import NEIGHBOURS, beside_nearest
from noisereg.store import ARRAY, write_atomically
from noisereg.tables.formats import ARROW, Layout, layout
from noisereg.tables.naming import spec_label, strengths_of, text_of, varying_params
from noisereg.tables.table import Row, StoredTable, Table
from noisereg.terminal import one_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GRID = 36
"""Samples in a row's picture."""
MOST_POINTS = 4000
"""Points in a scatter plot."""
PATHS, COLUMNS = 4, 8
"""Rows of trajectories and interpolations, and samples between two latents."""
NEIGHBOUR = 5
"""k of the manifold pictures, as in Iso-Diffusion's."""


@dataclass
class Picture:
    """One figure of the report, or several images side by side."""

    name: str
    title: str
    caption: str
    figure: Figure | None = None
    images: list[tuple[str, bytes]] = field(default_factory=list)
    """(label, PNG)."""


class _Rows:
    """The table's rows with their runs."""

    def __init__(self, evaluation: Evaluation) -> None:
        self.evaluation = evaluation
        self.by_source: dict[tuple[str, int | None, str], Candidate] = {}
        for candidate in evaluation.candidates:
            steps = candidate.sampling.settings.steps if candidate.sampling else None
            self.by_source[candidate.source, steps, candidate.checkpoint] = candidate
        self.table: Table = evaluation.table

    def candidates(self, row: Row) -> list[Candidate]:
        """One a seed, of those whose training did not diverge."""
        return [
            self.by_source[place]
            for m in row.measurements
            if not m.diverged
            and (place := (m.source, m.steps, m.values.get("checkpoint", ""))) in self.by_source
        ]

    def once(self) -> list[tuple[str, list[Candidate]]]:
        """(label, its candidates) of each row that has any, at the largest number of sampling
        steps.
        """
        steps = [s for s in self.table.steps if s is not None]
        last = steps[-1] if steps else None
        rows = [row for row in self.table.rows if row.first.steps in (last, None)]
        return [(row.label, candidates) for row in rows if (candidates := self.candidates(row))]

    def sampled(self) -> list[tuple[str, Candidate]]:
        """The first seeds of :meth:`once` that have samples: a likelihood is had without."""
        return [(label, found[0]) for label, found in self.once() if found[0].n]


def all_pictures(evaluation: Evaluation, reporter: Reporter) -> list[Picture]:
    """Every picture that these rows have."""
    rows = _Rows(evaluation)
    trained = {
        label: runs for label, one_row in rows.once() if (runs := [s for s in one_row if s.run])
    }
    reporter.begin("pictures", sum(map(len, trained.values())))
    measured: dict[str, list[Curves]] = {}
    try:
        for label, candidates in trained.items():
            for candidate in candidates:
                assert candidate.sampling is not None
                one_row = curves(
                    candidate.sampling,
                    evaluation.reference,
                    evaluation.dataset,
                    evaluation.runtime,
                    reporter,
                )
                measured.setdefault(label, []).append(one_row)
                reporter.advance(sum(map(len, measured.values())))
    finally:
        reporter.end()
    named = {label: candidates[0] for label, candidates in trained.items()}
    makers: list[Callable[[], Picture | None]] = [
        lambda: _samples(rows),
        lambda: _trajectories(rows),
        lambda: _interpolations(rows),
        lambda: _nearest(rows),
        lambda: _manifold(rows),
        lambda: _training(trained, reporter),
        lambda: _power(measured),
        lambda: _own_curves(measured),
        lambda: _isotropy(named, measured),
        lambda: _spectra(named, measured),
    ]
    return [
        *(made for make in makers if (made := make()) is not None),
        *number_pictures(rows.table),
    ]


def number_pictures(table: Table) -> list[Picture]:
    """The pictures that a table's numbers give by themselves, without its runs."""
    makers = [_differences] if table.effects else [_strength, _steps, _checkpoints]
    return [made for make in makers if (made := make(table)) is not None]


def _samples(rows: _Rows) -> Picture | None:
    if not rows.sampled():
        return None
    evaluation = rows.evaluation
    real = evaluation.reference.x
    shown: list[tuple[str, bytes]] = []
    for label, candidate in rows.sampled():
        x = candidate.read()
        if x.ndim == 4:
            shown.append((label, picture(x[:GRID])))
        else:
            points = x[:MOST_POINTS].numpy()
            figure = pictures.scatter(
                points, real.numpy().min(0), real.numpy().max(0), f"scatter {label}"
            )
            shown.append((label, pictures.png(figure, label)))
    if real.ndim == 4:
        shown.append(
            (f"{evaluation.reference.data}, {evaluation.reference.name}", picture(real[:GRID]))
        )
    seeds = {s.sampling.seed for _, s in rows.sampled() if s.sampling}
    latents = (
        f"The same latents everywhere (seed {seeds.pop()})."
        if len(seeds) == 1
        else "Latents differ by row."
    )
    return Picture(
        "samples",
        "Samples",
        f"The first samples of each row's first seed. {latents}",
        images=shown,
    )


def _drawn_anew(rows: _Rows, candidate: Candidate, kind: str) -> Tensor:
    """What a picture shows beside a row's samples, kept like them: of ``trajectories`` (T, N, …)
    from noise to data, of ``interpolations`` (N·columns, …) between latents, η 0.
    """
    evaluation, sampling = rows.evaluation, candidate.sampling
    assert sampling is not None

    def drawn() -> np.ndarray:
        model = sampling.model(evaluation.runtime)
        if kind == "trajectories":
            count = PATHS if len(model.shape) == 3 else MOST_POINTS
            keep = kept_steps(len(model.times()) - 1, STRIP if len(model.shape) == 3 else 6)
            start = None
        else:
            settings = override(model.settings, model.registry, eta=0.0)
            model = RunModel(model.parts, settings, model.registry, model.seed)
            count, keep = PATHS * COLUMNS, None
            ends = model.latents(range(2 * PATHS), 0)
            start = {name: between(z, COLUMNS) for name, z in ends.items()}
        cond = None
        if sampling.condition:
            some = torch.arange(count) // (1 if start is None else COLUMNS)
            cond = reference_condition(model.task, evaluation.dataset, evaluation.reference, some)
        x = draw(model, range(count), cond, latents=start, keep=keep)
        frames = x if keep is not None else x[None]
        return torch.stack([as_output(one, model.parts.decode) for one in frames]).numpy()

    key = {"drawn": kind, "taken": [PATHS, COLUMNS, STRIP, MOST_POINTS], **sampling.key}
    found = torch.from_numpy(sampling.store.cached(f"pictures/{kind}", key, ARRAY, drawn))
    return found if kind == "trajectories" else found[0]


def _of_runs(rows: _Rows) -> list[tuple[str, Candidate]]:
    return [(label, found) for label, found in rows.sampled() if found.sampling is not None]


def _trajectories(rows: _Rows) -> Picture | None:
    shown = [
        (label, strip(_drawn_anew(rows, candidate, "trajectories")))
        for label, candidate in _of_runs(rows)
    ]
    if not shown:
        return None
    return Picture(
        "trajectories",
        "From noise to data",
        "The first samples of each row's first seed on their way, at times evenly spaced over the "
        "steps.",
        images=shown,
    )


def _follows_a_path(candidate: Candidate) -> bool:
    """Whether a sample depends on its first latents alone, at η = 0."""
    if candidate.sampling is None:
        return False
    known = candidate.sampling.run.registry
    assert known is not None
    settings = override(candidate.sampling.settings, known, eta=0.0)
    return build_solver(settings, known).deterministic


def _interpolations(rows: _Rows) -> Picture | None:
    runs = [] if rows.evaluation.reference.x.ndim != 4 else _of_runs(rows)
    shown = [
        (label, picture(_drawn_anew(rows, candidate, "interpolations"), COLUMNS))
        for label, candidate in runs
        if _follows_a_path(candidate)
    ]
    if not shown:
        return None
    return Picture(
        "interpolations",
        "Between two latents",
        "Each row goes from one sample's latents to another's on a great circle, η 0.",
        images=shown,
    )


def _nearest(rows: _Rows) -> Picture | None:
    real = rows.evaluation.reference.x
    if real.ndim != 4 or real.is_floating_point() or not rows.sampled():
        return None
    train = read_split(rows.evaluation.dataset, "train", most=None)
    shown = []
    for label, candidate in rows.sampled():
        image, share = beside_nearest(candidate.read()[:GRID], train)
        shown.append((f"{label}: {share:.1%} copies", image))
    return Picture(
        "nearest",
        "Nearest training images",
        f"The first {GRID} samples of each row's first seed, each with the {NEIGHBOURS} training "
        "images after it that are nearest in pixels. A copy lies nearer to one of them than a "
        "third of the distance to the next; the metric memorisation counts all samples.",
        images=shown,
    )


def _manifold(rows: _Rows) -> Picture | None:
    real = rows.evaluation.reference.x
    if real.ndim != 2 or real.shape[1] != 2 or len(real) <= NEIGHBOUR:
        return None
    some = real[:MOST_POINTS]
    generated, radii = [], np.zeros(0)
    for label, candidate in rows.sampled():
        x = candidate.read()[:MOST_POINTS]
        if len(x) > NEIGHBOUR:
            manifold = manifolds(some, x, NEIGHBOUR)
            radii = manifold.real_radii.numpy()
            generated.append((label, x.numpy(), manifold.spans.numpy()))
    if not generated:
        return None
    return Picture(
        "manifold",
        "Where samples fall (Iso-Diffusion, Figures 4 to 6)",
        f"Left: {len(some):,} true points by the distance to their {NEIGHBOUR}th neighbour. Then "
        "generated points by the "
        "number of true points whose neighbourhood holds them: 0 lies outside the data.",
        pictures.manifold(some.numpy(), radii, generated),
    )


def _numbers(row: Row) -> dict[str, tuple[float, float | None]]:
    return {name: (cell.mean, cell.half_width) for name, cell in row.estimates.items()}


def _titles(table: Table) -> list[tuple[str, str]]:
    return [(name, f"{name} {ARROW[table.better[name]]}") for name in table.metrics]


def _strength(table: Table) -> Picture | None:
    """Each number against a strength, where rows differ in it."""
    lines: dict[str, list[tuple[float, Any]]] = {}
    names: dict[str, None] = {}
    for row in table.rows:
        strengths = _strengths(row)
        if len(strengths) == 1 and strengths[0][1] > 0:
            ((name, value),) = strengths
            names[name] = None
            line = _without(row.label, f"{name}={text_of(value)}")
            if len(table.steps) > 1:
                line += f" · {row.first.steps} steps"
            lines.setdefault(line, []).append((value, _numbers(row)))
    lines = {label: points for label, points in lines.items() if len({x for x, _ in points}) > 1}
    if not lines:
        return None
    levels = {
        f"{row.label} (baseline)": {name: cell.mean for name, cell in row.estimates.items()}
        for row in table.rows
        if row.baseline and row.first.steps == table.steps[-1]
    }
    return Picture(
        "strength",
        "Numbers against the strength",
        "Means over seeds; bars are 95 % intervals from three seeds on. Dotted: the baseline.",
        pictures.numbers_over(", ".join(names), _titles(table), lines, levels, salt="strength"),
    )


def _strengths(row: Row) -> list[tuple[str, float]]:
    """(parameter, value) of each strength in a row's components."""
    strengths = []
    for section, specs in row.first.components.items():
        for spec in specs:
            params = flatten(spec.params)
            for name in strengths_of(row.first, section, spec):
                if isinstance(params.get(name), int | float):
                    strengths.append((name, float(params[name])))
    return strengths


def _without(label: str, assignment: str) -> str:
    """``isotropy(weight=0.1, space=plain)`` without ``weight=0.1``."""
    for text in (f"({assignment})", f"{assignment}, ", f", {assignment}", f" · {assignment}"):
        label = label.replace(text, "")
    return label


def _steps(table: Table) -> Picture | None:
    """Each number against the number of sampling steps, where there are several."""
    if len([s for s in table.steps if s is not None]) < 2:
        return None
    lines: dict[str, list[tuple[float, Any]]] = {}
    for row in table.rows:
        if row.first.steps is not None:
            lines.setdefault(row.label, []).append((float(row.first.steps), _numbers(row)))
    return Picture(
        "steps",
        "Numbers against sampling steps",
        "Means over seeds; bars are 95 % intervals from three seeds on.",
        pictures.numbers_over("sampling steps", _titles(table), lines, salt="steps"),
    )


def _checkpoints(table: Table) -> Picture | None:
    """Each number against the training step, where several checkpoints were measured."""
    lines: dict[str, list[tuple[float, Any]]] = {}
    for row in table.rows:
        step = str(row.first.values.get("checkpoint", ""))
        if step.isdecimal():
            named = f"checkpoint={step}"
            line = "" if row.label == named else _without(row.label, named)
            if len(table.steps) > 1:
                line += f" · {row.first.steps} steps"
            lines.setdefault(line, []).append((float(step), _numbers(row)))
    lines = {label: points for label, points in lines.items() if len(points) > 1}
    if not lines:
        return None
    return Picture(
        "checkpoints",
        "Numbers over training",
        "Means over seeds at each checkpoint; bars are 95 % intervals from three seeds on.",
        pictures.numbers_over(
            "training step", _titles(table), lines, log=False, salt="checkpoints"
        ),
    )


def _differences(table: Table) -> Picture | None:
    """The effects' intervals."""
    labels = list(dict.fromkeys(row.label for row in table.rows))
    lines: dict[str, dict[str, Mapping[str, tuple[float, float | None]]]] = {}
    for row in table.rows:
        line = "" if row.first.steps is None else f"{row.first.steps} steps"
        lines.setdefault(line, {})[row.label] = _numbers(row)
    return Picture(
        "effects",
        table.context[0].capitalize(),
        "Differences to the baseline, and interactions (×); bars are 95 % intervals, each for "
        "itself, from three seeds on.",
        pictures.differences(labels, _titles(table), lines, salt="effects"),
    )


def _training(trained: Mapping[str, Sequence[Candidate]], reporter: Reporter) -> Picture | None:
    runs = {s.run.path: s.run for candidates in trained.values() for s in candidates if s.run}
    read = {path: Log.read(path) for path in runs}
    for path, log in read.items():
        if log.damaged:
            reporter.note(f"{path / 'metrics.jsonl'}: {log.wrong()}; pictures leave that out")
    logs = {
        label: [
            columns
            for s in candidates
            if s.run and (columns := training_log(s.run, read[s.run.path]))
        ]
        for label, candidates in trained.items()
    }
    logs = {label: seeds for label, seeds in logs.items() if seeds}
    if not logs:
        return None
    return Picture(
        "training",
        "Training",
        "The loss, each regularizer before its weight, and what components log of themselves: the "
        f"mean of each row's seeds{_BAND} Losses of different targets or heads are not "
        "comparable.",
        pictures.training(logs),
    )


_BAND = ", with a band from the least to the greatest of them."


def _power(measured: Mapping[str, Sequence[Curves]]) -> Picture | None:
    if not measured:
        return None
    return Picture(
        "power",
        "Power of the predicted noise",
        f"E‖ε̂‖²/n of the network on real data over t (solid: the mean of the seeds{_BAND[:-1]}), "
        "against the noise's own level E‖ε‖²/n (dashed), which the isotropy regularizer holds it "
        "to, and what is optimal for Gaussian data of the same covariance (dotted): the minimum "
        "of "
        "the mean squared error lies below the level, so the constraint trades error for power.",
        pictures.predicted_power({k: [vars(c) for c in found] for k, found in measured.items()}),
    )


def _own_curves(measured: Mapping[str, Sequence[Curves]]) -> Picture | None:
    lines = {
        label: [(c.t, c.own) for c in found] for label, found in measured.items() if found[0].own
    }
    if not lines:
        return None
    # several rows may have the same fixed curve; what was learnt has its own in each
    names = list(dict.fromkeys(n for seeds in lines.values() for n in seeds[0][1]))
    styles = ", ".join(f"{n} ({how})" for n, how in zip(names, _STYLES, strict=False))
    return Picture(
        "curves",
        "Curves of the noises",
        f"What each noise says of itself over t: {styles}; the mean of the row's seeds{_BAND}",
        pictures.own_curves(lines),
    )


_STYLES = ("solid", "dashed", "dotted", "dash-dotted")


def _labels(named: Mapping[str, Candidate], section: str) -> list[str]:
    """Each row's noise or process, with the parameters in which its uses differ."""
    specs = [getattr(s.run.config, section) for s in named.values() if s.run is not None]
    varying = varying_params([[spec] for spec in specs])
    return [spec_label(spec, varying[spec.name]) for spec in specs]


def _isotropy(
    named: Mapping[str, Candidate], measured: Mapping[str, Sequence[Curves]]
) -> Picture | None:
    if not measured:
        return None
    lines: dict[str, dict[str, Any]] = {}
    rows = zip(_labels(named, "process"), _labels(named, "noise"), measured.values(), strict=True)
    for process, noise, found in rows:
        lines.setdefault(f"{process}, {noise}", vars(found[0]))
    power = next(iter(measured.values()))[0].x0_power
    rises = "so it rises under DDPM" if power <= 1 else "so it does not rise even under DDPM"
    return Picture(
        "isotropy",
        "Isotropy of x_t (Iso-Diffusion, Figure 2)",
        "E‖x_t‖²/n over t, of each row's first seed. Under DDPM with white noise it is "
        "1 + ᾱ(E‖x0‖²/n − 1), which rises to 1 only where E‖x0‖² ≤ n; "
        f"these data have E‖x0‖²/n = {power:.3f}, {rises}. Other processes need not rise: IADB's "
        "(1−t)²E‖x0‖²/n + t² dips.",
        pictures.isotropy(lines),
    )


def _spectra(
    named: Mapping[str, Candidate], measured: Mapping[str, Sequence[Curves]]
) -> Picture | None:
    lines: dict[str, Any] = {}
    for noise, found in zip(_labels(named, "noise"), measured.values(), strict=True):
        if found[0].spectra:
            lines.setdefault(noise, found[0].spectra)
    if not lines:
        return None
    return Picture(
        "spectra",
        "Spectra of the noises",
        "Mean power of 256 draws by radial frequency; white noise is 1 everywhere.",
        pictures.spectra(lines),
    )


# The page


@dataclass(frozen=True)
class _Body:
    """A table as the page shows it."""

    shape: Layout
    conditions: str
    """What every number was computed from."""
    baselines: list[bool]
    """By line."""
    exceptions: list[str]
    """By line: where it was computed from something else."""


@dataclass(frozen=True)
class _Section:
    """One evaluation on the page."""

    title: str
    subtitle: str
    body: _Body
    notes: list[str]
    remarks: list[str]
    effects: list[_Effects]
    pictures: list[_Drawn]
    record: str


@dataclass(frozen=True)
class _Effects:
    title: str
    shape: Layout
    notes: list[str]
    pictures: list[_Drawn]


@dataclass(frozen=True)
class _Drawn:
    """A picture as the page shows it."""

    title: str
    caption: str
    svg: Markup | None
    images: list[tuple[str, str]]
    """(label, address)."""


FOLDED = 3
"""Remarks on runs and metrics that stand open; more of them are folded away."""


def html(
    found: Sequence[Evaluation], effects: Sequence[Table], drawn: Sequence[Sequence[Picture]]
) -> str:
    """The page, whole; ``effects`` has a table of effects for each evaluation, or none at all,
    ``drawn`` its pictures.
    """
    environment = Environment(
        loader=PackageLoader("noisereg", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    sections = []
    for k, (evaluation, pictures_) in enumerate(zip(found, drawn, strict=True)):
        table = evaluation.table
        prefix = f"{table.name}-" if len(found) > 1 else ""  # keeps one's ids apart from another's
        head = [one_line(phrase) for phrase in table.head]
        sections.append(
            _Section(
                " · ".join(head[:3]),
                " · ".join(head[3:]),
                _body(evaluation),
                [one_line(note) for note in table.notes],
                [one_line(remark) for remark in table.remarks],
                [_effects(each, prefix) for each in effects[k : k + 1]],
                [_drawn(one, prefix) for one in pictures_],
                StoredTable.of(table).model_dump_json(indent=1, exclude={"notes"}, fallback=str),
            )
        )
    title = sections[0].title if len(found) == 1 else " · ".join(e.table.name for e in found)
    page = environment.get_template("template.html.j2")
    return page.render(title=title, sections=sections, FOLDED=FOLDED)


def _body(evaluation: Evaluation) -> _Body:
    table = evaluation.table
    spaces = ", ".join(dict.fromkeys(m["features"] for m in table.provenance["metrics"]))
    counts = {
        (s.source, s.sampling.settings.steps if s.sampling else None): s.n
        for s in evaluation.candidates
    }
    rows = [row for steps in table.steps for row in table.rows if row.first.steps == steps]
    said = [(_samples_of(row, counts), _seeds_said(row)) for row in rows]
    usual = [Counter(words).most_common(1)[0][0] for words in zip(*said, strict=True)]
    n, seeds = usual
    conditions = [n, f"against {evaluation.reference.name}", spaces, seeds]
    return _Body(
        layout(table),
        " · ".join(filter(None, conditions)),
        [row.baseline for row in rows],
        [
            " · ".join(w for w, u in zip(words, usual, strict=True) if w and w != u)
            for words in said
        ],
    )


def _samples_of(row: Row, counts: Mapping[tuple[str, int | None], int]) -> str:
    found = sorted(
        {counts[m.source, m.steps] for m in row.measurements if (m.source, m.steps) in counts}
    )
    return f"n {' or '.join(f'{n:,}' for n in found)}" if found else ""


def _seeds_said(row: Row) -> str:
    seeds = [str(m.seed) for m in row.measurements if m.seed is not None and not m.diverged]
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}" if seeds else ""


def _effects(table: Table, prefix: str) -> _Effects:
    title = one_line(table.context[0].capitalize())
    notes = [one_line(note) for note in table.notes]
    return _Effects(
        title, layout(table), notes, [_drawn(p, prefix) for p in number_pictures(table)]
    )


def _drawn(one: Picture, prefix: str) -> _Drawn:
    svg = None
    if one.figure is not None:
        text = pictures.svg(one.figure, f"{prefix}{one.name}")
        named = Markup('<svg role="img" aria-label="{}"').format(one.title)
        svg = Markup(text.replace("<svg", named, 1))  # matplotlib escapes what it writes
    images = [
        (label, f"data:image/png;base64,{base64.b64encode(data).decode()}")
        for label, data in one.images
    ]
    return _Drawn(one.title, one.caption, svg, images)


def write_pictures(found: Sequence[tuple[Table, Sequence[Picture]]], folder: Path) -> None:
    """Every picture as a file: figures as SVG, PDF and PNG, samples as PNG; those of several
    tables each in a folder.

    Raises:
        NoiseregError: if they cannot be written.
    """
    names: dict[str, int] = {}
    for table, several in found:
        names[table.name] = names.get(table.name, 0) + 1
        twin = f"-{names[table.name]}" if names[table.name] > 1 else ""
        place = folder / f"{table.name}{twin}" if len(found) > 1 else folder
        for one in several:
            if one.figure is not None:
                drawn = pictures.svg(one.figure, one.name).replace("currentColor", "#000000")
                write_atomically(
                    place / f"{one.name}.svg", f'<?xml version="1.0"?>\n{drawn}'.encode()
                )
                write_atomically(place / f"{one.name}.pdf", pictures.pdf(one.figure, one.name))
                write_atomically(place / f"{one.name}.png", pictures.png(one.figure, one.name))
            taken: set[str] = set()
            for number, (label, data) in enumerate(one.images, 1):
                slug = re.sub(r"[^A-Za-z0-9.=_-]+", "-", label).strip("-") or str(number)
                slug = slug if slug not in taken else f"{slug}-{number}"
                taken.add(slug)
                write_atomically(place / f"{one.name}-{slug}.png", data)
