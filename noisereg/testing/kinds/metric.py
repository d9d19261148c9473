"""What a metric must do."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from noisereg.api import Context, Features, Metric
from noisereg.errors import NoiseregError
from noisereg.testing.doubles import seeded, smooth_data, untrained_model
from noisereg.testing.kinds.common import EXACT, unchanged, untouched_generators
from noisereg.testing.kit import CheckFailed, NotApplicable, Subject, check, expect

SHAPES: tuple[tuple[int, ...], ...] = ((1, 8, 8), (2,), (3, 16, 16))
COUNT = 120


def pictures(shape: tuple[int, ...], count: int, seed: int) -> Tensor:
    """uint8 images (count, *shape), or float32 points."""
    x = smooth_data(shape, count, seed)
    return ((x + 1) * 127.5).round().to(torch.uint8) if len(shape) == 3 else x


def far_away(x: Tensor) -> Tensor:
    """The same kind of data, nearly constant and far from where ``x`` lies: worse in precision and
    recall alike.
    """
    return 255 - x // 8 if x.dtype == torch.uint8 else x / 8 + 10


def features_for(subject: Subject, shape: tuple[int, ...]) -> Features:
    """The space that the metric is defined in, or the pixels.

    Raises:
        NotApplicable: for a space that needs a download or another kind of data.
    """
    space = getattr(subject.entry.implementation(), "space", "") or "pixels"
    try:
        features: Features = subject.registry.build("features", space, {}, Context(shape=shape))
        features(pictures(shape, 2, 0))
    except NoiseregError as error:
        raise NotApplicable(f"its space, {space}, cannot be had here: {error}") from None
    features.name = features.name or space
    return features


def first_result(subject: Subject) -> tuple[Metric, Features, tuple[int, ...], dict[str, float]]:
    """The first of the shapes that the metric takes, and its numbers for two sets of one
    distribution.

    Raises:
        NotApplicable: for a metric that measures no samples.
    """
    if getattr(subject.entry.implementation(), "needs_model", False):
        raise NotApplicable("it measures a model, not samples")
    reasons = []
    for shape in SHAPES:
        features = features_for(subject, shape)
        metric: Metric = subject.build(shape=shape)
        try:
            result = metric.compute(pictures(shape, COUNT, 1), pictures(shape, COUNT, 2), features)
            return metric, features, shape, result
        except NoiseregError as error:
            reasons.append(f"{shape}: {error}")
    raise CheckFailed(f"it refuses {COUNT} samples of every shape tried: {'; '.join(reasons)}")


@check("metric", EXACT)
def gives_named_numbers(subject: Subject) -> None:
    """compute gives a dict of finite floats, and better says of each whether higher or lower is
    good.
    """
    metric, _, _, result = first_result(subject)
    expect_named_numbers(metric, result, "compute")


def expect_named_numbers(metric: Metric, result: Any, method: str) -> None:
    """
    Raises:
        CheckFailed: if ``result`` is anything but finite floats of which the metric says what is
        better.
    """
    expect(
        isinstance(result, dict) and bool(result),
        f"{method} gives {result!r}; expected a dict of numbers",
    )
    for name, value in result.items():
        expect(isinstance(value, float), f"{name} is {type(value).__name__}; expected float")
        expect(math.isfinite(value), f"{name} is {value}")
    unnamed = [name for name in result if metric.better.get(name) not in ("higher", "lower")]
    expect(
        not unnamed,
        f"better does not say of {', '.join(unnamed)} whether 'higher' or 'lower' is good",
    )


@check(
    "metric", "a deliberately bad set of samples must be worse in every number; seeds are fixed"
)
def knows_bad_samples(subject: Subject) -> None:
    """For samples far from the reference no number is better than for samples of the reference's
    own distribution, and one is worse: the directions in better are right."""
    metric, features, shape, good = first_result(subject)
    reference = pictures(shape, COUNT, 2)
    samples = pictures(shape, COUNT, 1)
    if metric.paired:
        good = metric.compute(reference.clone(), reference, features)
        samples = reference
    bad = metric.compute(far_away(samples), reference, features)
    worse = 0
    for name, value in good.items():
        gap = bad[name] - value
        gain = gap if metric.better[name] == "higher" else -gap
        expect(
            gain <= 1e-9,
            f"{name} is {value:.4g} for good samples, {bad[name]:.4g} for bad ones, and "
            f"'{metric.better[name]}' is said to be better",
        )
        worse += gain < -1e-9
    expect(worse > 0, f"no number tells good samples from bad ones: {good}")


@check("metric", EXACT)
def depends_on_its_input_alone(subject: Subject) -> None:
    """Computed twice it gives the same numbers, draws from no global generator and changes nothing
    in place.
    """
    metric, features, shape, _ = first_result(subject)
    samples, reference = pictures(shape, COUNT, 1), pictures(shape, COUNT, 2)
    with (
        unchanged("compute", samples=samples, reference=reference),
        untouched_generators("compute"),
    ):
        one, two = (metric.compute(samples, reference, features) for _ in range(2))
    expect(one == two, f"computed twice it gives {one} and {two}")


@check(
    "metric",
    "exact up to a thousandth of what bad samples make of it, for sums and subsets in another "
    "order",
)
def order_does_not_matter(subject: Subject) -> None:
    """The order of the samples changes nothing, unless it is a metric of pairs."""
    metric, features, shape, result = first_result(subject)
    if metric.paired:
        raise NotApplicable("it compares sample i with reference i")
    order = torch.randperm(COUNT, generator=seeded(3))
    samples, reference = pictures(shape, COUNT, 1), pictures(shape, COUNT, 2)
    again = metric.compute(samples[order], reference, features)
    bad = metric.compute(far_away(samples), reference, features)
    for name, value in result.items():
        close = abs(again[name] - value) <= 1e-3 * max(abs(value), abs(bad[name]))
        expect(
            close,
            f"{name} is {value:.6g}, and {again[name]:.6g} for the same samples in another order",
        )


@check("metric", EXACT)
def too_few_samples_are_refused(subject: Subject) -> None:
    """For a single sample it gives finite numbers or refuses with a reason; it does not fail
    otherwise.
    """
    metric, features, shape, _ = first_result(subject)
    try:
        result: Any = metric.compute(pictures(shape, 1, 1), pictures(shape, 1, 2), features)
    except NoiseregError as error:
        expect("\n" not in str(error), f"a refusal is one line, not: {error}")
        return
    except Exception as error:
        raise CheckFailed(
            f"one sample raises {type(error).__name__}: {error}; expected a NoiseregError"
        ) from error
    expect(
        all(math.isfinite(v) for v in result.values()),
        f"one sample gives {result}; expected a refusal with a reason",
    )


@check("metric", EXACT)
def measures_a_model_the_same_twice(subject: Subject) -> None:
    """A metric that needs a model gives, of an untrained network on a few digits, named finite
    numbers: the same twice, drawn from no global generator; or it refuses with a reason."""
    if not getattr(subject.entry.implementation(), "needs_model", False):
        raise NotApplicable("it measures samples")
    model, data = untrained_model(subject.registry)
    metric: Metric = subject.build(shape=model.shape)
    try:
        with untouched_generators("of_model"):
            one, two = (metric.of_model(model, data) for _ in range(2))
    except NoiseregError as error:
        raise NotApplicable(f"it refuses white noise, IADB and digits: {error}") from None
    expect_named_numbers(metric, one, "of_model")
    expect(one == two, f"measured twice it gives {one} and {two}")
