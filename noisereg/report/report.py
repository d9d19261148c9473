"""A report as one HTML file: the tables, what they were computed from, and the pictures. It needs
no network and no script.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from noisereg.evaluation.evaluate import Evaluation, Subject
from noisereg.metrics.prdc import manifolds
from noisereg.report import pictures
from noisereg.report.curves import Curves, curves, training_log
from noisereg.runs.output import picture
from noisereg.runs.reporter import Reporter
from noisereg.store import write_atomically
from noisereg.tables.formats import ARROW, layout
from noisereg.tables.naming import spec_label, varying_params
from noisereg.tables.table import Row, StoredTable, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GRID = 36
"""Samples in a row's picture."""
MOST_POINTS = 4000
"""Points in a scatter plot."""
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
    """The table's rows with their runs, each under its first seed, and its first number of
    sampling steps.
    """

    def __init__(self, evaluation: Evaluation) -> None:
        self.evaluation = evaluation
        self.by_source: dict[tuple[str, int | None], Subject] = {}
        for subject in evaluation.subjects:
            steps = subject.sampling.settings.steps if subject.sampling else None
            self.by_source[subject.source, steps] = subject
        self.table: Table = evaluation.table

    def subject(self, row: Row) -> Subject:
        return self.by_source[row.first.source, row.first.steps]

    def once(self) -> list[tuple[str, Subject]]:
        """(label, subject) of each row, at the largest number of sampling steps."""
        steps = [s for s in self.table.steps if s is not None]
        last = steps[-1] if steps else None
        rows = [row for row in self.table.rows if row.first.steps in (last, None)]
        return [(row.label, self.subject(row)) for row in rows]

    def sampled(self) -> list[tuple[str, Subject]]:
        """Those of :meth:`once` that have samples: a likelihood is had without."""
        return [(label, subject) for label, subject in self.once() if subject.n]


def all_pictures(evaluation: Evaluation, reporter: Reporter) -> list[Picture]:
    """Every picture that these rows have."""
    rows = _Rows(evaluation)
    trained = [(label, s) for label, s in rows.once() if s.run is not None]
    reporter.begin("pictures", len(trained))
    measured: dict[str, tuple[Subject, Curves]] = {}
    try:
        for k, (label, subject) in enumerate(trained):
            assert subject.sampling is not None
            found = curves(
                subject.sampling,
                evaluation.reference,
                evaluation.dataset,
                evaluation.runtime,
                reporter,
            )
            measured[label] = (subject, found)
            reporter.advance(k + 1)
    finally:
        reporter.end()
    makers: list[Callable[[], Picture | None]] = [
        lambda: _samples(rows),
        lambda: _manifold(rows),
        lambda: _training(trained),
        lambda: _power(measured),
        lambda: _gamma(measured),
        lambda: _isotropy(measured),
        lambda: _spectra(measured),
    ]
    return [
        *(made for make in makers if (made := make()) is not None),
        *number_pictures(rows.table),
    ]


def number_pictures(table: Table) -> list[Picture]:
    """The pictures that a table's numbers give by themselves, without its runs."""
    makers = [_differences] if table.effects else [_strength, _steps]
    return [made for make in makers if (made := make(table)) is not None]


def _samples(rows: _Rows) -> Picture | None:
    if not rows.sampled():
        return None
    evaluation = rows.evaluation
    real = evaluation.reference.x
    shown: list[tuple[str, bytes]] = []
    for label, subject in rows.sampled():
        x = subject.read()
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


def _manifold(rows: _Rows) -> Picture | None:
    real = rows.evaluation.reference.x
    if real.ndim != 2 or real.shape[1] != 2 or len(real) <= NEIGHBOUR:
        return None
    some = real[:MOST_POINTS]
    generated, radii = [], np.zeros(0)
    for label, subject in rows.sampled():
        x = subject.read()[:MOST_POINTS]
        if len(x) > NEIGHBOUR:
            found = manifolds(some, x, NEIGHBOUR)
            radii = found.real_radii.numpy()
            generated.append((label, x.numpy(), found.spans.numpy()))
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
    """Each number against a regularizer's weight, where rows differ in it."""
    lines: dict[str, list[tuple[float, Any]]] = {}
    for row in table.rows:
        specs = row.first.components.get("reg", ())
        weights = [float(s.params["weight"]) for s in specs if "weight" in s.params]
        if len(specs) == len(weights) == 1 and weights[0] > 0:
            line = re.sub(r"\(?weight=[^,)]*(, )?\)?", "", row.label).replace("()", "")
            if len(table.steps) > 1:
                line += f" · {row.first.steps} steps"
            lines.setdefault(line, []).append((weights[0], _numbers(row)))
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
        "Numbers against the regularizer's weight λ",
        "Means over seeds; bars are 95 % intervals from three seeds on. Dotted: the baseline.",
        pictures.numbers_over("λ", _titles(table), lines, levels, salt="strength"),
    )


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


def _training(trained: list[tuple[str, Subject]]) -> Picture | None:
    logs = {label: training_log(s.run) for label, s in trained if s.run is not None}
    logs = {label: columns for label, columns in logs.items() if columns}
    if not logs:
        return None
    return Picture(
        "training",
        "Training",
        "The loss, and each regularizer before its weight, of each row's first seed. Losses of "
        "different targets or "
        "heads are not comparable.",
        pictures.training(logs),
    )


def _power(measured: dict[str, tuple[Subject, Curves]]) -> Picture | None:
    if not measured:
        return None
    return Picture(
        "power",
        "Power of the predicted noise",
        "E‖ε̂‖²/n of the network on real data over t (solid), against the noise's own level "
        "E‖ε‖²/n (dashed), which the "
        "isotropy regularizer holds it to, and what is optimal for Gaussian data of the same "
        "covariance (dotted): the "
        "minimum of the mean squared error lies below the level, so the constraint trades error "
        "for power.",
        pictures.predicted_power({label: vars(found) for label, (_, found) in measured.items()}),
    )


def _gamma(measured: dict[str, tuple[Subject, Curves]]) -> Picture | None:
    lines = {label: vars(found) for label, (_, found) in measured.items() if found.gamma}
    if not lines:
        return None
    return Picture(
        "gamma",
        "γ(t) as it was learned",
        "How white the noise is, from 0 at the data to 1 (solid), and where it started (dotted). "
        "It is kept within max dγ/dt ≤ "
        "10 and 0.3 ≤ ∫γ dt ≤ 0.9.",
        pictures.gamma(lines),
    )


def _labels(measured: dict[str, tuple[Subject, Curves]], section: str) -> list[str]:
    """Each row's noise or process, with the parameters in which its uses differ."""
    specs = [
        getattr(subject.run.config, section)
        for subject, _ in measured.values()
        if subject.run is not None
    ]
    varying = varying_params([[spec] for spec in specs])
    return [spec_label(spec, varying[spec.name]) for spec in specs]


def _isotropy(measured: dict[str, tuple[Subject, Curves]]) -> Picture | None:
    if not measured:
        return None
    lines: dict[str, dict[str, Any]] = {}
    rows = zip(
        _labels(measured, "process"), _labels(measured, "noise"), measured.values(), strict=True
    )
    for process, noise, (_, found) in rows:
        lines.setdefault(f"{process}, {noise}", vars(found))
    power = next(iter(measured.values()))[1].x0_power
    rises = "so it rises under DDPM" if power <= 1 else "so it does not rise even under DDPM"
    return Picture(
        "isotropy",
        "Isotropy of x_t (Iso-Diffusion, Figure 2)",
        "E‖x_t‖²/n over t. Under DDPM with white noise it is 1 + ᾱ(E‖x0‖²/n − 1), which rises to "
        "1 only where E‖x0‖² ≤ n; "
        f"these data have E‖x0‖²/n = {power:.3f}, {rises}. Other processes need not rise: IADB's "
        "(1−t)²E‖x0‖²/n + t² dips.",
        pictures.isotropy(lines),
    )


def _spectra(measured: dict[str, tuple[Subject, Curves]]) -> Picture | None:
    lines: dict[str, Any] = {}
    for noise, (_, found) in zip(_labels(measured, "noise"), measured.values(), strict=True):
        if found.spectra:
            lines.setdefault(noise, found.spectra)
    if not lines:
        return None
    return Picture(
        "spectra",
        "Spectra of the noises",
        "Mean power of 256 draws by radial frequency; white noise is 1 everywhere.",
        pictures.spectra(lines),
    )


# The page

STYLE = """
:root { color-scheme: light dark; --ink: #1d2430; --soft: #5b6675; --line: #d8dde4; --page: #ffffff; --card: #f6f8fa;
  --better: #1a7f37; --worse: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ee; --soft: #9aa5b4; --line: #38414d; --page: #12161c; --card: #1b212a;
    --better: #57c878; --worse: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 76rem; margin: 0 auto; padding: 1.5rem clamp(.8rem, 3vw, 2.5rem) 4rem; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .4rem; }
p, li { max-width: 70ch; overflow-wrap: anywhere; }
.soft, figcaption, .from { color: var(--soft); }
.scroll { overflow-x: auto; margin: 1rem 0; border: 1px solid var(--line); border-radius: .5rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .5rem .7rem; text-align: right; vertical-align: top; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; white-space: normal; overflow-wrap: break-word; max-width: 22rem; }
thead th { border-bottom: 2px solid var(--line); }
tbody tr + tr > * { border-top: 1px solid var(--line); }
tbody th { font-weight: 600; }
.from { display: block; font-size: .72rem; }
.change { display: block; font-size: .85rem; }
.better { color: var(--better); font-weight: 600; }
.worse { color: var(--worse); font-weight: 600; }
.section th { background: var(--card); text-align: left; }
figure { margin: 0 0 1rem; }
figcaption { max-width: 70ch; margin: 0 0 .6rem; }
figure svg { display: block; width: 100%; height: auto; }
figure:has(> svg) { overflow-x: auto; }
.side { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 14rem), 1fr)); gap: 1rem; }
.side figcaption { margin: .3rem 0 0; font-size: .85rem; overflow-wrap: anywhere; }
.side img { width: 100%; height: auto; display: block; image-rendering: pixelated; border-radius: .3rem; }
details { margin-top: 2rem; }
details pre { overflow-x: auto; background: var(--card); padding: 1rem; border-radius: .5rem; font-size: .8rem; }
"""


def html(
    found: Sequence[Evaluation], effects: Sequence[Table], drawn: Sequence[Sequence[Picture]]
) -> str:
    """The page, whole; ``effects`` has a table of effects for each evaluation, or none at all,
    ``drawn`` its pictures.
    """
    title = (
        " · ".join(found[0].table.context[:3])
        if len(found) == 1
        else " · ".join(e.table.name for e in found)
    )
    body: list[str] = []
    for k, evaluation in enumerate(found):
        table = evaluation.table
        body += [
            f"<h1>{escape(' · '.join(table.context[:3]))}</h1>",
            f'<p class="soft">{escape(" · ".join(table.context[3:]))}</p>',
            _html_table(evaluation),
            _html_notes(table),
            *(_html_effects(each, _prefix(found, evaluation)) for each in effects[k : k + 1]),
            *(_html_picture(one, _prefix(found, evaluation)) for one in drawn[k]),
            _html_provenance(table),
        ]
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n"
    )


def _prefix(found: Sequence[Evaluation], evaluation: Evaluation) -> str:
    """What keeps one evaluation's pictures apart from another's."""
    return f"{evaluation.table.name}-" if len(found) > 1 else ""


def _html_notes(table: Table) -> str:
    return "\n".join(
        ["<ul>", *(f"<li>{escape(note)}</li>" for note in (*table.notes, *table.remarks)), "</ul>"]
    )


def _html_effects(table: Table, prefix: str) -> str:
    shape = layout(table)
    lines = [f"<section><h2>{escape(table.context[0].capitalize())}</h2>"]
    head = "".join(f'<th scope="col">{escape(h)}</th>' for h in shape.headers)
    lines.append(
        f'<div class="scroll"><table><thead><tr><th scope="col">effect</th>{head}</tr></thead><tbody>'
    )
    for line in shape.lines:
        lines += [_html_heading(line.heading, len(shape.headers))] if line.heading else []
        cells = "".join(
            f'<td class="{escape(cell.verdict)}">{escape(cell.value)}</td>' for cell in line.cells
        )
        lines.append(f'<tr><th scope="row">{escape(line.label)}</th>{cells}</tr>')
    lines.append("</tbody></table></div>")
    lines += ["<ul>", *(f"<li>{escape(note)}</li>" for note in table.notes), "</ul></section>"]
    lines += [_html_picture(one, prefix) for one in number_pictures(table)]
    return "".join(lines)


def _html_heading(text: str, columns: int) -> str:
    return f'<tr class="section"><th colspan="{columns + 1}" scope="rowgroup">{escape(text)}</th></tr>'


def _html_table(evaluation: Evaluation) -> str:
    table = evaluation.table
    shape = layout(table)
    spaces = {m["name"]: m["features"] for m in table.provenance["metrics"]}
    extractors = ", ".join(dict.fromkeys(spaces.values()))
    counts = {
        (s.source, s.sampling.settings.steps if s.sampling else None): s.n
        for s in evaluation.subjects
    }
    head = "".join(f'<th scope="col">{escape(h)}</th>' for h in shape.headers)
    lines = [
        f'<div class="scroll"><table><thead><tr><th scope="col">row</th>{head}</tr></thead><tbody>'
    ]
    in_order = [row for steps in table.steps for row in table.rows if row.first.steps == steps]
    for line, row in zip(shape.lines, in_order, strict=True):
        if line.heading:
            lines.append(_html_heading(line.heading, len(shape.headers)))
        n = counts[row.first.source, row.first.steps]
        cells = []
        for name, cell in zip(table.metrics, line.cells, strict=True):
            measured = row.estimates.get(name)
            seeds = [seed for seed in measured.values if seed] if measured else []
            words = [f"n {n:,} · {evaluation.reference.name} · {extractors}"]
            words += [f"seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}"] if seeds else []
            change = (
                f'<span class="change {escape(cell.verdict)}">{escape(cell.change)}</span>'
                if cell.change
                else ""
            )
            source = (
                "".join(f'<span class="from">{escape(text)}</span>' for text in words)
                if measured
                else ""
            )
            cells.append(f"<td>{escape(cell.value)}{change}{source}</td>")
        name = escape(line.label) + ('<span class="from">baseline</span>' if row.baseline else "")
        lines.append(f'<tr><th scope="row">{name}</th>{"".join(cells)}</tr>')
    lines.append("</tbody></table></div>")
    return "".join(lines)


def _html_picture(picture: Picture, prefix: str) -> str:
    parts = [
        f"<section><h2>{escape(picture.title)}</h2><figure><figcaption>{escape(picture.caption)}</figcaption>"
    ]
    if picture.figure is not None:
        drawn = pictures.svg(picture.figure, f"{prefix}{picture.name}")
        parts.append(
            drawn.replace("<svg", f'<svg role="img" aria-label="{escape(picture.title)}"', 1)
        )
    if picture.images:
        parts.append('<div class="side">')
        for label, data in picture.images:
            source = base64.b64encode(data).decode()
            parts.append(
                f'<figure><img alt="samples of {escape(label)}" src="data:image/png;base64,{source}">'
                f"<figcaption>{escape(label)}</figcaption></figure>"
            )
        parts.append("</div>")
    parts.append("</figure></section>")
    return "".join(parts)


def _html_provenance(table: Table) -> str:
    text = StoredTable.of(table).model_dump_json(indent=1, exclude={"notes"}, fallback=str)
    return (
        "<details><summary>Everything that these numbers were computed from, in full "
        "precision</summary>"
        f"<pre>{escape(text)}</pre></details>"
    )


def write_pictures(found: Sequence[tuple[Table, Sequence[Picture]]], folder: Path) -> None:
    """Every picture as a file: figures as SVG and PNG, samples as PNG; those of several tables
    each in a folder.

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
                write_atomically(place / f"{one.name}.png", pictures.png(one.figure, one.name))
            for label, data in one.images:
                slug = re.sub(r"[^A-Za-z0-9.=_-]+", "-", label).strip("-")
                write_atomically(place / f"{one.name}-{slug}.png", data)
