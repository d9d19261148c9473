"""The cells that are left are one Slurm array, a job each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError, UncompletedJobError

from noisereg.api import Context, Job, Launcher, NoiseregError, Started
from noisereg_submitit import SubmititParams

LOST = -1


class Train(submitit.helpers.Checkpointable):
    """What a job runs. Before the time limit Slurm sends SIGUSR2 to all of the job's processes:
    the cell saves, and submitit requeues the job, which goes on with it."""

    def __call__(self, job: Job) -> int:
        return job.run()


class SubmititJob(Started):
    """A job, or the one that replaces it where it was lost."""

    def __init__(self, launcher: SubmititLauncher, job: Job, submitted: Any) -> None:
        self.launcher, self.job, self.submitted = launcher, job, submitted
        self.tries = launcher.given.retries
        self._code: int | None = None
        self._stopped = False

    def poll(self) -> int | None:
        if self._code is None and self.submitted.done():
            try:
                self._code = int(self.submitted.result())
            except FailedJobError as error:
                self.reason = f"its job {self.submitted.job_id} failed: {_line(error)}"
                self._code = LOST
            except (UncompletedJobError, OSError) as error:
                if self.tries and not self._stopped:
                    self.tries -= 1
                    (self.submitted,) = self.launcher.submit([self.job])
                else:
                    self.reason = f"its job {self.submitted.job_id} was lost: {_line(error)}"
                    self._code = LOST
        return self._code

    def stop(self) -> None:
        self._stopped = True
        self.submitted.cancel(check=False)


class SubmititLauncher(Launcher):
    """Slurm queues the jobs; they outlive the sweep that submitted them. The same sweep command
    then waits for those that train, and submits the others again; of two jobs for one cell the
    second waits for the first.
    """

    poll_every = 2.0

    def __init__(self, params: SubmititParams, ctx: Context) -> None:
        self.given = params
        self.folder, self.limit = params.folder, None
        if params.cluster != "slurm":
            self.jobs, self.poll_every = 1, 0.1  # no queue: each starts at once

    def open(self, folder: Path, jobs: int | None) -> None:
        if self.given.cluster == "slurm" and not submitit.SlurmExecutor.affinity() > 0:
            raise NoiseregError(
                "`launcher=submitit`: this machine has no Slurm (no srun); give it on a login "
                "node, or cluster=local for processes of this machine"
            )
        self.folder = (self.given.folder or folder / "submitit").absolute()
        self.limit = jobs

    def start(self, jobs: Sequence[Job]) -> list[SubmititJob]:
        submitted = self.submit(jobs)
        return [SubmititJob(self, job, s) for job, s in zip(jobs, submitted, strict=True)]

    def submit(self, jobs: Sequence[Job]) -> list[Any]:
        """As one array where there are several."""
        if not jobs:
            return []
        given = self.given
        executor = submitit.AutoExecutor(self.folder, cluster=given.cluster)
        executor.update_parameters(
            name="noisereg", timeout_min=given.minutes, gpus_per_node=given.gpus, tasks_per_node=1
        )
        if given.cluster == "slurm":
            executor.update_parameters(
                cpus_per_task=given.cpus,
                **({"mem_gb": given.memory} if given.memory else {}),
                **({"slurm_partition": given.partition} if given.partition else {}),
                **({"slurm_array_parallelism": self.limit} if self.limit else {}),
                slurm_additional_parameters=dict(given.slurm),
            )
        try:
            if len(jobs) == 1:
                return [executor.submit(Train(), jobs[0])]
            return list(executor.map_array(Train(), jobs))
        except (FailedSubmissionError, OSError) as error:
            raise NoiseregError(f"`launcher=submitit`: {_line(error)}") from None


def _line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))
