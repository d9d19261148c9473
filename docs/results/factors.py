"""The factor on ε̂ that the closed form of docs/theory.md, §6, gives to networks trained without
the isotropy term, by how its mean is taken and by λ.

    python docs/results/factors.py SWEEP… --out FILE.json
    python docs/results/factors.py FILE.json                the table of a stored result

λ = 10⁶ stands for the limit of any λ: the mean power that the term sees is 1 then.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from noisereg.plugins.registry import registry
from noisereg.plugins.spec import Spec
from noisereg.runs import rescaling
from noisereg.runs.run import Run
from noisereg.sweeps.grid import Sweep
from noisereg.tables.significance import half_width, mean

ASKED = {
    "mean over all t, λ 0.1": ("batch", 0.1),
    "λ 0.3": ("batch", 0.3),
    "any λ": ("batch", 1e6),
    "bins of t, λ 0.1": ("timestep-bin", 0.1),
    "bins, λ 0.3": ("timestep-bin", 0.3),
}
"""By column: the mean, and λ. Of bins the largest factor of all times is shown."""
TIMES = torch.arange(1, 1001, dtype=torch.float64) / 1000

Found = dict[str, dict[str, dict[str, float]]]
"""By data, column and seed."""


def of_sweeps(paths: list[Path]) -> Found:
    found: Found = {}
    for sweep in map(Sweep.open, paths):
        for cell in sweep.cells:
            run = Run.open(sweep.path_of(cell), registry())
            if run.config.reg:
                continue
            parts = run.load()
            at_one = torch.ones(len(TIMES), *parts.shape)
            data = run.config.data
            name = f"{data.name}, version {data.params['version']}"
            for column, (how, weight) in ASKED.items():
                spec = Spec(name="isotropy", params={"weight": weight, "mean": how})
                scale = rescaling.build(spec, parts, registry())
                assert scale is not None
                largest = float(scale(at_one, TIMES).max())
                place = found.setdefault(name, {}).setdefault(column, {})
                place[str(run.config.seed)] = round(largest, 6)
    return found


def table(found: Found) -> str:
    """Markdown: means over seeds, with half of Student's 95 % interval."""
    lines = [f"| set | {' | '.join(ASKED)} |", f"|---|{'---:|' * len(ASKED)}"]
    for name, columns in found.items():
        cells = []
        for column in ASKED:
            values = list(columns[column].values())
            half = half_width(values)
            cells.append(f"{mean(values):.3f}" + (f" ± {half:.3f}" if half is not None else ""))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", type=Path, nargs="+")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    stored = given.paths[0].suffix == ".json"
    found = json.loads(given.paths[0].read_text()) if stored else of_sweeps(given.paths)
    if given.out:
        given.out.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))


if __name__ == "__main__":
    main()
