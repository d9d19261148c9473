"""Children that need not import torch: forked from a process that has.

    python -m noisereg.launchers.forks DESCRIPTOR MODULE…

Most of what a short cell costs is importing torch. The process above imports the modules, computes
nothing, has no thread of its own and no GPU (:class:`~noisereg.launchers.local.Local` does without
it where there is one), and then forks once a job, asked over the socket DESCRIPTOR; it holds
nobody's lock. What it forks is a child of the sweep as any other: it is orphaned at once, and the
sweep has asked the kernel for its orphans. It ends when the sweep does.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Mapping
from typing import Any

from noisereg.api import Job
from noisereg.plugins import trust

PROGRAM = "noisereg"
"""The module that is run."""
PR_SET_CHILD_SUBREAPER = 36
LENGTH = 8
"""Bytes of a number on the socket."""


class Forked:
    """A child of this process, as far as a launcher needs ``subprocess.Popen``."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def terminate(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGTERM)


class Forks:
    """Starts jobs by such a process, which is started for the first of them with ``environment``
    over this one's.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._usable = _adopt_orphans(True)

    def begin(self, job: Job) -> Forked | subprocess.Popen[bytes]:
        """:meth:`Job.begin` with :attr:`environment`. A job that is no command line of noisereg's,
        or that cannot be forked since that process is gone, is started.
        """
        beginning = (*trust.interpreter(), "-m", PROGRAM)
        if self._usable and job.command[: len(beginning)] == beginning:
            with contextlib.suppress(OSError):
                if pid := self._fork(job, job.command[len(beginning) :]):
                    return Forked(pid)
            self.close()
        return job.begin(self.environment)

    def _fork(self, job: Job, arguments: tuple[str, ...]) -> int:
        """The new process; 0 where the process that forks has ended."""
        if self._channel is None:
            self._channel = self._start(job)
        asked = {
            "arguments": arguments,
            "environment": {**os.environ, **job.environment, **self.environment},
            "folder": str(job.folder),
        }
        data = json.dumps(asked).encode()
        with job.log.open("ab") as log, open(os.devnull, "rb") as null:
            streams = (null.fileno(), log.fileno(), log.fileno())
            length = len(data).to_bytes(LENGTH, "big")
            socket.send_fds(self._channel, [length], [*streams, *job.inherited])
            self._channel.sendall(data)
            return int.from_bytes(self._channel.recv(LENGTH, socket.MSG_WAITALL), "big")

    def _start(self, job: Job) -> socket.socket:
        ours, its = socket.socketpair()
        # What the sweep has imported to resolve its cells, they will need.
        modules = [name for name in list(sys.modules) if name.startswith("noisereg.")]
        with its:
            self._process = subprocess.Popen(
                [*trust.interpreter(), "-m", __name__, str(its.fileno()), *modules],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=job.folder,
                env={**os.environ, **self.environment},
                pass_fds=(its.fileno(),),
                start_new_session=True,
            )
        return ours

    def close(self) -> None:
        """End the process that forks; what it has forked goes on."""
        self._usable = False
        if self._channel is not None:
            self._channel.close()
        if self._process is not None:
            self._process.wait()
        _adopt_orphans(False)


def _adopt_orphans(wanted: bool) -> bool:
    """Whether this process is given those of its descendants whose parents have ended (Linux)."""
    try:
        return ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, int(wanted), 0, 0, 0) == 0
    except (OSError, AttributeError):
        return False


def serve(channel: socket.socket) -> dict[str, Any] | None:
    """Fork for every job that is asked for, until nobody can ask any more: None. In each new
    process: the job.
    """
    while True:
        length, descriptors, _, _ = socket.recv_fds(channel, LENGTH, 256)
        if not length:
            return None
        job = json.loads(channel.recv(int.from_bytes(length, "big"), socket.MSG_WAITALL))
        if not (pid := _fork_orphan()):
            channel.close()
            for number, descriptor in enumerate(descriptors[:3]):
                os.dup2(descriptor, number)
                os.close(descriptor)
            return job
        for descriptor in descriptors:  # the locks are the new process's
            os.close(descriptor)
        channel.sendall(pid.to_bytes(LENGTH, "big"))


def _fork_orphan() -> int:
    """Fork a process whose parent has ended by the time that this returns its number; 0 in it."""
    reading, writing = os.pipe()
    if between := os.fork():
        os.close(writing)
        with open(reading, "rb") as pipe:
            pid = int.from_bytes(pipe.read(), "big")
        os.waitpid(between, 0)
        if not pid:
            raise OSError("no process could be forked")
        return pid
    os.close(reading)
    try:
        if pid := os.fork():
            os.write(writing, pid.to_bytes(LENGTH, "big"))
            os._exit(0)
    except OSError:
        os._exit(1)
    os.close(writing)
    return 0


def main(descriptor: str, *modules: str) -> None:
    channel = socket.socket(fileno=int(descriptor))
    for name in modules:
        with contextlib.suppress(Exception):  # whoever needs it will say what is wrong with it
            importlib.import_module(name)
    # OpenBLAS has threads, which it ends before a fork.
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    gc.freeze()  # or the collector touches, and so copies, all that a fork shares
    job = serve(channel)
    if job is None:
        return
    os.setsid()
    os.chdir(job["folder"])
    os.environ.clear()
    os.environ.update(job["environment"])
    # A new process has generators of its own, unlike a fork. (Python sees to its own.)
    if random := sys.modules.get("numpy.random"):
        random.seed()
    if torch := sys.modules.get("torch"):
        torch.default_generator.seed()
    sys.argv[1:] = job["arguments"]
    runpy.run_module(PROGRAM, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
