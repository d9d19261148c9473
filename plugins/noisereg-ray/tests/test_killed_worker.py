"""A 12-cell sweep on a cluster of two workers, one of which is killed midway, gives the table of a
sweep on `local`. It takes minutes: NOISEREG_LONG=1 pytest plugins/noisereg-ray/tests.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("ray")
pytestmark = pytest.mark.skipif(not os.environ.get("NOISEREG_LONG"), reason="takes minutes")

GRID = [
    *("--noise", "white", "--noise", "blue-tv", "--reg", "none", "--reg", "isotropy"),
    *(
        "--seeds",
        "3",
        "--steps",
        "400",
        "--batch-size",
        "16",
        "--denoiser",
        "mlp:width=16,blocks=1",
    ),
    *(
        "--set",
        "sample.steps=2",
        "--set",
        "runtime.device=cpu",
        "--set",
        "train.checkpoint_every=50",
    ),
]
NOISEREG = [sys.executable, "-m", "noisereg"]


def trainers(out: Path) -> dict[int, int]:
    """The processes that train cells below ``out``, and their parents."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            status = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if b"train" in words and any(word.startswith(os.fsencode(out)) for word in words):
            found[int(folder.name)] = int(status[1])
    return found


def table(out: Path) -> list:
    command = [*NOISEREG, "eval", str(out), "--num", "64", "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)["rows"]


def test_a_worker_is_killed_and_the_table_is_that_of_local(tmp_path):
    local, ray = tmp_path / "local", tmp_path / "ray"
    subprocess.run([*NOISEREG, "sweep", *GRID, "--jobs", "2", "--out", local], check=True)
    sweep = subprocess.Popen(
        [*NOISEREG, "sweep", *GRID, "--launcher", "noisereg-ray/ray:workers=2", "--out", ray]
    )
    while not (running := {p: q for p, q in trainers(ray).items() if q > 1}) or not any(
        ray.glob("cells/*/checkpoints/000050")
    ):
        assert sweep.poll() is None
        time.sleep(0.1)
    os.kill(worker := next(iter(running.values())), signal.SIGKILL)
    assert sweep.wait() == 0, "the sweep ends with every cell trained"
    assert worker not in trainers(ray).values()
    assert len(list(ray.glob("cells/*/status.json"))) == 12
    trained = list(local.glob("cells/*/checkpoints/000400/model.safetensors"))
    assert len(trained) == 12
    for weights in trained:
        assert (ray / weights.relative_to(local)).read_bytes() == weights.read_bytes()
    assert table(ray) == table(local)
