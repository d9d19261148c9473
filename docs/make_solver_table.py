"""The table of docs/theory.md, §3: errors of dpmpp-2m by number of evaluations, beside DDIM's.

    python docs/make_solver_table.py            prints it

Exact: covariances are propagated, nothing is drawn, so there is no seed and no spread.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch

from noisereg.python import build
from noisereg.testing.oracle import (
    GaussianOracle,
    output_covariance,
    relative_error,
    smooth_covariance,
)

SHAPE = (1, 8, 8)
STEPS = (10, 20, 40, 80)


def error(process: str, noise: str, solver: str, grid: str, steps: int) -> float:
    """Relative error of the output covariance."""
    made_noise = build("noise", noise, shape=SHAPE)
    made = build("process", process, shape=SHAPE, noise=made_noise)
    data = smooth_covariance(SHAPE)
    model = GaussianOracle(made, made_noise, SHAPE, data)
    times = build("grid", grid).times(made, steps)
    with torch.no_grad():
        found = output_covariance(
            model, made, made_noise, SHAPE, times, solver=build("solver", solver)
        )
    return relative_error(found, data)


def table() -> str:
    lines = [
        "| process | noise | grid | 10 | 20 | 40 | 80 evaluations | order | DDIM, 50 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for process in ("iadb", "ddpm"):
        for noise, grids in (
            ("white", ("chebyshev", "uniform")),
            ("blue-tv", ("chebyshev", "uniform")),
            ("blue", ("logsnr",)),
        ):
            for grid in grids:
                errors = [error(process, noise, "dpmpp-2m", grid, n) for n in STEPS]
                orders = [math.log2(a / b) for a, b in pairwise(errors[1:])]
                own = "logsnr" if noise == "blue" else "uniform"
                cells = [f"{e:.2g}" for e in errors]
                cells.append(" ".join(f"{o:.2f}" for o in orders))
                cells.append(f"{error(process, noise, 'ddim', own, 50):.2g}")
                lines.append(f"| `{process}` | {noise} | {grid} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
