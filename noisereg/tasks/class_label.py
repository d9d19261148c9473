"""Class labels, and what classifier-free guidance needs of training (Ho & Salimans 2022, arXiv
2207.12598).
"""

from __future__ import annotations

import torch
from torch import Tensor

from noisereg.api import Batch, Context, Task
from noisereg.errors import NoiseregError
from noisereg.tasks import ClassParams


class ClassLabel(Task):
    """The network is told each sample's label, and, for a share ``dropout`` of the training
    samples, that there is none.

    Raises:
        NoiseregError: for data without labels, and for a number of classes that is not the data's.
    """

    def __init__(self, params: ClassParams, ctx: Context) -> None:
        count = params.classes
        if ctx.dataset is not None:
            classes = ctx.dataset.classes
            if not classes:
                raise NoiseregError(
                    "`task=class` needs labels and this data set has none"
                    + "".join(f" ({note})" for note in ctx.dataset.notes if "class" in note)
                    + "; expected one with classes (digits, mnist, cifar10, a folder with a "
                    "subfolder for each class), or `task=unconditional`"
                )
            if count not in ("auto", classes):
                raise NoiseregError(
                    f"class:classes={count}: the data set has {classes} classes; leave it on auto"
                )
            count = classes
        if count == "auto":
            raise NoiseregError(
                "class:classes=auto needs a data set to count the classes of; give their number"
            )
        self.classes = count
        self.params = params.model_copy(update={"classes": count})
        self.guidable = params.dropout > 0
        self.summary = f"{count} classes, {params.dropout:.0%} of the labels withheld for guidance"

    def cond(self, batch: Batch) -> Tensor:
        """(B,) int64."""
        if batch.labels is None:
            raise NoiseregError("`task=class` needs labels and this data set's batches have none")
        return batch.labels

    def withhold(self, cond: Tensor, u: Tensor) -> Tensor:
        """The label ``classes``, which means none, where u < dropout."""
        return torch.where(u < self.params.dropout, self.classes, cond)

    def null(self, cond: Tensor) -> Tensor:
        return torch.full_like(cond, self.classes)
