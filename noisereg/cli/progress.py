"""What a run says on stderr: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

from noisereg.cli.flags import flagged
from noisereg.runs.reporter import Reporter
from noisereg.terminal import printable

LEFT_OUT = ("lr", "mse", "mse_heads", "images_per_second")


def duration(seconds: float) -> str:
    """``1 min 27 s``, ``3 h 05 min``, ``78 days``."""
    seconds = round(seconds)
    hours, minutes = divmod(seconds // 60, 60)
    if hours >= 100:
        return f"{hours / 24:,.0f} days"
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds % 60:02d} s" if minutes else f"{seconds} s"


def _columns(metrics: Mapping[str, float]) -> str:
    """``loss 0.214  isotropy 0.0031  6,120 img/s``: the loss, each regularizer, the speed."""
    shown = [
        f"{k.removeprefix('eval/')} {v:.3g}"
        for k, v in metrics.items()
        if k not in LEFT_OUT and ("/" not in k or k.startswith("eval/"))
    ]
    if speed := metrics.get("images_per_second"):
        shown.append(f"{speed:,.0f} img/s")
    return "  ".join(shown)


def _asked(variable: str) -> bool:
    return os.environ.get(variable, "") not in ("", "0")


class ConsoleReporter(Reporter):
    """Facts, notes and progress on stderr; with ``--quiet`` notes alone."""

    PLAIN_SECONDS = 15.0
    """Between plain lines, where there is no terminal."""
    BAR_SECONDS = 0.1
    """Between pictures of the bar."""

    def __init__(self) -> None:
        self._quiet, verbose = _asked("NOISEREG_QUIET"), _asked("NOISEREG_VERBOSE")
        self._terminal = sys.stderr.isatty() and not verbose
        self._seconds = 1.0 if verbose else self.PLAIN_SECONDS
        self._bar: Any = None
        self._task: Any = None
        self._what, self._total, self._from = "", 0, 0
        self._began = self._told = 0.0

    def _print(self, text: str) -> None:
        text = printable(text)
        with self._heard():
            if self._bar is not None:
                self._bar.console.print(text, markup=False, highlight=False)
            else:
                print(text, file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def _heard(self) -> Iterator[None]:
        """What cannot be said (a full disk, a closed pipe) ends no run; but one that nobody can
        hear any more is asked to stop.
        """
        try:
            yield
        except BrokenPipeError:
            self.gone = True
            # Or the interpreter complains at its end of what it could not flush.
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
        except (OSError, ValueError):  # the second: of a stream that is closed
            pass

    def fact(self, name: str, text: str) -> None:
        if not self._quiet:
            self._print(f"{name:<15} {text}" if name else text)

    def note(self, text: str) -> None:
        self._print(f"note: {flagged(text)}")

    def begin(self, what: str, total: int, done: int = 0) -> None:
        self.end()
        self._what, self._total, self._from = what, total, done
        self._began = self._told = time.monotonic()
        if self._terminal and not self._quiet:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            class Stderr(Console):
                def on_broken_pipe(self) -> None:
                    raise BrokenPipeError  # rich would leave the program, and close its stdout

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[columns]}", markup=False),
                TextColumn("{task.fields[left]}"),
                console=Stderr(stderr=True),
                transient=True,
                # By us: what rich's own thread cannot write nobody would hear of.
                auto_refresh=False,
            )
            with self._heard():
                self._bar.start()
            with self._heard():
                self._task = self._bar.add_task(
                    what, total=total, completed=done, columns="", left=""
                )

    def advance(self, done: int, metrics: Mapping[str, float] | None = None) -> None:
        now = time.monotonic()
        left = ""
        if (
            done > self._from
        ):  # by all that was done since the beginning: rich's own guess knows the last 30 s alone
            each = (now - self._began) / (done - self._from)
            left = f"{duration(each * (self._total - done))} left"
        if self._bar is not None:
            fields = {"columns": _columns(metrics)} if metrics else {}
            with self._heard():
                self._bar.update(self._task, completed=done, left=left, **fields)
                if now - self._told >= self.BAR_SECONDS:
                    self._told = now
                    self._bar.refresh()
        elif left and not self._quiet and now - self._told >= self._seconds:
            self._told = now
            columns = f"  {_columns(metrics)}" if metrics else ""
            self._print(f"{self._what} {done:,}/{self._total:,}{columns}  {left}")

    def end(self) -> None:
        if self._bar is not None:
            with self._heard():
                self._bar.stop()
            self._bar = None
