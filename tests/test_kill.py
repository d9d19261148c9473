"""Killed by −9 at any instant and typed again, a command ends as one that nobody disturbed.

``make kill`` has 200 kills; here are a handful. The instants are drawn from the seed below.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from noisereg import python as noisereg
from noisereg.cli.main import run as command
from noisereg.sweeps.grid import Sweep

pytestmark = pytest.mark.timeout(6 * 3600)  # `make kill` takes as long as its number asks
KILLS = max(4, int(os.environ.get("NOISEREG_KILLS", 8)))
SEED = int(os.environ.get("NOISEREG_KILL_SEED", 0))
SHARES = {"train": 0.5, "eval": 0.25, "noise build": 0.125, "sweep": 0.125}
"""Of the kills. A sweep starts processes, which takes seconds: in the normal suite the one kill of
tests/sweeps/test_sweep.py stands for it.
"""

TRAIN = [
    *("--data", "swiss-roll:n=200", "--denoiser", "mlp:width=8,blocks=1", "--batch-size", "8"),
    *("--set", "runtime.device=cpu", "--set", "sample.steps=2", "--set", "train.log_every=5"),
]


def weights(run: Any) -> list[bytes]:
    found = run.checkpoint()
    names = ("model.safetensors", "ema.safetensors")
    files = [(found.path / name).read_bytes() for name in names]
    return [*files, (run.path / f"samples/{found.step:06d}.png").read_bytes()]


def of_train(folder: Path) -> Any:
    run = noisereg.load(folder / "run")
    left = [p for p in run.path.rglob(".*") if re.search(r"\.\d+$", p.name)]
    assert left == []
    assert run.status["status"] == "finished"
    return weights(run)


def of_sweep(folder: Path) -> Any:
    sweep = Sweep.open(folder / "S")
    assert [sweep.state(cell) for cell in sweep.cells] == ["finished"]
    return [weights(noisereg.load(sweep.path_of(cell))) for cell in sweep.cells]


def of_eval(folder: Path) -> Any:
    rows = noisereg.evaluate([folder / "run"], metrics=["fd"], num=60)
    return [{k: v for k, v in row.items() if k != "sources"} for row in rows]


def of_build(folder: Path) -> Any:
    assert [p.name for p in folder.iterdir()] == ["blue.bin"]
    return (folder / "blue.bin").read_bytes()


def arguments_of(name: str, folder: Path) -> list[str]:
    return {
        "train": [
            *("train", *TRAIN, "--resume", "--out", str(folder / "run"), "--steps", "45"),
            *("--set", "train.checkpoint_every=7"),
        ],
        "sweep": [
            *("sweep", *TRAIN, "--noise", "white", "--out", str(folder / "S"), "--steps", "40"),
            *("--set", "train.checkpoint_every=7"),
        ],
        "eval": ["eval", str(folder / "run"), "--metric", "fd", "--num", "60"],
        "noise build": [
            *("noise", "build", "--size", "12", "--masks", "30", "--jobs", "1"),
            *("--out", str(folder / "blue.bin")),
        ],
    }[name]


OUTCOMES: dict[str, Callable[[Path], Any]] = {
    "train": of_train,
    "sweep": of_sweep,
    "eval": of_eval,
    "noise build": of_build,
}


def children_of(process: int) -> list[int]:
    listed = Path(f"/proc/{process}/task/{process}/children")
    with contextlib.suppress(OSError):
        return [int(number) for number in listed.read_text().split()]
    return []


def _run(arguments: list[str]) -> None:
    os.setpgrp()
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    os._exit(command(arguments))


@pytest.mark.parametrize("name", [n for n in SHARES if n != "sweep" or KILLS >= 50])
def test_killed_and_typed_again_it_ends_the_same(name: str, tmp_path: Path) -> None:
    def fresh(label: str) -> Path:
        folder = tmp_path / label
        folder.mkdir()
        if name == "eval":
            shutil.copytree(tmp_path / "given", folder / "run")
        return folder

    if name == "eval":
        assert command(["train", *TRAIN, "--out", str(tmp_path / "given"), "--steps", "2"]) == 0
    straight = fresh("straight")
    assert command(arguments_of(name, straight)) == 0  # imports what it needs, too
    expected = OUTCOMES[name](straight)
    began = time.monotonic()
    again = fresh("again")
    assert command(arguments_of(name, again)) == 0
    seconds = time.monotonic() - began
    assert OUTCOMES[name](again) == expected

    draw = random.Random(f"{SEED} {name}")
    context = multiprocessing.get_context("fork")
    kills, wanted, number = 0, max(1, round(KILLS * SHARES[name])), 0
    folder = fresh("0")
    while kills < wanted:
        process = context.Process(target=_run, args=(arguments_of(name, folder),))
        process.start()
        process.join(draw.uniform(0, 0.8) * seconds)
        if process.is_alive():
            # A sweep alone, whose cell goes on, or the cell with it, as when the machine goes down.
            others = children_of(process.pid or 0) if draw.random() < 0.5 else []
            for each in (process.pid or 0, *others):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(each, signal.SIGKILL)
            process.join()
            kills += 1
            continue
        assert process.exitcode == 0
        assert OUTCOMES[name](folder) == expected
        number += 1
        folder = fresh(str(number))
    assert command(arguments_of(name, folder)) == 0
    assert OUTCOMES[name](folder) == expected, f"seed {SEED}"
