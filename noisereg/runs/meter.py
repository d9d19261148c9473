"""Means of what the loss is made of, between two lines of metrics.jsonl."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from noisereg.runs.runtime import Runtime


@dataclass
class Meter:
    """Means of the detached parts of the loss since the last line, kept on the device."""

    total: dict[str, Tensor] = field(default_factory=dict)
    count: int = 0
    bad_step: Tensor | None = None

    def add(self, parts: Mapping[str, Tensor], step: int) -> None:
        for name, value in parts.items():
            self.total[name] = self.total[name] + value if name in self.total else value.clone()
        self.count += 1
        loss = parts["loss"]
        here = torch.where(torch.isfinite(loss), torch.inf, float(step))
        self.bad_step = here if self.bad_step is None else torch.minimum(self.bad_step, here)

    def take(self, other: Meter, row: int) -> None:
        """Add what ``other``, whose parts are (cells,), holds of one of its cells."""
        for name, values in other.total.items():
            value = values[row]
            self.total[name] = self.total[name] + value if name in self.total else value.clone()
        self.count += other.count
        if other.bad_step is not None:
            bad = other.bad_step[row]
            self.bad_step = bad if self.bad_step is None else torch.minimum(self.bad_step, bad)

    def first_bad_step(self, runtime: Runtime) -> int | None:
        """The first step with a loss that is not finite, on any rank."""
        value = torch.inf if self.bad_step is None else float(self.bad_step)
        if runtime.any(value != torch.inf):
            return int(value) if value != torch.inf else -1
        return None

    def read(self, runtime: Runtime) -> dict[str, float]:
        """The means over steps and ranks; starts anew."""
        if not self.total:
            return {}
        names = list(self.total)
        values = runtime.average(torch.stack([self.total[n].double() for n in names]) / self.count)
        self.total, self.count, self.bad_step = {}, 0, None
        return dict(zip(names, values.tolist(), strict=True))
