"""Brings the results pages and README's front table up to date with the JSON files beside this
script, and draws the pictures that need no trained model, from these files or from the data sets:
``python docs/results/make.py``.

Between ``<!-- noisereg eval FILE.json … -->`` and ``<!-- end -->`` stands what that command
prints, run in this folder; between ``<!-- against the paper: FILE.json … METRIC SEEDS -->`` and
``<!-- end -->`` the paper's Table 1 beside ours, at the λ that the metric picks on these seeds;
with one λ in place of both, at that on all seeds, and with ``rescaled`` too that of the control, ε̂
rescaled without training (and with the term's ``mean`` where rows differ in it); between ``<!-- closed form: FILE.json -->`` and
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


def page(text: str) -> str:
    """A page with every block as its command gives it now."""
    return BLOCK.sub(lambda m: f"{m[1]}\n{block(m[2], m[3]).strip()}\n\n{m[4]}", text)


def block(kind: str, arguments: str) -> str:
    words = shlex.split(arguments)
    if kind == "closed form:":
        beside = runpy.run_path(str(HERE / "temperature.py"))
        return beside["table"](json.loads((HERE / words[0]).read_text()))
    if kind == "against the paper:":
        files = [word for word in words if word.endswith(".json")]
        tables = join([table for file in files for table in read_json(HERE / file)])
        how = words[len(files) :]
        if how[0][0].isdigit():
            name = "rescaled-isotropy" if "rescaled" in how else "isotropy"
            mean = next((word for word in how[1:] if word != "rescaled"), None)
            return against_the_paper([at(table, name, float(how[0]), mean) for table in tables])
        metric, seeds = how
        pick_on = [int(seed) for seed in seeds.split(",")]
        picked = [rebuild(table, pick=metric, pick_on=pick_on) for table in tables]
        return against_the_paper([table.rows for table in picked if table is not None])
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


def against_the_paper(tables: Sequence[Sequence[Row]]) -> str:
    """The 16 cells of the paper's Table 1, each with its change and ours; of each set the baseline
    and one other row.

    A cell *agrees* if our 95 % interval of the difference (paired over seeds, Student, each for
    itself) lies wholly on the paper's side of 0, *contradicts* it if wholly on the other, and is
    *undecided* if it holds 0.
    """
    lines = [
        "| set · λ | number | paper | ours | the cell | paper's size in our interval |",
        "|---|---|---:|---:|---|---|",
    ]
    for rows in tables:
        (base,) = (row for row in rows if row.baseline)
        (own,) = (row for row in rows if not row.baseline)
        name = own.first.components["data"][0].name
        for number, (before, after) in PAPER[name].items():
            mean, half, level = change(own, base, number)
            there = after - before
            verdict = (
                "undecided"
                if abs(mean) <= half
                else "agrees"
                if mean * there > 0
                else "contradicts"
            )
            inside = "yes" if abs(level * there / before - mean) <= half else "no"
            lines.append(
                f"| {name} · {weight_of(own):g} | {number} | {signed(100 * there / before, 2)} % "
                "| "
                f"{signed(100 * mean / level, 2)} ± {decimal(100 * half / level, 2)} % | "
                f"{verdict} | {inside} |"
            )
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
