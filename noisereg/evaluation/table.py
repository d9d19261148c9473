"""The ablation table's data: measurements, rows, cells and comparisons. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from noisereg.spec import Spec

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
