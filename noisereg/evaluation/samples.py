"""Samples of runs, drawn once: kept by everything they depend on, extended when more are asked
for, and shared over ranks and over evaluations that run at once."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from noisereg.api import Dataset
from noisereg.data import NotFinite, as_output
from noisereg.errors import NoiseregError
from noisereg.evaluation.reference import Reference, reference_condition
from noisereg.folders import cache_dir
from noisereg.plugins.registry import Entry, Kind
from noisereg.plugins.spec import Spec
from noisereg.runs.build import build_parts
from noisereg.runs.config import SECTION_KIND, SampleConfig
from noisereg.runs.model import RunModel
from noisereg.runs.records import read_environment
from noisereg.runs.reporter import Reporter
from noisereg.runs.run import Run, draw, shown
from noisereg.runs.runtime import Runtime
from noisereg.runs.sampling import build_solver, override, resolve, scale_label
from noisereg.store import ARRAY, JSON, Store
from noisereg.terminal import say_once

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
            "eps_scale": scale_label(s.eps_scale),
            "clip": s.clip.label(),
            "seed": self.seed,
            "bf16": self.bf16,
            "condition": self.condition,
        }

    def model(self, runtime: Runtime, reporter: Reporter | None = None) -> RunModel:
        """The run's network, sampled so.

        Raises:
            NoiseregError: for settings that would sample wrongly.
        """
        parts = self.run.load(self.checkpoint, self.weights == "EMA", runtime, reporter)
        assert self.run.registry is not None
        settings = resolve(
            self.settings, self.run.registry, parts.diffusion, parts.task, parts.images
        )
        return RunModel(parts, settings, self.run.registry, self.seed)

    @functools.cached_property
    def key(self) -> dict[str, Any]:
        """All that the samples are made from."""
        return {"made by": made_by(self.run), "sampled by": self._sampled_by(), **self.record()}

    def _sampled_by(self) -> dict[str, Any]:
        """The components that sampling names, with the revisions of today; what ε̂ is scaled by is
        measured on the data.
        """
        settings, registry = self.settings, self.run.registry
        assert registry is not None
        kinds: dict[Kind, Spec] = {"solver": settings.solver, "grid": settings.grid}
        found: dict[str, Any] = {}
        if isinstance(settings.eps_scale, Spec):
            kinds["regularizer"] = settings.eps_scale
            found["data"] = read_environment(self.run.path).get("data")
        for kind, spec in kinds.items():
            entry = registry.find(kind, spec.name)
            found[kind] = identity_of(entry)
        return found

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

    @property
    def cost(self) -> int:
        """Evaluations of the network for one sample."""
        assert self.run.registry is not None
        solver = build_solver(self.settings, self.run.registry)
        return self.settings.steps * solver.evaluations * (1 if self.settings.guidance == 1 else 2)

    @property
    def diverged(self) -> str:
        """Why there are no samples to measure, if drawing them found numbers that are not finite;
        else empty.
        """
        return self.store.get("samples/diverged", self.key, JSON) or ""

    def diverge(self, reason: str) -> None:
        """Have :attr:`diverged` say so from now on."""
        self.store.put("samples/diverged", self.key, without_path(reason, self.run), JSON)


def without_path(reason: str, run: Run) -> str:
    """A reason as it stands beside the run's name."""
    return reason.removeprefix(f"{shown(run.path)}: ")


def identity_of(entry: Entry) -> list[Any]:
    """What tells a component apart from others, its parameters left out."""
    return [entry.qualified, entry.component.revision, *([entry.code] if entry.code else [])]


def made_by(run: Run) -> dict[str, Any]:
    """What turns latents into samples, as the run names it, with the revisions of today."""
    assert run.registry is not None
    made = {}
    for section in ("process", "noise", "denoiser", "task", "data"):
        spec: Spec = getattr(run.config, section)
        entry = run.registry.find(SECTION_KIND[section], spec.name)
        made[section] = [*identity_of(entry), spec.params]
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
    eps_scale: float | str | Spec | None = None,
    clip: str | None = None,
    seed: int = 0,
    checkpoint: int | None = None,
    ema: bool = True,
    condition: str = "",
    untrained: bool = False,
    reporter: Reporter | None = None,
) -> Sampling:
    """The run's own sampling settings with some replaced; ``seed`` is added to the run's, so that
    runs that share a seed share latents and runs that do not share none. Of a run that is
    ``untrained``, without a checkpoint, they are what they would have been.

    Raises:
        NoiseregError: for a value out of range, or a run without a whole checkpoint.
    """
    assert run.registry is not None
    given: dict[str, Any] = {"steps": steps, "eta": eta, "solver": solver, "grid": grid}
    given |= {"guidance": guidance, "eps_scale": eps_scale, "clip": clip}
    settings = override(run.config.sample, run.registry, **given)
    built = settings.eta == "auto" or settings.grid.name == "auto"
    if built or settings.eps_scale != 1 or settings.clip.name != "none":
        # what only built parts can say, or refuse
        settings = (
            _untrained(run, settings, runtime)
            if untrained
            else run.model(**given, checkpoint=checkpoint, ema=ema, runtime=runtime).settings
        )
    weights = None if untrained else run.checkpoint(checkpoint, reporter)
    return Sampling(
        run=run,
        settings=settings,
        seed=run.config.seed + seed,
        checkpoint=weights.step if weights else 0,
        weights="EMA" if ema else "raw",
        sha256=weights.digest(ema) if weights else "",
        bf16=runtime.bf16,
        condition=condition,
    )


def _untrained(run: Run, settings: SampleConfig, runtime: Runtime) -> SampleConfig:
    assert run.registry is not None
    parts = build_parts(run.config, run.registry, runtime, shape=run.shape)
    return resolve(settings, run.registry, parts.diffusion, parts.task, parts.images)


@dataclass(frozen=True)
class Drawing:
    """Samples that are to be on disk."""

    sampling: Sampling
    num: int
    runtime: Runtime
    condition: tuple[Dataset, Reference] | None = None
    """Where the condition of conditional runs is taken from."""

    def missing(self) -> list[tuple[Drawing, str, range, int]]:
        """The files that are not whole: (self, name, samples, how many are missing)."""
        if self.sampling.diverged:
            return []
        files = []
        for name, rows in _shards(self.num):
            if (lacks := len(rows) - len(_held(self.sampling, name))) > 0:
                files.append((self, name, rows, lacks))
        return files


def _shards(num: int) -> Iterator[tuple[str, range]]:
    """The name and the samples of each file."""
    for start in range(0, num, SHARD):
        yield f"samples/{start:08d}", range(start, min(start + SHARD, num))


def _held(sampling: Sampling, name: str) -> NDArray[Any]:
    """The rows that a file has, none where it is absent or damaged."""
    held = sampling.store.get(name, sampling.key, ARRAY)
    return np.empty((0, 0)) if held is None else held


class _Share(Reporter):
    """A part of a larger work, whose units count ``weight`` there."""

    def __init__(self, whole: Reporter, weight: int, done: int) -> None:
        self.whole, self.weight, self.done = whole, weight, done

    def advance(self, done: int, metrics: Mapping[str, float] | None = None) -> None:
        self.whole.advance(self.done + self.weight * done, metrics)


def draw_samples(drawings: Sequence[Drawing], runtime: Runtime, reporter: Reporter) -> None:
    """Draw what is not on disk; under torchrun ranks take files in turn.

    The work is counted in evaluations of the network, so that what is left can be told from what
    is done though runs are sampled with different numbers of steps. Of a run whose samples are
    not finite no more are drawn: :attr:`Sampling.diverged` says so from then on.
    """
    missing = [file for drawing in drawings for file in drawing.missing()]
    runtime.barrier()  # no rank writes before all have looked
    own = missing[runtime.rank :: runtime.world]
    if own:
        costs = {id(drawing): drawing.sampling.cost for drawing, *_ in own}
        total = sum(costs[id(drawing)] * lacks for drawing, _, _, lacks in own)
        runs = {drawing.sampling.run.path.name: None for drawing, *_ in own}
        name = next(iter(runs)) if len(runs) == 1 else f"{len(runs)} runs"
        reporter.begin(f"sample {name}", total)
        done = 0
        model: tuple[Drawing, RunModel] | None = None
        try:
            for drawing, name, rows, lacks in own:
                cost = costs[id(drawing)]
                try:
                    if model is None or model[0] is not drawing:
                        model = drawing, drawing.sampling.model(drawing.runtime, reporter)
                    _draw_file(drawing, model[1], name, rows, _Share(reporter, cost, done))
                except NotFinite as error:
                    drawing.sampling.diverge(str(error))
                done += cost * lacks
        finally:
            reporter.end()
    runtime.barrier()


def _draw_file(
    drawing: Drawing, model: RunModel, name: str, rows: range, reporter: Reporter
) -> None:
    sampling = drawing.sampling
    with sampling.store.lock(name, sampling.key):
        if sampling.diverged:
            return
        held = _held(sampling, name)  # another evaluation may have drawn it meanwhile
        left = rows[len(held) :]
        if not left:
            return
        cond = None
        if drawing.condition is not None:
            cond = reference_condition(model.task, *drawing.condition, torch.tensor(left))
        x = as_output(draw(model, left, cond, reporter), model.parts.decode).numpy()
        whole = np.concatenate([held, x]) if len(held) else x
        sampling.store.put(name, sampling.key, whole, ARRAY)


def read_samples(sampling: Sampling, num: int) -> Tensor:
    """The first ``num`` samples, which :func:`draw_samples` has seen to: uint8 images or float32
    points.

    Raises:
        NoiseregError: if they are no longer there.
    """
    blocks = []
    for name, rows in _shards(num):
        held = _held(sampling, name)
        if len(held) < len(rows):
            raise NoiseregError(
                f"{sampling.store.path(name, sampling.key)}: samples vanished while they were "
                "read; give the same command again"
            )
        blocks.append(held[: len(rows)])
    return torch.from_numpy(np.concatenate(blocks))
