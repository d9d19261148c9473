"""Ablation tables for a paper: ``booktabs`` rules, ``siunitx`` columns that align the decimal
points, a caption and a label, within one column of a two-column page.

The compact layout: intervals in siunitx's short form (0.417(64) is 0.417 ± 0.064;
``\\sisetup{separate-uncertainty}`` writes the long one), each row's changes in a line below it,
names that wrap. The largest of three sizes that fits is taken; numbers that do not fit side by
side at the smallest follow below.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from noisereg.tables.formats import Digits, Layout, Line, Shown, head_of, layout, notes_of
from noisereg.tables.table import Table

COLUMN = 234.0
"""The width to fit, in points: a column of 3.25 inches, the narrowest in use."""
GAP = 3.0
"""On each side of a column, in points (``\\tabcolsep``)."""
NARROWEST_LABEL = 58.0
WIDEST_LABEL = 120.0
DIGIT, LETTER, POINT, PARENTHESIS = 1.0, 1.02, 0.56, 0.78
"""Widths in those of a digit; letters on average, from above."""
SIZES = (("small", 4.63), ("footnotesize", 4.25), ("scriptsize", 3.98))
"""And a digit's in points, of Computer Modern at 9, 8 and 7 points."""

GREEK = {
    unicodedata.lookup(f"GREEK SMALL LETTER {name.upper()}"): rf"$\{name}$"
    for name in (
        *("alpha", "beta", "gamma", "delta", "zeta", "eta", "theta", "kappa", "mu", "nu", "xi"),
        *("pi", "rho", "sigma", "tau", "phi", "chi", "psi", "omega"),
    )
} | {"ε": r"$\varepsilon$", "λ": r"$\lambda$"}
LATEX = GREEK | {
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
    '"': "''",
    "±": r"$\pm$",
    "−": r"$-$",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "→": r"$\to$",
    "—": "---",
    "–": "--",
    "…": r"\ldots{}",
    "’": "'",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "√": r"$\surd$",
    "∞": r"$\infty$",
    "²": r"$^2$",
    "³": r"$^3$",
    "‖": r"$\Vert$",
}
"""By character; of others beyond ASCII, Latin letters lose their accents and the rest is ``?``."""
KEPT = frozenset(string.printable)
BREAKS = re.compile(r"(?<=[(,=/:.+_-])|(?<=\w{12})(?=\w)")
"""Where a name may go on in the next line."""


def latex_text(text: str) -> str:
    """Text as LaTeX shows it, in ASCII."""
    return "".join(map(_character, text))


def _character(c: str) -> str:
    if c in LATEX:
        return LATEX[c]
    if c in KEPT:
        return c
    letters = "".join(x for x in unicodedata.normalize("NFKD", c) if x in KEPT)
    return letters or ("" if unicodedata.combining(c) else "?")


def _breakable(text: str) -> str:
    """LaTeX of a name, with places to break it."""
    return r"\allowbreak{}".join(latex_text(part) for part in BREAKS.split(text) if part)


@dataclass(frozen=True)
class _Column:
    """One number's column, in digits' widths."""

    whole: int
    decimals: int
    uncertain: int
    """Digits of the interval; 0 where none has one."""
    signed: bool
    marked: bool
    text: float
    """The width of what is no number: header, changes, ``diverged``."""

    @property
    def width(self) -> float:
        number = self.whole + self.decimals + (POINT if self.decimals else 0)
        number += self.uncertain + 2 * PARENTHESIS if self.uncertain else 0
        number += 1.5 * (self.signed + self.marked)
        return max(number, self.text)

    @property
    def format(self) -> str:
        """siunitx's ``table-format``."""
        sign = "+" if self.signed else ""
        uncertain = f"({self.uncertain})" if self.uncertain else ""
        digits = f"{sign}{self.whole}" + (f".{self.decimals}" if self.decimals else "")
        mark = ", table-space-text-post={*}" if self.marked else ""
        mark += ", retain-explicit-plus" if self.signed else ""
        return f"S[table-format={digits}{uncertain}{mark}]"


def _ascii(number: str) -> str:
    """As siunitx reads it: ``−.02`` is ``-0.02``."""
    sign = "-" if number.startswith("−") else "+" if number.startswith("+") else ""
    size = number.lstrip("−+")
    return f"{sign}0{size}" if size.startswith(".") else f"{sign}{size}"


def _is_number(cell: Shown) -> bool:
    return (
        cell.digits is not None and not cell.digits.exponent and "e" not in cell.digits.half_width
    )


def _cell(cell: Shown) -> str:
    """In an ``S`` column; what is no plain number is text to it."""
    if not _is_number(cell):
        return f"{{{latex_text(cell.value)}}}"
    assert cell.digits is not None
    text = _ascii(cell.digits.number)
    if cell.digits.half_width:
        text += f" +- {_ascii(cell.digits.half_width)}"
    return text + (f" {{{cell.mark}}}" if cell.mark else "")


def _text_width(text: str) -> float:
    return LETTER * len(text)


def _column(name: str, cells: Sequence[Shown]) -> _Column:
    numbers = [c.digits for c in cells if _is_number(c) and c.digits]
    parts = [_ascii(d.number).lstrip("+-").partition(".") for d in numbers]
    texts = [name, *(c.change for c in cells), *(c.value for c in cells if not _is_number(c))]
    return _Column(
        whole=max((len(whole) for whole, _, _ in parts), default=1),
        decimals=max((len(rest) for _, _, rest in parts), default=0),
        uncertain=max((_uncertain(d) for d in numbers if d.half_width), default=0),
        signed=any(d.number[0] in "−+" for d in numbers),
        marked=any(c.mark for c in cells),
        text=max(map(_text_width, texts)),
    )


def _uncertain(found: Digits) -> int:
    """Digits in the parenthesis: ``.064`` beside ``.417`` is (64)."""
    return max(1, len(found.half_width.replace(".", "").lstrip("0")))


@dataclass(frozen=True)
class _Fit:
    """How a table is laid out within the column."""

    size: str
    label: float
    """The width of the names, in points."""
    blocks: list[list[int]]
    """The numbers that stand side by side."""


def _fit(shape: Layout, columns: Sequence[_Column]) -> _Fit:
    names = [line.label for line in shape.lines] or [""]
    for size, digit in SIZES:
        label = max(_text_width(name) * digit for name in names)
        label = max(min(label, WIDEST_LABEL), NARROWEST_LABEL)
        need = sum(c.width * digit + 2 * GAP for c in columns)
        for one in (label, NARROWEST_LABEL):
            if one + GAP + need <= COLUMN and (one == label or size == SIZES[-1][0]):
                return _Fit(size, min(label, COLUMN - GAP - need), [list(range(len(columns)))])
    blocks: list[list[int]] = []
    left = 0.0
    for k, column in enumerate(columns):
        wide = column.width * digit + 2 * GAP
        if not blocks or wide > left:
            blocks.append([])
            left = COLUMN - NARROWEST_LABEL - GAP
        blocks[-1].append(k)
        left -= wide
    return _Fit(size, NARROWEST_LABEL, blocks)


def _columns(shape: Layout) -> list[_Column]:
    return [
        _column(name, [line.cells[k] for line in shape.lines])
        for k, name in enumerate(shape.names)
    ]


def latex(table: Table) -> str:
    """A ``table`` float; the head is its caption, the notes stand below."""
    shape = layout(table)
    columns = _columns(shape)
    fit = _fit(shape, columns)
    slug = re.sub(r"[^A-Za-z0-9]+", "-", table.name or head_of(table)).strip("-").lower()
    lines = [
        r"% \usepackage{booktabs, siunitx}",
        r"\begin{table}",
        r"\centering",
        rf"\{fit.size}",
        rf"\setlength{{\tabcolsep}}{{{GAP:g}pt}}",
        rf"\caption{{{latex_text(head_of(table) or 'Ablation')}.}}",
        rf"\label{{tab:{slug or 'ablation'}}}",
    ]
    for number, block in enumerate(fit.blocks):
        lines += [r"\par\medskip"] if number else []
        lines += _tabular(shape, columns, block, fit.label)
    notes = notes_of(table)
    if notes:
        lines += [r"\par\smallskip", rf"\parbox{{{COLUMN:g}pt}}{{\scriptsize\raggedright"]
        lines += [f"{_breakable(note)}.\\par" for note in notes]
        lines += ["}"]
    lines += [r"\end{table}"]
    return "\n".join(lines) + "\n"


def _tabular(
    shape: Layout, columns: Sequence[_Column], block: Sequence[int], label: float
) -> list[str]:
    formats = "".join(columns[k].format for k in block)
    lines = [
        rf"\begin{{tabular}}{{@{{}}>{{\raggedright\arraybackslash}}p{{{label:.0f}pt}}{formats}@{{}}}}",
        r"\toprule",
        _row("", [f"{{{latex_text(shape.names[k])}}}" for k in block]),
        _row("", [f"{{{latex_text(shape.arrows[k])}}}" for k in block]),
        r"\midrule",
    ]
    for number, line in enumerate(shape.lines):
        if line.heading:
            lines += [r"\midrule"] if number else []
            span = len(block) + 1
            heading = latex_text(line.heading)
            lines.append(rf"\multicolumn{{{span}}}{{@{{}}l@{{}}}}{{\emph{{{heading}}}}} \\")
        lines += _lines_of_row(line, block)
    return [*lines, r"\bottomrule", r"\end{tabular}"]


def _lines_of_row(line: Line, block: Sequence[int]) -> list[str]:
    cells = [line.cells[k] for k in block]
    lines = [_row(_breakable(line.label), [_cell(cell) for cell in cells])]
    if any(cell.change for cell in cells):
        changes = [f"{{{latex_text(cell.change)}}}" if cell.change else "" for cell in cells]
        lines.append(_row("", changes))
    return lines


def _row(label: str, cells: Sequence[str]) -> str:
    return f"{label} & " + " & ".join(cells) + r" \\"
