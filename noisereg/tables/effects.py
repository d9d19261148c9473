"""What each of two factors does alone, and what they do together: differences between
configurations. Imports no torch.

For a noise A in place of a, and a regularizer B in place of b, the baseline being (a, b): A alone
is y(A, b) − y(a, b), B alone y(a, B) − y(a, b), and the interaction y(A, B) − y(A, b) − y(a, B) +
y(a, b), what both do beyond the sum of what each does alone (the contrast of a two-way factorial
experiment). Each is taken seed by seed, where all its cells have the seed, so that what a seed
does to all of them alike drops out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

from noisereg.errors import NoiseregError
from noisereg.tables.ablation import (
    compare,
    difference_notes,
    diverged_notes,
    estimate,
    power_note,
)
from noisereg.tables.naming import Words
from noisereg.tables.significance import ALPHA, FEWEST, Test, difference_test
from noisereg.tables.table import Measurement, Row, Table

Values = Mapping[str, float]
"""By seed."""


def effects(table: Table, keys: Sequence[str]) -> Table:
    """The table of the effects of two factors, each a section (``noise``) or a key
    (``train.batch_size``); in each section of the table around its own baseline. Rows that differ
    from the baseline in anything else are left out, and counted.

    Raises:
        NoiseregError: for not two factors, no baseline, or factors in which no row differs; for a
        table of effects.
    """
    if table.effects:
        raise NoiseregError(
            "`effects`: the table holds effects already; make them from the table it came from"
        )
    words = Words([row.first for row in table.rows])
    check_factors(keys, words)
    rows: list[Row] = []
    used: list[Row] = []
    tests: dict[tuple[int, str], Test] = {}
    left_out = 0
    if not any(row.baseline and row.first.components for row in table.rows):
        raise NoiseregError(
            "`effects` needs a baseline to start from; give `baseline=KEY=VALUE,…`"
        )
    for steps in table.steps:
        section = [row for row in table.rows if row.first.steps == steps]
        base = next((row for row in section if row.baseline and row.first.components), None)
        if base is None:  # folders of images, or one row
            left_out += len(section)
            continue
        same = [row for row in section if _rest(row.first, keys) == _rest(base.first, keys)]
        left_out += len(section) - len(same)
        used += same
        grid = {(words.of(row.first, keys[0]), words.of(row.first, keys[1])): row for row in same}
        for label, signs in _contrasts(list(grid), *(words.of(base.first, key) for key in keys)):
            parts = [(sign, grid[place]) for place, sign in signs.items()]
            effect = Row(label, [Measurement(source=label, numbers={}, steps=steps)])
            for name in table.metrics:
                if all(name in row.estimates for _, row in parts):
                    by_seed = [(sign, row.estimates[name].values) for sign, row in parts]
                    if values := _contrast(by_seed):
                        effect.estimates[name] = estimate(values)
                        size = max(abs(own[seed]) for _, own in by_seed for seed in values)
                        tests[len(rows), name] = difference_test(
                            values, dict.fromkeys(values, 0.0), size
                        )
            rows.append(effect)
    if not rows:
        raise NoiseregError(
            f"`effects={','.join(keys)}`: no row differs from the baseline in these alone"
        )
    made = Table(
        table.metrics,
        table.better,
        rows,
        context=[f"effects of {keys[0]} and {keys[1]}", *table.head],
        remarks=table.remarks,
        provenance=table.provenance,
        effects=True,
        name=table.name,
    )
    compare(made, tests)
    family = sum(t.p is not None for t in tests.values())
    made.notes = [
        *difference_notes(used, set(keys)),
        *diverged_notes(used),
        *_notes(rows, family, left_out),
    ]
    return made


def check_factors(keys: Sequence[str], words: Words) -> None:
    """
    Raises:
        NoiseregError: for not two factors, or what is neither a section nor another key.
    """
    if len(keys) != 2 or keys[0] == keys[1]:
        raise NoiseregError(f"`effects={','.join(keys)}`: expected two factors, such as noise,reg")
    for key in keys:
        words.check(key, "`effects`")
        section, dot, _ = key.partition(".")
        if dot and section in words.sections:
            raise NoiseregError(
                f"`effects={','.join(keys)}`: {key} is a part of a factor; expected {section}"
            )


def _rest(m: Measurement, keys: Sequence[str]) -> str:
    """A configuration without the two factors."""
    components = {
        s: [spec.model_dump() for spec in specs]
        for s, specs in m.components.items()
        if s not in keys
    }
    values = {k: v for k, v in m.values.items() if k not in keys}
    return json.dumps([components, values, m.name], sort_keys=True, default=str)


def _contrasts(
    places: Sequence[tuple[str, str]], a: str, b: str
) -> list[tuple[str, dict[tuple[str, str], int]]]:
    """(label, {cell: sign}): the simple effects, then the interactions."""
    contrasts: list[tuple[str, dict[tuple[str, str], int]]] = []
    first = dict.fromkeys(x for x, _ in places if x != a)
    second = dict.fromkeys(y for _, y in places if y != b)
    contrasts += [
        (f"{x}, with {b}" if b != "none" else x, {(x, b): 1, (a, b): -1})
        for x in first
        if (x, b) in places
    ]
    contrasts += [
        (f"{y}, with {a}" if a != "none" else y, {(a, y): 1, (a, b): -1})
        for y in second
        if (a, y) in places
    ]
    for x in first:
        for y in second:
            cells = {(x, y): 1, (x, b): -1, (a, y): -1, (a, b): 1}
            if all(place in places for place in cells):
                contrasts.append((f"{x} × {y}", cells))
    return contrasts


def _contrast(cells: Sequence[tuple[int, Values]]) -> dict[str, float]:
    shared = [seed for seed in cells[0][1] if all(seed in values for _, values in cells)]
    return {seed: sum(sign * values[seed] for sign, values in cells) for seed in shared}


def _notes(rows: Sequence[Row], family: int, left_out: int) -> list[str]:
    notes = [
        "a difference to the baseline, paired over seeds; ×: what both do beyond the sum of what "
        "each does alone"
    ]
    estimates = [each for row in rows for each in row.estimates.values()]
    counts = [len(each.values) for each in estimates]
    if any(each.half_width is not None for each in estimates):
        notes.append(
            f"mean ± half the {100 * (1 - ALPHA):.0f} % interval (Student), each for itself"
            + (
                f": of {family} intervals about {ALPHA * family:.0f} would leave out 0 by luck "
                "alone"
                if family > 10
                else ""
            )
        )
        verdicts = {each.comparison.verdict for each in estimates if each.comparison}
        stars = bool(verdicts & {"better", "worse"})
        marked = "* significant at 5 %" if stars else "none is significant at 5 %"
        if family:
            notes.append(
                f"{marked}: {family} paired t test{'s' * (family != 1)} with Holm's correction"
            )
        if "constant" in verdicts:
            notes.append("= the same at every seed: nothing to test against")
        compared = [
            (name, each.comparison)
            for row in rows
            for name, each in row.estimates.items()
            if each.comparison
        ]
        if power := power_note(compared):
            notes.append(power)
    if any(not math.isfinite(each.mean) for each in estimates):
        notes.append("numbers that are not finite have no interval and no test")
    if any(n < FEWEST for n in counts):
        notes.append(
            "too few seeds for an interval or a test in some rows: every seed's value, from "
            f"{FEWEST} on a mean"
        )
    if fewer := [
        row.label
        for row in rows
        if any(len(each.values) < max(counts) for each in row.estimates.values())
    ]:
        notes.append(f"on fewer seeds than the others: {'; '.join(dict.fromkeys(fewer))}")
    if none := [row.label for row in rows if not row.estimates]:
        notes.append(f"no seed that all its cells share: {'; '.join(dict.fromkeys(none))}")
    if left_out:
        notes.append(
            f"{left_out} row{'s' * (left_out > 1)} that differ{'s' * (left_out == 1)} in "
            "something else left out"
        )
    return notes
