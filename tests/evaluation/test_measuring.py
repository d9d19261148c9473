"""What is refused before anything is sampled, what diverges, what is kept, and what a metric of
the model sees."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import noisereg
from noisereg.cli.main import run
from noisereg.errors import NoiseregError
from noisereg.evaluation import samples as drawing
from noisereg.evaluation.evaluate import run_evaluation
from noisereg.evaluation.options import Options
from noisereg.plugins.registry import registry
from noisereg.runs.checkpoint_files import CONTENTS, STATE, make_state
from noisereg.runs.reporter import Reporter
from noisereg.sweeps.grid import Sweep

Capture = pytest.CaptureFixture[str]


def tables(capsys: Capture, *arguments: object) -> list[dict[str, Any]]:
    capsys.readouterr()
    code = run(["eval", *map(str, arguments), "--format", "json"])
    out, err = capsys.readouterr()
    assert code == 0, err
    return json.loads(out)["tables"]


@pytest.fixture
def own(sweep: Sweep, tmp_path: Path) -> Path:
    """A run of the sweep, copied, with empty caches."""
    path = tmp_path / "run"
    shutil.copytree(sweep.path_of(sweep.cells[0]), path, ignore=shutil.ignore_patterns("eval"))
    return path


# Before anything is sampled


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--metric", "kd"], "kd averages over subsets of 1000 samples and there are 40; give"),
        (["--metric", "prdc:k=60"], "prdc with k=60 needs more than 60 samples"),
        (["--metric", "pr:k=60"], "pr with k=60 needs more than 60 samples"),
        (["--metric", "psnr"], "psnr compares each output with its own right answer"),
        (["--metric", "prdc", "--num-reference", "3"], "the reference set has 3"),
        (["--num-reference", "0"], "expected at least 1"),
        (["--num-reference", "2000"], "digits has 1,617 samples in its train split"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_a_sample_is_drawn(
    own: Path, capsys: Capture, options: list[str], said: str
) -> None:
    assert run(["eval", str(own), "--num", "40", *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert not (own / "eval").exists()


# Not finite


def diverge(path: Path, value: float) -> None:
    """As of a run whose weights became so, its digests right."""
    for folder in (path / "checkpoints").iterdir():
        state = json.loads((folder / STATE).read_text())
        for name in ("model.safetensors", "ema.safetensors"):
            tensors = load_file(folder / name)
            some = next(n for n, v in tensors.items() if v.is_floating_point() and v.ndim > 1)
            tensors[some] = torch.full_like(tensors[some], value)
            save_file(tensors, folder / name)
        contents = {name: (folder / name).read_bytes() for name in CONTENTS}
        made = make_state(state["run"], state["step"], contents)
        (folder / STATE).write_text(json.dumps(made))


@pytest.mark.parametrize(
    ("weight", "reason"),
    [
        (math.nan, "averaged weights of step 12 are not finite"),
        (1e38, "of 40 samples are not finite"),
    ],
)
def test_samples_that_are_not_finite_become_no_number(
    own: Path,
    sweep: Sweep,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    weight: float,
    reason: str,
) -> None:
    """NaN pixels would be black ones in uint8, and have a distance."""
    diverge(own, weight)
    other = sweep.path_of(sweep.cells[3])
    asked = [own, other, "--num", 40, "--metric", "prdc"]
    (table,) = tables(capsys, *asked)
    numbers = {row["label"]: set(row.get("metrics", {})) for row in table["rows"]}
    assert sorted(map(len, numbers.values())) == [0, 4]
    assert re.match(rf"white diverged \(seed 0\): .*{reason}", table["notes"][0])

    def never(*_: object) -> None:
        raise AssertionError("they were drawn once")

    monkeypatch.setattr(drawing, "draw", never)
    tables(capsys, *asked)
    assert run(["eval", str(own), "--num", "40"]) == 2
    assert re.search(f"has nothing to measure: .*{reason}", capsys.readouterr().err)


def test_a_cell_whose_training_diverged_is_a_row_without_numbers(
    tmp_path: Path, capsys: Capture, make_sweep: Any
) -> None:
    swept = make_sweep(tmp_path / "S", {"noise": ["white", "blue-tv"], "seeds": 2})
    lost = swept.path_of(swept.cells[1])
    status = json.loads((lost / "status.json").read_text())
    status |= {"status": "failed", "step": 7, "diverged": True}
    (lost / "status.json").write_text(json.dumps(status))
    shutil.rmtree(lost / "checkpoints" / "000012")
    capsys.readouterr()
    assert run(["eval", str(swept.path), "--num", "40"]) == 0
    shown = capsys.readouterr().out
    assert "(1 of 2 diverged)" in shown
    assert "in training, after step 6" in shown


def test_a_run_that_diverged_before_its_first_checkpoint_is_a_row_too(
    tmp_path: Path, capsys: Capture, make_sweep: Any
) -> None:
    swept = make_sweep(tmp_path / "S", {"noise": ["white", "blue-tv"]})
    lost = swept.path_of(swept.cells[1])
    status = {"status": "failed", "step": 0, "diverged": True}
    (lost / "status.json").write_text(json.dumps(status))
    shutil.rmtree(lost / "checkpoints")
    for asked in ([swept.path], [swept.path, "--checkpoint", "6", "--solver", "heun"]):
        (table,) = tables(capsys, *asked, "--num", 40)
        numbers = {row["label"]: len(row.get("metrics", {})) for row in table["rows"]}
        assert numbers == {"white": 4, "blue-tv": 0}
        assert (
            "blue-tv diverged (seed 0): in training, before its first checkpoint"
            in (table["notes"])
        )
        assert not any("left out" in note for note in table["notes"])
    assert run(["eval", str(lost), "--num", "40"]) == 2
    assert "has nothing to measure: in training, before its first checkpoint" in (
        capsys.readouterr().err
    )


# What a metric of the model sees


PLUGIN = """
import torch
from noisereg.api import Component, Metric, hookimpl

class PathLength(Metric):
    better = {"length": "lower", "points": "lower"}
    needs_model = True

    def of_model(self, model, data):
        with torch.inference_mode():
            path = list(model.trajectory(range(8)))
        moved = sum((b - a).flatten(1).norm(dim=1) for a, b in zip(path, path[1:]))
        return {"length": moved.mean().item(), "points": float(len(path)),}

@hookimpl
def noisereg_metrics():
    yield Component(name="path-length", impl=PathLength)
"""


def test_a_metric_of_the_model_sees_each_columns_own_sampling(
    own: Path, capsys: Capture, tmp_path: Path
) -> None:
    (tmp_path / "path.py").write_text(PLUGIN)
    asked = ["--plugin", tmp_path / "path.py", "--metric", "path-length", "--eta", 0]
    (table,) = tables(capsys, own, "--steps", "2,50", *asked)
    points = {row["steps"]: row["metrics"]["points"]["mean"] for row in table["rows"]}
    assert points == {2: 3, 50: 51}


# What is kept


def test_features_and_what_is_known_of_the_reference_are_taken_once(
    own: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NOISEREG_CACHE", str(tmp_path / "cache"))
    asked = [own, "--num", 30, "--num-reference", 40, "--features", "random-vgg16"]
    first = tables(capsys, *asked, "--metric", "prdc", "--metric", "fd")
    shutil.rmtree(own / "eval" / "metrics")
    from noisereg.features.spaces import RandomVgg16
    from noisereg.metrics import fidelity, prdc

    def never(*_: object) -> None:
        raise AssertionError("it was taken before")

    monkeypatch.setattr(RandomVgg16, "__call__", never)
    radii, sets = prdc._radii, []
    monkeypatch.setattr(prdc, "_radii", lambda p, *a: (sets.append(len(p)), radii(p, *a))[1])
    moments, taken = fidelity.moments, []
    monkeypatch.setattr(fidelity, "moments", lambda f: (taken.append(len(f)), moments(f))[1])
    again = tables(capsys, *asked, "--metric", "prdc", "--metric", "fd")
    assert again == first
    assert (sets, taken) == ([30], [30])


def test_the_reference_can_be_smaller(own: Path, capsys: Capture) -> None:
    (table,) = tables(capsys, own, "--num", 30, "--num-reference", 30)
    assert table["provenance"]["reference"]["n"] == 30
    assert not any("depend on both counts" in remark for remark in table["remarks"])
    (table,) = tables(capsys, own, "--num", 30)
    assert any(
        "30 samples against 1,617: the four numbers depend on both counts" in remark
        and "num_reference=30" in remark
        for remark in table["remarks"]
    )


# How far it is


class Clock(Reporter):
    """Units that were announced and that were done, of each kind of work."""

    def __init__(self) -> None:
        self.work: list[list[Any]] = []

    def begin(self, what: str, total: int, done: int = 0) -> None:
        self.work.append([what, total, done, []])

    def advance(self, done: int, metrics: object = None) -> None:
        self.work[-1][3].append(done)


def test_progress_counts_evaluations_of_the_network(sweep: Sweep, tmp_path: Path) -> None:
    """So that 2 and 50 steps of several runs are one piece of work with one estimate."""
    copies = []
    for k in range(2):
        path = tmp_path / f"{k}"
        shutil.copytree(
            sweep.path_of(sweep.cells[3 * k]), path, ignore=shutil.ignore_patterns("eval")
        )
        copies.append(path)
    clock = Clock()
    run_evaluation(copies, ["prdc"], Options(num=30, steps=(2, 10)), registry(), clock)
    (what, total, _, done), *_ = clock.work
    assert what == "sample 2 runs"
    assert total == 2 * 30 * (2 + 10)
    assert done == sorted(done)
    assert total - 30 <= done[-1] <= total


def test_python_options_are_checked() -> None:
    assert Options.of({"steps": 5, "labels": ["a:noise=white"], "num": 3}) == Options(
        steps=(5,), labels=("a:noise=white",), num=3
    )
    with pytest.raises(NoiseregError, match=r"no option 'feature'; did you mean 'features'\?"):
        noisereg.evaluate(["x"], feature="pixels")


def test_arrays_that_are_not_finite_are_refused(tmp_path: Path, capsys: Capture) -> None:
    x = np.zeros((40, 2), np.float32)
    x[3] = np.nan
    np.savez(tmp_path / "x.npz", samples=x)
    code = run(["eval", str(tmp_path / "x.npz"), "--data", "swiss-roll:n=300"])
    err = capsys.readouterr().err
    assert code == 2
    assert re.search(r"x\.npz.*finite", err)
    assert err.count("\n") == 1
