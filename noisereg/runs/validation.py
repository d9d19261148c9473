"""Metrics while a run trains: always of the same few samples, and the same real ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from noisereg import draws
from noisereg.api import Context, Features, Metric
from noisereg.data import NotFinite, as_output, read_split, spaced
from noisereg.errors import NoiseregError, nearest
from noisereg.plugins.registry import Registry
from noisereg.plugins.spec import Spec
from noisereg.runs import sampling
from noisereg.runs.build import Parts
from noisereg.runs.config import Config
from noisereg.runs.model import RunModel
from noisereg.runs.reporter import Reporter
from noisereg.runs.run import draw
from noisereg.runs.runtime import Runtime
from noisereg.store import cache_dir

PREFIX = "eval/"
"""Of these numbers' names in metrics.jsonl and in loggers."""


class _Memory(Features):
    """A feature space that remembers what it found in the real samples."""

    def __init__(self, inner: Features, name: str, real: Tensor) -> None:
        self.inner, self.name, self.identity = inner, name, inner.identity
        self._real = real
        self._known: dict[str, Tensor] = {}

    def _once(self, x: Tensor, key: str, compute: Callable[[], Tensor]) -> Tensor:
        if x is not self._real:
            return compute()
        if key not in self._known:
            self._known[key] = compute()
        return self._known[key]

    def __call__(self, x: Tensor) -> Tensor:
        return self._once(x, "", lambda: self.inner(x))

    def logits(self, features: Tensor) -> Tensor:
        return self.inner.logits(features)

    def statistic(
        self, x: Tensor, name: str, what: Mapping[str, Any], compute: Callable[[], Tensor]
    ) -> Tensor:
        return self._once(x, f"{name} {what}", compute)


@dataclass(frozen=True)
class _Metric:
    metric: Metric
    features: Features


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
        spaces: dict[str, Features] = {}
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
            space = train.eval_features
            if metric.space and space.name.rpartition("/")[2] != metric.space:
                space = Spec.parse(metric.space)
            if space.label() not in spaces:
                inner = registry.build("features", space.name, space.params, ctx)
                name = space.name.rpartition("/")[2]
                spaces[space.label()] = _Memory(inner, name, self.real)
            found.append(_Metric(metric, spaces[space.label()]))
        return found

    def _check_best(self, name: str) -> None:
        """That a number is called so; one that is named after its space says so once measured,
        for which the real samples do.
        """
        for one in self._metrics:
            if not one.metric.better and not one.metric.needs_model:
                one.metric.compute(self.real, self.real, one.features)
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

    def measure(self, reporter: Reporter) -> dict[str, float]:
        """The numbers of the weights as they are, by name; on rank 0, elsewhere none. A number
        that is not finite is left out.

        Raises:
            NotFinite: for samples that are not finite.
            NoiseregError: for what a metric cannot measure.
        """
        drawn = self._draw(reporter)
        if not self.runtime.main:
            return {}
        if drawn is None:
            raise NotFinite("samples are not finite")
        numbers: dict[str, float] = {}
        with draws.seeded(0, self.runtime.device):
            for one in self._metrics:
                if one.metric.needs_model:
                    assert self.parts.dataset is not None
                    numbers |= one.metric.of_model(self.model, self.parts.dataset)
                else:
                    numbers |= one.metric.compute(drawn, self.real, one.features)
        return {name: float(v) for name, v in numbers.items() if math.isfinite(v)}

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
