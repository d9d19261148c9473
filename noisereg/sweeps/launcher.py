"""Training a sweep's cells in processes of their own: several at once, past failures, and again
after a kill.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import IO, Any

from noisereg.ownership import lock_of_children
from noisereg.plugins import trust
from noisereg.runs.reporter import Reporter
from noisereg.sweeps.grid import Cell, Sweep

POLL_SECONDS = 0.1
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGXCPU)
"""As in training; the cells are told by SIGTERM."""


class Stopped(Exception):
    """SIGTERM or Ctrl-C: every cell in training has saved and stopped."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by signal {signum}")
        self.signum = signum


@dataclass
class Tally:
    finished: list[Cell] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """By cell: the last thing it said."""
    diverged: list[str] = field(default_factory=list)
    """Of those that failed: the cells in which a number was not finite."""


@dataclass
class _Child:
    cell: Cell
    process: subprocess.Popen[bytes]
    slot: int
    began: float


class Launcher:
    """Trains cells, at most ``jobs`` at once. Slot k of them sees the (k mod n)-th of n visible
    GPUs alone.
    """

    def __init__(
        self,
        sweep: Sweep,
        jobs: int,
        gpus: Sequence[str],
        reporter: Reporter,
        arguments: Sequence[str] = (),
        membership: IO[Any] | None = None,
    ) -> None:
        self.sweep, self.jobs, self.gpus, self.reporter = sweep, jobs, list(gpus), reporter
        self.arguments = list(arguments)
        self.membership = membership
        """The lock of :func:`noisereg.sweeps.grid.define`, which the cells' processes inherit."""
        self._signum = 0

    def run(self, cells: Sequence[Cell]) -> Tally:
        """
        Raises:
            Stopped: once every child has stopped after a signal.
        """
        tally = Tally(finished=[cell for cell in cells if self.sweep.finished(cell)])
        waiting = [cell for cell in cells if cell not in tally.finished]
        children: list[_Child] = []
        elsewhere: set[str] = set()
        self.reporter.begin("sweep", len(cells), len(tally.finished))
        handlers = {
            s: signal.signal(s, self._ask)
            for s in STOPPING
            if signal.getsignal(s) != signal.SIG_IGN
        }
        try:
            while waiting or children:
                for child in [c for c in children if c.process.poll() is not None]:
                    children.remove(child)
                    self._ended(child, tally)
                    self.reporter.advance(len(tally.finished) + len(tally.failed))
                if self._signum:
                    self._stop(children)
                    raise Stopped(self._signum)
                for cell in list(waiting):
                    if self.sweep.finished(cell):
                        waiting.remove(cell)
                        tally.finished.append(cell)
                        self.reporter.advance(len(tally.finished) + len(tally.failed))
                    elif len(children) < self.jobs and (
                        lock := lock_of_children(self.sweep.lock_of(cell))
                    ):
                        waiting.remove(cell)
                        children.append(self._start(cell, lock, {c.slot for c in children}))
                    elif len(children) < self.jobs and cell.name not in elsewhere:
                        elsewhere.add(cell.name)
                        self.reporter.note(
                            f"{cell.name} is being trained by another process; waiting for it"
                        )
                time.sleep(POLL_SECONDS)
        finally:
            for signum, handler in handlers.items():
                signal.signal(signum, handler)
            self.reporter.end()
        return tally

    def _ask(self, signum: int, frame: FrameType | None) -> None:
        self._signum = signum

    def _start(self, cell: Cell, lock: IO[Any], taken: set[int]) -> _Child:
        slot = next(k for k in range(self.jobs) if k not in taken)
        environment = dict(os.environ)
        if self.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self.gpus[slot % len(self.gpus)]
        elif self.jobs > 1:
            environment.setdefault(
                "OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // self.jobs))
            )
        environment |= trust.passed_on()
        python = [*trust.interpreter(), "-m", "noisereg"]
        command = [*python, *self.sweep.command(cell), *self.arguments]
        inherited = [lock.fileno(), *([self.membership.fileno()] if self.membership else [])]
        with lock, self.sweep.log_of(cell).open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                pass_fds=inherited,
                # a Ctrl-C in the terminal reaches the sweep, which passes it on once
                start_new_session=True,
            )
        return _Child(cell, process, slot, time.monotonic())

    def _ended(self, child: _Child, tally: Tally) -> None:
        seconds = time.monotonic() - child.began
        if child.process.returncode == 0 and self.sweep.finished(child.cell):
            tally.finished.append(child.cell)
            self.reporter.note(f"{child.cell.name} finished in {seconds:,.0f} s")
        elif not self._signum:
            said = self._last_words(child.cell) or f"exit code {child.process.returncode}"
            tally.failed[child.cell.name] = said
            status = self.sweep.status(child.cell)
            what = "failed"
            if status is not None and status.diverged:
                what = "diverged"
                tally.diverged.append(child.cell.name)
            self.reporter.note(f"{child.cell.name} {what} after {seconds:,.0f} s: {said}")

    def _last_words(self, cell: Cell) -> str:
        try:
            lines = (
                self.sweep.log_of(cell).read_text(encoding="utf-8", errors="replace").split("\n")
            )
        except OSError:
            return ""
        said = [line.strip() for line in lines if line.strip()]
        return said[-1].removeprefix("noisereg: error: ")[:300] if said else ""

    def _stop(self, children: Sequence[_Child]) -> None:
        """Ask every child to save and stop, and wait until it has."""
        for child in children:
            child.process.terminate()
        for child in children:
            child.process.wait()


def visible_gpus() -> list[str]:
    """The GPUs that CUDA would number, as CUDA_VISIBLE_DEVICES names them."""
    if (named := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in named.split(",") if name.strip()]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]
