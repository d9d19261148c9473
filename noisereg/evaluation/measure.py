"""The metrics that were asked for, and their numbers for each candidate: from its store, or
measured now.
"""

from __future__ import annotations

import functools
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from noisereg.api import Context, Dataset, Metric
from noisereg.data import NotFinite, data_hash
from noisereg.errors import NoiseregError
from noisereg.evaluation.options import Options
from noisereg.evaluation.reference import Reference
from noisereg.evaluation.samples import Sampling, identity_of, without_path
from noisereg.features.cached import Space, space_of
from noisereg.folders import cache_dir
from noisereg.plugins.registry import Entry, Registry
from noisereg.plugins.spec import Spec
from noisereg.runs.model import RunModel
from noisereg.runs.reporter import Reporter
from noisereg.runs.run import Run
from noisereg.runs.runtime import Runtime
from noisereg.store import JSON, Store


@dataclass
class Candidate:
    """What is compared with the real samples: a run under one way of sampling, or samples from
    elsewhere.
    """

    source: str
    run: Run | None
    sampling: Sampling | None
    n: int
    key: Any
    """Of the samples: equal keys, equal samples."""
    read: Callable[[], Tensor]
    """The samples, from disk: many runs' need not fit in memory at once."""
    store: Store
    """Where what is computed of it is kept."""
    numbers: dict[str, float] = field(default_factory=dict)
    diverged: str = ""
    """Why it has no numbers, where training or sampling gave what is not finite."""
    checkpoint: str = ""
    """What names its checkpoint, where several of a run are measured."""
    control: bool = False
    """Whether it is a run without a regularizer whose ε̂ is scaled as one would have it."""


@dataclass(frozen=True)
class Request:
    """One metric as it was asked for."""

    spec: Spec
    entry: Entry
    params: dict[str, Any]
    metric: Metric
    space: Space

    @property
    def short(self) -> str:
        return self.spec.name.rpartition("/")[2]

    def direction(self, name: str) -> str:
        """
        Raises:
            NoiseregError: where the metric does not say which direction of ``name`` is better.
        """
        direction = self.metric.better.get(name)
        if direction not in ("higher", "lower"):
            raise NoiseregError(
                f"the metric {self.entry.qualified} gives {name!r} and does not say which "
                "direction is better; its author adds it to 'better'"
            )
        return direction


@dataclass(frozen=True)
class Against:
    """What candidates are compared with."""

    data: Spec
    dataset: Dataset
    real: Reference

    @functools.cached_property
    def identity(self) -> str:
        """Of both splits, as far as a run records them."""
        return data_hash(self.dataset)


def build_requests(
    metrics: Sequence[str], options: Options, against: Against, reg: Registry, runtime: Runtime
) -> list[Request]:
    """
    Raises:
        NoiseregError: for an unknown metric or space, or one that cannot be had for these data.
    """
    if not metrics:
        raise NoiseregError(
            "no metric; give `metric=prdc`, or another (noisereg plugins list --kind metric)"
        )
    real = against.real
    ctx = Context(
        shape=tuple(real.x.shape[1:]),
        device=runtime.device,
        dataset=against.dataset,
        cache_dir=cache_dir(),
        batches=None,
    )
    spaces: dict[str, Space] = {}

    def space(spec: Spec) -> Space:
        entry = reg.find("features", spec.name)
        params = spec.params | _filled(entry, options)
        key = json.dumps([spec.name, params], sort_keys=True)
        if key not in spaces:
            inner = reg.build("features", spec.name, params, ctx)
            spaces[key] = Space(inner, spec.name.rpartition("/")[2], entry.code)
            spaces[key].keep(real.x, real.identity, Store(cache_dir() / "eval"))
        return spaces[key]

    requests = []
    for text in dict.fromkeys(metrics):
        spec = Spec.parse(text)
        entry = reg.find("metric", spec.name)
        params = reg.params(entry, spec.params)
        metric: Metric = reg.build("metric", spec.name, spec.params, ctx)
        asked = space(space_of(metric, Spec.parse(options.features)))
        requests.append(Request(spec, entry, params.model_dump(mode="json"), metric, asked))
    return requests


def _filled(entry: Entry, options: Options) -> dict[str, Any]:
    """The parameters that an option fills where it was given: those that say so."""
    filled = {}
    for name, parameter in entry.component.params.model_fields.items():
        extra = parameter.json_schema_extra
        option = extra.get("option") if isinstance(extra, dict) else None
        if isinstance(option, str) and (value := getattr(options, option, None)) is not None:
            filled[name] = str(value)
    return filled


def check(requests: Sequence[Request], candidates: Sequence[Candidate], real: Reference) -> None:
    """What can be known before anything is sampled.

    Raises:
        NoiseregError: for a metric that one of the candidates cannot have.
    """
    for request in requests:
        metric = request.metric
        for candidate in candidates:
            if metric.needs_model:
                if candidate.run is None:
                    raise NoiseregError(
                        f"{request.spec.name} is measured on a model, and {candidate.source} is "
                        "a folder of images"
                    )
                continue
            if (
                metric.paired
                and candidate.run is not None
                and not (candidate.sampling and candidate.sampling.condition)
            ):
                raise NoiseregError(
                    f"{request.spec.name} compares each output with its own right answer, and "
                    f"{candidate.source} is unconditional; expected a run with `task=superres`"
                )
            try:
                metric.check_counts(candidate.n, candidate.n if metric.paired else len(real.x))
            except NoiseregError as error:
                raise NoiseregError(f"{candidate.source}: {error}") from None


def measure(
    candidates: Sequence[Candidate],
    requests: Sequence[Request],
    against: Against,
    reporter: Reporter,
) -> tuple[dict[str, str], list[str]]:
    """Fill in the candidates' numbers; each number's better direction, and what metrics have to
    say.
    """
    better: dict[str, str] = {}
    notes: list[str] = []
    work = [c for c in candidates if not c.diverged]
    shares = _Shares(len(requests))
    try:
        for i, candidate in enumerate(work):
            if i < 2:
                # The first takes what is the same for all, too: what is left is told by the rest.
                reporter.begin("measure", UNITS * len(work), UNITS * i)
            shares.start()
            read = functools.cache(functools.partial(_read, candidate, requests))
            for j, request in enumerate(requests):
                try:
                    result = _result(candidate, request, against, read)
                except NotFinite as error:
                    assert candidate.run is not None
                    candidate.numbers.clear()
                    candidate.diverged = without_path(str(error), candidate.run)
                    break
                for name, value in result["numbers"].items():
                    _add(candidate, name, value)
                better |= result["better"]
                notes += result["notes"]
                reporter.advance(UNITS * i + shares.done(j))
            for request in requests:
                request.space.forget_all_but(against.real.x)
    finally:
        reporter.end()
    return better, notes


UNITS = 1000
"""Of progress, a candidate: its metrics take very different times."""


class _Shares:
    """How much of a candidate's time each metric takes, as it was with those before it."""

    def __init__(self, count: int) -> None:
        self._seconds = [0.0] * count
        self._begun = 0
        self._since = 0.0

    def start(self) -> None:
        """The next candidate. What the first took says nothing of the others."""
        self._begun += 1
        self._since = time.monotonic()
        if self._begun == 2:
            self._seconds = [0.0] * len(self._seconds)

    def done(self, j: int) -> int:
        """Units of the candidate that are done with its j-th metric."""
        before = sum(self._seconds) if self._begun > 2 else 0.0
        part = sum(self._seconds[: j + 1]) / before if before > 0 else 0.0
        now = time.monotonic()
        self._seconds[j] += now - self._since
        self._since = now
        return UNITS if j == len(self._seconds) - 1 else int(UNITS * part)


def _add(candidate: Candidate, name: str, value: float) -> None:
    held = candidate.numbers.get(name, value)
    if held != value and not (math.isnan(held) and math.isnan(value)):
        raise NoiseregError(
            f"two metrics give a number called {name}, with different values; ask for one of them"
        )
    candidate.numbers[name] = value


def _read(candidate: Candidate, requests: Sequence[Request]) -> Tensor:
    x = candidate.read()
    for request in requests:
        request.space.keep(x, candidate.key, candidate.store)
    return x


def _result(
    candidate: Candidate, request: Request, against: Against, read: Callable[[], Tensor]
) -> dict[str, Any]:
    """A metric's numbers, their directions and its notes; computed where they are not on disk."""
    real, metric = against.real, request.metric
    key = {
        "samples": candidate.key,
        "n": candidate.n,
        "reference": [real.data, real.name, len(real.x), real.identity],
        "metric": [*identity_of(request.entry), request.params],
        "features": request.space.kept_by,
    }
    if metric.needs_model or metric.reads_data:
        key["data"] = against.identity

    def result() -> dict[str, Any]:
        try:
            if metric.needs_model:
                numbers = metric.of_model(_model(candidate), against.dataset)
            else:
                numbers = metric.compute(
                    read(), real.x[: candidate.n] if metric.paired else real.x, request.space
                )
        except NotFinite:
            raise
        except NoiseregError as error:
            raise NoiseregError(f"{candidate.source}: {error}") from None
        return {
            "numbers": {name: float(value) for name, value in numbers.items()},
            "better": {name: request.direction(name) for name in numbers},
            "notes": list(metric.notes()),
        }

    return candidate.store.cached(f"metrics/{request.short}", key, JSON, result)


def _model(candidate: Candidate) -> RunModel:
    """The candidate's network, with the weights and the sampling that its samples are drawn by."""
    assert candidate.run is not None
    assert candidate.sampling is not None
    runtime = Runtime.start(candidate.run.config.runtime.model_copy(update={"device": "auto"}))
    return candidate.sampling.model(runtime)
