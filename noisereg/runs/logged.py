"""metrics.jsonl, and how far a run's folder says that it came. Imports no torch."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noisereg.runs.config import Config


@dataclass(frozen=True)
class Log:
    """What is in a metrics.jsonl."""

    lines: Mapping[int, str]
    """By step: those that are whole."""
    damaged: int = 0
    """Others, but for what follows the last line's end."""
    cut: bool = False
    """Whether the last line has no end and is not whole: a kill left it so."""

    @classmethod
    def read(cls, out: Path) -> Log:
        """Of a run's folder; empty if there is none."""
        lines: dict[int, str] = {}
        text = ""
        with contextlib.suppress(OSError):
            text = (out / "metrics.jsonl").read_text("utf-8", errors="replace")
        *whole, last = text.split("\n")
        damaged = 0
        for line in whole:
            step = _step(line)
            if step is not None:
                lines[step] = line
            else:
                damaged += bool(line.strip())
        if (step := _step(last)) is not None:
            lines[step] = last
        return cls(lines, damaged, step is None and bool(last.strip()))

    def values(self) -> list[dict[str, Any]]:
        """The whole lines, by step."""
        return [json.loads(self.lines[step]) for step in sorted(self.lines)]

    def wrong(self) -> str:
        """What is not whole, in words; empty if all is."""
        said = f"{self.damaged} of its lines {'is' if self.damaged == 1 else 'are'} damaged"
        parts = [said] * bool(self.damaged) + ["its last line was cut off"] * self.cut
        return " and ".join(parts)


def _step(line: str) -> int | None:
    """The step of a line that is a mapping with one; None for another."""
    try:
        found = json.loads(line)
        return int(found["step"]) if isinstance(found, dict) else None
    except (ValueError, KeyError, TypeError, OverflowError):
        return None


def progress(out: Path, config: Config, damaged: Sequence[str] = ()) -> str:
    """What shows that a run had come to a checkpoint, in words; empty if nothing does.
    ``damaged`` is what is wrong with those that are there.
    """
    if damaged:
        return damaged[0].partition(";")[0]
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, OverflowError):
        status = json.loads((out / "status.json").read_text(encoding="utf-8"))
        if int(status["step"]) > 0:
            return f"status.json says {status['status']} at step {status['step']:,}"
    logged = max(Log.read(out).lines, default=0)
    if logged > config.train.checkpoint_every:
        return (
            f"metrics.jsonl goes to step {logged:,}, with a checkpoint every "
            f"{config.train.checkpoint_every:,}"
        )
    return ""


def anew(out: Path) -> str:
    """How to train a run again from its start, with its own settings, as commands."""
    return f"mv {out} {out}.old, and noisereg train --config {out}.old/config.yaml --out {out}"
