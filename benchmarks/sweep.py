"""A sweep's cells an hour, beside one command a cell.

    python benchmarks/sweep.py [--threads 2] [--cells 3] [--steps 100]

White noise on digits with the default network, a seed a cell. Each row is one start of the
program, or one a cell: what so short a cell costs is mostly start-up, which a sweep can save.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from measuring import Goal, Result, Row, arguments, cpu_seconds, scratch


def main() -> None:
    given = arguments(__doc__, cells=3, steps=100)
    noisereg = [sys.executable, "-P", "-m", "noisereg"]
    steps = ["--steps", str(given.steps)]
    result = Result(
        "sweep",
        "Sweeps",
        f"{given.cells} cells of {given.steps} steps on digits (default network, white noise, a "
        "seed each), one thread a process.",
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    rates: dict[str, float] = {}
    with scratch() as folder:
        sweep = [*noisereg, "sweep", "--noise", "white", "--seeds", str(given.cells), *steps]
        ways = {
            "a command a cell": [
                [*noisereg, "train", *steps, "--seed", str(k), "--out", str(folder / f"run-{k}")]
                for k in range(given.cells)
            ],
            "sweep": [[*sweep, "--out", str(folder / "one")]],
            f"sweep --jobs {given.threads}": [
                [*sweep, "--jobs", str(given.threads), "--out", str(folder / "many")]
            ],
        }
        cells = str(given.cells)
        ways[f"sweep --together {cells}"] = [
            [*sweep, "--together", cells, "--out", str(folder / "together")]
        ]
        for name, commands in ways.items():
            wall, cpu = time.perf_counter(), cpu_seconds()
            for command in commands:
                done = subprocess.run(command, env=environment, capture_output=True, text=True)
                if done.returncode:
                    raise SystemExit(f"{name}: {done.stderr[-2000:]}")
            wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
            rates[name] = 3600 * given.cells / wall
            result.rows.append(
                Row(f"{given.steps} steps", name, 1, "cells", given.cells, [wall], [cpu])
            )
    result.tables.append(
        {
            "title": "Cells an hour",
            "header": ["way", "cells an hour, wall-clock"],
            "rows": [[name, f"{rate:,.0f}"] for name, rate in rates.items()],
        }
    )
    best = max(rate for name, rate in rates.items() if name.startswith("sweep"))
    result.goals.append(
        Goal(
            "a sweep is at least as fast as a command a cell",
            f"{best / rates['a command a cell']:.2f} × the cells an hour",
            best >= rates["a command a cell"],
            "each cell is a process of its own, so that one that fails leaves the others alone; "
            "the sweep's own start is one more",
        )
    )
    result.write()


if __name__ == "__main__":
    main()
