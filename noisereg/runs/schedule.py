"""How a rate changes over training: the learning rate, and the weights of regularizers."""

from __future__ import annotations

import math
from dataclasses import dataclass

from noisereg.errors import NoiseregError

FORMS = ("constant", "linear", "cosine")


@dataclass(frozen=True)
class Schedule:
    """A factor: up from 0 over ``warmup`` steps, then constant, or down to 0 after the last of
    ``steps``, and 0 from there.

    Raises:
        NoiseregError: for a kind that is not known, as a regularizer's own parameters may bring.
    """

    kind: str = "constant"
    """``constant``, ``linear`` or ``cosine``."""
    warmup: int = 0
    steps: int = 1

    def __post_init__(self) -> None:
        if self.kind not in FORMS:
            raise NoiseregError(
                f"schedule={self.kind}: expected {', '.join(FORMS)}; a regularizer with another "
                "multiplies its value by it itself, from s.step, under a parameter of another name"
            )

    def __call__(self, step: int) -> float:
        """At optimiser step ``step``, from 0."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        if self.kind == "constant":
            return 1.0
        done = min(1.0, (step - self.warmup) / max(1, self.steps - self.warmup))
        return 1 - done if self.kind == "linear" else 0.5 * (1 + math.cos(math.pi * done))
