"""The ablation table: rows named by what differs, intervals and tests over seeds. Imports no
torch.

A *row* is a configuration; its runs differ in their seed alone. In each row a number is a mean
over seeds with Student's 95 % interval, from three seeds on. A seed fixes initial weights, data
order, t and latents equally in all rows, so a row is compared with the baseline by a paired t test
over the seeds that both have (Welch's test where they share none), with Holm's correction over all
comparisons of the table.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence, Set
from functools import partial
from typing import Any

from noisereg.errors import NoiseregError, nearest
from noisereg.tables.naming import Words, matches, matching, name_rows, text_of, where
from noisereg.tables.significance import (
    ALPHA,
    FEWEST,
    POWER,
    Test,
    difference_test,
    found_with_power,
    half_width,
    holm,
    mean,
)
from noisereg.tables.table import Comparison, Estimate, Measurement, Row, Table, Verdict


def build(
    measurements: Sequence[Measurement],
    better: Mapping[str, str],
    *,
    baseline: str | None = None,
    labels: Sequence[str] = (),
    columns: Sequence[str] | None = None,
    pick: str | None = None,
    pick_on: Sequence[int] = (),
    marked: Set[str] = frozenset(),
) -> Table:
    """The table of some measurements.

    ``baseline`` matches one row (``noise=white,reg=none``); without it, the plainest row is taken
    where there is one. ``labels`` are ``TEXT:MATCH``; ``columns`` the sections and keys that name
    rows, by default those that differ. ``pick`` names the metric by which, among rows that differ
    in a regularizer's parameters alone, one is picked on the seeds ``pick_on`` (by default the
    first half of them), to be reported on the rest. ``marked`` are keys of measurements whose
    rows are baselines, where no ``baseline`` says it.

    Raises:
        NoiseregError: for two runs of one configuration and seed, a baseline or label that matches
        no row or several, an unknown column, too few seeds to pick on.
    """
    given = {
        "baseline": baseline,
        "labels": list(labels),
        "columns": list(columns) if columns else None,
    }
    rows = _group(measurements)
    names = list(dict.fromkeys(name for m in measurements for name in m.numbers))
    table = Table(
        names, {n: better[n] for n in names}, rows, asked={k: v for k, v in given.items() if v}
    )
    shown = name_rows(rows, columns)
    named = [(label, found) for label, found in (_labelled(rows, text) for text in labels)]
    for label, found in named:
        for row in found:
            row.label = label
    _mark_baseline(table, baseline, marked)
    diverged = _pick(table, pick, pick_on) if pick is not None else []
    for row in table.rows:
        row.estimates = {
            name: _estimate(row, name)
            for name in names
            if any(name in m.numbers for m in row.measurements)
        }
    _compare(table)
    table.notes = [
        *difference_notes(table.rows, shown),
        *[f"{note}; not picked" for note in diverged_notes(diverged)],
        *_statistics_notes(table, pick is not None),
    ]
    return table


def rebuild(table: Table, keep: str | None = None, **options: Any) -> Table | None:
    """The table of the same measurements with other ``options`` of :func:`build`, its own where
    they are not given; of those that have ``keep`` (``process=iadb``), None if there are none.

    Raises:
        NoiseregError: as :func:`build`; for a table of effects, and one whose rows were picked:
        the other seeds are gone.
    """
    if table.effects or table.candidates:
        kind = "effects" if table.effects else "rows that were picked"
        raise NoiseregError(
            f"a table of {kind} holds no other rows; make it anew from the table it came from"
        )
    every = [m for row in table.rows for m in row.measurements]
    kept = every if keep is None else where(every, keep)
    if not any(m.components for m in kept) and keep is not None:
        return None
    given = {k: v for k, v in options.items() if v}
    marked = {row.first.key() for row in table.rows if row.baseline}
    made = _built_again(kept, table.better, table.asked, marked, given)
    made.context = table.context
    if len(kept) < len(every):
        made.context = [*_of_steps(table.context, made.steps), f"where {keep}"]
    made.remarks = [*table.remarks, *made.remarks]
    made.provenance, made.name = table.provenance, table.name
    return made


def join(tables: Sequence[Table]) -> list[Table]:
    """Those that have the same head, but for seeds, numbers of steps and what --where left out, as
    one: their numbers were computed alike, against the same real samples. A run that stands in
    several is there once. Tables of effects and of rows that were picked stay by themselves.

    Raises:
        NoiseregError: for runs of one configuration and seed whose numbers differ.
    """
    groups: dict[str, list[Table]] = {}
    for place, table in enumerate(tables):
        alone = table.effects or table.candidates or "reference" not in table.provenance
        groups.setdefault(str(place) if alone else _computed(table), []).append(table)
    return [of[0] if len(of) == 1 else _joined(of) for of in groups.values()]


def _computed(table: Table) -> str:
    """Equal for tables whose rows can be compared."""
    what = {k: table.provenance.get(k) for k in ("data", "reference", "metrics")}
    context = [
        p for p in _of_steps(table.context, []) if not re.fullmatch(r"\d+ seeds?|where .*", p)
    ]
    return json.dumps([what, context, table.better], sort_keys=True, default=str)


def _of_steps(context: Sequence[str], steps: Sequence[int | None]) -> list[str]:
    """A table's context with other numbers of sampling steps."""
    said = ", ".join(str(s) for s in steps if s is not None)
    return [re.sub(r"^\d+(, \d+)* steps", f"{said} steps", phrase) for phrase in context]


def _joined(tables: Sequence[Table]) -> Table:
    from noisereg.tables.versions import of_one_version  # reads the plugins

    first = tables[0]
    once: dict[tuple[str, int | None], Measurement] = {}
    rows = [(t, row) for t in tables for row in t.rows]
    every = of_one_version([m for _, row in rows for m in row.measurements])
    of = [(t, row) for t, row in rows for _ in row.measurements]
    for m in every:
        twin = once.setdefault((m.key(), m.seed), m)
        if repr(twin.numbers) != repr(m.numbers):  # NaN is not equal to itself
            raise NoiseregError(
                f"{twin.source} and {m.source} are one configuration with one seed, and their "
                "numbers differ; show the tables one at a time, or measure the runs in one command"
            )
    asked: dict[str, Any] = {}
    for table in reversed(tables):
        asked |= table.asked
    asked["labels"] = list(dict.fromkeys(x for t in tables for x in t.asked.get("labels", ())))
    asking = next((t for t in tables if "baseline" in t.asked), None)
    marked = {
        m.key() for m, (t, row) in zip(every, of, strict=True) if t is asking and row.baseline
    }
    made = _built_again(list(once.values()), first.better, asked, marked, {})
    chosen = [next((p for p in t.context if p.startswith("where ")), "") for t in tables]
    context = [p for p in first.context if not p.startswith("where ")]
    if all(chosen):  # else something is there that none of them says
        ways = dict.fromkeys(p.removeprefix("where ") for p in chosen)
        context.append(f"where {' or '.join(ways)}")
    made.context = _of_steps(context, made.steps)
    remarks = [remark for t in [*tables, made] for remark in t.remarks]
    made.remarks = list(dict.fromkeys(remarks))
    versions = dict.fromkeys(str(t.provenance.get("noisereg", "")) for t in tables)
    samples = [sample for t in tables for sample in t.provenance.get("samples", ())]
    made.provenance = {
        **first.provenance,
        "noisereg": ", ".join(versions),
        "samples": list({json.dumps(s, sort_keys=True): s for s in samples}.values()),
    }
    made.name = first.name
    return made


def _built_again(
    kept: Sequence[Measurement],
    better: Mapping[str, str],
    asked: Mapping[str, Any],
    marked: Set[str],
    given: Mapping[str, Any],
) -> Table:
    """The table of these measurements with the options ``given``, else with what a table's rows
    were ``asked`` to be, as far as it fits these. ``marked`` are the keys of its baselines: one
    that was told by a name stays, whatever it is called now; one that is gone is missed aloud.
    """
    rows = _group(kept)
    wanted = {**asked, **given}
    if "columns" not in given and not _fits(lambda: name_rows(rows, wanted.get("columns"))):
        del wanted["columns"]
    name_rows(rows, wanted.get("columns"))
    if "labels" not in given:
        labels = asked.get("labels", ())
        wanted["labels"] = [x for x in labels if _fits(partial(_labelled, rows, x))]
    for label, found in [_labelled(rows, text) for text in wanted.get("labels", ())]:
        for row in found:
            row.label = label
    if "baseline" in given or "baseline" not in asked:
        return build(kept, better, **wanted)
    text = wanted.pop("baseline")
    if _fits(partial(matching, rows, text, "")):
        return build(kept, better, baseline=text, **wanted)
    if {row.first.key() for row in rows} & marked:
        made = build(kept, better, marked=marked, **wanted)
        made.asked["baseline"] = text
        return made
    made = build(kept, better, **wanted)
    taken = "; ".join(dict.fromkeys(row.label for row in made.rows if row.baseline))
    made.remarks = [
        f"the baseline asked for, {text}, is no row here; "
        + (f"compared with {taken}" if taken else "nothing is compared")
    ]
    return made


def _fits(find: Callable[[], object]) -> bool:
    try:
        find()
    except NoiseregError:
        return False
    return True


def _labelled(rows: list[Row], text: str) -> tuple[str, list[Row]]:
    """The label of ``TEXT:MATCH``, and its rows."""
    label, colon, match = text.partition(":")
    if not colon or not match:
        raise NoiseregError(
            f"`label={text}`: expected TEXT:KEY=VALUE,…, such as 'DDPM:noise=white,reg=none'"
        )
    return label, matching(rows, match, f"`label={text}`")


def _group(measurements: Sequence[Measurement]) -> list[Row]:
    groups: dict[str, list[Measurement]] = {}
    for m in measurements:
        same = groups.setdefault(m.key(), [])
        if twin := next((o for o in same if o.seed == m.seed), None):
            raise NoiseregError(
                f"{twin.source} and {m.source} are one configuration with one seed: leave one "
                "out, or train another seed"
            )
        same.append(m)
    return [
        Row("", sorted(g, key=lambda m: -1 if m.seed is None else m.seed)) for g in groups.values()
    ]


PLAIN = (("noise", "white"), ("reg", "none"), ("pairing", "none"))
"""What a row is plain in, first things first."""


def _mark_baseline(table: Table, baseline: str | None, marked: Set[str]) -> None:
    if baseline is not None:
        for row in matching(table.rows, baseline, f"`baseline={baseline}`"):
            row.baseline = True
        return
    if marked:
        for row in table.rows:
            row.baseline = row.first.key() in marked
        return
    for steps in table.steps:
        left = [row for row in table.rows if row.first.steps == steps]
        if len(left) == 1:
            continue
        runs = left = [row for row in left if row.first.components]
        for section, plain in PLAIN:
            left = [row for row in left if matches(row.first, section, plain)] or left
        # not a row with a term beside one without, of another noise: which is the plainer?
        if len(left) == 1 and all(
            matches(left[0].first, section, plain)
            or not any(matches(row.first, section, plain) for row in runs)
            for section, plain in PLAIN
        ):
            left[0].baseline = True


# Numbers


def _estimate(row: Row, name: str) -> Estimate:
    return estimate(
        {_seed(m): float(m.numbers[name]) for m in row.measurements if name in m.numbers}
    )


def estimate(values: Mapping[str, float]) -> Estimate:
    """The mean of the numbers by seed, with its interval."""
    numbers = list(values.values())
    return Estimate(values=dict(values), mean=mean(numbers), half_width=half_width(numbers))


def _seed(m: Measurement) -> str:
    return "" if m.seed is None else str(m.seed)


def _compare(table: Table) -> None:
    """Fill in every row's comparisons with its section's baseline."""
    tests: dict[tuple[int, str], Test] = {}
    references: dict[tuple[int, str], float] = {}
    bases = {row.first.steps: row for row in table.rows if row.baseline}
    for i, row in enumerate(table.rows):
        base = bases.get(row.first.steps)
        if base is None or base is row:
            continue
        for name, own in row.estimates.items():
            if name in base.estimates:
                there = base.estimates[name].values
                shared = [there[s] for s in own.values if s in there and s]
                tests[i, name] = difference_test(own.values, there)
                references[i, name] = mean(shared or list(there.values()))
    compare(table, tests, references)


def compare(
    table: Table,
    tests: Mapping[tuple[int, str], Test],
    references: Mapping[tuple[int, str], float] | None = None,
) -> None:
    """Give the estimates of (row, metric) what their tests found, corrected together; with
    ``references``, the means that the differences are a change of, in percent too.
    """
    family = {place: t.p for place, t in tests.items() if t.p is not None}
    adjusted = dict(zip(family, holm(list(family.values())), strict=True))
    for (i, name), t in tests.items():
        p_holm = adjusted.get((i, name))
        verdict: Verdict = t.verdict or "none"
        if p_holm is not None and p_holm < ALPHA:
            verdict = (
                "better" if (t.difference > 0) == (table.better[name] == "higher") else "worse"
            )
        compared = Comparison(
            verdict=verdict,
            difference=t.difference,
            change_percent=_percent(t.difference, (references or {}).get((i, name), 0.0)),
            n=t.n,
            paired=t.paired,
            p=t.p,
            p_holm=p_holm,
            found_with_power=found_with_power(t, len(family)) if t.p is not None else None,
        )
        estimates = table.rows[i].estimates
        estimates[name] = estimates[name].model_copy(update={"comparison": compared})


def _percent(difference: float, reference: float) -> float | None:
    """None where there is no such number."""
    if not reference or not math.isfinite(reference):
        return None
    percent = 100 * (difference / abs(reference))
    return percent if math.isfinite(percent) else None


# Picking on some of the seeds


def _pick(table: Table, metric: str, pick_on: Sequence[int]) -> list[Row]:
    """Among rows that differ in a regularizer's parameters alone, keep the best on some seeds,
    with the other seeds; those that were none to pick, since they diverged.
    """
    if metric not in table.metrics:
        raise NoiseregError(
            f"`pick={metric}`: no such number; there are: "
            f"{', '.join(table.metrics)}{nearest(metric, table.metrics)}"
        )
    families: dict[str, list[Row]] = {}
    for row in table.rows:
        if row.first.components.get("reg") and not row.baseline:
            families.setdefault(_but_for_strength(row.first), []).append(row)
    dropped: list[Row] = []
    sign = 1 if table.better[metric] == "higher" else -1
    for family in families.values():
        # a strength at which any run diverged is none to pick
        rows = [row for row in family if not row.diverged]
        if len(family) < 2 or not rows:
            continue
        seeds = sorted(set.intersection(*(_measured(row, metric) for row in rows)))
        some = [s for s in seeds if s in pick_on] if pick_on else seeds[: len(seeds) // 2]
        rest = [s for s in seeds if s not in some]
        if not some or not rest or [s for s in pick_on if s not in seeds]:
            if pick_on:
                raise NoiseregError(
                    f"`pick_on={','.join(map(str, pick_on))}`: {rows[0].label} and its kin share "
                    "the seeds "
                    f"{', '.join(map(str, seeds))}; expected some of these, and others left to "
                    "report on"
                )
            raise NoiseregError(
                f"`pick={metric}` picks on half the seeds and reports on the rest, and "
                f"{rows[0].label} and its kin share "
                f"{len(seeds)} seed{'s' * (len(seeds) != 1)}; expected at least 2, better 6"
            )

        def on_some(row: Row, some: Sequence[int] = some) -> dict[str, float]:
            return {str(m.seed): m.numbers[metric] for m in row.measurements if m.seed in some}

        means = [mean(list(on_some(row).values())) for row in rows]
        order = sorted(range(len(rows)), key=lambda k: (math.isfinite(means[k]), sign * means[k]))
        best = rows[order[-1]]
        if len(order) > 1 and math.isfinite(means[order[-2]]):
            second = rows[order[-2]]
            t = difference_test(on_some(best), on_some(second))
            best.like = "" if t.p is not None and t.p < ALPHA else second.label
        for row in family:
            own = means[rows.index(row)] if row in rows else math.nan
            why = {"diverged": row.diverged[0].diverged} if row.diverged else {}
            table.candidates.append(
                {
                    "label": row.label,
                    "metric": metric,
                    "mean": own,
                    "seeds": some,
                    "picked": row is best,
                    **why,
                }
            )
        best.picked_on = tuple(some)
        best.measurements = [m for m in best.measurements if m.seed in rest]
        dropped += [row for row in family if row is not best]
    if not table.candidates:
        raise NoiseregError(
            f"`pick={metric}`: no two rows differ in a regularizer's parameters alone"
        )
    for base in (row for row in table.rows if row.baseline):
        _leave_picking_seeds(base, [r for r in table.rows if r.first.steps == base.first.steps])
    table.rows = [row for row in table.rows if not any(row is other for other in dropped)]
    return [row for row in dropped if row.diverged]


def _leave_picking_seeds(base: Row, section: Sequence[Row]) -> None:
    """A baseline stands beside rows that were picked: on the seeds that these are reported on."""
    picked = [row for row in section if row.picked_on]
    reported = {seed for row in picked for seed in row.seeds}
    used = {seed for row in picked for seed in row.picked_on} - reported
    if not set(base.seeds) <= used:
        base.measurements = [m for m in base.measurements if m.seed not in used]


def _measured(row: Row, metric: str) -> set[int]:
    """The seeds that have the number."""
    return {m.seed for m in row.measurements if m.seed is not None and metric in m.numbers}


def _but_for_strength(m: Measurement) -> str:
    components: dict[str, Any] = {
        s: [spec.model_dump() for spec in specs] for s, specs in m.components.items()
    }
    components["reg"] = [spec.name for spec in m.components.get("reg", ())]
    return json.dumps([components, m.values, m.steps], sort_keys=True, default=str)


# What is said under the table


def _distinct(
    rows: list[Row], read: Callable[[Measurement], Mapping[str, Any]], kind: str
) -> list[str]:
    """``key (a, b)`` for every key in which rows' measurements differ."""
    measured = [m for row in rows for m in row.measurements if m.components]
    keys = dict.fromkeys(k for m in measured for k in read(m))
    remarks = []
    for key in keys:
        values = list(dict.fromkeys(text_of(read(m)[key]) for m in measured if key in read(m)))
        if len(values) > 1:
            remarks.append(f"{kind}{key} ({', '.join(values[:4])}{', …' * (len(values) > 4)})")
    return remarks


def difference_notes(rows: list[Row], shown: set[str]) -> list[str]:
    words = Words([m for row in rows for m in row.measurements])

    def components(m: Measurement) -> dict[str, Any]:
        return {s: words.of(m, s) for s in m.components if s not in shown}

    def values(m: Measurement) -> dict[str, Any]:
        return {k: v for k, v in m.values.items() if k not in shown}

    remarks = [
        *_distinct(rows, components, ""),
        *_distinct(rows, values, ""),
        *_distinct(rows, lambda m: m.sampling, "sample."),
        *_distinct(rows, lambda m: m.environment, ""),
    ]
    return [f"rows differ in more than their names show: {'; '.join(remarks)}"] if remarks else []


def _statistics_notes(table: Table, picked: bool) -> list[str]:
    notes = diverged_notes(table.rows)
    counts = [len(found.values) for row in table.rows for found in row.estimates.values()]
    if any(n >= FEWEST for n in counts):
        notes.append("mean ± half the 95 % interval (Student) over seeds")
    if any(1 <= n < FEWEST for n in counts) and any(row.seeds for row in table.rows):
        notes.append(
            "too few seeds for an interval or a test in some rows: every seed's value, from "
            f"{FEWEST} on a mean"
        )
    for row in table.rows:
        if row.picked_on:
            notes.append(
                f"{row.label} was picked on seeds {', '.join(map(str, row.picked_on))} and is "
                "reported on "
                f"{', '.join(map(str, row.seeds))}"
                + (
                    f"; {len(row.picked_on)} seed{'s' * (len(row.picked_on) > 1)} do"
                    f"{'es' * (len(row.picked_on) == 1)} not tell it from {row.like}"
                    if row.like
                    else ""
                )
            )
    comparisons = [
        (row, name, found.comparison)
        for row in table.rows
        for name, found in row.estimates.items()
        if found.comparison
    ]
    tested = [c for _, _, c in comparisons if c.p is not None]
    if not comparisons and len(table.rows) > len(table.steps):
        bases = dict.fromkeys(row.label for row in table.rows if row.baseline)
        notes.append(
            f"the baseline, {'; '.join(bases)}, has no number that another row has"
            if bases
            else "no baseline: noisereg eval --baseline KEY=VALUE,… shows changes and tests"
        )
    if tested:
        kind = (
            "paired t tests over seeds" if all(c.paired for c in tested) else "t tests over seeds"
        )
        if any(not c.paired for c in tested):
            kind += " (Welch's where rows share no seed)"
        family = (
            f"{len(tested)} {kind} with Holm's correction"
            if len(tested) > 1
            else kind.replace("tests", "test")
        )
        if any(c.verdict in ("better", "worse") for c in tested):
            notes.append(f"* a difference that is significant at 5 %: {family}")
        else:
            notes.append(f"no difference is significant at 5 %: {family}")
    if any(c.verdict == "not finite" for _, _, c in comparisons):
        notes.append("numbers that are not finite have no mean, no change and no test")
    if any(c.verdict == "constant" for _, _, c in comparisons):
        notes.append("= the same difference at every seed: nothing to test against")
    if power := power_note([(name, c) for _, name, c in comparisons]):
        notes.append(power)
    if not picked and len(
        {_but_for_strength(r.first) for r in table.rows if r.first.components}
    ) < len([r for r in table.rows if r.first.components]):
        notes.append(
            "several strengths of one regularizer: the best of them flatters itself; "
            "noisereg eval --pick METRIC picks on some seeds and reports on the others"
        )
    return notes


def diverged_notes(rows: Sequence[Row]) -> list[str]:
    """A line for each row in which training diverged."""
    notes = []
    for row in rows:
        if not row.diverged:
            continue
        which = [f"seed {m.seed}" for m in row.diverged if m.seed is not None]
        reasons = "; ".join(dict.fromkeys(m.diverged for m in row.diverged))
        rest = len(row.measurements) - len(row.diverged)
        said = f"{row.label} diverged"
        said += f" ({', '.join(which)}): {reasons}" if which else f": {reasons}"
        said += f"; its numbers are over the {rest} that did not" if rest else ""
        notes.append(said)
    return notes


def power_note(comparisons: Sequence[tuple[str, Comparison]]) -> str:
    """The true difference that would be found in 80 % of cases, by metric, from the row that
    spreads least to the one that spreads most.
    """
    found: dict[str, list[float]] = {}
    for name, c in comparisons:
        if c.found_with_power is not None:
            found.setdefault(name, []).append(c.found_with_power)
    if not found:
        return ""
    counts = sorted({c.n for _, c in comparisons if c.found_with_power is not None})
    sizes = []
    for name, differences in found.items():
        low, high = (f"{bound:.2g}" for bound in (min(differences), max(differences)))
        sizes.append(f"{name} {low}" + (f" to {high}" if low != high else ""))
    return (
        f"with {' or '.join(map(str, counts))} seeds a true difference of this size is found in "
        f"{100 * POWER:.0f} % of cases (by row): {', '.join(sizes)}"
    )
