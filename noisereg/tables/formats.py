"""Ablation tables as text: for the terminal, Markdown, CSV and JSON; LaTeX is in
:mod:`noisereg.tables.latex`. All show the same numbers.

Digits are chosen number by number. One with an interval shows two digits of the interval and the
number to the same place; one without shows three digits, or what a whole number has; what is below
1e-4 or from 1e6 on has an exponent.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from noisereg.errors import NoiseregError
from noisereg.plugins.spec import flatten
from noisereg.reading import first_complaint
from noisereg.reading import read_json as read_json_file
from noisereg.tables.significance import FEWEST
from noisereg.tables.table import Comparison, Estimate, Row, StoredTable, Table, TablesFile
from noisereg.terminal import one_line

ARROW = {"higher": "↑", "lower": "↓"}
MARK = {"better": "*", "worse": "*", "constant": "="}
"""By verdict of the test."""


@dataclass(frozen=True)
class Digits:
    """A number and half its interval as text, to the same place: ``.417``, ``.064``, and the
    power of ten that both are to be multiplied by.
    """

    number: str
    half_width: str = ""
    exponent: int = 0


@dataclass(frozen=True)
class Shown:
    """One number and its change, as text."""

    value: str
    change: str = ""
    verdict: str = ""
    digits: Digits | None = None
    """What ``value`` is made of, where that is one finite number."""
    mark: str = ""
    """What ``value`` ends with: the test's verdict on an effect."""


@dataclass(frozen=True)
class Line:
    """One row of the printed table; with ``heading`` it opens a section."""

    label: str
    cells: list[Shown]
    heading: str = ""


@dataclass(frozen=True)
class Layout:
    """The table as text, whatever the format."""

    names: list[str]
    arrows: list[str]
    lines: list[Line]
    changes: bool
    """Whether any row has a change to show."""

    @property
    def headers(self) -> list[str]:
        return [f"{name} {arrow}" for name, arrow in zip(self.names, self.arrows, strict=True)]


def decimal(x: float, places: int) -> str:
    """``.938``, ``1.180``, ``−.02``: no zero before the point, a real minus sign."""
    text = f"{abs(x):.{places}f}"
    if text.startswith("0."):
        text = text[1:]
    negative = x < 0 and any(c not in ".0" for c in text)
    return f"−{text}" if negative else text


def digits(x: float, half: float | None = None) -> Digits:
    """A finite number, and half its interval where it has one, to as many places as these
    warrant.
    """
    half = None if half is None or half <= 1e-12 * abs(x) else half  # rounding is no interval
    size = max(abs(x), half or 0.0)
    exponent = 0
    if size >= 1e6 or 0 < size < 1e-4:
        exponent = math.floor(math.log10(size))
        x, size = x / 10.0**exponent, size / 10.0**exponent
        half = None if half is None else half / 10.0**exponent
    if half is None:
        return Digits(decimal(x, _places(size)), "", exponent)
    two = float(f"{half:.1e}")
    # of a number that is known to many digits, six are enough
    most = max(5 - math.floor(math.log10(size)), 0)
    places = min(max(1 - math.floor(math.log10(two)), 0), most)
    shown = decimal(half, places)
    return Digits(decimal(x, places), shown if shown.strip(".0") else f"{half:.1e}", exponent)


def _places(size: float) -> int:
    """Of a number without an interval."""
    if size == 0 or 0.1 <= size < 10:
        return 3
    if size < 0.1:
        return 2 - math.floor(math.log10(size))
    return 2 if size < 1000 else 0


def number_text(x: float, sign: bool = False) -> str:
    """``.435``, ``1.20e-5``, ``−inf``, ``nan``; with ``sign``, a plus where it is positive."""
    if math.isnan(x):
        return "nan"
    plus = "+" if sign and x > 0 else ""
    if math.isinf(x):
        return f"{plus}inf" if x > 0 else "−inf"
    shown = digits(x)
    return f"{plus}{shown.number}" + (f"e{shown.exponent}" if shown.exponent else "")


def _shown(row: Row, name: str, effect: bool) -> Shown:
    estimate = row.estimates.get(name)
    if estimate is None:
        return Shown("diverged" if row.diverged else "—")
    comparison = estimate.comparison
    verdict = comparison.verdict if comparison else ""
    mark = MARK.get(verdict, "") if effect else ""
    change = "" if effect else _change(comparison)
    numbers = list(estimate.values.values())
    half = estimate.half_width
    if half is None or not (math.isfinite(half) and math.isfinite(estimate.mean)):
        finite = all(map(math.isfinite, numbers))
        each = half is None and (finite or len(numbers) < FEWEST)
        several = numbers if each else [estimate.mean]
        text = " / ".join(number_text(v, sign=effect) for v in several)
        one = digits(numbers[0]) if finite and each and len(numbers) == 1 else None
        return Shown(text, change, verdict, _signed(one, numbers[0], effect))
    shown = _signed(digits(estimate.mean, half), estimate.mean, effect)
    assert shown is not None
    if not shown.half_width:  # the same at every seed
        shown = Digits(shown.number, decimal(0, _decimals(shown.number)), shown.exponent)
    value = f"{shown.number} ± {shown.half_width}"
    value = f"({value})e{shown.exponent}" if shown.exponent else value
    return Shown(f"{value}{mark}", change, verdict, shown, mark)


def _signed(found: Digits | None, x: float, effect: bool) -> Digits | None:
    if found is None or not effect or x <= 0:
        return found
    return Digits(f"+{found.number}", found.half_width, found.exponent)


def _decimals(number: str) -> int:
    return len(number.partition(".")[2])


def _change(comparison: Comparison | None) -> str:
    if comparison is None:
        return ""
    if comparison.verdict == "identical":
        return "identical"
    percent = comparison.change_percent
    if percent is None:
        return f"—{MARK.get(comparison.verdict, '')}"
    sign = "−" if percent < -0.05 else "+"
    size = f"{abs(percent):.1f}" if abs(percent) < 1e5 else f"{abs(percent):.1e}"
    return f"{sign}{size} %{MARK.get(comparison.verdict, '')}"


def layout(table: Table) -> Layout:
    lines: list[Line] = []
    for steps in table.steps:
        heading = f"{steps} sampling steps" if len(table.steps) > 1 and steps else ""
        for row in table.rows:
            if row.first.steps != steps:
                continue
            label = one_line(row.label)
            if row.diverged and len(row.measurements) > 1:
                label += f" ({len(row.diverged)} of {len(row.measurements)} diverged)"
            shown = [_shown(row, name, table.effects) for name in table.metrics]
            lines.append(Line(label, shown, heading))
            heading = ""
    return Layout(
        [one_line(name) for name in table.metrics],
        [ARROW[table.better[name]] for name in table.metrics],
        lines,
        any(cell.change for line in lines for cell in line.cells),
    )


def head_of(table: Table) -> str:
    """The line above the table."""
    return one_line(" · ".join(table.head))


def notes_of(table: Table) -> list[str]:
    """What is said under the table."""
    return [one_line(note) for note in (*table.notes, *table.remarks)]


GAP = 2
"""Blanks between the terminal's columns."""
LABEL = 24
"""What a row's name keeps of a narrow terminal, at least, if it is as long."""


def terminal(table: Table, color: bool = False, width: int | None = None) -> str:
    """As ``noisereg eval`` prints it: numbers beside their changes; colour only where the test
    supports it. With a ``width`` (columns of characters) names wrap, and numbers that do not fit
    side by side follow below, under their rows' names again: none is broken.
    """
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    shape = layout(table)
    out = io.StringIO()
    console = Console(
        file=out,
        width=width or 4000,
        force_terminal=color,
        color_system="standard" if color else None,
        highlight=False,
    )

    def say(text: str, style: str = "") -> None:
        console.print(Text(text, style=style), soft_wrap=width is None)

    if table.context:
        say(head_of(table))
    for chosen in _side_by_side(shape, width):
        grid = RichTable(box=None, pad_edge=False, padding=(0, GAP, 0, 0), show_header=True)
        grid.add_column("", overflow="fold")
        for k in chosen:
            grid.add_column(Text(shape.headers[k]), justify="right", no_wrap=True)
            if shape.changes:
                grid.add_column("", justify="right", no_wrap=True)
        for line in shape.lines:
            if line.heading:
                grid.add_row(Text(line.heading, style="bold"))
            cells: list[Text] = []
            for cell in (line.cells[k] for k in chosen):
                cells.append(Text(cell.value))
                if shape.changes:
                    style = {"better": "green", "worse": "red"}.get(cell.verdict, "")
                    cells.append(Text(cell.change, style=style))
            grid.add_row(Text(line.label), *cells)
        console.print(grid)
    for note in notes_of(table):
        say(note, "dim" if color else "")
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def _side_by_side(shape: Layout, width: int | None) -> list[list[int]]:
    """The numbers (by index) that stand side by side, block by block."""
    every = list(range(len(shape.names)))
    if width is None:
        return [every]
    labels = max((len(line.label) for line in shape.lines), default=0)
    # as rich lays it out: a gap after every column, the last one's too
    left = width - min(labels, LABEL) - GAP
    blocks: list[list[int]] = []
    taken = 0
    for k in every:
        cells = [line.cells[k] for line in shape.lines]
        wide = max([len(shape.headers[k]), *(len(cell.value) for cell in cells)]) + GAP
        if shape.changes:
            wide += max(len(cell.change) for cell in cells) + GAP
        if not blocks or taken + wide > left:
            blocks.append([])
            taken = 0
        blocks[-1].append(k)
        taken += wide
    return blocks or [every]


def markdown(table: Table) -> str:
    """A GitHub table, the head above it and the notes below."""
    shape = layout(table)

    def safe(text: str) -> str:
        for character in "\\|*_`<>[]":
            text = text.replace(character, f"\\{character}")
        return text

    lines = [safe(head_of(table)), ""] if table.context else []
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
    notes = notes_of(table)
    lines += ["", *(f"- {safe(note)}" for note in notes)] if notes else []
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
    "found_with_power",
    "values",
    "settings",
)


def csv_text(tables: Sequence[Table]) -> str:
    """One line a row and number, in full precision; ``values`` as ``seed=value`` pairs. A row
    without the number has a line too, whose verdict is ``diverged`` or ``missing``. Text that a
    spreadsheet would take for a formula begins with an apostrophe.
    """
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for table in tables:
        for row, settings in zip(table.rows, table.as_rows(), strict=True):
            for name in table.metrics:
                about = {
                    "table": " · ".join(table.head),
                    "row": row.label,
                    "baseline": row.baseline,
                    "sampling_steps": row.first.steps,
                    "metric": name,
                    "better": table.better[name],
                    "settings": " ".join(
                        f"{k}={v}" for k, v in flatten(settings["settings"]).items()
                    ),
                }
                numbers = _csv_numbers(row, row.estimates.get(name))
                writer.writerow({k: _csv_cell(v) for k, v in (about | numbers).items()})
    return out.getvalue()


def _csv_numbers(row: Row, estimate: Estimate | None) -> dict[str, Any]:
    if estimate is None:
        return {"n": 0, "verdict": "diverged" if row.diverged else "missing"}
    comparison = estimate.comparison.model_dump() if estimate.comparison else {}
    return {
        "mean": estimate.mean,
        "half_width_95": estimate.half_width,
        **{k: v for k, v in comparison.items() if k in COLUMNS},
        "n": len(estimate.values),
        "values": estimate.values[""]
        if set(estimate.values) == {""}
        else " ".join(f"{seed}={value!r}" for seed, value in estimate.values.items()),
    }


def _csv_cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = one_line(value)
    return f"'{text}" if value[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def json_text(tables: Sequence[Table]) -> str:
    """Everything, in full precision, with a digest of each row; :func:`read_json` reads it."""
    file = TablesFile(tables=[StoredTable.of(table) for table in tables])
    return _short_lines(file.model_dump_json(indent=1, fallback=str)) + "\n"


def _short_lines(text: str) -> str:
    """Indented JSON with what holds no further list or mapping on one line: a row's numbers by
    seed. (A text in it has no line break of its own, so that each is one of the layout's.)
    """
    inner = re.compile(r"([\[{])\n([^\[\]{}]*)\n\s*([\]}])")
    return inner.sub(lambda m: m[1] + re.sub(r"\n\s*", " ", m[2].strip()) + m[3], text)


def read_json(path: Path) -> list[Table]:
    """The tables of a file that ``noisereg eval --format json`` wrote. What does not fit its
    digest is said in the table's remarks.

    Raises:
        NoiseregError: if it is none, is damaged, or cannot be read.
    """
    values = read_json_file(path)
    try:
        return [each.table(path.name) for each in TablesFile.model_validate(values).tables]
    except ValidationError as error:
        where, what = first_complaint(error)
        raise NoiseregError(
            f"{path} holds no tables: {one_line(': '.join(filter(None, (where, what))))}; "
            "expected "
            "what noisereg eval --format json writes"
        ) from None


def text(tables: Sequence[Table], form: str, color: bool = False, width: int | None = None) -> str:
    """``table``, ``markdown``, ``csv``, ``latex`` or ``json``; several tables one after another.
    ``color`` and ``width`` are the terminal's.
    """
    if form == "csv":
        return csv_text(tables)
    if form == "json":
        return json_text(tables)
    if form == "latex":
        from noisereg.tables.latex import latex

        return "\n".join(map(latex, tables))
    return "\n".join(
        markdown(table) if form == "markdown" else terminal(table, color, width)
        for table in tables
    )
