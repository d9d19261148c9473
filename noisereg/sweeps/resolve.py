"""What a sweep needs the engine for: resolving each ``auto`` once for all cells, and guessing how
long they take.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from noisereg.api import Dataset
from noisereg.errors import NoiseregError
from noisereg.plugins.registry import Registry
from noisereg.plugins.spec import Spec
from noisereg.runs.build import Parts, build_dataset, build_parts
from noisereg.runs.config import Config, complete
from noisereg.runs.feed import Feed
from noisereg.runs.optimizer import make_optimizer
from noisereg.runs.runtime import Runtime
from noisereg.sweeps.grid import Cell


@dataclass(frozen=True)
class Resolved:
    cells: list[Cell]
    notes: list[str]
    """What an ``auto`` became where cells by themselves would differ."""
    seconds: dict[str, float]
    """Estimated training time of one run of each combination; empty unless asked for."""
    shapes: dict[str, tuple[int, ...]]
    """Of a sample, by combination."""


@dataclass(frozen=True)
class _Built:
    requested: Config
    config: Config
    """With every ``auto`` resolved for this cell by itself."""
    power_floor: float
    seconds: float
    shape: tuple[int, ...]


def resolve(
    cells: Sequence[Cell], registry: Registry, runtime: Runtime, estimate: bool = False
) -> Resolved:
    """Build each combination once, and give every cell what the most demanding one needs where it
    was left ``auto``.

    A process's parameters are taken from the cell whose noise has the least power in some
    direction, and so is the grid; η is the smallest. So a
    combination that cannot work is refused before any is trained.

    Raises:
        NoiseregError: names the cell.
    """
    data: dict[str, Dataset] = {}
    built: dict[str, _Built] = {}
    timed: dict[str, float] = {}
    for cell in cells:
        if cell.combination not in built:
            try:
                built[cell.combination] = _build(
                    cell.config, registry, runtime, data, timed if estimate else None
                )
            except NoiseregError as error:
                raise NoiseregError(f"cell {cell.name}: {error}") from None
    processes = _processes(list(built.values()))
    every = list(built.values())
    eta = min(
        (float(b.config.sample.eta) for b in every if b.requested.sample.eta == "auto"),
        default=0.0,
    )
    auto = [b for b in every if b.requested.sample.grid.name == "auto"]
    grid = min(auto or every, key=lambda b: b.power_floor).config.sample.grid
    resolved, notes = [], _notes(every, processes, eta, grid)
    for cell in cells:
        b = built[cell.combination]
        sample: dict[str, Any] = {}
        if b.requested.sample.eta == "auto":
            sample["eta"] = eta
        if b.requested.sample.grid.name == "auto":
            sample["grid"] = grid
        config = b.config.model_copy(
            update={
                "process": processes[b.requested.process.label()],
                "sample": b.config.sample.model_copy(update=sample),
                "seed": cell.config.seed,
            }
        )
        resolved.append(replace(cell, config=config))
    return Resolved(
        resolved,
        notes,
        {c: b.seconds for c, b in built.items()} if estimate else {},
        {c: b.shape for c, b in built.items()},
    )


def _build(
    config: Config,
    registry: Registry,
    runtime: Runtime,
    data: dict[str, Dataset],
    timed: dict[str, float] | None,
) -> _Built:
    config = complete(config, registry)
    key = config.data.label()
    if key not in data:
        data[key] = build_dataset(config, registry, runtime)
    parts = build_parts(config, registry, runtime, dataset=data[key])
    seconds = 0.0
    if timed is not None:
        train = parts.config.train
        kinds = [parts.config.denoiser, parts.config.pairing, *parts.config.reg]
        speed = f"{[kind.label() for kind in kinds]} {train.batch_size} {train.accumulate} {key}"
        if speed not in timed:
            timed[speed] = seconds_per_step(parts, runtime)
        seconds = timed[speed] * train.steps
    return _Built(config, parts.config, parts.noise.power_floor, seconds, parts.shape)


def _processes(built: Sequence[_Built]) -> dict[str, Spec]:
    """For each process as it was asked for: as the cell with the least power in some direction
    resolves it.
    """
    chosen: dict[str, Spec] = {}
    for b in sorted(built, key=lambda b: b.power_floor):
        chosen.setdefault(b.requested.process.label(), b.config.process)
    return chosen


def _notes(
    built: Sequence[_Built], processes: dict[str, Spec], eta: float, grid: Spec
) -> list[str]:
    notes = []
    for asked, spec in processes.items():
        alone = [b.config.process for b in built if b.requested.process.label() == asked]
        changed = {
            k: v for k, v in spec.params.items() if any(a.params.get(k) != v for a in alone)
        }
        if changed:
            text = ", ".join(f"{k} {str(v).lower()}" for k, v in changed.items())
            notes.append(
                f"auto: {spec.name} with {text} in all cells, which the most demanding noise needs"
            )
    if len({b.config.sample.eta for b in built if b.requested.sample.eta == "auto"}) > 1:
        notes.append(f"auto: sample.eta {eta:g} in all cells")
    auto = [b for b in built if b.requested.sample.grid.name == "auto"]
    if len({b.config.sample.grid.label() for b in auto}) > 1:
        notes.append(f"auto: sample.grid {grid.label()} in all cells")
    return notes


SMALL = 8
"""Samples of the step that is timed first."""
PATIENCE = 2.0
"""Seconds that a whole step may take to be timed itself."""


def seconds_per_step(parts: Parts, runtime: Runtime) -> float:
    """One whole optimiser step, its draws included, timed; of a small one, scaled up, where the
    whole would take long.
    """
    train = parts.config.train
    whole = train.batch_size // train.accumulate

    def timed(size: int) -> float:
        config = parts.config.model_copy(
            update={
                "train": train.model_copy(
                    update={"batch_size": size, "accumulate": 1, "antithetic": False}
                )
            }
        )
        assert parts.dataset is not None
        split = parts.dataset.split("train")
        feed = Feed(
            config,
            split,
            parts.shape,
            parts.dataset.flip,
            parts.task,
            parts.noise,
            parts.process,
            runtime,
        )
        began = time.perf_counter()
        batch = feed.prepare(0, 0)
        loss, logged = parts.objective(batch.x0, batch.latents, batch.t, batch.cond, 0)
        loss.backward()
        optimizer.step()
        float(logged["loss"])  # waits for the device
        return time.perf_counter() - began

    optimizer = make_optimizer(parts.config, parts)
    parts.objective.train()
    timed(min(SMALL, whole))  # the first pays for allocations
    few = timed(min(SMALL, whole))
    if few * whole / SMALL <= PATIENCE:
        few = timed(whole)
    else:
        few *= max(1, whole / SMALL)
    parts.objective.zero_grad(set_to_none=True)
    return few * train.accumulate
