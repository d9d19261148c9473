"""Ablation tables as text: for the terminal, Markdown, CSV, LaTeX and JSON. All show the same
numbers.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noisereg.errors import NoiseregError
from noisereg.plugins.spec import flatten
from noisereg.reading import read_json as read_json_file
from noisereg.tables.table import Cell, Comparison, Table

ARROW = {"higher": "↑", "lower": "↓"}
MARK = {"better": "*", "worse": "*", "constant": "="}
"""By verdict of the test."""


@dataclass(frozen=True)
class Shown:
    """One number and its change, as text."""

    value: str
    change: str = ""
    verdict: str = ""


@dataclass(frozen=True)
class Line:
    """One row of the printed table; with ``heading`` it opens a section."""

    label: str
    cells: list[Shown]
    heading: str = ""


@dataclass(frozen=True)
class Layout:
    """The table as text, whatever the format."""

    headers: list[str]
    lines: list[Line]
    changes: bool
    """Whether any row has a change to show."""


def decimal(x: float, places: int) -> str:
    """``.938``, ``1.180``, ``−.02``: no zero before the point, a real minus sign."""
    text = f"{abs(x):.{places}f}"
    if text.startswith("0."):
        text = text[1:]
    negative = x < 0 and any(c not in ".0" for c in text)
    return f"−{text}" if negative else text


def _places(cells: list[Cell]) -> int:
    """Two digits of a column's widest interval, or three or four digits of its largest number."""
    widths = [c.half_width for c in cells if c.half_width]
    largest = max((abs(v) for c in cells for v in c.values.values()), default=0.0)
    if widths and largest:
        return min(max(1 - math.floor(math.log10(max(widths))), 0), 4)
    return 3 if largest < 10 else 2 if largest < 1000 else 0


def _value(cell: Cell, places: int, effect: bool) -> str:
    def text(x: float) -> str:
        return f"+{decimal(x, places)}" if effect and x > 0 else decimal(x, places)

    if cell.half_width is None:
        return " / ".join(text(v) for v in cell.values.values())
    mark = MARK.get(cell.comparison.verdict, "") if effect and cell.comparison else ""
    return f"{text(cell.mean)} ± {decimal(cell.half_width, places)}{mark}"


def _change(comparison: Comparison | None) -> str:
    if comparison is None:
        return ""
    if comparison.verdict == "identical":
        return "identical"
    if comparison.change_percent is None:
        return "—"
    sign = "−" if comparison.change_percent < -0.05 else "+"
    mark = MARK.get(comparison.verdict, "")
    return f"{sign}{abs(comparison.change_percent):.1f} %{mark}"


def layout(table: Table) -> Layout:
    places = {
        name: _places([row.cells[name] for row in table.rows if name in row.cells])
        for name in table.metrics
    }
    lines: list[Line] = []
    for steps in table.steps:
        heading = f"{steps} sampling steps" if len(table.steps) > 1 and steps else ""
        for row in table.rows:
            if row.first.steps != steps:
                continue
            shown = [
                Shown(
                    _value(cell, places[name], table.effects),
                    "" if table.effects else _change(cell.comparison),
                    cell.comparison.verdict if cell.comparison else "",
                )
                if (cell := row.cells.get(name))
                else Shown("—")
                for name in table.metrics
            ]
            lines.append(Line(row.label, shown, heading))
            heading = ""
    headers = [f"{name} {ARROW[table.better[name]]}" for name in table.metrics]
    return Layout(headers, lines, any(cell.change for line in lines for cell in line.cells))


def terminal(table: Table, color: bool = False, width: int | None = None) -> str:
    """As ``noisereg eval`` prints it: numbers beside their changes; colour only where the test
    supports it.
    """
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    shape = layout(table)
    grid = RichTable(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=True)
    grid.add_column("")
    for header in shape.headers:
        grid.add_column(Text(header), justify="right", no_wrap=True)
        if shape.changes:
            grid.add_column("", justify="right", no_wrap=True)
    for line in shape.lines:
        if line.heading:
            grid.add_row(Text(line.heading, style="bold"))
        cells: list[Text] = []
        for cell in line.cells:
            cells.append(Text(cell.value))
            if shape.changes:
                cells.append(
                    Text(
                        cell.change,
                        style={"better": "green", "worse": "red"}.get(cell.verdict, ""),
                    )
                )
        grid.add_row(Text(line.label), *cells)
    out = io.StringIO()
    console = Console(
        file=out,
        width=width or 4000,
        force_terminal=color,
        color_system="standard" if color else None,
        highlight=False,
    )
    if table.context:
        console.print(Text(" · ".join(table.context)), soft_wrap=True)
    console.print(grid)
    for note in (*table.notes, *table.remarks):
        console.print(Text(note, style="dim" if color else ""), soft_wrap=True)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def markdown(table: Table) -> str:
    """A GitHub table, the context above it and the notes below."""
    shape = layout(table)

    def safe(text: str) -> str:
        for character in "\\|*_`<>[]":
            text = text.replace(character, f"\\{character}")
        return text

    lines = [safe(" · ".join(table.context)), ""] if table.context else []
    lines.append("| | " + " | ".join(safe(h) for h in shape.headers) + " |")
    lines.append("|---|" + "---:|" * len(shape.headers))
    for line in shape.lines:
        if line.heading:
            lines.append(f"| **{safe(line.heading)}** |" + " |" * len(shape.headers))
        cells = [
            safe(f"{cell.value} ({cell.change})" if cell.change else cell.value)
            for cell in line.cells
        ]
        lines.append(f"| {safe(line.label)} | " + " | ".join(cells) + " |")
    notes = [*table.notes, *table.remarks]
    lines += ["", *(f"- {safe(note)}" for note in notes)] if notes else []
    return "\n".join(lines) + "\n"


LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "−": r"$-$",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "—": "---",
    "…": r"\ldots{}",
    "η": r"$\eta$",
    "λ": r"$\lambda$",
    "γ": r"$\gamma$",
    "ε": r"$\varepsilon$",
    "τ": r"$\tau$",
    "≤": r"$\leq$",
}


def latex_text(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in text)


def latex(table: Table) -> str:
    """A ``booktabs`` table for a paper; the notes are in its caption."""
    shape = layout(table)
    lines = [
        r"% \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        r"\begin{tabular}{l" + "r" * len(shape.headers) + "}",
        r"\toprule",
        " & " + " & ".join(latex_text(h) for h in shape.headers) + r" \\",
        r"\midrule",
    ]
    for number, line in enumerate(shape.lines):
        if line.heading:
            lines += [r"\midrule"] if number else []
            span = len(shape.headers) + 1
            lines.append(rf"\multicolumn{{{span}}}{{l}}{{\emph{{{latex_text(line.heading)}}}}} \\")
        cells = [
            f"{cell.value} ({cell.change})" if cell.change else cell.value for cell in line.cells
        ]
        lines.append(f"{latex_text(line.label)} & " + " & ".join(map(latex_text, cells)) + r" \\")
    caption = ". ".join([" · ".join(table.context), *table.notes, *table.remarks])
    lines += [
        r"\bottomrule",
        r"\end{tabular}",
        rf"\caption{{{latex_text(caption)}.}}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


COLUMNS = (
    "table",
    "row",
    "baseline",
    "sampling_steps",
    "metric",
    "better",
    "n",
    "mean",
    "half_width_95",
    "change_percent",
    "difference",
    "p",
    "p_holm",
    "verdict",
    "detectable",
    "values",
    "settings",
)


def csv_text(tables: Sequence[Table]) -> str:
    """One line a row and number, in full precision; ``values`` as ``seed=value`` pairs."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for table in tables:
        for row in table.as_rows():
            for name, cell in row["metrics"].items():
                comparison = cell.get("comparison", {})
                writer.writerow(
                    {
                        "table": " · ".join(table.context),
                        "row": row["label"],
                        "baseline": row["baseline"],
                        "sampling_steps": row["steps"],
                        "metric": name,
                        "better": table.better[name],
                        "n": len(cell["values"]),
                        "mean": cell["mean"],
                        "half_width_95": cell["half_width"],
                        "change_percent": comparison.get("change_percent"),
                        "difference": comparison.get("difference"),
                        "p": comparison.get("p"),
                        "p_holm": comparison.get("p_holm"),
                        "verdict": comparison.get("verdict"),
                        "detectable": comparison.get("detectable"),
                        "values": " ".join(
                            f"{seed}={value!r}" for seed, value in cell["values"].items()
                        ),
                        "settings": " ".join(
                            f"{k}={v}" for k, v in flatten(row["settings"]).items()
                        ),
                    }
                )
    return out.getvalue()


def json_text(tables: Sequence[Table]) -> str:
    """Everything, in full precision; NaN and infinities, which JSON has not, as null.
    :func:`read_json` reads it.
    """

    def finite(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: finite(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [finite(v) for v in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    data = {"tables": [finite(table.as_json()) for table in tables]}
    return json.dumps(data, indent=1, ensure_ascii=False, default=str) + "\n"


def read_json(path: Path) -> list[Table]:
    """The tables of a file that ``noisereg eval --format json`` wrote.

    Raises:
        NoiseregError: if it is none, or cannot be read.
    """
    try:
        tables = [Table.of_json(each) for each in read_json_file(path)["tables"]]
        if not tables:
            raise ValueError("none")
        return tables
    except (ValueError, TypeError, KeyError, AttributeError):
        raise NoiseregError(
            f"{path} holds no tables; expected what noisereg eval --format json writes"
        ) from None


def text(tables: Sequence[Table], form: str, color: bool = False) -> str:
    """``table``, ``markdown``, ``csv``, ``latex`` or ``json``; several tables one after
    another.
    """
    if form == "csv":
        return csv_text(tables)
    if form == "json":
        return json_text(tables)
    render: dict[str, Callable[[Table], str]] = {
        "table": lambda table: terminal(table, color),
        "markdown": markdown,
        "latex": latex,
    }
    return "\n".join(render[form](table) for table in tables)
