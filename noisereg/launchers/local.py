"""Cells as processes of this machine."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from noisereg.api import Context, Job, Launcher, Params, Started


class _Child(Started):
    def __init__(self, process: subprocess.Popen[bytes], slot: int) -> None:
        self.process, self.slot = process, slot

    def poll(self) -> int | None:
        return self.process.poll()

    def stop(self) -> None:
        self.process.terminate()


class Local(Launcher):
    """At most ``--jobs`` processes at once. Slot k of them sees the (k mod n)-th of n visible GPUs
    alone; without a GPU they share the processors.
    """

    here = True
    jobs = 1
    poll_every = 0.1

    def __init__(self, params: Params | None = None, ctx: Context | None = None) -> None:
        self.slots, self.gpus = 1, list[str]()
        self._children: list[_Child] = []

    def open(self, folder: Path, jobs: int | None) -> None:
        self.slots, self.gpus = jobs or self.jobs, visible_gpus()

    def start(self, jobs: Sequence[Job]) -> list[_Child]:
        return [self._start(job) for job in jobs]

    def _start(self, job: Job) -> _Child:
        self._children = [child for child in self._children if child.poll() is None]
        taken = {child.slot for child in self._children}
        slot = next(k for k in range(len(taken) + 1) if k not in taken)
        environment = {}
        if self.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self.gpus[slot % len(self.gpus)]
        elif self.slots > 1 and "OMP_NUM_THREADS" not in os.environ:
            environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // self.slots))
        child = _Child(job.begin(environment), slot)
        self._children.append(child)
        return child


def visible_gpus() -> list[str]:
    """The GPUs that CUDA would number, as CUDA_VISIBLE_DEVICES names them."""
    if (named := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in named.split(",") if name.strip()]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]
