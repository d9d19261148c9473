"""How many channels go into a denoiser and come out, from what it is built for."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from noisereg.api import Context


@dataclass(frozen=True)
class Sizes:
    """Channels (for points: numbers) of the sample, of an image condition and of the output; and
    the labels.
    """

    sample: int
    condition: int
    outputs: int
    classes: int

    @classmethod
    def of(cls, ctx: Context) -> Sizes:
        """C, the task's channels, C·(1 + process heads + noise heads), the task's classes."""
        heads = (ctx.process.extra_heads if ctx.process else 0) + (
            ctx.noise.extra_heads if ctx.noise else 0
        )
        return cls(
            sample=ctx.shape[0],
            condition=ctx.task.channels if ctx.task else 0,
            outputs=ctx.shape[0] * (1 + heads),
            classes=ctx.task.classes if ctx.task else 0,
        )

    def required(self, cond: Tensor | None) -> Tensor:
        """``cond``, which must be there.

        Raises:
            ValueError: if it is None: a mistake of the caller, not of the user.
        """
        if cond is None:
            raise ValueError("this denoiser was built for a condition and was called without one")
        return cond
