"""What a data set must do."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from torch import Tensor

from noisereg.api import Context, Dataset
from noisereg.diffusion.diffusion import Diffusion
from noisereg.errors import NoiseregError
from noisereg.testing.doubles import SmallNetwork, draw_latents, times
from noisereg.testing.kinds.common import EXACT, untouched_generators
from noisereg.testing.kit import CheckFailed, NotApplicable, Subject, check, expect

SPLITS = ("train", "heldout")


def built(subject: Subject, seed: int = 0) -> Dataset:
    """The data set under a given state of the global generators."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return subject.build(device=torch.device("cpu"))


def some(split: Any, count: int = 32) -> Tensor:
    """Up to ``count`` indices over the whole split."""
    return torch.linspace(0, len(split) - 1, min(count, len(split))).round().long().unique()


@check("dataset", EXACT)
def shape_and_splits(subject: Subject) -> None:
    """shape is (C, H, W) or (D,); the splits train and heldout have a length above 0; another name
    is refused with a reason; summary is one line."""
    dataset = built(subject)
    shape = dataset.shape
    expect(
        isinstance(shape, tuple)
        and len(shape) in (1, 3)
        and all(isinstance(n, int) and n > 0 for n in shape),
        f"shape is {shape!r}; expected (C, H, W) or (D,)",
    )
    for name in SPLITS:
        expect(len(dataset.split(name)) > 0, f"the split {name} is empty")
    try:
        dataset.split("no such split")
    except NoiseregError as error:
        expect("\n" not in str(error), f"a refusal is one line, not: {error}")
    except Exception as error:
        raise CheckFailed(
            f"an unknown split raises {type(error).__name__}; expected a NoiseregError"
        ) from error
    else:
        raise CheckFailed(
            "an unknown split is not refused; expected a NoiseregError that names those there are"
        )
    expect(
        bool(dataset.summary) and "\n" not in dataset.summary,
        "summary is not one line: it starts a run's report",
    )


@check("dataset", EXACT)
def batches_are_as_promised(subject: Subject) -> None:
    """batch gives (B, *shape) float32, finite, images in [−1, 1]; labels (B,) int64 below classes,
    or None where classes is 0."""
    dataset = built(subject)
    for name in SPLITS:
        split = dataset.split(name)
        indices = some(split)
        batch = split.batch(indices)
        wanted = (len(indices), *dataset.shape)
        expect(
            tuple(batch.x.shape) == wanted,
            f"a batch of {name} is {tuple(batch.x.shape)}; expected {wanted}",
        )
        expect(
            batch.x.dtype == torch.float32,
            f"a batch of {name} is {batch.x.dtype}; expected float32",
        )
        expect(bool(torch.isfinite(batch.x).all()), f"a batch of {name} is not finite")
        if len(dataset.shape) == 3:
            low, high = float(batch.x.min()), float(batch.x.max())
            expect(
                low >= -1.0001 and high <= 1.0001,
                f"images of {name} are in [{low:.3g}, {high:.3g}]; expected [−1, 1]",
            )
        if dataset.classes:
            labels = batch.labels
            expect(
                labels is not None,
                f"classes is {dataset.classes} and batches of {name} have no labels",
            )
            assert labels is not None
            expect(labels.dtype == torch.int64, f"labels are {labels.dtype}; expected int64")
            inside = (labels >= 0) & (labels < dataset.classes)
            expect(bool(inside.all()), f"labels of {name} are outside 0 … {dataset.classes - 1}")


@check("dataset", EXACT)
def index_decides(subject: Subject) -> None:
    """The same index gives the same sample, in any order, any batch and any build: order and flips
    are the engine's, and nothing depends on a global generator."""
    one, two = built(subject, seed=1), built(subject, seed=2)
    for name in SPLITS:
        split = one.split(name)
        indices = some(split, 8)
        with untouched_generators("batch"):
            x = split.batch(indices).x
        expect(
            torch.equal(x, split.batch(indices).x),
            f"the same indices of {name} give other samples the second time",
        )
        backwards = split.batch(indices.flip(0)).x.flip(0)
        expect(
            torch.equal(x, backwards),
            f"samples of {name} do not come in the order of their indices",
        )
        single = torch.cat([split.batch(indices[k : k + 1]).x for k in range(len(indices))])
        expect(torch.equal(x, single), f"a sample of {name} changes with the batch that it is in")
        expect(
            torch.equal(x, two.split(name).batch(indices).x),
            f"built twice, {name} is not the same data",
        )


@check("dataset", EXACT)
def fingerprint_tells_it_apart(subject: Subject) -> None:
    """fingerprint() is plain JSON, and the same in every build: a run is resumed on the data that
    it recorded."""
    one, two = (built(subject, seed=s).fingerprint() for s in (1, 2))
    try:
        again = json.loads(json.dumps(one, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise CheckFailed(f"fingerprint gives what is no plain JSON: {error}") from None
    expect(again == one, f"fingerprint read back from JSON is {again}, and was {one}")
    expect(one == two, f"built twice, its fingerprint is {one} and {two}")


@check("dataset", EXACT)
def heldout_is_held_out(subject: Subject) -> None:
    """The held-out split is not the training split."""
    dataset = built(subject)
    train, heldout = (dataset.split(name) for name in SPLITS)
    indices = some(heldout, 16)
    indices = indices[indices < len(train)]
    same = torch.equal(train.batch(indices).x, heldout.batch(indices).x)
    expect(not same, "the samples of heldout are those of train")


@check("dataset", EXACT)
def fresh_samples_come_from_the_generator(subject: Subject) -> None:
    """Where there is fresh(n, generator): (n, *shape) float32, the same from the same generator,
    other ones from another.
    """
    dataset = built(subject)
    if dataset.fresh is None:
        raise NotApplicable("it has no generator of fresh samples")
    with untouched_generators("fresh"):
        one, again, other = (dataset.fresh(20, np.random.default_rng(seed)) for seed in (1, 1, 2))
    expect(
        tuple(one.shape) == (20, *dataset.shape),
        f"fresh gives {tuple(one.shape)}; expected {(20, *dataset.shape)}",
    )
    expect(one.dtype == torch.float32, f"fresh gives {one.dtype}; expected float32")
    expect(torch.equal(one, again), "fresh gives other samples from a generator of the same seed")
    expect(
        not torch.equal(one, other),
        "fresh gives the same samples from a generator of another seed",
    )


@check("dataset", "no number is compared: only finiteness")
def trains(subject: Subject) -> None:
    """A step of training on it gives a finite loss; images may be mirrored, which needs a
    width.
    """
    dataset = built(subject)
    expect(
        not dataset.flip or len(dataset.shape) == 3,
        "flip is set, and points have no left and right",
    )
    shape = tuple(dataset.shape)
    noise = subject.registry.build("noise", "white", {}, Context(shape=shape))
    process = subject.registry.build("process", "iadb", {}, Context(shape=shape, noise=noise))
    x0 = dataset.split("train").batch(torch.arange(4) % len(dataset.split("train"))).x
    diffusion = Diffusion(shape, process, noise)
    loss, _ = diffusion.loss(
        SmallNetwork(shape), x0, latents=draw_latents(noise, shape, 4), t=times(4, 0.1)
    )
    expect(bool(torch.isfinite(loss)), f"the loss is {loss.item()}")
