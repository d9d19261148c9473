"""The ablation table's data: measurements, rows, cells and comparisons; to JSON and back. Imports
no torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from noisereg.plugins.spec import Spec

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
        components = {
            s: [spec.model_dump() for spec in specs] for s, specs in self.components.items()
        }
        return json.dumps(
            [components, self.values, self.name, self.steps], sort_keys=True, default=str
        )


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
    """Below five seeds: the smallest difference that could have been significant as the table's
    largest effect.
    """


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

    def as_rows(self) -> list[dict[str, Any]]:
        """Plain data, one mapping a row."""
        return [_plain(row) for row in self.rows]

    def as_json(self) -> dict[str, Any]:
        """Everything; :meth:`of_json` gives the table back. What all rows have in common stands
        once, under ``shared``.
        """
        rows = self.as_rows()
        shared: dict[str, Any] = {}
        for section in SHARED:
            shared[section], own = _common_and_own([row[section] for row in rows])
            for row, values in zip(rows, own, strict=True):
                row[section] = values
        return {
            "name": self.name,
            "asked": self.asked,
            "context": self.context,
            "provenance": self.provenance,
            "better": self.better,
            "effects": self.effects,
            "shared": shared,
            "rows": rows,
            "candidates": self.candidates,
            "notes": self.notes,
            "remarks": self.remarks,
        }

    @classmethod
    def of_json(cls, data: Mapping[str, Any]) -> Table:
        """
        Raises:
            KeyError, TypeError, ValueError: where ``data`` is not what :meth:`as_json` gives.
        """
        better = {str(name): str(direction) for name, direction in data["better"].items()}
        rows = [_row(row, data["shared"]) for row in data["rows"]]
        if not rows or any(name not in better for row in rows for name in row.cells):
            raise ValueError("no rows, or a number that is neither better higher nor lower")
        return cls(
            metrics=list(better),
            better=better,
            rows=rows,
            context=list(data["context"]),
            notes=list(data["notes"]),
            remarks=list(data["remarks"]),
            candidates=list(data["candidates"]),
            provenance=dict(data["provenance"]),
            effects=bool(data["effects"]),
            name=str(data["name"]),
            asked=dict(data["asked"]),
        )


SHARED = ("settings", "sampling", "environment")
"""The mappings of a plain row whose common part a JSON file holds once."""
BY_RUN = ("sampling", "environment")
"""Those of them in which the runs of one row may differ: what is its own stands under
``by_run``.
"""


def _common_and_own(
    mappings: Sequence[Mapping[str, Any]],
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What all of them have, and what else each has."""
    common = {k: v for k, v in mappings[0].items() if all(k in m and m[k] == v for m in mappings)}
    return common, [{k: v for k, v in m.items() if k not in common} for m in mappings]


def _plain(row: Row) -> dict[str, Any]:
    first = row.first
    metrics = {}
    for name, cell in row.cells.items():
        metrics[name] = {
            "mean": cell.mean,
            "half_width": cell.half_width,
            "values": dict(cell.values),
        }
        if cell.comparison:
            metrics[name]["comparison"] = {
                k: v for k, v in vars(cell.comparison).items() if v is not None
            }
    common: dict[str, Any] = {}
    by_run: list[dict[str, Any]] = [{} for _ in row.measurements]
    for part in BY_RUN:
        common[part], own = _common_and_own([getattr(m, part) for m in row.measurements])
        for run, values in zip(by_run, own, strict=True):
            run.update({part: values} if values else {})
    return {
        "label": row.label,
        "baseline": row.baseline,
        "seeds": row.seeds,
        "steps": first.steps,
        **common,
        "settings": {
            s: [spec.model_dump() for spec in specs] for s, specs in first.components.items()
        }
        | dict(first.values),
        "sources": [m.source for m in row.measurements],
        **({"by_run": by_run} if any(by_run) else {}),
        **({"name": first.name} if first.name else {}),
        **({"picked_on": list(row.picked_on)} if row.picked_on else {}),
        "metrics": metrics,
    }


def _row(data: Mapping[str, Any], shared: Mapping[str, Any]) -> Row:
    settings, sampling, environment = ({**shared.get(s, {}), **data[s]} for s in SHARED)
    sections = [s for s in (*SECTIONS, "data") if s in settings]
    components = {s: [Spec.model_validate(spec) for spec in settings[s]] for s in sections}
    cells = {name: _cell(cell) for name, cell in data["metrics"].items()}
    measurements = []
    by_run = data.get("by_run") or [{}] * len(data["sources"])
    for source, seed, own in zip(data["sources"], data["seeds"] or [None], by_run, strict=True):
        key = "" if seed is None else str(seed)
        measurements.append(
            Measurement(
                source=source,
                numbers={
                    name: cell.values[key] for name, cell in cells.items() if key in cell.values
                },
                components=components,
                values={k: v for k, v in settings.items() if k not in sections},
                seed=seed,
                steps=None if data["steps"] is None else int(data["steps"]),
                sampling={**sampling, **own.get("sampling", {})},
                environment={**environment, **own.get("environment", {})},
                name=data.get("name", ""),
            )
        )
    return Row(
        data["label"], measurements, data["baseline"], tuple(data.get("picked_on", ())), cells
    )


def _cell(data: Mapping[str, Any]) -> Cell:
    def number(value: float | None) -> float:
        return math.nan if value is None else float(value)  # JSON has no NaN

    comparison = data.get("comparison")
    return Cell(
        values={seed: number(value) for seed, value in data["values"].items()},
        mean=number(data["mean"]),
        half_width=None if data["half_width"] is None else float(data["half_width"]),
        comparison=Comparison(**{"change_percent": None, **comparison}) if comparison else None,
    )
