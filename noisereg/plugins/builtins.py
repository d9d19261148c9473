"""The built-in plugins: one module a kind of component, of the same shape as anybody's."""

from __future__ import annotations

MODULES = (
    "noisereg.noises",
    "noisereg.regularizers",
    "noisereg.pairings",
    "noisereg.processes",
    "noisereg.solvers",
    "noisereg.grids",
    "noisereg.datasets",
    "noisereg.denoisers",
    "noisereg.tasks",
    "noisereg.metrics",
    "noisereg.features",
    "noisereg.loggers",
    "noisereg.launchers",
)
