"""The sweep that submitted the jobs is killed: they go on, and the same command waits for them.
An evaluation by a job gives the table that it gives without.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("submitit")

import noisereg
from noisereg.cli.main import run
from noisereg.evaluation import samples

STEPS = 60
GRID = [
    *("--noise", "white", "--seeds", "2", "--denoiser", "mlp:width=8,blocks=1"),
    *("--batch-size", "8", "--steps", str(STEPS), "--set", "train.checkpoint_every=5"),
    *("--set", "runtime.device=cpu", "--set", "sample.steps=2"),
    *("--launcher", "noisereg-submitit/submitit:cluster=local"),
]


def trainer(cell: Path) -> int:
    """The process that trains a cell."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"train" in words and os.fsencode(cell) in words and b"-m" in words[:4]:
            return int(folder.name)
    return 0


def wait_for(condition) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def weights(folder: Path) -> list[bytes]:
    files = ("model.safetensors", "ema.safetensors", "optimizer.pt")
    return [(folder / f"checkpoints/{STEPS:06d}" / name).read_bytes() for name in files]


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds the job in /proc")
def test_a_killed_sweep_typed_again_waits_for_its_job_and_trains_the_rest(
    tmp_path, capsys, monkeypatch
):
    out = tmp_path / "S"
    first, second = (out / "cells" / f"white_s{seed}" for seed in (0, 1))
    typed = ["sweep", *GRID, "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-m", "noisereg", *typed], stderr=subprocess.DEVNULL
    )
    wait_for(lambda: any(first.glob("checkpoints/[0-9]*")))
    job = trainer(first)
    os.kill(job, signal.SIGSTOP)  # until the second command has passed it over
    process.kill()
    process.wait()

    def let_go() -> None:
        wait_for(second.with_name(f"{second.name}.log").exists)
        os.kill(job, signal.SIGCONT)

    thread = threading.Thread(target=let_go)
    thread.start()
    assert run(typed) == 0
    thread.join()
    assert "white_s0 is being trained by another process" in capsys.readouterr().err
    assert "going on from" not in first.with_name(f"{first.name}.log").read_text()
    for cell in (first, second):
        config = cell.with_name(f"{cell.name}.yaml")
        alone = tmp_path / cell.name
        assert run(["train", "--config", str(config), "--out", str(alone)]) == 0
        assert weights(cell) == weights(alone)

    rows = noisereg.evaluate([first, second], metrics=["fd"], num=64)
    for cell in (first, second):
        shutil.rmtree(cell / "eval")
    monkeypatch.setattr(samples, "draw", None)  # nothing is drawn here
    launcher = "noisereg-submitit/submitit:cluster=local"
    by_job = noisereg.evaluate([first, second], metrics=["fd"], num=64, launcher=launcher)
    assert list(by_job) == list(rows)
    assert list(first.glob("eval/jobs-*")) == []
