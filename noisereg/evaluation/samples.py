"""Samples of a run, drawn once: kept in ``RUN/eval/samples`` by everything they depend on,
extended when more are asked for, and shared over ranks."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from noisereg.api import Dataset, Task
from noisereg.errors import NoiseregError
from noisereg.evaluation.reference import MOST, spaced
from noisereg.runs.checkpoint import write_atomically
from noisereg.runs.config import SampleConfig, validate
from noisereg.runs.reporter import Reporter
from noisereg.runs.run import Run, as_output, draw
from noisereg.runs.runtime import Runtime

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
            "solver": s.solver,
            "grid": s.grid,
            "steps": s.steps,
            "eta": s.eta,
            "guidance": s.guidance,
            "seed": self.seed,
            "bf16": self.bf16,
            "condition": self.condition,
        }

    def key(self) -> str:
        return hashlib.sha256(json.dumps(self.record(), sort_keys=True).encode()).hexdigest()[:16]

    @property
    def folder(self) -> Path:
        return self.run.path / "eval" / "samples" / self.key()


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
    given = {"steps": steps, "eta": eta, "solver": solver, "grid": grid, "guidance": guidance}
    values = run.config.sample.model_dump() | {k: v for k, v in given.items() if v is not None}
    if solver == "heun" and eta is None:
        values["eta"] = 0.0
    found = run.checkpoint(checkpoint, reporter)
    return Sampling(
        run=run,
        settings=validate({"sample": values}).sample,
        seed=run.config.seed + seed,
        checkpoint=found.step,
        weights="EMA" if ema else "raw",
        sha256=found.sha256["ema.safetensors" if ema else "model.safetensors"],
        bf16=runtime.bf16,
        condition=condition,
    )


def _read(path: Path) -> np.ndarray | None:
    """A shard, or None where it is absent or damaged."""
    try:
        return np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None


def _shards(num: int) -> range:
    return range(0, num, SHARD)


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
    missing: list[tuple[Path, int, int]] = []
    for start in _shards(num):
        path, stop = sampling.folder / f"{start:08d}.npy", min(start + SHARD, num)
        held = _read(path)
        have = 0 if held is None else len(held)
        if start + have < stop:
            missing.append((path, start + have, stop))
    runtime.barrier()  # no rank writes before all have looked
    own = missing[runtime.rank :: runtime.world]
    if own:
        parts = sampling.run.load(
            sampling.checkpoint, sampling.weights == "EMA", runtime, reporter
        )
        s = sampling.settings
        settings = sampling.run.settings(
            parts,
            steps=s.steps,
            eta=None if s.eta == "auto" else s.eta,
            solver=s.solver,
            grid=s.grid,
            batch_size=s.batch_size,
            guidance=s.guidance,
        )
        reporter.begin(
            f"sample {sampling.run.path.name}", sum(stop - start for _, start, stop in own)
        )
        done = 0
        try:
            for path, start, stop in own:
                cond = (
                    reference_condition(parts.task, *condition, torch.arange(start, stop))
                    if condition
                    else None
                )
                drawn = draw(
                    parts, settings, sampling.seed, range(start, stop), cond, reporter, done
                )
                x = as_output(drawn, parts.decode).numpy()
                held = _read(path)
                buffer = io.BytesIO()
                np.save(buffer, x if held is None else np.concatenate([held, x]))
                write_atomically(path, buffer.getvalue())
                done += stop - start
        finally:
            reporter.end()
        if runtime.main:
            record = json.dumps(sampling.record(), indent=1) + "\n"
            write_atomically(sampling.folder / "sampling.json", record.encode())
    runtime.barrier()


def read_samples(sampling: Sampling, num: int) -> Tensor:
    """The first ``num`` samples, which :func:`draw_samples` has seen to: uint8 images or float32
    points.

    Raises:
        NoiseregError: if they are no longer there.
    """
    shards = [_read(sampling.folder / f"{start:08d}.npy") for start in _shards(num)]
    found = [shard for shard in shards if shard is not None]
    if len(found) < len(shards):
        raise NoiseregError(
            f"{sampling.folder}: samples vanished while they were read; give the same command "
            "again"
        )
    return torch.from_numpy(np.concatenate(found)[:num])


def reference_condition(
    task: Task, dataset: Dataset, split: str, indices: Tensor
) -> Tensor | None:
    """The condition of samples ``indices``: that of the reference samples of the same numbers."""
    part = dataset.split(split)
    places = spaced(len(part), MOST)
    return task.cond(part.batch(places[indices % len(places)]))
