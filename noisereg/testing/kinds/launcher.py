"""What a launcher must do: with commands that take no time in place of training."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from noisereg.api import Job, Launcher, Started
from noisereg.errors import NoiseregError
from noisereg.testing.kinds.common import EXACT
from noisereg.testing.kit import NotApplicable, Subject, check, expect

PATIENCE = 60.0
"""Seconds for commands that take none: engines have queues."""
SAVING = 5.0
"""Seconds for a command that saves in 0.3."""
PYTHON = (sys.executable, "-I", "-S", "-c")
SAYS = """
import os, sys
print(os.environ["TOLD"], os.getcwd(), flush=True)
print("to stderr", file=sys.stderr)
"""
SAVES = """
import pathlib, signal, sys, time
def save(*_):
    time.sleep(0.3)
    pathlib.Path(sys.argv[1]).write_text("saved")
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
pathlib.Path(sys.argv[2]).write_text("ready")
time.sleep(60)
"""


@contextmanager
def opened(subject: Subject, jobs: int | None = 4) -> Iterator[tuple[Launcher, Path]]:
    """The launcher over an empty folder.

    Raises:
        NotApplicable: if its engine is not installed or cannot be reached.
    """
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made).resolve()
        try:
            launcher: Launcher = subject.build()
            launcher.open(folder, jobs)
        except NoiseregError as error:
            raise NotApplicable(str(error)) from None
        try:
            yield launcher, folder
        finally:
            launcher.close()


def here() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return "a folder that is gone"


def job(folder: Path, number: int, code: str, *arguments: str) -> Job:
    return Job(
        f"cell-{number}",
        (*PYTHON, code, *arguments),
        {"TOLD": f"number {number}"},
        folder,
        folder / f"{number}.log",
    )


def codes(launcher: Launcher, started: Sequence[Started]) -> list[int]:
    """The exit codes, once all have ended."""
    wait(launcher, lambda: all(each.poll() is not None for each in started), "poll")
    return [code for each in started if (code := each.poll()) is not None]


def wait(launcher: Launcher, condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        expect(time.monotonic() < deadline, f"{what} waits in vain for {PATIENCE:.0f} s")
        time.sleep(min(launcher.poll_every, 0.05))


@check("launcher", EXACT)
def runs_the_command_as_it_is_given(subject: Subject) -> None:
    """Every job runs once, in its folder, with its variables, and what it says on both streams
    comes at the end of its log; there is one Started a job, in their order, and a code of 0."""
    with opened(subject) as (launcher, folder):
        jobs = [job(folder, k, SAYS) for k in range(3)]
        for each in jobs:
            each.log.write_text("from before\n")
        started = list(launcher.start(jobs))
        expect(len(started) == 3, f"start gives {len(started)} for 3 jobs")
        ended = codes(launcher, started)
        for k, each in enumerate(jobs):
            said = each.log.read_text().splitlines()
            expect(said[:1] == ["from before"], "it overwrites the log of an earlier attempt")
            found, wanted = sorted(said[1:]), sorted([f"number {k} {folder}", "to stderr"])
            expect(found == wanted, f"the log says {found}; expected {wanted}")
        expect(ended == [0, 0, 0], f"poll gives {ended} for commands that exit with 0")


@check("launcher", EXACT)
def tells_which_job_failed(subject: Subject) -> None:
    """A command that exits with another code than 0 gives one, and the others do not; poll says
    the same when it is asked again."""
    with opened(subject) as (launcher, folder):
        exits = ["", "raise SystemExit(3)", ""]
        started = list(launcher.start([job(folder, k, code) for k, code in enumerate(exits)]))
        ended = codes(launcher, started)
        failed = [k for k, code in enumerate(ended) if code != 0]
        expect(failed == [1], f"codes {ended} where the second alone exits with 3")
        expect(codes(launcher, started) == ended, "asked again, poll gives other codes")


@check("launcher", EXACT)
def stopping_lets_a_command_save(subject: Subject) -> None:
    """stop reaches a command that runs as SIGTERM, and leaves it the time to save; poll gives a
    code then, which is not 0."""
    with opened(subject) as (launcher, folder):
        saved, ready = folder / "saved", folder / "ready"
        (started,) = launcher.start([job(folder, 0, SAVES, str(saved), str(ready))])
        wait(launcher, ready.exists, "the command's beginning")
        expect(started.poll() is None, f"poll gives {started.poll()} while the command runs")
        started.stop()
        (code,) = codes(launcher, [started])
        deadline = time.monotonic() + SAVING
        while not saved.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        expect(saved.exists(), "the command does not save: stop kills it, or does not reach it")
        expect(code != 0, "a command that was stopped counts as one that has finished")


@check("launcher", EXACT)
def leaves_this_process_alone(subject: Subject) -> None:
    """Opened, used and closed, and closed without having started anything, it leaves the signal
    handlers, the variables and the working directory as they were."""

    def state() -> dict[str, object]:
        handlers = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)}
        return {
            "the signal handlers": handlers,
            "the variables": dict(os.environ),
            "the working directory": here(),
        }

    before = state()
    for jobs in (["pass"], []):
        with opened(subject) as (launcher, folder):
            started = launcher.start([job(folder, k, code) for k, code in enumerate(jobs)])
            codes(launcher, list(started))
    changed = [name for name, value in state().items() if value != before[name]]
    expect(not changed, f"it changes {', '.join(changed)}")
