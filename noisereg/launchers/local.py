"""Cells as processes of this machine."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from noisereg.api import Context, Job, Launcher, Params, Started
from noisereg.launchers.forks import Forked, Forks
from noisereg.ranks import cores


class _Child(Started):
    def __init__(self, process: subprocess.Popen[bytes] | Forked, slot: int) -> None:
        self.process, self.slot = process, slot

    def poll(self) -> int | None:
        return self.process.poll()

    def stop(self) -> None:
        self.process.terminate()


class Local(Launcher):
    """At most ``--jobs`` processes at once. Slot k of them sees the (k mod n)-th of n visible GPUs
    alone; without a GPU they share the processors, and torch is imported once for all of them.
    """

    here = True
    jobs = 1
    poll_every = 0.1

    def __init__(self, params: Params | None = None, ctx: Context | None = None) -> None:
        self.slots, self.gpus = 1, list[str]()
        self._children: list[_Child] = []
        self._forks: Forks | None = None

    def open(self, folder: Path, jobs: int | None) -> None:
        self.slots, self.gpus = jobs or self.jobs, visible_gpus()
        if not self.gpus:
            self._forks = Forks(self._threads())

    def close(self) -> None:
        if self._forks is not None:
            self._forks.close()

    def start(self, jobs: Sequence[Job]) -> list[_Child]:
        started: list[_Child] = []
        try:
            for job in jobs:
                started.append(self._start(job))
        except BaseException:  # nobody else knows of those that run
            for child in started:
                child.stop()
            for child in started:
                while child.poll() is None:
                    time.sleep(self.poll_every)
            raise
        return started

    def _start(self, job: Job) -> _Child:
        self._children = [child for child in self._children if child.poll() is None]
        taken = {child.slot for child in self._children}
        slot = next(k for k in range(len(taken) + 1) if k not in taken)
        process: subprocess.Popen[bytes] | Forked
        if self.gpus:
            process = job.begin({"CUDA_VISIBLE_DEVICES": self.gpus[slot % len(self.gpus)]})
        elif self._forks is not None:
            process = self._forks.begin(job)
        else:
            process = job.begin(self._threads())
        child = _Child(process, slot)
        self._children.append(child)
        return child

    def _threads(self) -> dict[str, str]:
        """The variables of a job without a GPU."""
        if self.slots == 1 or "OMP_NUM_THREADS" in os.environ:
            return {}
        return {"OMP_NUM_THREADS": str(max(1, cores() // self.slots))}


def visible_gpus() -> list[str]:
    """The GPUs that CUDA would number, as CUDA_VISIBLE_DEVICES names them: CUDA takes the names up
    to the first that is none, as -1 is.
    """
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None and not named.strip():
        return []
    import torch

    count = torch.cuda.device_count()
    if named is None:
        return [str(index) for index in range(count)]
    return [name.strip() for name in named.split(",")][:count]
