"""A cell is a Ray task with its resources; a task whose worker died is run again elsewhere."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from noisereg.api import Context, Job, Launcher, NoiseregError, Started
from noisereg_ray import RayParams

GIB = 1 << 30
LOST = -1
CANCELLED = 143
"""The exit code of a command that SIGTERM stopped."""
LEFT_TO_SAVE = {"RAY_kill_child_processes_on_worker_exit": "0"}
"""A worker that exits, as all do when the sweep is killed, would kill its cell by -9. The kernel
tells the cell by SIGTERM that its worker is gone, however it went."""


def train(job: Job) -> int:
    """What a worker runs. Being cancelled raises KeyboardInterrupt in it."""
    return job.run()


class RayJob(Started):
    """A job is the reference of its task."""

    def __init__(self, reference: Any) -> None:
        self.reference = reference
        self._code: int | None = None

    def poll(self) -> int | None:
        if self._code is None:
            ended, _ = ray.wait([self.reference], timeout=0)
            if ended:
                self._code = self._result()
        return self._code

    def _result(self) -> int:
        try:
            code: int = ray.get(self.reference)
            return code
        except ray.exceptions.TaskCancelledError:
            return CANCELLED
        except ray.exceptions.RayError as error:
            self.reason = f"Ray lost it: {str(error).splitlines()[0]}"
            return LOST

    def stop(self) -> None:
        ray.cancel(self.reference, force=False)


class RayLauncher(Launcher):
    """Ray queues the cells, and runs as many at once as it has resources for.

    A worker that dies takes its cell's process along: that saves, if it is given the time, and
    stops; the task is run again on another worker, where training goes on from the last
    checkpoint. A sweep that dies takes its tasks along in the same way.
    """

    def __init__(self, params: RayParams, ctx: Context) -> None:
        self.given = params
        self._opened = False

    def open(self, folder: Path, jobs: int | None) -> None:
        if ray.is_initialized():  # by a notebook, which knows better
            return
        given: dict[str, Any] = {"address": self.given.address}
        if self.given.address is None:
            given = {"address": "local", "include_dashboard": False}
            if self.given.workers is not None:
                given["num_cpus"] = self.given.workers
        try:
            with _handlers_kept():
                ray.init(**given, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:  # Ray raises plain ones, too
            said = " ".join(str(error).split())[:200]
            raise NoiseregError(
                f"`launcher=ray:address={self.given.address or 'none'}`: no Ray cluster: {said}; "
                "start one (ray start --head), or leave `address` out for one on this machine"
            ) from None
        self._opened = True

    def start(self, jobs: Sequence[Job]) -> list[RayJob]:
        given: dict[str, Any] = {"num_cpus": self.given.cpus, "num_gpus": self.given.gpus}
        if self.given.memory:
            given["memory"] = self.given.memory * GIB
        given |= {"max_retries": self.given.retries, "runtime_env": {"env_vars": LEFT_TO_SAVE}}
        task = ray.remote(**given)(train)
        return [RayJob(task.options(name=job.name).remote(job)) for job in jobs]

    def close(self) -> None:
        if self._opened:
            with _handlers_kept():
                ray.shutdown()
            self._opened = False


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Ray sets its own handler of SIGTERM, which would exit before the cells have saved."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
