"""A 12-cell sweep on a cluster of two workers gives the table of a sweep on `local`, though a
worker is killed midway, and though the sweep's own process is. Minutes:
NOISEREG_LONG=1 pytest plugins/noisereg-ray/tests/test_killed_worker.py
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import noisereg
from noisereg.sweeps.grid import Sweep

pytest.importorskip("ray")
pytestmark = pytest.mark.skipif(not os.environ.get("NOISEREG_LONG"), reason="takes minutes")

STEPS = 200
FOUR = [
    *("--noise", "white", "--noise", "blue-tv", "--reg", "none", "--reg", "isotropy"),
    *("--denoiser", "mlp:width=8,blocks=1", "--batch-size", "8", "--steps", str(STEPS)),
    *("--set", "runtime.device=cpu", "--set", "sample.steps=2"),
    *("--set", "train.checkpoint_every=10"),  # so that a kill finds some, and steps to do
]
TWELVE = [*FOUR, "--seeds", "3"]
RAY = ["--launcher", "noisereg-ray/ray:workers=2"]
NOT_NICE = {"RAY_worker_niceness": "0"}
"""Ray's workers give way to everything else (nice 15), and on a busy machine take forever."""


def sweep(out: Path, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "noisereg", "sweep", "--out", str(out), *arguments]
    return subprocess.Popen(command, env=os.environ | NOT_NICE)


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


def cell_of(trainer: int) -> Path:
    words = Path(f"/proc/{trainer}/cmdline").read_bytes().split(b"\0")
    return Path(os.fsdecode(words[words.index(b"--out") + 1]))


def held_in_training(process: subprocess.Popen, out: Path, finished: int) -> int:
    """A process that trains a cell and has saved, once so many cells have finished; it is stopped
    where it is."""
    while True:
        assert process.poll() is None, "the sweep has ended before anything could be killed"
        if len(list(out.glob(f"cells/*/checkpoints/{STEPS:06d}"))) >= finished:
            for trainer in trainers(out):
                saved = list(cell_of(trainer).glob("checkpoints/[0-9]*"))
                if saved and all(int(p.name) < STEPS / 2 for p in saved):
                    os.kill(trainer, signal.SIGSTOP)
                    return trainer
        time.sleep(0.02)


def let_go_without_its_parent(out: Path, trainer: int, parent: int) -> None:
    """Once the kernel has told it that its parent is gone."""
    while trainers(out)[trainer] == parent:
        time.sleep(0.02)
    os.kill(trainer, signal.SIGCONT)


def check_it_saved_and_went_on(cell: Path) -> None:
    log = cell.with_name(f"{cell.name}.log").read_text()
    assert "stopped at step" in log, "its process saved when its worker was gone"
    assert "going on from" in log, "another worker went on with it"


def weights(out: Path) -> dict[str, list[bytes]]:
    files = ("model.safetensors", "ema.safetensors", "optimizer.pt")
    return {
        cell.name: [(cell / f"checkpoints/{STEPS:06d}" / name).read_bytes() for name in files]
        for cell in out.glob("cells/*/")
    }


def table(*paths: Path, **options: object) -> list:
    rows = noisereg.evaluate(paths, metrics=["prdc", "fd"], num=64, **options)
    return [{k: v for k, v in row.items() if k != "sources"} for row in rows]


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("local") / "S"
    assert sweep(out, *TWELVE, "--jobs", "2").wait() == 0
    return out


def first_four(out: Path) -> list[Path]:
    """Those of the first seed."""
    found = Sweep.open(out)
    return [found.path_of(cell) for cell in found.cells[:4]]


def test_a_worker_is_killed_and_the_table_is_that_of_local(local, tmp_path):
    out = tmp_path / "S"
    process = sweep(out, *TWELVE, *RAY)
    trainer = held_in_training(process, out, finished=3)
    cell, worker = cell_of(trainer), trainers(out)[trainer]
    os.kill(worker, signal.SIGKILL)
    let_go_without_its_parent(out, trainer, worker)
    assert process.wait() == 0, "the sweep ends with every cell trained"
    check_it_saved_and_went_on(cell)
    expected = weights(local)
    assert len(expected) == 12
    assert weights(out) == expected
    assert table(out) == table(local)


def test_the_sweep_itself_is_killed_and_typed_again(local, tmp_path):
    out = tmp_path / "S"
    process = sweep(out, *FOUR, *RAY)
    trainer = held_in_training(process, out, finished=0)
    cell, worker = cell_of(trainer), trainers(out)[trainer]
    process.kill()
    process.wait()
    let_go_without_its_parent(out, trainer, worker)
    assert sweep(out, *FOUR, *RAY).wait() == 0
    check_it_saved_and_went_on(cell)
    expected = weights(local)
    assert len(weights(out)) == 4
    assert weights(out).items() <= expected.items()
    assert table(out) == table(*first_four(local))


def test_an_evaluation_gives_the_table_that_it_gives_without_a_launcher(local, tmp_path):
    runs = [shutil.copytree(cell, tmp_path / cell.name) for cell in first_four(local)]
    alone = table(*runs)
    for run in runs:
        shutil.rmtree(run / "eval")
    assert table(*runs, launcher="noisereg-ray/ray:workers=2") == alone
