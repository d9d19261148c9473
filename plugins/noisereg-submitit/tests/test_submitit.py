"""The conformance kit on submitit's local executor, and what becomes of jobs that are killed;
skipped without submitit.
"""

import sys
import time

import pytest

submitit = pytest.importorskip("submitit")

from noisereg_submitit.launcher import LOST  # noqa: E402

from noisereg.api import Job, NoiseregError  # noqa: E402
from noisereg.testing import Subject, conformance  # noqa: E402

test_submitit = conformance("launcher", "noisereg-submitit/submitit:cluster=local")

DIES_ONCE = """
import os, pathlib, signal, sys
first = pathlib.Path(sys.argv[1])
if not first.exists():
    first.touch()
    os.kill(os.getppid(), signal.SIGKILL)
print("the second time")
"""


def launch(folder, spec, code, *arguments):
    launcher = Subject.find("launcher", f"noisereg-submitit/submitit:{spec}").build()
    launcher.open(folder, 1)
    job = Job("it", (sys.executable, "-c", code, *map(str, arguments)), {}, folder, folder / "log")
    (started,) = launcher.start([job])
    deadline = time.monotonic() + 60
    while started.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return started


def test_a_job_that_is_killed_is_submitted_again(tmp_path):
    started = launch(tmp_path, "cluster=local", DIES_ONCE, tmp_path / "first")
    assert started.poll() == 0
    assert "the second time" in (tmp_path / "log").read_text()


def test_a_job_that_is_killed_each_time_is_lost_with_a_reason(tmp_path):
    code = "import os, signal; os.kill(os.getppid(), signal.SIGKILL)"
    started = launch(tmp_path, "cluster=local,retries=1", code)
    assert started.poll() == LOST
    assert "was lost" in started.reason


@pytest.mark.skipif(bool(submitit.SlurmExecutor.affinity() > 0), reason="Slurm is here")
def test_without_slurm_it_is_a_line(tmp_path):
    launcher = Subject.find("launcher", "noisereg-submitit/submitit").build()
    with pytest.raises(NoiseregError, match="no Slurm"):
        launcher.open(tmp_path, None)
    assert list(tmp_path.iterdir()) == []
