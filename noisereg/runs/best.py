"""The best checkpoint of a run by a number that is measured while it trains."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from noisereg.errors import NoiseregError
from noisereg.plugins.registry import Registry
from noisereg.runs import checkpoint_files
from noisereg.runs.checkpoint_files import name_of
from noisereg.runs.config import read_complete
from noisereg.runs.logged import Log
from noisereg.runs.reporter import Reporter
from noisereg.runs.validation import PREFIX, Validation, measured_by


class Best:
    """What ``train.keep_best`` has chosen so far, and its record, best.json. Rank 0 alone has
    numbers.
    """

    def __init__(self, out: Path, validation: Validation, name: str) -> None:
        self.out, self.validation, self.name = out, validation, name
        self.folder = out / "checkpoints"
        self.step: int | None = None
        self.value = 0.0
        self.since = 0
        """The step after which the numbers are measured as now."""

    def improved(self, step: int, numbers: Mapping[str, float]) -> bool:
        """Whether ``numbers``, measured after ``step``, are the best so far; then they are it."""
        if self.name not in numbers:
            return False
        than = None if self.step is None else self.value
        better = self.validation.is_better(numbers[self.name], than)
        if better:
            self.step, self.value = step, numbers[self.name]
        return better

    def record(self) -> None:
        """Write best.json, where there is a best."""
        if self.step is not None:
            measured = self.validation.measured
            checkpoint_files.write_best(
                self.folder, self.step, self.name, self.value, measured, self.since
            )

    def recall(self, start: int, registry: Registry, reporter: Reporter) -> bool:
        """The best of the whole checkpoints up to step ``start``, by what metrics.jsonl and
        best.json say; whether it is another than best.json's, as where a kill came before that.
        """
        # best.json has the best of then to the last digit, by which the next is compared.
        record: dict[str, Any] = {}
        with contextlib.suppress(NoiseregError):
            record = checkpoint_files.best_record(self.folder)
        before = record.get("measured")
        if before is None and start:  # a kill came before the first best was recorded
            before = measured_by(read_complete(self.out / "config.yaml"), registry)
        if before not in (None, self.validation.measured):
            self.since = start
            reporter.note(
                f"{self.name} is measured otherwise than up to step {start:,}: the best is sought "
                "anew among the checkpoints to come"
            )
            return False
        since = record.get("since")
        self.since = since if isinstance(since, int) else 0
        exact = record.get("step") if record.get("metric") == self.name else None
        found: list[tuple[int, float]] = []
        for line in Log.read(self.out).values():
            step, value = int(line["step"]), line.get(PREFIX + self.name)
            value = record.get("value") if step == exact else value
            if self.since < step <= start and isinstance(value, int | float):
                found.append((step, float(value)))
        found.sort(key=lambda one: one[1], reverse=self.validation.better[self.name] == "higher")
        there = checkpoint_files.steps_in(self.folder)
        for step, value in found:
            if step not in there:
                continue
            if damage := checkpoint_files.damage(self.folder / name_of(step)):
                reporter.note(f"{damage}: it was the best by {self.name}, and is no more")
                continue
            self.step, self.value = step, value
            return record.get("step") != step
        return False
