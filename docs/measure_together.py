"""CPU milliseconds a step of each cell, alone and trained together, for Table 1's network on one
thread: ``OMP_NUM_THREADS=1 python docs/measure_together.py``. The figures of docs/evaluation.md.

Differences between a longer and a shorter training, so that what each start costs is left out;
alone and together by turns, since the machine's other load changes.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from noisereg.plugins.registry import registry
from noisereg.reading import read_yaml
from noisereg.runs.config import RuntimeConfig, config_folder, layer
from noisereg.runs.reporter import Reporter
from noisereg.runs.runtime import Runtime
from noisereg.runs.together import Asked, train_together
from noisereg.runs.train import train
from noisereg.sweeps.grid import Cell, make_cells, read_grid
from noisereg.sweeps.resolve import resolve

ROUNDS, SIZES = 2, (8, 16, 24)
KINDS = {
    "batch": ("isotropy", "sample"),
    "timestep-bin": ("isotropy:mean=timestep-bin", "sample"),
    "batch, one t a minibatch": ("isotropy", "batch"),
}


def cells_of(term: str, law: str, count: int, steps: int) -> list[Cell]:
    """Cells that differ in their data, λ and seed, all of one law of times."""
    shipped = read_yaml(config_folder() / "iso-diffusion" / "table1.yaml")
    sets = shipped.pop("sweep")["axes"]["data"]
    train = {"steps": steps, "times": law}
    base = layer(shipped, {"train": train, "sample": {"steps": 1, "num": 1}})
    joint = ":" if ":" not in term else ","
    grid = {
        "reg": [f"{term}{joint}weight={weight}" for weight in (0.01, 0.1, 0.3)],
        "axes": {"data": sets},
        "seeds": 2,
    }
    runtime = Runtime.start(RuntimeConfig(device="cpu"))
    return resolve(make_cells(base, read_grid(grid)), registry(), runtime).cells[:count]


def seconds(term: str, law: str, count: int, steps: int) -> float:
    """CPU seconds of the whole training of so many cells."""
    cells = cells_of(term, law, count, steps)
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        if count == 1:
            train(cells[0].config, Path(folder) / "R", False, registry(), Reporter())
        else:
            asked = [Asked(cell.config, Path(folder) / cell.name) for cell in cells]
            train_together(asked, registry(), Reporter())
        return time.process_time() - began


def main() -> None:
    for _ in range(ROUNDS):
        for name, kind in KINDS.items():
            alone = (seconds(*kind, 1, 400) - seconds(*kind, 1, 100)) / 300
            print(f"{name}: alone {1e3 * alone:.1f} ms a step", flush=True)
            for count in SIZES:
                step = (seconds(*kind, count, 400) - seconds(*kind, count, 100)) / 300 / count
                print(
                    f"{name}: {count} together {1e3 * step:.1f} ms a step and cell, "
                    f"×{alone / step:.1f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
