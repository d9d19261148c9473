"""A small trained sweep, shared by the tests of evaluation and sweeps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from noisereg.plugins.registry import registry
from noisereg.runs.config import RuntimeConfig
from noisereg.runs.reporter import Reporter
from noisereg.runs.runtime import Runtime
from noisereg.runs.train import train
from noisereg.sweeps.grid import Sweep, make_cells, read_grid, write
from noisereg.sweeps.resolve import resolve

TINY: dict[str, Any] = {
    "denoiser": "mlp:width=16,blocks=1",
    "train": {"steps": 12, "batch_size": 32, "log_every": 3, "checkpoint_every": 6},
    "sample": {"steps": 4},
    "runtime": {"device": "cpu"},
}
"""What makes a run take half a second."""


MakeSweep = Callable[..., Sweep]


def train_sweep(path: Path, grid: dict[str, Any], base: dict[str, Any] | None = None) -> Sweep:
    """A sweep trained in this process, cell by cell, without its start-up costs."""
    axes, shared = read_grid(grid), TINY | (base or {})
    resolved = resolve(make_cells(shared, axes), registry(), Runtime.start(RuntimeConfig()))
    sweep = write(path, shared, axes, resolved.cells)
    for cell in sweep.cells:
        train(cell.config, sweep.path_of(cell), True, registry(), Reporter())
    return sweep


@pytest.fixture(scope="session")
def make_sweep(_cache: None) -> MakeSweep:
    """``make_sweep(path, grid, base)``: see :func:`train_sweep`."""
    return train_sweep


@pytest.fixture(scope="session")
def sweep(tmp_path_factory: pytest.TempPathFactory, _cache: None) -> Sweep:
    """Two noises × two regularizers × three seeds, as in the issue's own example."""
    grid = {"noise": ["white", "blue-tv"], "reg": ["none", "isotropy:weight=0.1"], "seeds": 3}
    return train_sweep(tmp_path_factory.mktemp("sweeps") / "S", grid)
