"""Several processes at once, and how long it will take."""

import dataclasses
import io
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from noisereg.api import Context, Started
from noisereg.errors import NoiseregError
from noisereg.evaluation import evaluate as evaluation
from noisereg.evaluation import jobs, measure, samples
from noisereg.evaluation.evaluate import run_evaluation
from noisereg.evaluation.options import Options
from noisereg.launchers.local import Local
from noisereg.plugins import trust
from noisereg.plugins.registry import registry
from noisereg.python import evaluate
from noisereg.runs.reporter import Reporter
from noisereg.runs.runtime import Runtime


class InThisProcess(Local):
    """Does the work of the processes as they are started: they would import torch once more each."""

    def open(self, folder, jobs):
        self.folder, self.closed = folder, False

    def start(self, given):
        self.given = given
        return [self.done(job) for job in given]

    def done(self, job):
        *python, dash_m, module, file = job.command
        assert (python, dash_m, module) == (trust.interpreter(), "-m", "noisereg.evaluation.jobs")
        said = io.StringIO()
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(sys, "stdout", said)
            code = jobs._work(Path(file))
        job.log.write_text(said.getvalue())
        return Ended(code)

    def close(self):
        self.closed = True


class Elsewhere(InThisProcess):
    here = False
    jobs = None
    poll_every = 0.01


def elsewhere_is(launcher, monkeypatch):
    """What ``launcher="elsewhere"`` builds."""
    find = evaluation._launcher

    def found(options, *given):
        return launcher() if options.launcher == "elsewhere" else find(options, *given)

    monkeypatch.setattr(evaluation, "_launcher", found)


class Ended(Started):
    def __init__(self, code):
        self.code = code

    def poll(self):
        return self.code


class Reading(Reporter):
    def __init__(self):
        self.said, self.seen = [], []

    def note(self, text):
        self.said.append(text)

    def begin(self, what, total, done=0):
        self.seen.append((what, total))


@pytest.fixture
def runs(sweep, tmp_path):
    """Three, that nothing has been computed of."""
    copies = []
    for k, cell in enumerate(sweep.cells[:3]):
        copies.append(tmp_path / f"run{k}")
        shutil.copytree(sweep.path_of(cell), copies[-1], ignore=shutil.ignore_patterns("eval"))
    return copies


@pytest.fixture
def nothing_is_left(monkeypatch):
    def none(*arguments):
        raise AssertionError("there is something left to draw or to measure")

    def forbid():
        monkeypatch.setattr(samples, "draw", none)
        prdc = type(registry().build("metric", "prdc", {}, Context()))
        monkeypatch.setattr(prdc, "compute", none)

    return forbid


@pytest.mark.parametrize(("launcher", "parts"), [(InThisProcess(), 2), (Elsewhere(), 3)])
def test_two_processes_draw_and_measure_what_one_would(
    launcher, parts, runs, tmp_path, nothing_is_left
):
    """Two were asked for here; where there is a queue each run is a part of its own."""
    alone = evaluate(runs, metrics=["prdc"], num=30)
    for path in runs:
        shutil.rmtree(path / "eval")
    told, folder = Reading(), runs[0] / "eval"
    options = Options(num=30, jobs=2 if launcher.here else None)
    found = jobs.share_out(runs, ["prdc"], options, launcher, folder, told)
    assert found == dict.fromkeys(runs, False)
    assert [job.name for job in launcher.given] == [f"eval-{k}" for k in range(parts)]
    assert ("sample", 3 * 30 * 4) in told.seen  # evaluations of the network, of all together
    assert launcher.closed
    assert not launcher.folder.exists()
    assert (launcher.folder.parent == folder) is not launcher.here
    nothing_is_left()
    assert evaluate(runs, metrics=["prdc"], num=30) == alone


def test_a_table_is_of_the_number_format_of_the_machines_that_measured_it(
    runs, monkeypatch, nothing_is_left
):
    """Those of the launcher have GPUs with bfloat16, and this one has none."""
    start = Runtime.start

    class OnGPUs(Elsewhere):
        def done(self, job):
            with pytest.MonkeyPatch.context() as there:
                there.setattr(
                    Runtime, "start", lambda config: dataclasses.replace(start(config), bf16=True)
                )
                return super().done(job)

    elsewhere_is(OnGPUs, monkeypatch)
    share_out = jobs.share_out

    def and_then_nothing(*given):
        found = share_out(*given)
        if found:
            nothing_is_left()
        return found

    monkeypatch.setattr(evaluation, "share_out", and_then_nothing)
    options = Options(num=30, launcher="elsewhere")
    (found,) = run_evaluation(runs, ["prdc"], options, registry(), Reporter())
    assert [each["bf16"] for each in found.table.provenance["samples"]] == [True] * 3


def test_work_that_other_machines_lose_is_not_begun_on_this_one(runs, monkeypatch):
    class Losing(Elsewhere):
        def done(self, job):
            if job.name == "eval-0":
                return super().done(job)
            job.log.write_text("Traceback:\n  here\nMemoryError: no room\n\n")
            return Ended(-9)

    elsewhere_is(Losing, monkeypatch)
    options = Options(num=30, launcher="elsewhere")
    lost = "2 of 3 jobs of this evaluation were lost: MemoryError: no room; what"
    with pytest.raises(NoiseregError, match=lost):
        run_evaluation(runs, ["prdc"], options, registry(), Reporter())
    kept = [sorted(p.name.partition("-")[0] for p in run.glob("eval/*")) for run in runs]
    assert kept == [[".locks", "metrics", "samples"], [], []]


def test_when_it_is_interrupted_its_processes_are_stopped(runs):
    stopped = []

    class Endless(Ended):
        def poll(self):
            return 143 if stopped else None

        def stop(self):
            stopped.append(self)

    class Interrupted(Elsewhere):
        def done(self, job):
            return Endless(None)

    class Pressing(Reporter):
        def note(self, text):
            raise KeyboardInterrupt

    launcher = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        jobs.share_out(runs, ["prdc"], Options(num=30), launcher, runs[0] / "eval", Pressing())
    assert len(stopped) == 3
    assert launcher.closed
    assert not (runs[0] / "eval").exists()


def test_ranks_and_a_launcher_are_not_both_given():
    ranks = Runtime(torch.device("cpu"), world=2)
    with pytest.raises(NoiseregError, match="launcher=local and torchrun were given"):
        evaluation._launcher(Options(launcher="local"), registry(), ranks)
    assert evaluation._launcher(Options(), registry(), ranks) is None


def test_lines_are_read_when_they_are_whole(tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"from before\nbeg")
    tail = jobs._Tail(log)
    assert tail.lines() == ["from before"]
    assert tail.lines() == []
    with log.open("ab") as file:
        file.write(b"un\nmore \xff\n")
    assert tail.lines() == ["begun", "more \ufffd"]


def test_what_a_process_cannot_do_is_done_here(sweep, monkeypatch):
    told = Reading()
    monkeypatch.setattr(jobs.trust, "interpreter", lambda: ["sh", "-c", "exit 3"])
    runs = [sweep.path_of(cell) for cell in sweep.cells[:2]]
    options = Options(num=20, jobs=2)
    (found,) = run_evaluation(runs, ["fd"], options, registry(), told)
    assert len(found.table.rows) == 2 or len(found.table.rows[0].measurements) == 2
    assert told.said == ["one of 2 jobs could not go on: exit code 3; its part is done here"]


def test_no_jobs_at_all_are_refused():
    with pytest.raises(NoiseregError, match="jobs=0: expected at least 1"):
        evaluate(["nowhere"], jobs=0)


def test_the_time_left_is_told_within_a_factor_of_one_and_a_half(monkeypatch):
    """Once two runs are measured, by the formula of the progress bar, on a clock that the metrics
    turn: they take 10, 1 and 3 s, and the first run 40 s more for what is the same for all."""
    now = [0.0]
    monkeypatch.setattr(measure.time, "monotonic", lambda: now[0])

    def result(candidate, request, against, read):
        now[0] += request.seconds + (40 if candidate.first and request.seconds == 10 else 0)
        return {"numbers": {}, "better": {}, "notes": []}

    monkeypatch.setattr(measure, "_result", result)
    told = []

    class Bar(Reporter):
        def begin(self, what, total, done=0):
            self.total, self.start, self.began = total, done, now[0]

        def advance(self, done, metrics=None):
            if done > self.start:
                each = (now[0] - self.began) / (done - self.start)
                told.append((now[0], each * (self.total - done)))

    space = SimpleNamespace(forget_all_but=lambda x: None)
    asked = [SimpleNamespace(seconds=s, space=space) for s in (10, 1, 3)]
    work = [SimpleNamespace(first=k == 0, diverged="") for k in range(9)]
    against = SimpleNamespace(real=SimpleNamespace(x=None))
    measure.measure(work, asked, against, Bar())
    later = [(at, left) for at, left in told if at >= 54 + 14]
    assert len(later) >= 20
    for at, left in later[:-1]:
        assert now[0] - at == pytest.approx(left, rel=0.5)
