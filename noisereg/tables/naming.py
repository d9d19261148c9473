"""What a table's rows are called, and how a user names one. Imports no torch."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel

from noisereg.api import RegularizerParams
from noisereg.errors import NoiseregError, nearest
from noisereg.plugins.spec import KEY, Spec, added, flatten
from noisereg.tables.table import SECTIONS, Measurement, Row

CONTROL = "rescaled-"
"""What the name of a run without a regularizer, sampled as one would have it, begins with in the
regularizer's place.
"""


def text_of(value: Any) -> str:
    """A value as tables show it and as a user would type it: ``0.1``, ``true``, ``none``,
    ``64,128``.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return ",".join(map(text_of, value))
    return "none" if value is None else str(value)


def declared_strengths(params: type[BaseModel]) -> tuple[str, ...]:
    """The parameters that a component declares to be strengths, by
    ``json_schema_extra={"strength": True}`` of their fields: tables always show them, and draw
    numbers over them.
    """
    extras = {name: field.json_schema_extra for name, field in params.model_fields.items()}
    return tuple(
        n for n, extra in extras.items() if isinstance(extra, dict) and extra.get("strength")
    )


def strengths_of(m: Measurement, section: str, spec: Spec) -> Sequence[str]:
    """A component's strengths: those it was recorded with, or for a regularizer those that all
    have.
    """
    every = declared_strengths(RegularizerParams) if section == "reg" else ()
    return m.strengths.get(spec.name, every)


def varying_params(specs: Iterable[Sequence[Spec]]) -> dict[str, set[str]]:
    """By component name: the parameters in which its uses differ, and which tell them apart.

    A parameter that only some uses have (γ's τ, beside a γ that is linear) is left out where the
    others tell them apart.
    """
    uses: dict[str, list[dict[str, str]]] = {}
    for group in specs:
        for spec in group:
            uses.setdefault(spec.name, []).append(
                {k: text_of(v) for k, v in flatten(spec.params).items()}
            )
    return {name: _telling(params) for name, params in uses.items()}


def _telling(uses: Sequence[dict[str, str]]) -> set[str]:
    def different(keys: Iterable[str]) -> int:
        return len({tuple(use.get(k, "none") for k in keys) for use in uses})

    keys = list(dict.fromkeys(k for use in uses for k in use))
    shown = every = [k for k in keys if different([k]) > 1]
    for key in [k for k in every if any(use.get(k, "none") == "none" for use in uses)]:
        rest = [k for k in shown if k != key]
        if different(rest) == different(every):
            shown = rest
    return set(shown)


def spec_label(spec: Spec, shown: set[str]) -> str:
    """``isotropy(weight=0.1)``: the name and some of its parameters."""
    params = {k: v for k, v in flatten(spec.params).items() if k in shown and v is not None}
    inside = ", ".join(f"{k}={text_of(v)}" for k, v in params.items())
    return f"{spec.name}({inside})" if inside else spec.name


class Words:
    """How some measurements' settings are told apart in words."""

    def __init__(self, measurements: Sequence[Measurement]) -> None:
        trained = [m for m in measurements if m.components]
        self.sections = {
            s: [m.components.get(s, ()) for m in trained] for s in (*SECTIONS, "data")
        }
        self.keys = list(dict.fromkeys(k for m in trained for k in m.values))
        self.differing_keys = [
            k for k in self.keys if len({text_of(m.values.get(k)) for m in trained}) > 1
        ]
        self.differing_sections = [
            s
            for s, v in self.sections.items()
            if len({json.dumps([x.model_dump() for x in u], sort_keys=True) for u in v}) > 1
        ]
        self.shown = {s: varying_params(specs) for s, specs in self.sections.items()}
        """By section, by component name: the parameters that its label shows."""
        self.strengths: dict[str, dict[str, set[str]]] = {s: {} for s in self.sections}
        """By section, by component name: the parameters that are strengths."""
        for m in trained:
            for section in self.sections:
                for spec in m.components.get(section, ()):
                    strengths = strengths_of(m, section, spec)
                    self.strengths[section].setdefault(spec.name, set()).update(strengths)
                    self.shown[section].setdefault(spec.name, set()).update(strengths)

    def has(self, key: str) -> bool:
        return key.partition(".")[0] in self.sections or key in self.keys

    def check(self, key: str, flag: str) -> None:
        """
        Raises:
            NoiseregError: for what is neither a section, nor a parameter in one, nor another key.
        """
        if not self.has(key):
            raise NoiseregError(
                f"{flag} {key}: no such key{nearest(key, [*self.sections, *self.keys])}"
            )

    def of(self, m: Measurement, key: str) -> str:
        """``blue-tv(gamma.tau=1)`` for a section, ``batch_size=64`` for another key."""
        section, _, rest = key.partition(".")
        if section not in self.sections:
            return f"{key.rpartition('.')[2]}={text_of(m.values.get(key))}"
        specs = m.components.get(section, ())
        if rest:
            return f"{rest}={'+'.join(text_of(flatten(s.params).get(rest)) for s in specs)}"
        names = [s for s in specs if s.name != "none"]
        return (
            " + ".join(spec_label(s, self.shown[section].get(s.name, set())) for s in names)
            or "none"
        )


def name_rows(rows: list[Row], columns: Sequence[str] | None) -> set[str]:
    """Set each row's label; the sections and keys that it shows."""
    words = Words([row.first for row in rows])
    if columns is None:
        differing = words.differing_sections
        # "none" alone names no row: what may be none stands beside the noise
        if not words.differing_keys or set(differing) & {"reg", "pairing"}:
            differing = list(dict.fromkeys(["noise", *(differing or ["reg"])]))
        shown = [*differing, *words.differing_keys]
    else:
        shown = list(columns)
        for column in shown:
            if any(row.first.components for row in rows):
                words.check(column, "`columns`")
    for row in rows:
        parts = (
            [words.of(row.first, column) for column in shown]
            if row.first.components
            else [row.first.name]
        )
        row.label = " · ".join(p for p in parts if p != "none") or "none"
    for steps in {row.first.steps for row in rows}:
        seen: dict[str, int] = {}
        for row in rows:
            if row.first.steps == steps:
                seen[row.label] = seen.get(row.label, 0) + 1
                if seen[row.label] > 1:
                    row.label += f" ({seen[row.label]})"
    return set(shown)


def matches(m: Measurement, key: str, text: str) -> bool:
    """Whether a measurement has ``key=text``: a section with a spec (``reg=none``, ``reg=A+B``),
    or any dotted key.
    """
    section, _, rest = key.partition(".")
    components = m.components
    if section in components:
        specs = [s for s in components[section] if s.name != "none"]
        if rest:
            return any(_same(flatten(s.params).get(rest), text) for s in specs)
        wanted = [Spec.parse(part) for part in added(text)]
        return len(wanted) == len(specs) and all(any(_is(s, w) for s in specs) for w in wanted)
    if section == "sample":
        return _same(m.steps if rest == "steps" else m.sampling.get(rest), text)
    return key in m.values and _same(m.values[key], text)


def _is(spec: Spec, wanted: Spec) -> bool:
    own = flatten(spec.params)
    names = (spec.name, spec.name.rpartition("/")[2])
    return wanted.name in names and all(
        _same(own.get(k), v) for k, v in flatten(wanted.params).items()
    )


def _same(value: Any, text: Any) -> bool:
    if text_of(value) == text_of(text):
        return True
    try:
        return float(value) == float(text)
    except (TypeError, ValueError):
        return False


def conditions(match: str, words: Words, flag: str) -> list[tuple[str, str]]:
    """``KEY=VALUE,…`` as pairs, all of which are to hold. What follows a spec's colon and is no
    key of its own is the spec's: ``noise=blue-tv:gamma.form=linear,factor=cholesky,pairing=none``
    are two.

    Raises:
        NoiseregError: for what is no assignment, or a key that there is not.
    """
    conditions: list[tuple[str, str]] = []
    for part in re.split(rf",(?={KEY}=)", match):
        key, equals, value = part.partition("=")
        if not equals or not re.fullmatch(KEY, key):
            raise NoiseregError(f"{flag}: expected KEY=VALUE,…, such as process=iadb")
        if key.startswith("sample.") or words.has(key):
            conditions.append((key, value))
        elif conditions and ":" in conditions[-1][1]:
            conditions[-1] = (conditions[-1][0], f"{conditions[-1][1]},{part}")
        else:
            words.check(key, flag.partition(" ")[0])
    return conditions


def where(measurements: Sequence[Measurement], match: str) -> list[Measurement]:
    """Those that have all of ``KEY=VALUE,…``; folders of images, which have no keys, are kept.

    Raises:
        NoiseregError: for what is no assignment, or a key that none of them has.
    """
    wanted = conditions(match, Words(measurements), f"`where={match}`")
    return [
        m for m in measurements if not m.components or all(matches(m, k, v) for k, v in wanted)
    ]


def matching(rows: list[Row], match: str, flag: str) -> list[Row]:
    """One row of each section.

    Raises:
        NoiseregError: if none matches, or several of one section do.
    """
    if "=" in match:
        wanted = conditions(match, Words([row.first for row in rows]), flag)
        matching = [row for row in rows if all(matches(row.first, k, v) for k, v in wanted)]
    else:
        matching = [row for row in rows if match in (row.label, row.first.name, row.first.source)]
    there = "; ".join(dict.fromkeys(row.label for row in rows))
    if not matching:
        raise NoiseregError(
            f"{flag} matches no row; expected KEY=VALUE,… that fits one of: {there}"
        )
    one_section = [row for row in matching if row.first.steps == matching[0].first.steps]
    if len(one_section) > 1:
        several = "; ".join(row.label for row in one_section)
        raise NoiseregError(
            f"{flag} matches several rows ({several}); add a key in which they differ"
        )
    return matching
