"""Grids, solvers and whole trajectories by name, for tests of what is built by hand."""

from __future__ import annotations

from torch import Tensor

from noisereg.api import Solver
from noisereg.diffusion import compatible, sample
from noisereg.diffusion.solvers import DDIM
from noisereg.python import build


def time_grid(process, steps: int, grid: str = "uniform") -> Tensor:
    return build("grid", grid).times(process, steps)


def default_grid(noise) -> str:
    """DDIM's under a process without one of its own."""
    return "logsnr" if compatible.is_weak(noise) else "uniform"


def solver_of(spec: str) -> Solver:
    return build("solver", spec)


def trajectory(model, process, noise, source, times, eta: float = 0.0):
    return sample.trajectory(model, process, noise, source, times, DDIM(eta))
