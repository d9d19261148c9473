"""Brings the results pages and README's front table up to date with the JSON files beside this
script, and draws the pictures that need no trained model, from these files or from the data sets:
``python docs/results/make.py``.

Between ``<!-- noisereg eval FILE.json … -->`` and ``<!-- end -->`` stands what that command
prints, run in this folder; between ``<!-- against the paper: A -->`` and
``<!-- end -->`` the paper's Table 1 beside ours, of one of :data:`LAWS`, or the counts of several
(``A B C``), or of ``every law`` in short; between ``<!-- closed form: FILE.json -->`` and
``<!-- end -->`` what ``temperature.py FILE.json`` prints. A test runs the same and compares.
"""

from __future__ import annotations

import contextlib
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
from noisereg.tables.significance import half_width
from noisereg.tables.table import Row, Table

HERE = Path(__file__).parent
PAGES = [*sorted(HERE.glob("*.md")), HERE.parent.parent / "README.md"]
BLOCK = re.compile(
    r"(<!-- (noisereg eval|against the paper:|closed form:) ([^\n]*?) -->\n).*?(<!-- end -->)",
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
        return against_the_paper(words[0]) if len(words) == 1 else counts(words, HEADS[1:])
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
    """How networks of Table 1 were trained, and where the changes stand."""

    name: str
    sources: list[str]
    """Files, and the columns that they give, each the λ of the trained term, ``λ:rescaled`` of ε̂
    rescaled without training (``:MEAN`` where rows differ in the term's mean), or ``METRIC@SEEDS``
    of the λ that the metric picks on these seeds.
    """


LAWS = {
    "A": Law(
        "one t a minibatch, 79,000 steps",
        [
            "table1-79k-minibatch.json 0.01 0.1 0.3 0.1:rescaled 0.3:rescaled",
        ],
    ),
    "B": Law(
        "bins of t, 79,000 steps",
        [
            "table1-79k-bins.json 0.01 0.1 0.3 0.1:rescaled 0.3:rescaled",
        ],
    ),
    "C": Law(
        "t per sample, 79,000 steps",
        [
            "swiss-roll.json table1-79k.json 0.01 0.1 0.3",
            "table1-79k-control.json 0.1:rescaled:batch 0.3:rescaled:batch",
        ],
    ),
    "D": Law(
        "one t a minibatch, 20,000 steps",
        [
            "table1-minibatch.json 0.01 0.1 0.3 0.3:rescaled",
        ],
    ),
    "E": Law(
        "bins of t, 20,000 steps",
        [
            "table1-bins.json 0.1 0.3",
            "table1-control.json 0.3:rescaled:timestep-bin",
        ],
    ),
    "F": Law(
        "t per sample, 20,000 steps",
        [
            "table1.json 0.01 0.1 0.3",
            "table1.json table1-pick.json density@5,6,7,8,9",
            "table1-control.json 0.3:rescaled:batch",
        ],
    ),
    "G": Law(
        "second version, one t a minibatch, 79,000 steps",
        [
            "table1-v2-minibatch.json 0.3 0.3:rescaled",
        ],
    ),
    "H": Law(
        "second version, t per sample, 79,000 steps",
        [
            "table1-v2-79k.json 0.1 0.3 0.1:rescaled:batch 0.3:rescaled:batch",
        ],
    ),
    "I": Law(
        "second version, bins of t, 79,000 steps",
        [
            "table1-v2-79k-bins.json 0.3 0.3:rescaled",
        ],
    ),
    "J": Law(
        "second version, t per sample, 10,000 steps",
        [
            "table1-v2.json 0.3 0.3:rescaled:batch",
        ],
    ),
    "K": Law(
        "second version, bins of t, 10,000 steps",
        [
            "table1-v2.json 0.3:rescaled:timestep-bin",
        ],
    ),
    "L": Law(
        "second version, t per sample, 79,000 steps, 1,000 sampling steps",
        [
            "table1-v2-79k-1000.json 0.3 0.3:rescaled",
        ],
    ),
}
"""By the letter that pages call them by: a test compares it with their headings."""

MARKS = {"agrees": "✓", "undecided": "·", "contradicts": "✗"}


@dataclass(frozen=True)
class Change:
    """What the term changes of one number of one set, in per cent of the baseline's."""

    mean: float
    half: float
    """Half the 95 % interval of the mean (Student, paired over seeds)."""
    paper: float
    weight: float

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


def columns(letter: str) -> dict[str, Column]:
    """By name, those of one law."""
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
                name = f"factor, λ {weight}" if control else f"λ {weight}"
                mean = control[1] if len(control) > 1 else None
                term = "rescaled-isotropy" if control else "isotropy"
                rows = [at(table, term, float(weight), mean) for table in tables]
            found[name] = changes(rows)
    return found


def at(table: Table, name: str, weight: float, mean: str | None) -> list[Row]:
    """The baseline, and the row of this term at this λ, with this mean if one is given."""

    def wanted(row: Row) -> bool:
        return any(
            spec.name == name and mean in (None, spec.params["mean"])
            for spec in row.first.components["reg"]
        )

    return [
        row for row in table.rows if row.baseline or (wanted(row) and weight_of(row) == weight)
    ]


def weight_of(row: Row) -> float:
    return sum(spec.params.get("weight", 0.0) for spec in row.first.components["reg"])


def changes(tables: Sequence[Sequence[Row]]) -> Column:
    """Of each set's two rows, the baseline and another."""
    found = {}
    for rows in tables:
        (base,) = (row for row in rows if row.baseline)
        (own,) = (row for row in rows if not row.baseline)
        name = own.first.components["data"][0].name
        for number, (before, after) in PAPER[name].items():
            mean, half, level = change(own, base, number)
            found[name, number] = Change(
                100 * mean / level,
                100 * half / level,
                100 * (after - before) / before,
                weight_of(own),
            )
    if set(found) != set(CELLS) or len(tables) != len(PAPER):
        raise SystemExit(f"expected the cells of {', '.join(PAPER)}, each once")
    return found


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
    """Of the sixteen cells, how many agree, are undecided, contradict."""
    verdicts = [change.verdict for change in column.values()]
    return " / ".join(str(verdicts.count(verdict)) for verdict in MARKS)


HEADS = ["λ 0.01", "λ 0.1", "λ 0.3", "factor, λ 0.1", "factor, λ 0.3"]


def counts(letters: Sequence[str], heads: Sequence[str] = HEADS) -> str:
    """How many cells agree, are undecided and contradict under each law."""
    named = {letter: columns(letter) for letter in letters}
    lines = [f"| | trained with | {' | '.join(heads)} |", f"|---|---|{'---:|' * len(heads)}"]
    for letter, own in named.items():
        cells = [tally(own[head]) if head in own else "" for head in heads]
        lines.append(f"| {letter} | {LAWS[letter].name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def every_law() -> str:
    """How many cells agree under each law, and the sixteen cells of each at the largest λ."""
    named = {letter: columns(letter) for letter in LAWS}
    lines = [
        counts(list(LAWS)),
        "",
        f"| set | number | paper | {' | '.join(LAWS)} |",
        f"|---|---|---:|{':---:|' * len(LAWS)}",
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


def change(own: Row, base: Row, number: str) -> tuple[float, float, float]:
    """The mean difference over shared seeds, half its 95 % interval, and the baseline's mean over
    those seeds.
    """
    a, b = own.estimates[number].values, base.estimates[number].values
    shared = [seed for seed in a if seed in b]
    differences = [a[s] - b[s] for s in shared]
    half = half_width(differences)
    if half is None:
        raise SystemExit(f"{number}: {len(shared)} shared seeds; expected at least 3")
    return float(np.mean(differences)), half, float(np.mean([b[s] for s in shared]))


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
