"""Metrics while a run trains: always of the same few samples, and the same real ones."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from noisereg import draws
from noisereg.api import Context, Metric
from noisereg.data import NotFinite, as_output, read_split, spaced
from noisereg.errors import NoiseregError, nearest
from noisereg.features.cached import Space, space_of
from noisereg.folders import cache_dir
from noisereg.plugins.registry import Registry
from noisereg.plugins.sources import cause
from noisereg.runs import sampling
from noisereg.runs.build import Parts
from noisereg.runs.config import Config
from noisereg.runs.model import RunModel
from noisereg.runs.reporter import Reporter
from noisereg.runs.run import draw
from noisereg.runs.runtime import Runtime

PREFIX = "eval/"
"""Of these numbers' names in metrics.jsonl and in loggers."""


@dataclass(frozen=True)
class _Metric:
    name: str
    metric: Metric
    space: Space

    def numbers(self, model: RunModel, samples: Tensor, real: Tensor) -> dict[str, float]:
        """
        Raises:
            NoiseregError: for whatever a plugin's metric raises, in a line: the run is worth more
            than the number.
        """
        try:
            if self.metric.needs_model:
                assert model.parts.dataset is not None
                found = self.metric.of_model(model, model.parts.dataset)
            else:
                found = self.metric.compute(samples, real, self.space)
            return {name: float(value) for name, value in found.items()}
        except NoiseregError:
            raise
        except Exception as error:
            raise NoiseregError(f"{self.name} raised {cause(error)}") from error


def measured_by(config: Config, registry: Registry) -> dict[str, Any]:
    """What the numbers of ``train.eval`` depend on beside the weights, as JSON: two that were
    measured otherwise are not compared.
    """
    train = config.train
    settings = sampling.override(config.sample, registry, steps=train.eval_steps)
    return {
        "eval": [spec.model_dump(mode="json") for spec in train.eval],
        "features": train.eval_features.model_dump(mode="json"),
        "num": train.eval_num,
        "reference": train.eval_reference,
        "sample": settings.model_dump(mode="json", exclude={"num", "batch_size"}),
    }


class Validation:
    """``train.eval`` on ``train.eval_num`` samples, drawn by all ranks and measured on rank 0.

    The samples are those that ``noisereg eval --num N --num-reference N`` would draw of the
    checkpoint of that step, so the numbers are its numbers.

    Raises:
        NoiseregError: for a metric that cannot be had of these data or this task, too few samples
            for it, and a ``train.keep_best`` that none of them gives.
    """

    def __init__(self, parts: Parts, registry: Registry, runtime: Runtime) -> None:
        train = parts.config.train
        assert parts.dataset is not None
        self.parts, self.registry, self.runtime = parts, registry, runtime
        self.num, self.keep_best = train.eval_num, train.keep_best
        settings = sampling.override(parts.config.sample, registry, steps=train.eval_steps)
        self.model = RunModel(parts, settings, registry, parts.config.seed)
        split = parts.dataset.split(train.eval_reference)
        if not len(split):
            raise NoiseregError(
                f"train.eval_reference: {parts.config.data.name} has no samples in its "
                f"{train.eval_reference} split"
            )
        self._places = spaced(len(split), self.num)
        self._split = split
        self.better: dict[str, str] = {}
        if not runtime.main:
            return
        self.real = read_split(parts.dataset, train.eval_reference, self.num)
        self._metrics = self._build()
        if self.keep_best is not None:
            self._check_best(self.keep_best)

    def _build(self) -> list[_Metric]:
        train, registry = self.parts.config.train, self.registry
        ctx = Context(
            shape=tuple(self.real.shape[1:]),
            device=self.runtime.device,
            dataset=self.parts.dataset,
            cache_dir=cache_dir(),
        )
        spaces: dict[str, Space] = {}
        found = []
        for spec in train.eval:
            metric: Metric = registry.build("metric", spec.name, spec.params, ctx)
            if metric.paired and self._cond(range(1)) is None:
                raise NoiseregError(
                    f"train.eval: {spec.name} compares each output with its own right answer, "
                    "and this run is unconditional; expected another metric"
                )
            if metric.paired and self.num > len(self.real):
                raise NoiseregError(
                    f"train.eval_num: {spec.name} needs a right answer for each sample, and there "
                    f"are {len(self.real):,}"
                )
            if not metric.needs_model:
                metric.check_counts(self.num, len(self.real))
            asked = space_of(metric, train.eval_features)
            if asked.label() not in spaces:
                inner = registry.build("features", asked.name, asked.params, ctx)
                spaces[asked.label()] = Space(inner, asked.name.rpartition("/")[2])
            found.append(_Metric(spec.name, metric, spaces[asked.label()]))
        return found

    def _check_best(self, name: str) -> None:
        """That a number is called so; one that is named after its space says so once measured,
        for which the real samples do.
        """
        for one in self._metrics:
            if not one.metric.better and not one.metric.needs_model:
                one.numbers(self.model, self.real, self.real)
            self.better |= one.metric.better
        if name not in self.better:
            raise NoiseregError(
                f"train.keep_best: no number of train.eval is called {name!r}; there are: "
                f"{', '.join(self.better) or 'none'}{nearest(name, self.better)}"
            )

    @property
    def measured(self) -> dict[str, Any]:
        return measured_by(self.parts.config, self.registry)

    def is_better(self, value: float, than: float | None) -> bool:
        """Of the number that ``keep_best`` names."""
        assert self.keep_best is not None
        if than is None:
            return True
        return value > than if self.better[self.keep_best] == "higher" else value < than

    def _cond(self, indices: range) -> Tensor | None:
        """The conditions of the real samples of the same numbers."""
        places = self._places[torch.tensor(indices, dtype=torch.int64) % len(self._places)]
        return self.parts.task.cond(self._split.batch(places))

    def measure(self, step: int, reporter: Reporter) -> dict[str, float]:
        """The numbers of the weights as they are after ``step``, by name; on rank 0, elsewhere
        none. A number that is not finite is left out, and a metric that fails is said.

        Raises:
            NotFinite: for samples that are not finite.
        """
        drawn = self._draw(reporter)
        if not self.runtime.main:
            return {}
        if drawn is None:
            raise NotFinite("samples are not finite")
        numbers: dict[str, float] = {}
        with draws.seeded(0, self.runtime.device), self._forgetting():
            for one in self._metrics:
                try:
                    numbers |= one.numbers(self.model, drawn, self.real)
                except NoiseregError as error:
                    reporter.note(f"train.eval at step {step}: {error}; the run goes on")
        return {name: v for name, v in numbers.items() if math.isfinite(v)}

    @contextlib.contextmanager
    def _forgetting(self) -> Iterator[None]:
        """Each space keeps what it found in the real samples alone."""
        try:
            yield
        finally:
            for one in self._metrics:
                one.space.forget_all_but(self.real)

    def _draw(self, reporter: Reporter) -> Tensor | None:
        """All samples, on rank 0; None where one is not finite."""
        runtime = self.runtime
        share = runtime.share(self.num)
        own: Tensor | None = None
        reporter.begin("eval", len(share))
        try:
            if len(share):
                x = draw(self.model, share, self._cond(share), reporter)
                own = as_output(x, self.parts.decode)
        except NotFinite:
            own = None
        finally:
            reporter.end()
        if runtime.world == 1:
            return own
        gathered: list[Any] = [None] * runtime.world
        torch.distributed.all_gather_object(gathered, (len(share), own))
        if any(count and part is None for count, part in gathered):
            return None
        return torch.cat([part for _, part in gathered if part is not None])
