"""Several processes at once, and how long it will take."""

import io
import shutil
import sys
from types import SimpleNamespace

import pytest

from noisereg.api import Context
from noisereg.errors import NoiseregError
from noisereg.evaluation import jobs, measure, samples
from noisereg.evaluation.evaluate import run_evaluation
from noisereg.evaluation.options import Options
from noisereg.plugins.registry import registry
from noisereg.python import evaluate
from noisereg.runs.reporter import Reporter


class InThisProcess:
    """What subprocess.Popen would start, done here: it would import torch once more each."""

    started: list[tuple[list[str], str]] = []

    def __init__(self, command, *, env, **streams):
        self.started.append((command, env["OMP_NUM_THREADS"]))
        self.stdin, self.returncode = self, None

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        pass

    def write(self, text):
        self.stdout = io.StringIO()
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(sys, "stdin", io.StringIO(text))
            patched.setattr(sys, "stdout", self.stdout)
            self.returncode = jobs._work()
        self.stdout = io.StringIO(self.stdout.getvalue())

    def wait(self):
        return self.returncode

    poll = wait


def test_two_processes_draw_and_measure_what_one_would(sweep, tmp_path, monkeypatch):
    runs = []
    for k, cell in enumerate(sweep.cells[:3]):
        runs.append(tmp_path / f"run{k}")
        shutil.copytree(sweep.path_of(cell), runs[-1], ignore=shutil.ignore_patterns("eval"))
    alone = evaluate(runs, metrics=["prdc"], num=30)
    for path in runs:
        shutil.rmtree(path / "eval")
    monkeypatch.setattr(jobs.subprocess, "Popen", InThisProcess)
    monkeypatch.setattr(jobs, "visible_gpus", list)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    seen = []

    class Reading(Reporter):
        def begin(self, what, total, done=0):
            seen.append((what, total))

    options = Options(num=30, jobs=2)
    jobs.share_out(runs, ["prdc"], options, Reading())
    assert [command[-2:] for command, _ in InThisProcess.started] == [
        ["-m", "noisereg.evaluation.jobs"]
    ] * 2
    assert ("sample", 3 * 30 * 4) in seen  # evaluations of the network, of both together

    def none(*arguments):
        raise AssertionError("there is something left to draw or to measure")

    monkeypatch.setattr(samples, "draw", none)
    monkeypatch.setattr(type(registry().build("metric", "prdc", {}, Context())), "compute", none)
    assert evaluate(runs, metrics=["prdc"], num=30) == alone


def test_what_a_process_cannot_do_is_done_here(sweep, monkeypatch):
    said = []

    class Reading(Reporter):
        def note(self, text):
            said.append(text)

    monkeypatch.setattr(jobs.trust, "interpreter", lambda: ["sh", "-c", "exit 3"])
    runs = [sweep.path_of(cell) for cell in sweep.cells[:2]]
    options = Options(num=20, jobs=2)
    (found,) = run_evaluation(runs, ["fd"], options, registry(), Reading())
    assert len(found.table.rows) == 2 or len(found.table.rows[0].measurements) == 2
    assert said == ["one of 2 jobs could not go on: exit code 3; its part is done here"]


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
