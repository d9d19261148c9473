"""What a sweep's cells are forked from: each is in all that it can see a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from noisereg.api import Job
from noisereg.launchers.forks import Forked, Forks
from noisereg.ownership import lock_of_children
from noisereg.plugins import trust

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="orphans are adopted on Linux")

PROBE = """
import json, os, pathlib, random, resource, signal, sys, threading
import numpy as np
import torch
from noisereg.api import hookimpl

@hookimpl
def noisereg_loggers():
    return iter(())

def target(number):
    try:
        return os.readlink(f"/proc/self/fd/{number}")
    except OSError:  # the folder that was listed
        return None

opened = {n: target(n) for n in os.listdir("/proc/self/fd")}
own = ("COLUMNS", "LINES")
seen = {
    "arguments": sys.argv,
    "main": sys.modules["__main__"].__spec__.name,
    "folder": os.getcwd(),
    "path": sys.path,
    "environment": {k: v for k, v in os.environ.items() if k not in own},
    "open": sorted(path for path in opened.values() if path),
    "streams": [opened[n] for n in "012"],
    "parent": os.getppid(),
    "its own session": os.getsid(0) == os.getpid(),
    "signals": [str(signal.getsignal(s)) for s in sorted(signal.valid_signals())],
    "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    "threads": [torch.get_num_threads(), threading.active_count()],
    "GPU": torch.cuda.is_initialized(),
    "random numbers": [random.random(), np.random.rand(), torch.rand(1).item()],
    "limits": resource.getrlimit(resource.RLIMIT_NOFILE),
}
pathlib.Path("seen.json").write_text(json.dumps(seen))
print("said")
"""


def job(folder: Path, *arguments: str, inherited: tuple[int, ...] = ()) -> Job:
    command = (*trust.interpreter(), "-m", "noisereg", *arguments)
    return Job("a cell", command, {"TOLD": "this"}, folder, folder / "log", inherited)


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    made = Forks({"OMP_NUM_THREADS": "2"})
    yield made
    made.close()


def ended(process: Forked | subprocess.Popen[bytes]) -> int:
    """Its exit code."""
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    code = process.poll()
    assert code is not None
    return code


def test_a_process_that_is_forked_sees_what_one_that_is_started_sees(
    forks: Forks, tmp_path: Path
) -> None:
    """Arguments, folder, variables, open files, threads, handlers of signals and the rest;
    and its random numbers are nobody else's.
    """
    (tmp_path / "probe.py").write_text(PROBE)
    lock = lock_of_children(tmp_path / ".lock")
    assert lock is not None
    asked = job(
        *(tmp_path, "train", "--dry-run", "--plugin", str(tmp_path / "probe.py")),
        inherited=(lock.fileno(),),
    )
    seen: list[dict[str, Any]] = []
    for begin in (forks.begin, forks.begin, lambda job: job.begin(forks.environment)):
        process = begin(asked)
        assert ended(process) == 0, asked.log.read_text()
        seen.append(json.loads((tmp_path / "seen.json").read_text()))
    lock.close()
    assert isinstance(process, subprocess.Popen)
    drawn = [each.pop("random numbers") for each in seen]
    assert seen[0] == seen[1] == seen[2]
    assert all(len(set(numbers)) == 3 for numbers in zip(*drawn, strict=True))
    assert seen[0]["threads"] == [2, 1]
    assert seen[0]["parent"] == os.getpid()
    assert seen[0]["open"].count(str(tmp_path / ".lock")) == 1
    assert not seen[0]["GPU"]
    assert asked.log.read_text().count("said\n") == 3


def test_each_ends_by_itself(forks: Forks, tmp_path: Path) -> None:
    """A code of its own, a mistake's, and those of signals; the log keeps what was said."""
    long = ("train", "--steps", "100000", "--set", "runtime.device=cpu", "--out")
    (tmp_path / "log").write_text("from before\n")
    fine, mistaken = (forks.begin(job(tmp_path, flag)) for flag in ("--version", "--versoin"))
    killed, stopped = (forks.begin(job(tmp_path, *long, str(tmp_path / n))) for n in "ab")
    assert all(isinstance(each, Forked) for each in (fine, mistaken, killed, stopped))
    assert (ended(fine), ended(mistaken)) == (0, 2)
    os.kill(killed.pid, signal.SIGKILL)
    assert ended(killed) == -signal.SIGKILL
    while not (tmp_path / "b" / "metrics.jsonl").exists():
        assert stopped.poll() is None, (tmp_path / "log").read_text()
    stopped.terminate()
    assert ended(stopped) == 128 + signal.SIGTERM
    stopped.terminate()  # nobody is told by now
    status = json.loads((tmp_path / "b" / "status.json").read_text())
    assert status["status"] == "stopped"
    said = (tmp_path / "log").read_text()
    assert said.startswith("from before\n")
    assert "no such option: --versoin" in said


def test_what_cannot_be_forked_is_started(tmp_path: Path) -> None:
    """Another command than noisereg's; and after the process that forks was killed, any."""
    forks = Forks({})
    other = Job("other", (sys.executable, "-c", "exit(3)"), {}, tmp_path, tmp_path / "log")
    assert ended(forks.begin(other)) == 3
    assert forks._process is None  # nor was it needed
    assert isinstance(forks.begin(job(tmp_path, "--version")), Forked)
    assert forks._process is not None
    forks._process.kill()
    started = forks.begin(job(tmp_path, "--version"))
    assert isinstance(started, subprocess.Popen)
    assert ended(started) == 0
    forks.close()


def test_it_holds_no_lock_and_ends_with_the_sweep(tmp_path: Path) -> None:
    """A sweep that is killed leaves its cell, which keeps the lock, and nothing else."""
    code = f"""
import os, sys, time
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_forks import Forks, job, lock_of_children
folder = Path({str(tmp_path)!r})
forks = Forks({{}})
with lock_of_children(folder / ".lock") as lock:
    long = ("train", "--steps", "100000", "--set", "runtime.device=cpu", "--out", "run")
    cell = forks.begin(job(folder, *long, inherited=(lock.fileno(),)))
print(cell.pid, forks._process.pid, flush=True)
time.sleep(600)
"""
    sweep = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert sweep.stdout is not None
    cell, server = map(int, sweep.stdout.readline().split())
    sweep.kill()
    sweep.communicate()
    while Path(f"/proc/{server}").exists():
        pass
    assert lock_of_children(tmp_path / ".lock") is None
    os.kill(cell, signal.SIGKILL)
    while (lock := lock_of_children(tmp_path / ".lock")) is None:
        pass
    lock.close()
