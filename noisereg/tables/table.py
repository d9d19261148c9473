"""The ablation table's data: measurements, rows, estimates and comparisons; and the models of the
JSON file that holds them. Imports no torch.

A file of tables is ``{"tables": [StoredTable, …]}``. JSON has no infinities and no NaN: they are
the texts ``"Infinity"``, ``"-Infinity"`` and ``"NaN"`` there. Each row carries the SHA-256 of what
it says, and each table that of the rest and of its rows' digests, so that a number that was
changed later is noticed. Files without digests, written before there were any, are read as they
are.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from noisereg.plugins.spec import Spec

SECTIONS = ("noise", "reg", "pairing", "process", "denoiser", "task")
"""Component sections, in the order in which they name a row."""

Verdict = Literal[
    "better", "worse", "none", "identical", "constant", "too few seeds", "not finite"
]


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
    diverged: str = ""
    """How training diverged, where it did: such a run has no numbers."""
    strengths: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By component name: the parameters that it declares to be strengths."""

    def key(self) -> str:
        """Equal for runs that differ in their seed alone."""
        components = {
            s: [spec.model_dump() for spec in specs] for s, specs in self.components.items()
        }
        return json.dumps(
            [components, self.values, self.name, self.steps], sort_keys=True, default=str
        )


def _empty(value: Any) -> bool:
    return value is None or value == "" or value == [] or value == {}


class _Stored(BaseModel):
    """What is in a file, key by key; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")


Number = Annotated[float, BeforeValidator(lambda x: math.nan if x is None else x)]
"""Old files have null for what is not finite."""


class Comparison(_Stored):
    """One number of a row against the baseline's."""

    verdict: Verdict
    difference: Number
    """Row minus baseline, the mean over the shared seeds."""
    change_percent: float | None = Field(None, exclude_if=_empty)
    """None where the baseline is 0, or one of the two is not finite."""
    n: int
    """Seeds (pairs), or the smaller of two sets where they share none."""
    paired: bool = True
    p: float | None = Field(None, exclude_if=_empty)
    p_holm: float | None = Field(None, exclude_if=_empty)
    found_with_power: float | None = Field(None, exclude_if=_empty)
    """The true difference that would be found in 80 % of cases, as the table's strongest."""

    @model_validator(mode="before")
    @classmethod
    def _old(cls, data: Any) -> Any:
        """Old files have the difference that would be found in half the cases; it is dropped."""
        if isinstance(data, dict):
            return {k: v for k, v in data.items() if k != "detectable"}
        return data


class Estimate(_Stored):
    """One number of a row: its mean over seeds, with an interval."""

    mean: Number
    half_width: float | None
    """Of the 95 % interval; None below three seeds, and where a number is not finite."""
    values: dict[str, Number] = Field(min_length=1)
    """By seed, as text; ``""`` where there is none (a folder)."""
    comparison: Comparison | None = Field(None, exclude_if=_empty)


@dataclass
class Row:
    label: str
    measurements: list[Measurement]
    baseline: bool = False
    picked_on: tuple[int, ...] = ()
    """The seeds on which this row was picked among others; it is reported on the rest."""
    like: str = ""
    """The row that came next, where those seeds do not tell the two apart."""
    estimates: dict[str, Estimate] = field(default_factory=dict)

    @property
    def first(self) -> Measurement:
        return self.measurements[0]

    @property
    def seeds(self) -> list[int]:
        return [m.seed for m in self.measurements if m.seed is not None]

    @property
    def diverged(self) -> list[Measurement]:
        """The runs that have no numbers since their training diverged."""
        return [m for m in self.measurements if m.diverged]


@dataclass
class Table:
    metrics: list[str]
    better: dict[str, str]
    rows: list[Row]
    context: list[str] = field(default_factory=list)
    """What all numbers were computed from, in short phrases."""
    notes: list[str] = field(default_factory=list)
    """What the statistics are, and what they cannot tell: made from the rows."""
    remarks: list[str] = field(default_factory=list)
    """What else is to be said under the table: cells that are missing, what a metric notes."""
    candidates: list[dict[str, Any]] = field(default_factory=list)
    """What each picked row was picked among, and its mean on the seeds for picking."""
    provenance: dict[str, Any] = field(default_factory=dict)
    effects: bool = False
    """Whether the numbers are differences between configurations and not their own."""
    name: str = ""
    """What tells it from the other tables of one command, as a file name."""
    asked: dict[str, Any] = field(default_factory=dict)
    """How its rows were asked to be named and compared: ``baseline``, ``labels`` and ``columns``,
    where they were.
    """

    @property
    def steps(self) -> list[int | None]:
        """The numbers of sampling steps, ascending; each is a section of the table with a baseline
        of its own.
        """
        return sorted({row.first.steps for row in self.rows}, key=lambda s: -1 if s is None else s)

    @property
    def head(self) -> list[str]:
        """The context with the number of seeds that the rows' numbers are means over: where rows
        were picked, these are fewer than were trained.
        """
        counts = sorted({len(seeds) for row in self.rows if (seeds := _seeds_of(row))})
        if not counts:
            return self.context
        several = " or ".join(map(str, counts))
        said = f"{several} seed{'s' * (counts[-1] > 1)}"
        if picked := sorted({len(row.picked_on) for row in self.rows if row.picked_on}):
            said += f" (picked on {' or '.join(map(str, picked))} others)"
        return [said if re.fullmatch(r"\d+ seeds?", phrase) else phrase for phrase in self.context]

    def as_rows(self) -> list[dict[str, Any]]:
        """Plain data, one mapping a row."""
        return [StoredRow.of(row).model_dump(exclude={"digest"}) for row in self.rows]


def _seeds_of(row: Row) -> set[str]:
    """The seeds that a row's numbers are means over; of one without numbers, those it has."""
    seeds = {seed for estimate in row.estimates.values() for seed in estimate.values if seed}
    return seeds or {str(seed) for seed in row.seeds}


# The file


class OfRun(_Stored):
    """What one run of a row has of its own."""

    sampling: dict[str, Any] = Field({}, exclude_if=_empty)
    environment: dict[str, Any] = Field({}, exclude_if=_empty)
    diverged: str = Field("", exclude_if=_empty)


class StoredRow(_Stored):
    """One row of the file. Its runs are ``sources``, with a seed each, or none has one."""

    label: str
    baseline: bool
    seeds: list[int]
    steps: int | None = None
    sampling: dict[str, Any]
    environment: dict[str, Any]
    settings: dict[str, Any]
    """Component sections as lists of specs, other keys dotted."""
    sources: list[str] = Field(min_length=1)
    by_run: list[OfRun] = Field([], exclude_if=_empty)
    name: str = Field("", exclude_if=_empty)
    picked_on: list[int] = Field([], exclude_if=_empty)
    strengths: dict[str, list[str]] = Field({}, exclude_if=_empty)
    metrics: dict[str, Estimate]
    digest: str = Field("", exclude_if=_empty)

    @model_validator(mode="after")
    def _whole(self) -> StoredRow:
        if self.seeds and len(self.seeds) != len(self.sources):
            raise ValueError(f"{len(self.seeds)} seeds of {len(self.sources)} sources")
        if not self.seeds and len(self.sources) != 1:
            raise ValueError(f"{len(self.sources)} sources and no seeds")
        if self.by_run and len(self.by_run) != len(self.sources):
            raise ValueError(f"{len(self.by_run)} entries by_run of {len(self.sources)} sources")
        return self

    @classmethod
    def of(cls, row: Row) -> StoredRow:
        first = row.first
        own: list[dict[str, Any]] = [{"diverged": m.diverged} for m in row.measurements]
        common: dict[str, Any] = {}
        for part in ("sampling", "environment"):
            common[part], rest = _common_and_own([getattr(m, part) for m in row.measurements])
            for run, values in zip(own, rest, strict=True):
                run[part] = values
        return cls(
            label=row.label,
            baseline=row.baseline,
            seeds=row.seeds,
            steps=first.steps,
            **common,
            settings={
                s: [spec.model_dump() for spec in specs] for s, specs in first.components.items()
            }
            | dict(first.values),
            sources=[m.source for m in row.measurements],
            by_run=[OfRun(**run) for run in own] if any(any(run.values()) for run in own) else [],
            name=first.name,
            picked_on=list(row.picked_on),
            strengths={name: list(params) for name, params in first.strengths.items()},
            metrics=row.estimates,
        )

    def row(self) -> Row:
        """
        Raises:
            ValueError: for components that are none.
        """
        sections = [s for s in (*SECTIONS, "data") if s in self.settings]
        components = {s: [Spec.model_validate(x) for x in self.settings[s]] for s in sections}
        by_run = self.by_run or [OfRun()] * len(self.sources)
        seeds: Sequence[int | None] = self.seeds or [None]
        measurements = []
        for source, seed, own in zip(self.sources, seeds, by_run, strict=True):
            key = "" if seed is None else str(seed)
            measurements.append(
                Measurement(
                    source=source,
                    numbers={n: e.values[key] for n, e in self.metrics.items() if key in e.values},
                    components=components,
                    values={k: v for k, v in self.settings.items() if k not in sections},
                    seed=seed,
                    steps=self.steps,
                    sampling={**self.sampling, **own.sampling},
                    environment={**self.environment, **own.environment},
                    name=self.name,
                    diverged=own.diverged,
                    strengths=self.strengths,
                )
            )
        return Row(
            self.label,
            measurements,
            self.baseline,
            tuple(self.picked_on),
            estimates=dict(self.metrics),
        )


class Shared(_Stored):
    """What all rows have in common, once."""

    settings: dict[str, Any] = {}
    sampling: dict[str, Any] = {}
    environment: dict[str, Any] = {}


class StoredTable(_Stored):
    """One table of the file."""

    name: str
    asked: dict[str, Any]
    context: list[str]
    provenance: dict[str, Any]
    better: dict[str, Literal["higher", "lower"]]
    effects: bool
    shared: Shared
    rows: list[StoredRow] = Field(min_length=1)
    candidates: list[dict[str, Any]]
    notes: list[str]
    remarks: list[str]
    digest: str = Field("", exclude_if=_empty)

    @model_validator(mode="after")
    def _known(self) -> StoredTable:
        for row in self.rows:
            if unknown := next((n for n in row.metrics if n not in self.better), None):
                raise ValueError(f"{unknown} of {row.label} is neither better higher nor lower")
        return self

    @classmethod
    def of(cls, table: Table) -> StoredTable:
        rows = [StoredRow.of(row) for row in table.rows]
        shared: dict[str, Any] = {}
        own: list[dict[str, Any]] = [{"digest": _digest(row)} for row in rows]
        for part in Shared.model_fields:
            shared[part], rest = _common_and_own([getattr(row, part) for row in rows])
            for mine, values in zip(own, rest, strict=True):
                mine[part] = values
        made = cls(
            name=table.name,
            asked=table.asked,
            context=table.context,
            provenance=table.provenance,
            better=table.better,
            effects=table.effects,
            shared=Shared(**shared),
            rows=[row.model_copy(update=mine) for row, mine in zip(rows, own, strict=True)],
            candidates=table.candidates,
            notes=table.notes,
            remarks=table.remarks,
        )
        return made.model_copy(update={"digest": made._own_digest()})

    def table(self, origin: str = "the file") -> Table:
        """
        Args:
            origin: the file's name, for the remark that something in it has changed.

        Raises:
            ValueError: for components that are none.
        """
        return Table(
            metrics=list(self.better),
            better=dict(self.better),
            rows=[row.row() for row in self._whole_rows()],
            context=self.context,
            notes=self.notes,
            remarks=[*self.remarks, *self.changed(origin)],
            candidates=self.candidates,
            provenance=self.provenance,
            effects=self.effects,
            name=self.name,
            asked=self.asked,
        )

    def changed(self, origin: str) -> list[str]:
        """A line for each part that does not fit its digest; none for a file without digests."""
        if not self.digest and not any(row.digest for row in self.rows):
            return []
        remarks = [
            f"{origin}: {row.label}: changed after it was written (it does not fit its digest)"
            for row in self._whole_rows()
            if row.digest != _digest(row)
        ]
        if self.digest != self._own_digest():
            remarks.append(
                f"{origin}: the table's rows, head or notes: changed after they were written "
                "(they do not fit their digest)"
            )
        return [line for line in remarks if line not in self.remarks]

    def _whole_rows(self) -> list[StoredRow]:
        """The rows with what they share."""
        return [
            row.model_copy(
                update={
                    part: {**getattr(self.shared, part), **getattr(row, part)}
                    for part in Shared.model_fields
                }
            )
            for row in self.rows
        ]

    def _own_digest(self) -> str:
        """Of everything but the rows, and of the rows' digests in order."""
        rest = self.model_dump_json(exclude={"rows", "shared", "digest"}, fallback=str)
        return _sha256([json.loads(rest), [row.digest for row in self.rows]])


class TablesFile(_Stored):
    """The whole file."""

    tables: list[StoredTable] = Field(min_length=1)


def _digest(row: StoredRow) -> str:
    return _sha256(json.loads(row.model_dump_json(exclude={"digest"}, fallback=str)))


def _sha256(value: Any) -> str:
    """Of the canonical JSON: keys sorted, no spaces, 1.0 as 1 as other tools write it."""
    text = json.dumps(_canonical(value), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _canonical(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _canonical(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_canonical(v) for v in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _common_and_own(
    mappings: Sequence[Mapping[str, Any]],
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What all of them have, and what else each has."""

    def same(values: Iterable[Any]) -> bool:
        # by their JSON, in which True is not 1 and NaN is itself
        return len({json.dumps(v, sort_keys=True, default=str) for v in values}) == 1

    common = {
        k: v
        for k, v in mappings[0].items()
        if all(k in m for m in mappings) and same(m[k] for m in mappings)
    }
    return common, [{k: v for k, v in m.items() if k not in common} for m in mappings]
