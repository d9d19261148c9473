"""Training a sweep's cells through a launcher: several at once, past failures, and again after a
kill.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from noisereg import remote
from noisereg.api import Job, Launcher, Started
from noisereg.errors import NoiseregError
from noisereg.ownership import lock_of_children
from noisereg.plugins import trust
from noisereg.runs.reporter import Reporter
from noisereg.runs.stopping import StopRequest
from noisereg.sweeps.grid import MEMBERS, Cell, Sweep

SAVING = 60.0
"""Seconds that are waited for cells to save where their launcher cannot tell."""
PASSED_ON = ("NOISEREG_", "PYTHONPATH")
"""How the names of variables begin that a job has from here, wherever it runs."""


def environment_for(launcher: Launcher) -> dict[str, str]:
    """The variables of a job of the launcher's that it would not have by itself."""
    passed = {k: v for k, v in os.environ.items() if k.startswith(PASSED_ON)}
    return ({} if launcher.here else passed) | trust.passed_on()


def check_place(path: Path, launcher: Launcher, name: str) -> None:
    """That the launcher's machines see a sweep's folder.

    Raises:
        NoiseregError: for an address, whose working copy is this machine's, elsewhere.
    """
    if not launcher.here and (url := remote.address_of(path)):
        raise NoiseregError(
            f"`out={url}`: launcher {name} trains on other machines, which do not see this one's "
            "working copy; expected a folder that all of them see, or launcher local"
        )


class Stopped(Exception):
    """SIGTERM or Ctrl-C: every cell in training has saved and stopped."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by signal {signum}")
        self.signum = signum


@dataclass
class Tally:
    """How the cells that a sweep's command trained have ended."""

    finished: list[Cell] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """By cell: the last thing it said."""
    diverged: list[str] = field(default_factory=list)
    """Of those that failed: the cells in which a number was not finite."""

    def ended(
        self,
        sweep: Sweep,
        cell: Cell,
        seconds: float,
        said: str | None,
        reporter: Reporter,
        queued: bool = False,
    ) -> None:
        """Count a cell and tell of it; ``said`` is why it failed, None where it has finished.
        The seconds of one that was ``queued`` are not those of its training alone.
        """
        try:
            remote.put(sweep.log_of(cell))
        except NoiseregError as error:
            reporter.note(str(error))
        queue = " after it was queued" * queued
        if said is None:
            self.finished.append(cell)
            reporter.note(f"{cell.name} finished {'' if queue else 'in '}{seconds:,.0f} s{queue}")
            return
        self.failed[cell.name] = said
        status = sweep.status(cell)
        what = "failed"
        if status is not None and status.diverged:
            what = "diverged"
            self.diverged.append(cell.name)
        after = f"{seconds:,.0f} s{queue}" if queue else f"after {seconds:,.0f} s"
        reporter.note(f"{cell.name} {what} {after}: {said}")


@dataclass
class _InTraining:
    cell: Cell
    started: Started
    began: float
    said: int
    """Bytes of its log from before."""


class SweepTraining:
    """Trains cells by a launcher, which has been opened, at most ``jobs`` at once (None: all)."""

    def __init__(
        self,
        sweep: Sweep,
        launcher: Launcher,
        reporter: Reporter,
        arguments: Sequence[str] = (),
        membership: IO[Any] | None = None,
        jobs: int | None = None,
    ) -> None:
        self.sweep, self.launcher, self.reporter = sweep, launcher, reporter
        self.arguments = list(arguments)
        self.membership = membership
        """The lock of :func:`noisereg.sweeps.grid.taking_part`, which the cells' processes
        inherit."""
        self.jobs = jobs
        self._stop_request = StopRequest()

    def run(self, cells: Sequence[Cell]) -> Tally:
        """
        Raises:
            Stopped: once every cell in training has stopped after a signal.
            NoiseregError: if the launcher cannot start one; those in training have stopped then.
        """
        tally = Tally(finished=[cell for cell in cells if self.sweep.finished(cell)])
        waiting = [cell for cell in cells if cell not in tally.finished]
        training: list[_InTraining] = []
        elsewhere: set[str] = set()
        self.reporter.begin("sweep", len(cells), len(tally.finished))
        with self._stop_request as stop:
            try:
                while waiting or training:
                    self._look(training, tally)
                    if stop.asked():
                        raise Stopped(stop.signum)
                    for cell in [cell for cell in waiting if self.sweep.finished(cell)]:
                        waiting.remove(cell)
                        tally.finished.append(cell)
                        self.reporter.advance(len(tally.finished) + len(tally.failed))
                    self._start(waiting, training, elsewhere)
                    time.sleep(self.launcher.poll_every)
            finally:
                self._stop(training)
                self.reporter.end()
        return tally

    def _look(self, training: list[_InTraining], tally: Tally) -> None:
        for each in list(training):
            if (code := each.started.poll()) is not None:
                training.remove(each)
                self._ended(each, code, tally)
                self.reporter.advance(len(tally.finished) + len(tally.failed))

    def _start(
        self, waiting: list[Cell], training: list[_InTraining], elsewhere: set[str]
    ) -> None:
        """Give the launcher as many of the cells that nobody trains as it takes."""
        room = len(waiting) if self.jobs is None else self.jobs - len(training)
        chosen: list[tuple[Cell, IO[Any]]] = []
        for cell in waiting:
            if len(chosen) == room:
                break
            if lock := lock_of_children(self.sweep.lock_of(cell)):
                if not self.launcher.here:  # their processes take the locks themselves
                    lock.close()
                chosen.append((cell, lock))
            elif cell.name not in elsewhere:
                elsewhere.add(cell.name)
                self.reporter.note(
                    f"{cell.name} is being trained by another process; waiting for it"
                )
        if not chosen:
            return
        logs = [self.sweep.log_of(cell) for cell, _ in chosen]
        said = [log.stat().st_size if log.exists() else 0 for log in logs]
        jobs = [self._job(cell, lock) for cell, lock in chosen]
        try:
            started = self.launcher.start(jobs)
        finally:
            for _, lock in chosen:
                lock.close()
        for (cell, _), each, size in zip(chosen, started, said, strict=True):
            waiting.remove(cell)
            training.append(_InTraining(cell, each, time.monotonic(), size))

    def _job(self, cell: Cell, lock: IO[Any]) -> Job:
        python = trust.interpreter()
        command = [*python, "-m", "noisereg", *self.sweep.command(cell), *self.arguments]
        inherited: list[int] = []
        if self.launcher.here:
            inherited = [lock.fileno(), *([self.membership.fileno()] if self.membership else [])]
        else:
            locks = (self.sweep.lock_of(cell), self.sweep.path / MEMBERS)
            worker = [*python, "-m", "noisereg.sweeps.worker", *(str(p.absolute()) for p in locks)]
            command = [*worker, *command]
        return Job(
            cell.name,
            tuple(command),
            environment_for(self.launcher) | remote.passed_on(self.sweep.path),
            Path.cwd(),
            self.sweep.log_of(cell).absolute(),
            tuple(inherited),
        )

    def _ended(self, each: _InTraining, code: int, tally: Tally) -> None:
        seconds = time.monotonic() - each.began
        cell, said = each.cell, None
        if code != 0 or not self.sweep.finished(cell):
            if self._stop_request.asked():
                return
            said = each.started.reason or self._last_words(each) or f"exit code {code}"
        queued = self.launcher.jobs is None
        tally.ended(self.sweep, cell, seconds, said, self.reporter, queued)

    def _last_words(self, each: _InTraining) -> str:
        try:
            with self.sweep.log_of(each.cell).open("rb") as log:
                log.seek(each.said)
                lines = log.read().decode("utf-8", "replace").split("\n")
        except OSError:
            return ""
        said = [line.strip() for line in lines if line.strip()]
        return said[-1].removeprefix("noisereg: error: ")[:300] if said else ""

    def _stop(self, training: Sequence[_InTraining]) -> None:
        """Ask every cell in training to save and stop, and wait until it has: until its lock is
        free. (Not forever: another sweep command may hold that by now.)
        """
        for each in training:
            each.started.stop()
        for each in training:
            while each.started.poll() is None:
                time.sleep(self.launcher.poll_every)
        deadline = time.monotonic() + SAVING
        for each in training:
            while (lock := lock_of_children(self.sweep.lock_of(each.cell))) is None:
                if time.monotonic() > deadline:
                    return
                time.sleep(self.launcher.poll_every)
            lock.close()
