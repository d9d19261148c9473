"""What a task must do."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from noisereg.api import Batch, Dataset, Task
from noisereg.testing.doubles import smooth_data, times
from noisereg.testing.kinds.common import EXACT, relative_error, unchanged, untouched_generators
from noisereg.testing.kit import IMAGES, NotApplicable, Subject, check, expect

CLASSES = 5


class Labelled(Dataset):
    """Data with labels."""

    shape = IMAGES
    classes = CLASSES


def built(subject: Subject) -> tuple[Task, Batch]:
    """The task for images with five classes, and a batch of them."""
    task: Task = subject.build(shape=IMAGES, dataset=Labelled())
    return task, Batch(smooth_data(IMAGES, 6), torch.arange(6) % CLASSES)


def condition(subject: Subject) -> tuple[Task, Batch, Tensor]:
    task, batch = built(subject)
    cond = task.cond(batch)
    if cond is None:
        raise NotApplicable("it gives no condition")
    return task, batch, cond


@check("task", EXACT)
def condition_is_as_declared(subject: Subject) -> None:
    """cond is None, or images (B, channels, H, W) in float32, or labels (B,) int64 below
    classes.
    """
    task, batch = built(subject)
    cond = task.cond(batch)
    if cond is None:
        expect(
            not task.channels and not task.classes,
            "it declares channels or classes and gives no condition",
        )
        return
    expect(
        not (task.channels and task.classes),
        "it declares both channels and classes; a condition is one of them",
    )
    if task.channels:
        wanted = (6, task.channels, *IMAGES[1:])
        expect(
            tuple(cond.shape) == wanted,
            f"cond is {tuple(cond.shape)}; expected (B, channels, H, W) = {wanted}",
        )
        expect(
            cond.dtype == torch.float32 and bool(torch.isfinite(cond).all()),
            "cond is not finite float32",
        )
    else:
        expect(task.classes > 0, "it gives a condition and declares neither channels nor classes")
        expect(
            tuple(cond.shape) == (6,) and cond.dtype == torch.int64,
            f"cond is {tuple(cond.shape)} {cond.dtype}",
        )
        expect(
            bool(((cond >= 0) & (cond < task.classes)).all()),
            f"labels are outside 0 … {task.classes - 1}",
        )


@check("task", EXACT)
def condition_depends_on_the_batch_alone(subject: Subject) -> None:
    """Twice the same, no draw from a global generator, nothing changed in place, and each sample's
    its own.
    """
    task, batch, cond = condition(subject)
    with unchanged("cond", x=batch.x), untouched_generators("cond"):
        again = task.cond(batch)
    expect(again is not None and torch.equal(cond, again), "it gives two conditions for one batch")
    assert batch.labels is not None
    single: Any = task.cond(Batch(batch.x[2:3], batch.labels[2:3]))
    error = relative_error(single, cond[2:3])
    expect(
        error <= 1e-5,
        f"a sample's condition in a batch of one differs from that in a batch of 6 by {error:.1e}",
    )


@check("task", EXACT)
def withholding_follows_its_numbers(subject: Subject) -> None:
    """withhold keeps shape and dtype and depends on u alone; where the task is guidable, null has
    the condition's shape, and some u withholds."""
    task, _, cond = condition(subject)
    u = times(6, 0.0, 0.999)
    with untouched_generators("withhold"):
        one, two = task.withhold(cond, u), task.withhold(cond, u)
    expect(torch.equal(one, two), "it withholds differently for the same numbers")
    expect(
        one.shape == cond.shape and one.dtype == cond.dtype,
        f"withhold gives {tuple(one.shape)} {one.dtype}",
    )
    if not task.guidable:
        return
    null = task.null(cond)
    expect(
        null.shape == cond.shape and null.dtype == cond.dtype,
        f"null gives {tuple(null.shape)} {null.dtype}",
    )
    zero = task.withhold(cond, torch.zeros(6, dtype=torch.float64))
    expect(torch.equal(zero, null), "guidable is set, and u = 0 does not withhold every condition")
