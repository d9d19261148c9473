"""The ablation table: rows named by what differs, intervals and tests over seeds. Imports no torch.

A *row* is a configuration; its runs differ in their seed alone. In each row a number is a mean over seeds with Student's
95 % interval, from three seeds on. A seed fixes initial weights, data order, t and latents equally in all rows, so a row
is compared with the baseline by a paired t test over the seeds that both have (Welch's test where they share none), with
Holm's correction over all comparisons of the table.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from noisereg.errors import NoiseregError, nearest
from noisereg.spec import Spec, flatten, parse_values

ALPHA = 0.05
FEWEST = 3
"""Seeds from which on a mean has an interval and a difference a test."""
ENOUGH = 5
"""Seeds below which the table says what it could not have seen."""

SECTIONS = ("noise", "reg", "pairing", "process", "denoiser", "task")
"""Component sections, in the order in which they name a row."""

Verdict = Literal["better", "worse", "none", "identical", "constant", "too few seeds"]


@dataclass(frozen=True)
class Measurement:
    """The numbers of one run, or of one folder of images, under one way of sampling."""

    source: str
    numbers: Mapping[str, float]
    components: Mapping[str, Sequence[Spec]] = field(default_factory=dict)
    """By section: one spec, or those of ``reg``; none for a folder."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """The configuration's other keys, dotted."""
    seed: int | None = None
    steps: int | None = None
    """Sampling steps."""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """The rest of how it was sampled: eta, solver, grid, weights, checkpoint."""
    environment: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    """A folder's; it names its row."""

    def key(self) -> str:
        """Equal for runs that differ in their seed alone."""
        components = {s: [spec.model_dump() for spec in specs] for s, specs in self.components.items()}
        return json.dumps([components, self.values, self.name, self.steps], sort_keys=True, default=str)


@dataclass(frozen=True)
class Comparison:
    """One number of a row against the baseline's."""

    verdict: Verdict
    difference: float
    """Row minus baseline, the mean over the shared seeds."""
    change_percent: float | None
    n: int
    """Seeds (pairs), or the smaller of two sets where they share none."""
    paired: bool = True
    p: float | None = None
    p_holm: float | None = None
    detectable: float | None = None
    """Below five seeds: the smallest difference that could have been significant as the table's largest effect."""


@dataclass(frozen=True)
class Cell:
    values: Mapping[str, float]
    """By seed."""
    mean: float
    half_width: float | None
    """Of the 95 % interval; None below three seeds."""
    comparison: Comparison | None = None


@dataclass
class Row:
    label: str
    measurements: list[Measurement]
    baseline: bool = False
    picked_on: tuple[int, ...] = ()
    """The seeds on which this row was picked among others; it is reported on the rest."""
    cells: dict[str, Cell] = field(default_factory=dict)

    @property
    def first(self) -> Measurement:
        return self.measurements[0]

    @property
    def seeds(self) -> list[int]:
        return [m.seed for m in self.measurements if m.seed is not None]


@dataclass
class Table:
    metrics: list[str]
    better: dict[str, str]
    rows: list[Row]
    context: list[str] = field(default_factory=list)
    """What all numbers were computed from, in short phrases."""
    notes: list[str] = field(default_factory=list)
    candidates: list[dict[str, Any]] = field(default_factory=list)
    """What each picked row was picked among, and its mean on the seeds for picking."""
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def steps(self) -> list[int | None]:
        """The numbers of sampling steps, ascending; each is a section of the table with a baseline of its own."""
        return sorted({row.first.steps for row in self.rows}, key=lambda s: -1 if s is None else s)

    def as_rows(self) -> list[dict[str, Any]]:
        """Plain data, one mapping a row."""
        return [_plain(row) for row in self.rows]

    def as_json(self) -> dict[str, Any]:
        return {
            "context": self.context,
            "provenance": self.provenance,
            "better": self.better,
            "rows": self.as_rows(),
            "candidates": self.candidates,
            "notes": self.notes,
        }


def _plain(row: Row) -> dict[str, Any]:
    first = row.first
    metrics = {}
    for name, cell in row.cells.items():
        metrics[name] = {"mean": cell.mean, "half_width": cell.half_width, "values": dict(cell.values)}
        if cell.comparison:
            metrics[name]["comparison"] = {k: v for k, v in vars(cell.comparison).items() if v is not None}
    return {
        "label": row.label,
        "baseline": row.baseline,
        "seeds": row.seeds,
        "steps": first.steps,
        "sampling": dict(first.sampling),
        "settings": {s: [spec.model_dump() for spec in specs] for s, specs in first.components.items()}
        | dict(first.values),
        "sources": [m.source for m in row.measurements],
        **({"picked_on": list(row.picked_on)} if row.picked_on else {}),
        "metrics": metrics,
    }


def build(
    measurements: Sequence[Measurement],
    better: Mapping[str, str],
    *,
    baseline: str | None = None,
    labels: Sequence[str] = (),
    columns: Sequence[str] | None = None,
    pick: str | None = None,
) -> Table:
    """The table of some measurements.

    ``baseline`` matches one row (``noise=white,reg=none``); without it, the plainest row is taken where there is one.
    ``labels`` are ``TEXT:MATCH``; ``columns`` the sections and keys that name rows, by default those that differ.
    ``pick`` names the metric by which, among rows that differ in a regularizer's parameters alone, one is picked on half
    the seeds, to be reported on the rest.

    Raises:
        NoiseregError: for two runs of one configuration and seed, a baseline or label that matches no row or several, an
            unknown column, too few seeds to pick on.
    """
    rows = _group(measurements)
    names = list(dict.fromkeys(name for m in measurements for name in m.numbers))
    table = Table(names, {n: better[n] for n in names}, rows)
    shown = _name(rows, columns)
    for text in labels:
        label, colon, match = text.partition(":")
        if not colon or not match:
            raise NoiseregError(f"--label {text}: expected TEXT:KEY=VALUE,…, such as 'DDPM:noise=white,reg=none'")
        for row in _matching(rows, match, f"--label {text}"):
            row.label = label
    _mark_baseline(table, baseline)
    if pick is not None:
        _pick(table, pick)
    for row in table.rows:
        row.cells = {name: _cell(row, name) for name in names if any(name in m.numbers for m in row.measurements)}
    _compare(table)
    table.notes = [*_difference_notes(table.rows, shown), *_statistics_notes(table, pick is not None)]
    return table


# Rows and their names


def _group(measurements: Sequence[Measurement]) -> list[Row]:
    groups: dict[str, list[Measurement]] = {}
    for m in measurements:
        same = groups.setdefault(m.key(), [])
        if twin := next((o for o in same if o.seed == m.seed), None):
            raise NoiseregError(
                f"{twin.source} and {m.source} are one configuration with one seed: leave one out, or train another seed"
            )
        same.append(m)
    return [Row("", sorted(g, key=lambda m: -1 if m.seed is None else m.seed)) for g in groups.values()]


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return ",".join(map(_text, value))
    return "none" if value is None else str(value)


def _varying(specs: Iterable[Sequence[Spec]]) -> dict[str, set[str]]:
    """By component name: the parameters in which its uses differ."""
    uses: dict[str, list[dict[str, Any]]] = {}
    for group in specs:
        for spec in group:
            uses.setdefault(spec.name, []).append(flatten(spec.params))
    return {
        name: {k for k in set().union(*params) if len({_text(p.get(k)) for p in params}) > 1}
        for name, params in uses.items()
    }


def spec_label(spec: Spec, shown: set[str]) -> str:
    """``isotropy(weight=0.1)``: the name and some of its parameters; a strength always."""
    params = {k: v for k, v in flatten(spec.params).items() if k in shown or k == "weight"}
    inside = ", ".join(f"{k}={_text(v)}" for k, v in params.items())
    return f"{spec.name}({inside})" if inside else spec.name


def _name(rows: list[Row], columns: Sequence[str] | None) -> set[str]:
    """Set each row's label; the sections and keys that it shows."""
    trained = [row for row in rows if row.first.components]
    sections = {s: [row.first.components.get(s, ()) for row in trained] for s in (*SECTIONS, "data")}
    keys = list(dict.fromkeys(k for row in trained for k in row.first.values))
    differing_keys = [k for k in keys if len({_text(row.first.values.get(k)) for row in trained}) > 1]
    varying = {s: _varying(specs) for s, specs in sections.items()}
    if columns is None:
        differing = [s for s in SECTIONS if len({json.dumps([x.model_dump() for x in v]) for v in sections[s]}) > 1]
        # "none" alone names no row: what may be none stands beside the noise
        if not differing_keys or set(differing) & {"reg", "pairing"}:
            differing = list(dict.fromkeys(["noise", *(differing or ["reg"])]))
        shown = [*differing, *differing_keys]
    else:
        shown = list(columns)
        for column in shown:
            section = column.partition(".")[0]
            if trained and section not in sections and column not in keys:
                raise NoiseregError(f"--columns {column}: no such key{nearest(column, [*SECTIONS, *keys])}")

    def part(row: Row, column: str) -> str:
        section, _, rest = column.partition(".")
        if section not in sections:
            short = column.rpartition(".")[2]
            return f"{short}={_text(row.first.values.get(column))}"
        specs = row.first.components.get(section, ())
        if rest:
            return f"{rest}={'+'.join(_text(flatten(s.params).get(rest)) for s in specs)}"
        names = [s for s in specs if s.name != "none"]
        return " + ".join(spec_label(s, varying[section].get(s.name, set())) for s in names) or "none"

    for row in rows:
        parts = [part(row, column) for column in shown] if row.first.components else [row.first.name]
        row.label = " · ".join(p for p in parts if p != "none") or "none"
    for steps in {row.first.steps for row in rows}:
        seen: dict[str, int] = {}
        for row in rows:
            if row.first.steps == steps:
                seen[row.label] = seen.get(row.label, 0) + 1
                if seen[row.label] > 1:
                    row.label += f" ({seen[row.label]})"
    return set(shown)


def _matches(row: Row, key: str, text: str) -> bool:
    section, _, rest = key.partition(".")
    components = row.first.components
    if section in components:
        specs = [s for s in components[section] if s.name != "none"]
        if rest:
            return any(_same(flatten(s.params).get(rest), text) for s in specs)
        wanted = [Spec.parse(part) for part in text.split("+")] if text != "none" else []
        return len(wanted) == len(specs) and all(any(_is(s, w) for s in specs) for w in wanted)
    return key in row.first.values and _same(row.first.values[key], text)


def _is(spec: Spec, wanted: Spec) -> bool:
    own = flatten(spec.params)
    names = (spec.name, spec.name.rpartition("/")[2])
    return wanted.name in names and all(_same(own.get(k), v) for k, v in flatten(wanted.params).items())


def _same(value: Any, text: Any) -> bool:
    if _text(value) == _text(text):
        return True
    try:
        return float(value) == float(text)
    except (TypeError, ValueError):
        return False


def _matching(rows: list[Row], match: str, flag: str) -> list[Row]:
    """One row of each section.

    Raises:
        NoiseregError: if none matches, or several of one section do.
    """
    if "=" in match:
        wanted = flatten(parse_values(match))
        found = [row for row in rows if all(_matches(row, k, v) for k, v in wanted.items())]
    else:
        found = [row for row in rows if match in (row.label, row.first.name, row.first.source)]
    there = "; ".join(dict.fromkeys(row.label for row in rows))
    if not found:
        raise NoiseregError(f"{flag} matches no row; expected KEY=VALUE,… that fits one of: {there}")
    one_section = [row for row in found if row.first.steps == found[0].first.steps]
    if len(one_section) > 1:
        several = "; ".join(row.label for row in one_section)
        raise NoiseregError(f"{flag} matches several rows ({several}); add a key in which they differ")
    return found


def _mark_baseline(table: Table, baseline: str | None) -> None:
    if baseline is not None:
        for row in _matching(table.rows, baseline, f"--baseline {baseline}"):
            row.baseline = True
        return
    for steps in table.steps:
        left = [row for row in table.rows if row.first.steps == steps]
        if len(left) == 1:
            continue
        left = [row for row in left if row.first.components]
        for section, plain in (("noise", "white"), ("reg", "none"), ("pairing", "none")):
            left = [row for row in left if _matches(row, section, plain)] or left
        if len(left) == 1:
            left[0].baseline = True


# Numbers


def _cell(row: Row, name: str) -> Cell:
    measured = [m for m in row.measurements if name in m.numbers]
    values = {_seed(m): float(m.numbers[name]) for m in measured}
    numbers = np.array(list(values.values()))
    half = None
    if len(numbers) >= FEWEST:
        from scipy import stats

        half = float(stats.t.ppf(1 - ALPHA / 2, len(numbers) - 1) * numbers.std(ddof=1) / math.sqrt(len(numbers)))
    return Cell(values, float(numbers.mean()), half)


def _seed(m: Measurement) -> str:
    return "" if m.seed is None else str(m.seed)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values (Holm 1979), in the order given."""
    order = sorted(range(len(p)), key=lambda i: p[i])
    adjusted, highest = [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = highest
    return adjusted


def _constant(differences: np.ndarray, scale: float) -> bool:
    """Whether differences vary by no more than rounding."""
    return bool(np.ptp(differences) <= 1e-12 * scale)


@dataclass(frozen=True)
class _Test:
    verdict: Verdict | None
    difference: float
    n: int
    paired: bool = True
    p: float | None = None
    error: float = 0.0
    """Standard error of the difference."""
    freedom: float = 0.0


def difference_test(row: Mapping[str, float], base: Mapping[str, float]) -> _Test:
    """Student's test of row − base, paired over shared seeds; Welch's where there are none to share."""
    from scipy import stats

    shared = [seed for seed in row if seed in base and seed]
    if shared:
        a, b = (np.array([v[s] for s in shared]) for v in (row, base))
        d = a - b
        n, difference = len(d), float(d.mean())
        scale = float(max(np.abs(a).max(), np.abs(b).max()))
        if _constant(d, scale) and (n >= FEWEST or not d.any()):
            return _Test("identical" if np.abs(d).max() <= 1e-12 * scale else "constant", difference, n)
        if n < FEWEST:
            return _Test("too few seeds", difference, n)
        error = float(d.std(ddof=1) / math.sqrt(n))
        freedom = float(n - 1)
        paired = True
    else:
        a, b = np.array(list(row.values())), np.array(list(base.values()))
        n, difference, paired = min(len(a), len(b)), float(a.mean() - b.mean()), False
        if n < FEWEST:
            return _Test("too few seeds", difference, n, paired)
        u, v = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
        error = math.sqrt(u + v)
        if error <= 1e-12 * max(np.abs(a).max(), np.abs(b).max()):
            return _Test(
                "identical" if abs(difference) <= 1e-12 * np.abs(a).max() else "constant", difference, n, paired
            )
        freedom = float((u + v) ** 2 / (u**2 / (len(a) - 1) + v**2 / (len(b) - 1)))
    p = float(2 * stats.t.sf(abs(difference) / error, freedom))
    return _Test(None, difference, n, paired, p, error, freedom)


def _compare(table: Table) -> None:
    """Fill in every row's comparisons with its section's baseline."""
    tests: dict[tuple[int, str], _Test] = {}
    bases = {row.first.steps: row for row in table.rows if row.baseline}
    for i, row in enumerate(table.rows):
        base = bases.get(row.first.steps)
        if base is None or base is row:
            continue
        for name, cell in row.cells.items():
            if name in base.cells:
                tests[i, name] = difference_test(cell.values, base.cells[name].values)
    family = {key: t.p for key, t in tests.items() if t.p is not None}
    adjusted = dict(zip(family, holm(list(family.values())), strict=True))
    for (i, name), t in tests.items():
        row = table.rows[i]
        base_values = bases[row.first.steps].cells[name].values
        row.cells[name] = Cell(
            row.cells[name].values,
            row.cells[name].mean,
            row.cells[name].half_width,
            _comparison(
                t, base_values, row.cells[name].values, table.better[name], adjusted.get((i, name)), len(family)
            ),
        )


def _comparison(
    t: _Test,
    base: Mapping[str, float],
    own: Mapping[str, float],
    better: str,
    p_holm: float | None,
    family: int,
) -> Comparison:
    shared = [base[s] for s in own if s in base and s] or list(base.values())
    reference = float(np.mean(shared))
    verdict: Verdict = t.verdict or "none"
    if p_holm is not None and p_holm < ALPHA:
        verdict = "better" if (t.difference > 0) == (better == "higher") else "worse"
    detectable = None
    if t.p is not None and t.n < ENOUGH:
        from scipy import stats

        detectable = float(stats.t.ppf(1 - ALPHA / (2 * family), t.freedom) * t.error)
    return Comparison(
        verdict=verdict,
        difference=t.difference,
        change_percent=100 * t.difference / abs(reference) if reference else None,
        n=t.n,
        paired=t.paired,
        p=t.p,
        p_holm=p_holm,
        detectable=detectable,
    )


# Picking on half the seeds


def _pick(table: Table, metric: str) -> None:
    """Among rows that differ in a regularizer's parameters alone, keep the best on half the seeds, with the other half."""
    if metric not in table.metrics:
        raise NoiseregError(
            f"--pick {metric}: no such number; there are: {', '.join(table.metrics)}{nearest(metric, table.metrics)}"
        )
    families: dict[str, list[Row]] = {}
    for row in table.rows:
        if row.first.components.get("reg") and not row.baseline:
            families.setdefault(_but_for_strength(row.first), []).append(row)
    dropped: list[Row] = []
    sign = 1 if table.better[metric] == "higher" else -1
    for rows in families.values():
        if len(rows) < 2:
            continue
        seeds = sorted(set.intersection(*(set(row.seeds) for row in rows)))
        half, rest = seeds[: len(seeds) // 2], seeds[len(seeds) // 2 :]
        if not half:
            raise NoiseregError(
                f"--pick {metric} picks on half the seeds and reports on the rest, and {rows[0].label} and its kin share "
                f"{len(seeds)} seed{'s' * (len(seeds) != 1)}; expected at least 2, better 6"
            )

        def mean(row: Row, half: list[int] = half) -> float:
            return float(np.mean([m.numbers[metric] for m in row.measurements if m.seed in half]))

        best = max(rows, key=lambda row: sign * mean(row))
        for row in rows:
            table.candidates.append(
                {"label": row.label, "metric": metric, "mean": mean(row), "seeds": half, "picked": row is best}
            )
        best.picked_on = tuple(half)
        best.measurements = [m for m in best.measurements if m.seed in rest]
        dropped += [row for row in rows if row is not best]
    if not table.candidates:
        raise NoiseregError(f"--pick {metric}: no two rows differ in a regularizer's parameters alone")
    table.rows = [row for row in table.rows if row not in dropped]


def _but_for_strength(m: Measurement) -> str:
    components: dict[str, Any] = {s: [spec.model_dump() for spec in specs] for s, specs in m.components.items()}
    components["reg"] = [spec.name for spec in m.components.get("reg", ())]
    return json.dumps([components, m.values, m.steps], sort_keys=True, default=str)


# What is said under the table


def _distinct(rows: list[Row], read: Callable[[Measurement], Mapping[str, Any]], kind: str) -> list[str]:
    """``key (a, b)`` for every key in which rows' measurements differ."""
    measured = [m for row in rows for m in row.measurements if m.components]
    keys = dict.fromkeys(k for m in measured for k in read(m))
    found = []
    for key in keys:
        values = list(dict.fromkeys(_text(read(m)[key]) for m in measured if key in read(m)))
        if len(values) > 1:
            found.append(f"{kind}{key} ({', '.join(values[:4])}{', …' * (len(values) > 4)})")
    return found


def _difference_notes(rows: list[Row], shown: set[str]) -> list[str]:
    def components(m: Measurement) -> dict[str, Any]:
        return {
            s: " + ".join(spec.label() for spec in specs) or "none"
            for s, specs in m.components.items()
            if s not in shown
        }

    def values(m: Measurement) -> dict[str, Any]:
        return {k: v for k, v in m.values.items() if k not in shown}

    found = [
        *_distinct(rows, components, ""),
        *_distinct(rows, values, ""),
        *_distinct(rows, lambda m: m.sampling, "sample."),
        *_distinct(rows, lambda m: m.environment, ""),
    ]
    return [f"rows differ in more than their names show: {'; '.join(found)}"] if found else []


def _statistics_notes(table: Table, picked: bool) -> list[str]:
    notes: list[str] = []
    counts = [len(cell.values) for row in table.rows for cell in row.cells.values()]
    if any(n >= FEWEST for n in counts):
        notes.append("mean ± half the 95 % interval (Student) over seeds")
    if any(1 <= n < FEWEST for n in counts) and any(row.seeds for row in table.rows):
        notes.append(
            f"too few seeds for an interval or a test in some rows: every seed's value, from {FEWEST} on a mean"
        )
    for row in table.rows:
        if row.picked_on:
            notes.append(
                f"{row.label} was picked on seeds {', '.join(map(str, row.picked_on))} and is reported on "
                f"{', '.join(map(str, row.seeds))}"
            )
    comparisons = [
        (row, name, cell.comparison) for row in table.rows for name, cell in row.cells.items() if cell.comparison
    ]
    tested = [c for _, _, c in comparisons if c.p is not None]
    if not comparisons and len(table.rows) > len(table.steps):
        notes.append("no baseline: give --baseline KEY=VALUE,… for changes and tests")
    if tested:
        kind = "paired t tests over seeds" if all(c.paired for c in tested) else "t tests over seeds"
        if any(not c.paired for c in tested):
            kind += " (Welch's where rows share no seed)"
        family = f"{len(tested)} {kind} with Holm's correction" if len(tested) > 1 else kind.replace("tests", "test")
        if any(c.verdict in ("better", "worse") for c in tested):
            notes.append(f"* a difference that is significant at 5 %: {family}")
        else:
            notes.append(f"no difference is significant at 5 %: {family}")
    if any(c.verdict == "constant" for _, _, c in comparisons):
        notes.append("= the same difference at every seed: nothing to test against")
    blind: dict[str, float] = {}
    for _, name, c in comparisons:
        if c.detectable is not None:
            blind[name] = min(blind.get(name, math.inf), c.detectable)
    if blind:
        seeds = sorted({c.n for _, _, c in comparisons if c.detectable is not None})
        limits = ", ".join(f"{name} {limit:.2g}" for name, limit in blind.items())
        notes.append(f"with {' or '.join(map(str, seeds))} seeds differences under these could not be seen: {limits}")
    if not picked and len({_but_for_strength(r.first) for r in table.rows if r.first.components}) < len(
        [r for r in table.rows if r.first.components]
    ):
        notes.append(
            "several strengths of one regularizer: the best of them flatters itself; "
            "--pick METRIC picks on half the seeds and reports the rest"
        )
    return notes
