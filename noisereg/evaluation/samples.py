"""Samples of a run, drawn once: kept by everything they depend on, extended when more are asked
for, and shared over ranks and over evaluations that run at once."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from noisereg.api import Dataset, Task
from noisereg.data import MOST, as_output, spaced
from noisereg.errors import NoiseregError
from noisereg.plugins.spec import Spec
from noisereg.runs.config import SECTION_KIND, SampleConfig
from noisereg.runs.model import RunModel
from noisereg.runs.reporter import Reporter
from noisereg.runs.run import Run, draw
from noisereg.runs.runtime import Runtime
from noisereg.runs.sampling import override
from noisereg.store import ARRAY, Store, cache_dir, say_once

SHARD = 500
"""Samples in a file; an interrupted evaluation loses at most one file a rank."""


@dataclass(frozen=True)
class Sampling:
    """How the samples of one run are drawn: all that they depend on."""

    run: Run
    settings: SampleConfig
    seed: int
    checkpoint: int
    weights: str
    """``EMA`` or ``raw``."""
    sha256: str
    """Of the weights file."""
    bf16: bool
    condition: str = ""
    """What the condition is taken from: split and data; empty for unconditional runs."""

    def record(self) -> dict[str, Any]:
        s = self.settings
        return {
            "checkpoint": self.checkpoint,
            "weights": self.weights,
            "sha256": self.sha256,
            "solver": s.solver.label(),
            "grid": s.grid.label(),
            "steps": s.steps,
            "eta": s.eta,
            "guidance": s.guidance,
            "seed": self.seed,
            "bf16": self.bf16,
            "condition": self.condition,
        }

    def model(self, runtime: Runtime, reporter: Reporter | None = None) -> RunModel:
        """The run's network, sampled so."""
        parts = self.run.load(self.checkpoint, self.weights == "EMA", runtime, reporter)
        assert self.run.registry is not None
        return RunModel(parts, self.settings, self.run.registry, self.seed)

    def key(self) -> dict[str, Any]:
        """All that the samples are made from."""
        return {"made by": components(self.run), **self.record()}

    @functools.cached_property
    def store(self) -> Store:
        """Where what is computed of the run is kept: in its folder if that is the user's own, else
        in the user's cache.
        """
        own = Store(self.run.path / "eval", within=self.run.path)
        if not (reason := own.refusal()):
            return own
        say_once(f"{reason}; what is measured is kept in {cache_dir() / 'eval'}")
        return Store(cache_dir() / "eval")


def components(run: Run) -> dict[str, Any]:
    """What turns latents into samples, as the run names it, with the revisions of today."""
    assert run.registry is not None
    made = {}
    for section in ("process", "noise", "denoiser", "task", "data"):
        spec: Spec = getattr(run.config, section)
        entry = run.registry.find(SECTION_KIND[section], spec.name)
        made[section] = [entry.qualified, entry.component.revision, spec.params]
    return made


def plan(
    run: Run,
    runtime: Runtime,
    *,
    steps: int | None = None,
    eta: float | None = None,
    solver: str | None = None,
    grid: str | None = None,
    guidance: float | None = None,
    seed: int = 0,
    checkpoint: int | None = None,
    ema: bool = True,
    condition: str = "",
    reporter: Reporter | None = None,
) -> Sampling:
    """The run's own sampling settings with some replaced; ``seed`` is added to the run's, so that
    runs that share a seed share latents and runs that do not share none.

    Raises:
        NoiseregError: for a value out of range, or a run without a whole checkpoint.
    """
    assert run.registry is not None
    given: dict[str, Any] = {"steps": steps, "eta": eta, "solver": solver, "grid": grid}
    given["guidance"] = guidance
    settings = override(run.config.sample, run.registry, **given)
    if settings.eta == "auto" or settings.grid.name == "auto":  # what only built parts can say
        settings = run.model(**given, checkpoint=checkpoint, ema=ema, runtime=runtime).settings
    found = run.checkpoint(checkpoint, reporter)
    return Sampling(
        run=run,
        settings=settings,
        seed=run.config.seed + seed,
        checkpoint=found.step,
        weights="EMA" if ema else "raw",
        sha256=found.sha256["ema.safetensors" if ema else "model.safetensors"],
        bf16=runtime.bf16,
        condition=condition,
    )


def _shards(num: int) -> Iterator[tuple[str, range]]:
    """The name and the samples of each file."""
    for start in range(0, num, SHARD):
        yield f"samples/{start:08d}", range(start, min(start + SHARD, num))


def _held(sampling: Sampling, name: str) -> NDArray[Any]:
    """The rows that a file has, none where it is absent or damaged."""
    held = sampling.store.get(name, sampling.key(), ARRAY)
    return np.empty((0, 0)) if held is None else held


def draw_samples(
    sampling: Sampling,
    num: int,
    runtime: Runtime,
    reporter: Reporter,
    condition: tuple[Dataset, str] | None = None,
) -> None:
    """Have ``num`` samples on disk, drawing those that are not there; under torchrun ranks take
    files in turn.
    """
    missing = [
        (name, rows) for name, rows in _shards(num) if len(_held(sampling, name)) < len(rows)
    ]
    runtime.barrier()  # no rank writes before all have looked
    own = missing[runtime.rank :: runtime.world]
    if own:
        model = sampling.model(runtime, reporter)
        reporter.begin(f"sample {sampling.run.path.name}", sum(len(rows) for _, rows in own))
        done = 0
        try:
            for name, rows in own:
                # what another evaluation draws meanwhile is not drawn again
                with sampling.store.lock(name, sampling.key()):
                    held = _held(sampling, name)
                    left = rows[len(held) :]
                    if left:
                        cond = (
                            reference_condition(model.task, *condition, torch.tensor(left))
                            if condition
                            else None
                        )
                        drawn = draw(model, left, cond, reporter, done)
                        x = as_output(drawn, model.parts.decode).numpy()
                        whole = np.concatenate([held, x]) if len(held) else x
                        sampling.store.put(name, sampling.key(), whole, ARRAY)
                done += len(rows)
        finally:
            reporter.end()
    runtime.barrier()


def read_samples(sampling: Sampling, num: int) -> Tensor:
    """The first ``num`` samples, which :func:`draw_samples` has seen to: uint8 images or float32
    points.

    Raises:
        NoiseregError: if they are no longer there.
    """
    found = []
    for name, rows in _shards(num):
        held = _held(sampling, name)
        if len(held) < len(rows):
            raise NoiseregError(
                f"{sampling.store.path(name, sampling.key())}: samples vanished while they were "
                "read; give the same command again"
            )
        found.append(held[: len(rows)])
    return torch.from_numpy(np.concatenate(found))


def reference_condition(
    task: Task, dataset: Dataset, split: str, indices: Tensor
) -> Tensor | None:
    """The condition of samples ``indices``: that of the reference samples of the same numbers."""
    part = dataset.split(split)
    places = spaced(len(part), MOST)
    return task.cond(part.batch(places[indices % len(places)]))
