"""Every check of a launcher catches a wrong one."""

import os
import signal
import subprocess

import pytest
from kit_tools import assert_caught, assert_complete, failures, outcome

from noisereg.api import Launcher, NoiseregError, Started
from noisereg.launchers.local import Local


class Child(Started):
    def __init__(self, process):
        self.poll, self.stop = process.poll, process.terminate


class Right(Launcher):
    here = True
    poll_every = 0.02

    def start(self, jobs):
        return [Child(job.begin()) for job in jobs]


class Unheard(Right):
    """The variables are those of the sweep."""

    def start(self, jobs):
        environment = {**os.environ, "TOLD": "nothing"}
        return [Child(self.begin(job, environment)) for job in jobs]

    def begin(self, job, environment):
        with job.log.open("ab") as log:
            return subprocess.Popen(
                job.command, env=environment, cwd=job.folder, stdout=log, stderr=log
            )


class Overwrites(Right):
    def start(self, jobs):
        for job in jobs:
            job.log.write_text("")
        return super().start(jobs)


class Shifted(Right):
    def start(self, jobs):
        return [*(s := super().start(jobs))[1:], s[0]]


class LosesOne(Right):
    def start(self, jobs):
        return super().start(jobs)[:-1]


class Hopeful(Right):
    """Every job that has ended has finished."""

    def start(self, jobs):
        started = super().start(jobs)
        for each in started:
            each.poll = lambda poll=each.poll: None if poll() is None else 0
        return started


class Unreached(Right):
    """What was asked to stop counts as stopped, and is not told."""

    def start(self, jobs):
        started = super().start(jobs)
        for each in started:
            each.stop = lambda each=each: setattr(each, "poll", lambda: 143)
        return started


class Kills(Right):
    def start(self, jobs):
        processes = [job.begin() for job in jobs]
        started = [Child(process) for process in processes]
        for each, process in zip(started, processes, strict=True):
            each.stop = process.kill
        return started


class Moves(Right):
    def start(self, jobs):
        for job in jobs:
            os.chdir(job.folder)
        return super().start(jobs)


class Deaf(Right):
    def open(self, folder, jobs):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


class NotThere(Right):
    def open(self, folder, jobs):
        raise NoiseregError("no engine listens at 127.0.0.1:1; start one")


WRONG = {
    "runs_the_command_as_it_is_given": [
        (Unheard, "the log says"),
        (Overwrites, "overwrites the log"),
        (LosesOne, "gives 2 for 3 jobs"),
    ],
    "tells_which_job_failed": [(Hopeful, "codes [0, 0, 0]"), (Shifted, "codes")],
    "stopping_lets_a_command_save": [
        (Unreached, "does not reach it"),
        (Kills, "stop kills it"),
    ],
    "leaves_this_process_alone": [(Moves, "working directory"), (Deaf, "signal handlers")],
}


@pytest.fixture(autouse=True)
def _restored(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("noisereg.testing.kinds.launcher.SAVING", 1.0)
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


def test_right_ones_pass_every_check():
    assert failures("launcher", Local) == {}
    assert outcome("launcher", "runs_the_command_as_it_is_given", Right).status == "passed"


def test_an_engine_that_is_not_there_is_no_failure():
    found = outcome("launcher", "tells_which_job_failed", NotThere)
    assert (found.status, found.message) == (
        "not applicable",
        "no engine listens at 127.0.0.1:1; start one",
    )


@pytest.mark.parametrize(
    ("name", "case"), [(name, k) for name, cases in WRONG.items() for k in range(len(cases))]
)
def test_the_check_catches_a_wrong_one(name, case):
    assert_caught("launcher", name, *WRONG[name][case])


def test_every_check_has_a_wrong_one():
    assert_complete("launcher", WRONG)
