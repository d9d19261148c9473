"""Several processes that draw and measure runs, on this machine or where a launcher has them.

Each takes a part of the runs and leaves what it finds where evaluations keep it; the process that
started them then has nothing left to draw or to measure, and makes the tables. So what one of them
could not do is done, or refused, there.

A part is a command, ``python -m noisereg.evaluation.jobs FILE``. FILE says what is to be done, and
the log of the command, which the starting process reads, how far it is.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from noisereg.api import Job, Launcher, Started
from noisereg.errors import NoiseregError
from noisereg.evaluation.options import Options
from noisereg.plugins import trust
from noisereg.runs.config import RuntimeConfig
from noisereg.runs.reporter import Reporter
from noisereg.runs.runtime import Runtime
from noisereg.sweeps.training import environment_for
from noisereg.sweeps.worker import end_with_parent

OF_ROWS = (
    *("baseline", "labels", "columns", "where", "by", "pick", "pick_on", "effects"),
    *("jobs", "launcher"),
)
"""What a part of the runs need not have, and the part of the work that is not shared."""

REFUSED = 2
"""The exit code of a process that has said why it could not go on."""
STOPPING = 10.0
"""Seconds that are waited for processes that were asked to stop; they have nothing to save."""


def share_out(
    runs: Sequence[Path],
    metrics: Sequence[str],
    options: Options,
    launcher: Launcher,
    folder: Path,
    reporter: Reporter,
) -> dict[Path, bool]:
    """Draw and measure the runs by a launcher, in as many parts as it takes at once; on a cluster
    each run is a part. Nothing is done where one process of this machine would do it all.

    Args:
        folder: one of an evaluation's own, which every machine of the launcher's sees.

    Returns:
        By run, whether ``runtime.precision=auto`` is bf16 where it was measured.

    Raises:
        NoiseregError: if the launcher cannot start them, or parts were lost on other machines,
            whose work this one may not be able to do; what is measured is kept.
    """
    at_once = options.jobs or launcher.jobs
    count = min(at_once or len(runs), len(runs))
    if not runs or (launcher.here and count < 2):
        return {}
    with contextlib.ExitStack() as held:
        place = held.enter_context(_work_folder(None if launcher.here else folder))
        launcher.open(place, at_once)
        held.callback(launcher.close)
        parts = [runs[k::count] for k in range(count)]
        jobs = [_job(k, part, metrics, options, launcher, place) for k, part in enumerate(parts)]
        started = launcher.start(jobs)
        held.callback(_stop, started, launcher)
        if not launcher.here:
            reporter.note(f"{count} job{'s' * (count > 1)} started or queued")
        progress = _Progress(count, reporter)
        held.callback(reporter.end)
        _follow(started, [_Tail(job.log) for job in jobs], launcher, progress)
    failed: dict[str, None] = {}
    lost: list[str] = []
    for each, refused, said in zip(started, progress.refused, progress.said, strict=True):
        code = each.poll()
        if code == REFUSED and refused:
            failed[refused] = None
        elif code != 0:
            lost.append(each.reason or said or f"exit code {code}")
    if lost and not launcher.here:
        raise NoiseregError(
            f"{len(lost)} of {count} jobs of this evaluation were lost: {lost[0]}; what the "
            "others measured is kept, and the same command goes on with the rest"
        )
    for reason in failed | dict.fromkeys(lost):
        reporter.note(f"one of {count} jobs could not go on: {reason}; its part is done here")
    return {
        path: bf16
        for part, bf16 in zip(parts, progress.bf16, strict=True)
        for path in part
        if bf16 is not None
    }


@contextlib.contextmanager
def _work_folder(within: Path | None) -> Iterator[Path]:
    """A new folder, as long as the block lasts; None: among this machine's temporary ones."""
    try:
        if within is not None:
            within.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix="jobs-", dir=within)).absolute()
    except OSError as error:
        raise NoiseregError(f"cannot write {within}: {error.strerror}") from None
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
        if within is not None:
            with contextlib.suppress(OSError):  # what was kept there stays
                within.rmdir()


def _job(
    k: int,
    runs: Sequence[Path],
    metrics: Sequence[str],
    options: Options,
    launcher: Launcher,
    place: Path,
) -> Job:
    shared = {n: v for n, v in dataclasses.asdict(options).items() if n not in OF_ROWS}
    work = {"paths": [str(path) for path in runs], "metrics": list(metrics), "options": shared}
    file = place / f"{k}.json"
    file.write_text(json.dumps(work, default=str))
    log = place / f"{k}.log"
    log.touch()
    command = (*trust.interpreter(), "-m", __name__, str(file))
    return Job(f"eval-{k}", command, environment_for(launcher), Path.cwd(), log)


def _follow(
    started: Sequence[Started], tails: Sequence[_Tail], launcher: Launcher, progress: _Progress
) -> None:
    """Tell what the parts say of themselves until all have ended."""
    running = set(range(len(started)))
    while running:
        running -= {k for k in running if started[k].poll() is not None}
        for k, tail in enumerate(tails):  # once more after its end
            for line in tail.lines():
                progress.heard(k, line)
        if running:
            time.sleep(launcher.poll_every)


def _stop(started: Sequence[Started], launcher: Launcher) -> None:
    running = [each for each in started if each.poll() is None]
    for each in running:
        each.stop()
    deadline = time.monotonic() + STOPPING
    while any(each.poll() is None for each in running) and time.monotonic() < deadline:
        time.sleep(min(launcher.poll_every, 0.1))


class _Tail:
    """The lines of a file that grows."""

    def __init__(self, path: Path) -> None:
        self._path, self._at, self._begun = path, 0, b""

    def lines(self) -> list[str]:
        """Those that are new and whole."""
        with self._path.open("rb") as file:
            file.seek(self._at)
            *whole, self._begun = (self._begun + file.read()).split(b"\n")
            self._at = file.tell()
        return [line.decode("utf-8", "replace") for line in whole]


class _Progress:
    """What the processes say of themselves, as one."""

    def __init__(self, jobs: int, reporter: Reporter) -> None:
        self.reporter = reporter
        self.phases: list[dict[str, tuple[int, int]]] = [{} for _ in range(jobs)]
        """Of each process: by what it does, how much of it is done and how much there is."""
        self.shown: tuple[str, int] | None = None
        self.refused = [""] * jobs
        """Why it could not go on, as far as it knew."""
        self.said = [""] * jobs
        """The last line that is not meant for this class: the end of a traceback."""
        self.bf16: list[bool | None] = [None] * jobs

    def heard(self, k: int, line: str) -> None:
        try:
            said = json.loads(line) if line.startswith("{") else None
        except ValueError:
            said = None
        if not isinstance(said, dict):
            self.said[k] = line.strip()[:300] or self.said[k]
            if line.startswith("noisereg: "):
                self.reporter.note(line.removeprefix("noisereg: "))
        elif "failed" in said:
            self.refused[k] = said["failed"]
        elif "note" in said:
            self.reporter.note(said["note"])
        elif "bf16" in said:
            self.bf16[k] = said["bf16"]
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


def _work(file: Path) -> int:
    """One process's part."""
    from noisereg.evaluation.evaluate import run_evaluation
    from noisereg.plugins.registry import registry

    given = json.loads(file.read_text())
    stream, sys.stdout = sys.stdout, sys.stderr  # a plugin may print
    options = Options.of({k: v for k, v in given["options"].items() if v is not None})
    told = _Told(stream)
    told._say(bf16=Runtime.start(RuntimeConfig()).bf16)
    try:
        run_evaluation(given["paths"], given["metrics"], options, registry(), told)
    except NoiseregError as error:
        told._say(failed=str(error))
        return REFUSED
    return 0


if __name__ == "__main__":
    end_with_parent()
    sys.exit(_work(Path(sys.argv[1])))
