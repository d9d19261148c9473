"""What conditional samples are drawn under, by the sample's index."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from noisereg.api import Dataset, Task
from noisereg.data import unit_range
from noisereg.errors import NoiseregError, nearest


@dataclass(frozen=True)
class Conditions:
    """Sample i is drawn under ``values[i mod K]``; None for a task without a condition."""

    values: Tensor | None

    def __len__(self) -> int:
        return 0 if self.values is None else len(self.values)

    def of(self, indices: Sequence[int]) -> Tensor | None:
        """(len(indices), …)."""
        if self.values is None:
            return None
        return self.values[torch.tensor(indices, dtype=torch.int64) % len(self.values)]


def given(
    task: Task,
    labels: int | str | Sequence[int | str] | None = None,
    inputs: str | Path | None = None,
    names: Sequence[str] = (),
) -> Conditions:
    """The labels given, one or several, by number or by the name of their class, or all in turn;
    the images in a folder or a .zip, sorted by path.

    Raises:
        NoiseregError: for a label or an image that the task has no use for, or cannot do without.
    """
    several: Any = labels
    number = hasattr(labels, "__index__") and not getattr(labels, "ndim", 0)  # NumPy's, torch's
    if isinstance(labels, str) or number:
        several = [labels]
    elif several is not None:
        several = list(several)
    if several is not None and not task.classes:
        raise NoiseregError(
            "`label`: this run was not trained on labels; expected a run of `task=class`"
        )
    if inputs is not None and task.input_shape is None:
        raise NoiseregError(
            "`input`: this run makes its samples of no images; expected a run of `task=superres`"
        )
    if task.classes:
        if several is not None and not len(several):
            raise NoiseregError(
                f"`label`: expected at least one label from 0 to {task.classes - 1}"
            )
        chosen = range(task.classes) if several is None else several
        return Conditions(torch.tensor([_label(label, task.classes, names) for label in chosen]))
    if task.input_shape is not None:
        size = "×".join(map(str, task.input_shape[1:]))
        if inputs is None or inputs == "":
            raise NoiseregError(
                f"this run makes its samples of small images; give `input=FOLDER`, of {size} "
                "images"
            )
        return Conditions(task.from_input(read_inputs(Path(inputs), task.input_shape)))
    if task.channels:
        raise NoiseregError(
            "this run's task has no way to be told its condition; sample it through noisereg eval"
        )
    return Conditions(None)


def _label(label: int | str, classes: int, names: Sequence[str]) -> int:
    """The number of a label. Text is a class's name, and a number only where no class is called
    so: of the classes 2 and 10, ``10`` is the second.
    """
    if isinstance(label, str) and label in names:
        return list(names).index(label)
    number = -1
    if isinstance(label, str):
        number = int(label) if label.isdecimal() else -1
    elif not isinstance(label, bool):
        with contextlib.suppress(TypeError):
            number = operator.index(label)  # of NumPy's and torch's numbers, too
    if 0 <= number < classes:
        return number
    listed = f", called {', '.join(names[:10])}{', …' * (len(names) > 10)}" if names else ""
    raise NoiseregError(
        f"`label={label}`: this run's labels are 0 to {classes - 1}{listed}"
        f"{nearest(str(label), names)}"
    )


def check(task: Task, guidance: float) -> None:
    """
    Raises:
        NoiseregError: for guidance without what it needs of training.
    """
    if guidance != 1 and not task.guidable:
        what = (
            "withheld no labels in training"
            if task.classes
            else "has no unconditional network to guide away from"
        )
        raise NoiseregError(
            f"guidance {guidance:g}: this run {what}; expected a run of `task=class:dropout=0.1`, "
            "or guidance 1"
        )


def heldout(task: Task, dataset: Dataset, count: int) -> Conditions:
    """Those of the first held-out samples (training samples where none are held out); labels in
    turn.
    """
    if task.classes or not task.channels:
        return given(task)
    split = dataset.split("heldout")
    if not len(split):
        split = dataset.split("train")
    return Conditions(task.cond(split.batch(torch.arange(min(count, len(split))))))


def read_inputs(path: Path, shape: tuple[int, ...]) -> Tensor:
    """The images in a folder or a .zip, sorted by path, (N, *shape) float32 in [−1, 1].

    Raises:
        NoiseregError: for one without images, and names the first that cannot be read or is of
        another size.
    """
    from noisereg.datasets.decoding import read_all, upright_size
    from noisereg.datasets.tree import open_tree

    _, height, width = shape
    path = path.expanduser()
    if not path.is_dir() and not (path.is_file() and path.suffix.lower() == ".zip"):
        raise NoiseregError(
            f"`input={path}`: expected a folder of images of {width}×{height}, or a .zip"
        )

    def check(name: str, image: Image.Image) -> None:
        wide, high = upright_size(image)
        if (wide, high) != (width, height):
            raise NoiseregError(
                f"`input`: {name} is {wide}×{high}; this run takes images of {width}×{height}"
            )

    return unit_range(torch.from_numpy(read_all(open_tree(path), shape, check)))
