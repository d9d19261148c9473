"""Write docs/benchmarks.md from benchmarks/results/*.json."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
ORDER = (
    "training",
    "sampling",
    "quality",
    "quality-fashion-mnist",
    "quality-fashion-mnist-target-v",
    "fidelity",
    "fidelity-full",
    "noise",
    "pairing",
    "startup",
    "loading",
    "sweep",
    "scale",
)

INTRODUCTION = """\
# Benchmarks

Written by `make bench`, which measures noisereg beside what people would use instead (about ten minutes on two idle cores); one
benchmark is one command, named under its heading, and writes a JSON file in `benchmarks/results/`. Contenders run interleaved, in
processes of their own; a row is the median of a segment's seconds and, in brackets, its quartiles. CPU seconds are those of all
threads and children: where a machine does other work too, they are what to compare, and wall-clock is what a user waits. A goal is
judged on the median of the rounds' ratios, and a missed one is followed by the reason. With `--device cuda` training, sampling, noise
and PRDC are measured on a GPU.
"""


def number(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def spread(values: list[float]) -> str:
    """The median, and the quartiles of three and more."""
    if not values:
        return "—"
    if len(values) < 3:
        return number(statistics.median(values))
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{number(middle)} ({number(low)}–{number(high)})"


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    cells = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(row)} |" for row in cells]


def section(record: dict[str, Any]) -> list[str]:
    machine = record["machine"]
    lines = [f"## {record['title']}", "", f"`{record['command']}`", "", record["text"], ""]
    if record["rows"]:
        unit = next((row["unit"] for row in record["rows"] if row["unit"]), "")
        measure = "wall" if "gpu" in machine else "cpu"
        header = ["", "contender", "threads", "wall, s", "CPU, s"]
        header += [f"{unit} a {'CPU ' * (measure == 'cpu')}second"] if unit else []
        body = []
        for row in record["rows"]:
            cells = [row["what"], row["name"], str(row["threads"])]
            cells += [spread(row["wall"]), spread(row["cpu"])]
            if unit:
                cells.append(number(row["amount"] / max(statistics.median(row[measure]), 1e-9)))
            body.append(cells)
        lines += [*table(header, body), ""]
    for extra in record["tables"]:
        lines += [f"{extra['title']}:", ""] * bool(extra["title"])
        lines += [*table(extra["header"], extra["rows"]), ""]
    load = f"{machine['load']:.1f}"
    gpu = f"{machine['gpu']}, " if "gpu" in machine else ""
    lines += [
        f"{gpu}{machine['cpu']} ({machine['cores']} cores, {machine['capability']}), torch "
        f"{machine['torch']}, Python {machine['python']}, {machine['date']}; the load was {load}.",
        "",
    ]
    return lines


def page() -> str:
    results = ROOT / "benchmarks" / "results"
    records = [
        json.loads((results / f"{name}.json").read_text("utf-8"))
        for name in (name + on for name in ORDER for on in ("", "-gpu"))
        if (results / f"{name}.json").is_file()
    ]
    if not records:
        sys.exit("benchmarks/results holds nothing: run `make bench`")
    goals = [(record["title"], goal) for record in records for goal in record["goals"]]
    rows = [
        [title, goal["aim"], "met" if goal["met"] else "**missed**", goal["measured"]]
        for title, goal in goals
    ]
    lines = [INTRODUCTION, "## Goals", "", *table(["", "goal", "", "measured"], rows), ""]
    for title, goal in goals:
        if not goal["met"]:
            reason = f"; as far as it is known: {goal['reason'].rstrip('.')}" * bool(
                goal["reason"]
            )
            lines += [f"- *{title}: {goal['aim']}.* Missed{reason}."]
    if not any("gpu" in record["machine"] for record in records):
        lines += [
            "- *On a GPU: all of these, the same draws, bf16 and `torch.compile`.* Open: no GPU was "
            "at hand, and nothing here has been measured on one."
        ]
    lines.append("")
    for record in records:
        lines += section(record)
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    path = ROOT / "docs" / "benchmarks.md"
    path.write_text(page(), "utf-8")
    print(path)


if __name__ == "__main__":
    main()
