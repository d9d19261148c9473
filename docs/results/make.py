"""Brings the results pages and README's front table up to date with the JSON files beside this
script, and draws the pictures that need no trained model, from these files or from the data sets:
``python docs/results/make.py``.

Between ``<!-- noisereg eval FILE.json … -->`` and ``<!-- end -->`` stands what that command
prints, run in this folder; between ``<!-- against the paper: A -->`` and
``<!-- end -->`` the paper's Table 1 beside ours, of one of :data:`LAWS`, or the counts of several by what the term
lowers and raises (``A B C``), the ``baselines A B``, or ``every law`` in short; between ``<!-- closed form: FILE.json
-->`` and ``<!-- end -->`` what ``temperature.py FILE.json`` prints, and of ``<!-- factors:
FILE.json -->`` what ``factors.py`` does; between ``<!-- gains: FILE.json NUMBER STEPS -->`` and
``<!-- end -->`` what each form of the isotropy term and its control change. A test runs the same and compares.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import re
import runpy
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from noisereg.cli.main import run
from noisereg.report import pictures
from noisereg.report.report import number_pictures
from noisereg.tables.ablation import join, rebuild
from noisereg.tables.effects import effects
from noisereg.tables.formats import decimal, read_json
from noisereg.tables.significance import difference_test, half_width, holm
from noisereg.tables.table import Row, Table

HERE = Path(__file__).parent
PAGES = [*sorted(HERE.glob("*.md")), HERE.parent.parent / "README.md"]
BLOCK = re.compile(
    r"(<!-- (noisereg eval|against the paper:|closed form:|factors:|gains:) ([^\n]*?) -->\n).*?(<!-- end -->)",
    re.DOTALL,
)

PAPER = {
    "swiss-roll": {
        "precision": (0.9458, 0.9893),
        "recall": (0.9927, 0.9709),
        "density": (0.8946, 0.9908),
        "coverage": (0.8932, 0.8458),
    },
    "scattered-moon": {
        "precision": (0.9990, 0.9993),
        "recall": (0.9962, 0.9736),
        "density": (1.0015, 1.0049),
        "coverage": (0.9605, 0.8254),
    },
    "moon-circles": {
        "precision": (0.9921, 0.9982),
        "recall": (0.9967, 0.9694),
        "density": (0.9925, 1.0081),
        "coverage": (0.9498, 0.8572),
    },
    "central-banana": {
        "precision": (0.8974, 0.9072),
        "recall": (0.9977, 0.9417),
        "density": (0.8785, 0.8962),
        "coverage": (0.9102, 0.6840),
    },
}
"""Iso-Diffusion (arXiv 2403.16790), Table 1: by set and number, (DDPM, Iso-Diffusion)."""

CELLS = [(name, number) for name, numbers in PAPER.items() for number in numbers]


def page(text: str) -> str:
    """A page with every block as its command gives it now."""
    return BLOCK.sub(lambda m: f"{m[1]}\n{block(m[2], m[3]).strip()}\n\n{m[4]}", text)


def block(kind: str, arguments: str) -> str:
    words = shlex.split(arguments)
    if kind == "closed form:":
        beside = runpy.run_path(str(HERE / "temperature.py"))
        return beside["table"](json.loads((HERE / words[0]).read_text()))
    if kind == "against the paper:":
        if arguments == "every law":
            return every_law()
        if words[0] == "baselines":
            return baselines(words[1:])
        return against_the_paper(words[0]) if len(words) == 1 else halves(words)
    if kind == "factors:":
        factors = runpy.run_path(str(HERE / "factors.py"))
        return factors["table"](json.loads((HERE / words[0]).read_text()))
    if kind == "gains:":
        return gains(words[0], words[1], int(words[2]))
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = run(
            [
                "eval",
                *(
                    str(HERE / Path(word).name) if word.endswith(".json") else word
                    for word in words
                ),
            ]
        )
    if code:
        raise SystemExit(f"noisereg eval {arguments}: exit code {code}")
    return out.getvalue()


@dataclass(frozen=True)
class Law:
    """How networks of Table 1 were trained and sampled, and where the changes stand."""

    trained: str
    sources: list[str]
    """Files, and the columns that they give, each the λ of the trained term, ``λ:rescaled`` of ε̂
    rescaled without training (``:MEAN`` where rows differ in the term's mean), ``FACTOR:constant``
    of one factor for every set, or ``METRIC@SEEDS`` of the λ that the metric picks on these seeds.
    """
    steps: int = 100
    """Of sampling; of training T, which the authors sample in, is 1,000."""
    short: bool = False
    """Whether training was shorter than the paper's 79,000 steps."""

    @property
    def name(self) -> str:
        return self.trained + f", {self.steps:,} sampling steps" * (self.steps != 100)


LAWS = {
    "A": Law(
        "one t a minibatch",
        ["table1-79k-minibatch.json 0.01 0.1 0.3 0.1:rescaled 0.3:rescaled"],
    ),
    "A-1000": Law(
        "one t a minibatch", ["table1-79k-minibatch-1000.json 0.3 0.3:rescaled"], steps=1000
    ),
    "B": Law(
        "bins of t",
        ["table1-79k-bins.json 0.01 0.1 0.3 0.1:rescaled 0.3:rescaled"],
    ),
    "B-1000": Law(
        "bins of t", ["table1-79k-bins-1000.json 0.3 0.3:rescaled:timestep-bin"], steps=1000
    ),
    "C": Law(
        "t per sample",
        [
            "swiss-roll.json table1-79k.json 0.01 0.1 0.3",
            "table1-79k-control.json 0.1:rescaled:batch 0.3:rescaled:batch",
        ],
    ),
    "C-1000": Law("t per sample", ["table1-79k-bins-1000.json 0.3:rescaled:batch"], steps=1000),
    "C-constant": Law(
        "t per sample, no term, ε̂ times a constant",
        [
            "table1-79k-constant.json 1.05:constant 1.1:constant 1.2:constant 1.3:constant",
        ],
    ),
    "G": Law(
        "second version, one t a minibatch",
        ["table1-v2-minibatch.json 0.3 0.3:rescaled"],
        steps=1000,
    ),
    "H": Law(
        "second version, t per sample",
        ["table1-v2-79k.json 0.1 0.3 0.1:rescaled:batch 0.3:rescaled:batch"],
    ),
    "H-1000": Law(
        "second version, t per sample", ["table1-v2-79k-1000.json 0.3 0.3:rescaled"], steps=1000
    ),
    "I": Law("second version, bins of t", ["table1-v2-79k-bins.json 0.3 0.3:rescaled"]),
    "I-1000": Law(
        "second version, bins of t", ["table1-v2-79k-bins-1000.json 0.3 0.3:rescaled"], steps=1000
    ),
    "D": Law(
        "one t a minibatch, 20,000 steps",
        ["table1-minibatch.json 0.01 0.1 0.3 0.3:rescaled"],
        short=True,
    ),
    "E": Law(
        "bins of t, 20,000 steps",
        ["table1-bins.json 0.1 0.3", "table1-control.json 0.3:rescaled:timestep-bin"],
        short=True,
    ),
    "F": Law(
        "t per sample, 20,000 steps",
        [
            "table1.json 0.01 0.1 0.3",
            "table1.json table1-pick.json density@5,6,7,8,9",
            "table1-control.json 0.3:rescaled:batch",
        ],
        short=True,
    ),
    "J": Law(
        "second version, t per sample, 10,000 steps",
        ["table1-v2.json 0.3 0.3:rescaled:batch"],
        short=True,
    ),
    "K": Law(
        "second version, bins of t, 10,000 steps",
        ["table1-v2.json 0.3:rescaled:timestep-bin"],
        short=True,
    ),
}
"""By the letters that pages call them by, in which a number is of sampling steps other than 100; a
test compares them with their headings."""

MARKS = {"agrees": "✓", "undecided": "·", "contradicts": "✗"}


@dataclass(frozen=True)
class Change:
    """What the term changes of one number of one set, in per cent of the baseline's."""

    mean: float
    half: float
    """Half the 95 % interval of the mean (Student, paired over seeds)."""
    paper: float
    weight: float
    p: float
    """Of Student's test that the mean is 0."""

    @property
    def verdict(self) -> str:
        """*agrees* if the interval lies wholly on the paper's side of 0, *contradicts* if wholly on
        the other, *undecided* if it holds 0; each for itself.
        """
        if abs(self.mean) <= self.half:
            return "undecided"
        return "agrees" if self.mean * self.paper > 0 else "contradicts"

    @property
    def holds_paper(self) -> bool:
        return abs(self.paper - self.mean) <= self.half


Column = dict[tuple[str, str], Change]
"""By set and number: the sixteen cells of Table 1."""


@functools.cache
def rows_of(letter: str) -> dict[str, list[list[Row]]]:
    """By name of a column: each set's baseline and the row that is compared with it."""
    found = {}
    for group in LAWS[letter].sources:
        words = group.split()
        files = [word for word in words if word.endswith(".json")]
        tables = join([table for file in files for table in read_json(HERE / file)])
        for how in words[len(files) :]:
            weight, *control = how.split(":")
            if "@" in how:
                metric, seeds = how.split("@")
                pick_on = [int(seed) for seed in seeds.split(",")]
                picked = [rebuild(table, pick=metric, pick_on=pick_on) for table in tables]
                name, rows = f"λ by {metric}", [table.rows for table in picked if table]
            else:
                mean = control[1] if len(control) > 1 else None
                if control[:1] == ["constant"]:
                    name, term = f"ε̂ × {weight}", "rescaled"
                elif control:
                    name, term = f"factor, λ {weight}", "rescaled-isotropy"
                else:
                    name, term = f"λ {weight}", "isotropy"
                rows = [at(table, term, float(weight), mean) for table in tables]
            found[name] = rows
    return found


def columns(letter: str) -> dict[str, Column]:
    """By name, those of one law."""
    return {name: changes(rows) for name, rows in rows_of(letter).items()}


def at(table: Table, name: str, weight: float, mean: str | None) -> list[Row]:
    """The baseline, and the row of this term at this λ, with this mean if one is given; of a
    constant factor λ is the factor.
    """

    def wanted(row: Row) -> bool:
        return any(
            spec.name == name and mean in (None, spec.params.get("mean"))
            for spec in row.first.components["reg"]
        )

    return [
        row for row in table.rows if row.baseline or (wanted(row) and weight_of(row) == weight)
    ]


def weight_of(row: Row) -> float:
    every = [spec.params for spec in row.first.components["reg"]]
    return sum(params.get("weight", params.get("factor", 0.0)) for params in every)


def changes(tables: Sequence[Sequence[Row]]) -> Column:
    """Of each set's two rows, the baseline and another."""
    found = {}
    for rows in tables:
        (base,) = (row for row in rows if row.baseline)
        (own,) = (row for row in rows if not row.baseline)
        for number in PAPER[set_of(own)]:
            found[set_of(own), number] = change(own, base, number)
    if set(found) != set(CELLS) or len(tables) != len(PAPER):
        raise SystemExit(f"expected the cells of {', '.join(PAPER)}, each once")
    return found


def set_of(row: Row) -> str:
    return row.first.components["data"][0].name


def apart(letter: str) -> str:
    """In how many cells the trained term is told from the factor at λ = 0.3, each for itself."""
    trained, factor = (
        {set_of(row): row for rows in rows_of(letter)[head] for row in rows if not row.baseline}
        for head in ("λ 0.3", "factor, λ 0.3")
    )
    cells = [change(trained[name], factor[name], number) for name, number in CELLS]
    return f"{sum(cell.verdict != 'undecided' for cell in cells)} of {len(cells)}"


def against_the_paper(letter: str) -> str:
    """The 16 cells of the paper's Table 1, each with its change and ours."""
    named = columns(letter)
    lines = [
        f"| set | number | paper | {' | '.join(named)} |",
        f"|---|---|---:|{'---:|' * len(named)}",
    ]
    for cell in CELLS:
        own = [column[cell] for column in named.values()]
        shown = [
            shown_change(c, f"{c.weight:g}: " if "by" in n else "")
            for n, c in zip(named, own, strict=True)
        ]
        lines.append(f"| {' | '.join(cell)} | {signed(own[0].paper, 2)} | {' | '.join(shown)} |")
    tallies = [tally(column) for column in named.values()]
    lines.append(f"| all | ✓ / · / ✗ | | {' | '.join(tallies)} |")
    return "\n".join(lines)


def shown_change(change: Change, before: str) -> str:
    size = f"{signed(change.mean, 2)} ± {decimal(change.half, 2)}"
    return f"{before}{f'**{size}**' if change.holds_paper else size} {MARKS[change.verdict]}"


def tally(column: Column) -> str:
    """Of the sixteen cells, how many agree, are undecided, contradict; in brackets, how many of
    those that do not hold 0 are left by Holm's correction over the sixteen.
    """
    own = list(column.values())
    left = [p < 0.05 for p in holm([change.p for change in own])]
    told = []
    for verdict in MARKS:
        which = [k for k, change in enumerate(own) if change.verdict == verdict]
        more = f" ({sum(left[k] for k in which)})" if which and verdict != "undecided" else ""
        told.append(f"{len(which)}{more}")
    return " / ".join(told)


def plain_tally(column: Column, numbers: Sequence[str]) -> str:
    """Of the cells of some numbers, how many agree, are undecided, contradict."""
    verdicts = [c.verdict for (_, number), c in column.items() if number in numbers]
    return " / ".join(str(verdicts.count(verdict)) for verdict in MARKS)


HEADS = ["λ 0.01", "λ 0.1", "λ 0.3", "factor, λ 0.1", "factor, λ 0.3"]
HALVES = {"losses": ("recall", "coverage"), "gains": ("precision", "density")}
"""What the paper's term lowers on every set, and what it raises."""


def counts(letters: Sequence[str]) -> str:
    """How many cells agree, are undecided and contradict under each law."""
    heads = [*HEADS, "told apart"]
    lines = [
        f"| | trained with | sampled in | {' | '.join(heads)} |",
        f"|---|---|---:|{'---:|' * len(heads)}",
    ]
    for letter in letters:
        own, law = columns(letter), LAWS[letter]
        cells = [tally(own[head]) if head in own else "" for head in HEADS]
        cells.append(apart(letter) if {"λ 0.3", "factor, λ 0.3"} <= set(own) else "")
        lines.append(f"| {letter} | {law.trained} | {law.steps:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def halves(letters: Sequence[str]) -> str:
    """The same at λ = 0.3, of the numbers that fall in the paper and of those that rise."""
    heads = [f"{who}{half}" for who in ("", "factor: ") for half in HALVES]
    lines = [
        f"| | trained with | sampled in | {' | '.join(heads)} |",
        f"|---|---|---:|{'---:|' * len(heads)}",
    ]
    for letter in letters:
        own, law = columns(letter), LAWS[letter]
        cells = [
            plain_tally(own[head], numbers) if head in own else ""
            for head in ("λ 0.3", "factor, λ 0.3")
            for numbers in HALVES.values()
        ]
        lines.append(f"| {letter} | {law.trained} | {law.steps:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def baselines(letters: Sequence[str]) -> str:
    """What networks without the term have, beside the paper's."""
    lines = [
        f"| set | number | paper | {' | '.join(letters)} |",
        f"|---|---|---:|{'---:|' * len(letters)}",
    ]
    every = []
    for letter in letters:
        tables = next(iter(rows_of(letter).values()))
        every.append({set_of(row): row for rows in tables for row in rows if row.baseline})
    for name, number in CELLS:
        cells = [of[name].estimates[number] for of in every]
        shown = [f"{decimal(c.mean, 3)} ± {decimal(c.half_width, 3)}" for c in cells]
        there = decimal(PAPER[name][number][0], 3)
        lines.append(f"| {name} | {number} | {there} | {' | '.join(shown)} |")
    return "\n".join(lines)


def every_law() -> str:
    """How many cells agree under each law, and the sixteen cells of each at the largest λ."""
    compared = [letter for letter in LAWS if set(HEADS) & set(columns(letter))]
    named = {letter: columns(letter) for letter in compared if not LAWS[letter].short}
    lines = [
        counts(compared),
        "",
        f"| set | number | paper | {' | '.join(named)} |",
        f"|---|---|---:|{':---:|' * len(named)}",
    ]
    for cell in CELLS:
        pairs = [
            "".join(
                MARKS[own[head][cell].verdict] if head in own else "–"
                for head in ("λ 0.3", "factor, λ 0.3")
            )
            for own in named.values()
        ]
        before, after = PAPER[cell[0]][cell[1]]
        there = signed(100 * (after - before) / before, 2)
        lines.append(f"| {' | '.join(cell)} | {there} | {' | '.join(pairs)} |")
    return "\n".join(lines)


def change(own: Row, base: Row, number: str) -> Change:
    """The difference of two rows over the seeds that they share."""
    a, b = own.estimates[number].values, base.estimates[number].values
    shared = [seed for seed in a if seed in b]
    differences = [a[s] - b[s] for s in shared]
    half = half_width(differences)
    if half is None:
        raise SystemExit(f"{number}: {len(shared)} shared seeds; expected at least 3")
    level = float(np.mean([b[s] for s in shared]))
    p = difference_test(a, b).p
    before, after = PAPER[set_of(own)][number]
    return Change(
        100 * float(np.mean(differences)) / level,
        100 * half / level,
        100 * (after - before) / before,
        weight_of(own),
        1.0 if p is None else p,
    )


TERMS = {
    ("isotropy", "plain"): "term",
    ("rescaled-isotropy", "plain"): "factor",
    ("isotropy", "whitened"): "whitened term",
    ("rescaled-isotropy", "whitened"): "its factor",
}
"""By component and space, what a row of digits is called."""


def gains(file: str, number: str, steps: int) -> str:
    """What each term and its control change of a number, by process, noise and grid: differences
    to the same noise without a term. Under white noise the whitened form is the plain one.
    """
    lines = [
        f"| process | noise | grid | without | {' | '.join(TERMS.values())} |",
        f"|---|---|---|---:|{'---:|' * len(TERMS)}",
    ]
    for table in read_json(HERE / file):
        places: dict[str, dict[tuple[str, str] | None, Row]] = {}
        for row in table.rows:
            first = row.first
            if first.steps == steps:
                term = next(iter(first.components["reg"]), None)
                which = None if term is None else (term.name, term.params["space"])
                places.setdefault(noise_of(row), {})[which] = row
        for noise, rows in places.items():
            (process,) = rows[None].first.components["process"]
            cells = [decimal(rows[None].estimates[number].mean, 3)]
            for which in TERMS:
                if which in rows:
                    of, base = (rows[k].estimates[number].values for k in (which, None))
                    apart = [of[seed] - base[seed] for seed in of]
                    half = half_width(apart)
                    assert half is not None
                    cells.append(f"{signed(float(np.mean(apart)), 3)} ± {decimal(half, 3)}")
                else:
                    cells.append("")
            grid = rows[None].first.sampling["grid"]
            lines.append(f"| {process.name} | {noise} | {grid} | {' | '.join(cells)} |")
    return "\n".join(lines)


def noise_of(row: Row) -> str:
    (noise,) = row.first.components["noise"]
    if (gamma := noise.params.get("gamma")) is None:
        return noise.name
    shape = "γ linear" if gamma["form"] == "linear" else f"τ {gamma['tau']:g}"
    return f"{noise.name}, {shape}"


def signed(x: float, places: int) -> str:
    return decimal(x, places) if x <= 0 else f"+{decimal(x, places)}"


def figure_2(folder: Path) -> None:
    """Iso-Diffusion's Figure 2: E‖x_t‖² of the four sets along DDPM's forward process, measured on
    their own points.
    """
    import torch

    import noisereg

    process = noisereg.build("process", "ddpm:schedule=linear", shape=(2,))
    times = torch.arange(0, 1001, 20).double() / 1000
    generator = torch.Generator().manual_seed(0)
    lines: dict[str, Mapping[str, list[float]]] = {}
    for name in PAPER:
        points = (
            noisereg.build("dataset", f"{name}:n=5000").split("train").batch(torch.arange(5000)).x
        )
        x0 = points.repeat(40, 1)  # 200,000 draws of the noise: ± 0.5 %
        eps = torch.randn(x0.shape, generator=generator)
        a, b = (f(times)[:, None, None] for f in (process.signal_scale, process.noise_scale))
        x_t = a * x0 + b * eps
        lines[name] = {"t": times.tolist(), "x_power": x_t.square().mean((1, 2)).tolist()}
    figure = pictures.isotropy(lines, salt="figure-2")
    (folder / "figure-2.png").write_bytes(pictures.png(figure, "figure-2"))


def from_numbers(folder: Path) -> None:
    """The pictures of effects and of sampling steps, from the JSON files."""
    for eta in (0, 1):
        for table in read_json(HERE / f"digits-eta{eta}.json"):
            first = table.rows[0].first
            if first.sampling["grid"] == "uniform":
                process = first.components["process"][0].name
                draw(effects(table, ["noise", "reg"]), folder / f"digits-{process}-eta{eta}.png")
    (table,) = read_json(HERE / "blue-noise.json")
    draw(effects(table, ["noise", "pairing"]), folder / "blue-noise.png")


def draw(table: Table, path: Path) -> None:
    (picture,) = number_pictures(table)
    path.write_bytes(pictures.png(picture.figure, path.stem))


def main() -> None:
    (HERE / "img").mkdir(exist_ok=True)
    figure_2(HERE / "img")
    from_numbers(HERE / "img")
    for path in PAGES:
        path.write_text(page(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
