"""Several processes that draw and measure runs at once.

Each takes a part of the runs and leaves what it finds where evaluations keep it; the process that
started them then has nothing left to draw or to measure, and makes the tables. So what one of them
could not do is done, or refused, there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from noisereg.errors import NoiseregError
from noisereg.evaluation.options import Options
from noisereg.launchers.local import visible_gpus
from noisereg.plugins import trust
from noisereg.runs.reporter import Reporter

OF_ROWS = ("baseline", "labels", "columns", "where", "by", "pick", "pick_on", "effects", "jobs")
"""What a part of the runs need not have, and the part of the work that is not shared."""

REFUSED = 2
"""The exit code of a process that has said why it could not go on."""


def share_out(
    runs: Sequence[Path],
    metrics: Sequence[str],
    options: Options,
    reporter: Reporter,
) -> None:
    """Draw and measure the runs in ``options.jobs`` processes; process k sees the (k mod n)-th of
    n visible GPUs alone, or its part of the processor's cores.
    """
    jobs = min(options.jobs, len(runs))
    if jobs < 2:
        return
    shared = {k: v for k, v in dataclasses.asdict(options).items() if k not in OF_ROWS}
    gpus = visible_gpus()
    processes: list[subprocess.Popen[str]] = []
    progress = _Progress(jobs, reporter)
    try:
        for k in range(jobs):
            environment = dict(os.environ) | trust.passed_on()
            if gpus:
                environment["CUDA_VISIBLE_DEVICES"] = gpus[k % len(gpus)]
            else:
                threads = str(max(1, (os.cpu_count() or 1) // jobs))
                environment.setdefault("OMP_NUM_THREADS", threads)
            processes.append(
                subprocess.Popen(
                    [*trust.interpreter(), "-m", __name__],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env=environment,
                    text=True,
                )
            )
            work = {"paths": [str(path) for path in runs[k::jobs]], "metrics": list(metrics)}
            stdin = processes[-1].stdin
            assert stdin is not None
            with contextlib.suppress(BrokenPipeError), stdin:  # one that could not start
                stdin.write(json.dumps(work | {"options": shared}, default=str))
        readers = [
            threading.Thread(target=progress.read, args=(k, process.stdout), daemon=True)
            for k, process in enumerate(processes)
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        for process in processes:
            if (code := process.wait()) not in (0, REFUSED):
                progress.failed.append(f"exit code {code}")
    finally:
        for process in processes:
            if process.poll() is None:
                process.terminate()
        reporter.end()
    for reason in dict.fromkeys(progress.failed):
        reporter.note(f"one of {jobs} jobs could not go on: {reason}; its part is done here")


class _Progress:
    """What the processes say of themselves, as one."""

    def __init__(self, jobs: int, reporter: Reporter) -> None:
        self.reporter, self.lock = reporter, threading.Lock()
        self.phases: list[dict[str, tuple[int, int]]] = [{} for _ in range(jobs)]
        """Of each process: by what it does, how much of it is done and how much there is."""
        self.shown: tuple[str, int] | None = None
        self.failed: list[str] = []

    def read(self, k: int, lines: TextIO) -> None:
        for line in lines:
            with self.lock:
                said = json.loads(line)
                if "failed" in said:
                    self.failed.append(said["failed"])
                elif "note" in said:
                    self.reporter.note(said["note"])
                else:
                    self.phases[k][said["what"]] = said["done"], said["total"]
                    self._show(said["what"])

    def _show(self, what: str) -> None:
        """The sum over the processes that have come to the same."""
        if what == "measure" and self._left("sample"):
            return
        there = [phases[what] for phases in self.phases if what in phases]
        done, total = sum(d for d, _ in there), sum(t for _, t in there)
        if self.shown != (what, total):
            self.shown = what, total
            self.reporter.begin(what, total, done)
        self.reporter.advance(done)

    def _left(self, what: str) -> bool:
        return any(done < total for p in self.phases for done, total in [p.get(what, (0, 0))])


class _Told(Reporter):
    """Says on a stream what it is told, a line each."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._what, self._total = "", 0

    def _say(self, **said: Any) -> None:
        print(json.dumps(said), file=self._stream, flush=True)

    def note(self, text: str) -> None:
        self._say(note=text)

    def begin(self, what: str, total: int, done: int = 0) -> None:
        self._what, self._total = what.partition(" ")[0], total
        self._say(what=self._what, total=total, done=done)

    def advance(self, done: int, metrics: Mapping[str, float] | None = None) -> None:
        self._say(what=self._what, total=self._total, done=done)


def _work() -> int:
    """One process's part, told on stdin."""
    from noisereg.evaluation.evaluate import run_evaluation
    from noisereg.plugins.registry import registry

    given = json.load(sys.stdin)
    stream, sys.stdout = sys.stdout, sys.stderr  # a plugin may print
    options = Options.of({k: v for k, v in given["options"].items() if v is not None})
    told = _Told(stream)
    try:
        run_evaluation(given["paths"], given["metrics"], options, registry(), told)
    except NoiseregError as error:
        told._say(failed=str(error))
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(_work())
