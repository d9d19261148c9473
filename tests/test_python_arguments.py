"""Python's functions: what is of another type is one line, and what stands for one thing is one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import noisereg
from noisereg.errors import NoiseregError
from noisereg.python import Run

FAST: dict[str, Any] = {
    "denoiser": "mlp:width=8,blocks=1",
    "train": {"steps": 2, "batch_size": 8},
    "sample": {"steps": 2, "num": 4},
    "runtime": {"device": "cpu"},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return noisereg.train(out=tmp_path_factory.mktemp("run") / "run", task="class", **FAST)


WRONG: dict[str, tuple[str, Callable[[Run], Any]]] = {
    "num": ("num='4': expected a whole number", lambda r: r.sample("4")),
    "half a sample": ("num=4.0: expected a whole", lambda r: r.sample(4.0)),
    "a seed between": ("seed=1.5: expected a whole number", lambda r: r.sample(2, seed=1.5)),
    "a seed below": ("seed=-1: expected a whole number", lambda r: r.sample(2, seed=-1)),
    "a seed beyond": (r"seed=9223372036854775808: expected", lambda r: r.sample(2, seed=2**63)),
    "no seed": ("seed=None: expected", lambda r: r.sample(2, seed=None)),
    "a seed of latents": ("seed=1.5: expected", lambda r: r.latents(2, seed=1.5)),
    "a seed of eval": ("seed=-1: expected", lambda r: r.evaluate("fd", seed=-1, num=20)),
    "eval's jobs": ("jobs=0: expected at least 1", lambda r: r.evaluate("fd", jobs="0")),
    "eval's truth": ("num=True: expected a number", lambda r: r.evaluate("fd", num=True)),
    "a true checkpoint": ("checkpoint=True: expected a step", lambda r: r.sample(checkpoint=True)),
    "eval's number": ("num: expected a whole number", lambda r: r.evaluate("fd", num=1.5)),
    "metrics": ("metrics=3: expected names", lambda r: noisereg.evaluate(r, metrics=3)),
    "paths": ("paths=3 is a int", lambda r: noisereg.evaluate([3])),
    "checkpoint": ("checkpoint=3.0: expected a step, or best", lambda r: r.sample(checkpoint=3.0)),
    "solver": ("solver is a object; expected its name", lambda r: r.sample(2, solver=object())),
    "latents": ("latents is a ndarray", lambda r: r.sample(2, latents=np.zeros((2, 1, 8, 8)))),
    "inputs": ("not trained|no images", lambda r: r.sample(2, inputs="")),
    "out": ("out=3 is a int; expected a folder", lambda r: noisereg.train(out=3, **FAST)),
    "denoiser": ("denoiser is a int", lambda r: noisereg.load(r.path, denoiser=3)),
    "jobs": ("jobs=0: expected a whole number", lambda r: noisereg.sweep(out="S", jobs=0)),
}


@pytest.mark.parametrize(("said", "call"), WRONG.values(), ids=WRONG)
def test_what_is_of_another_type_is_one_line(
    run: Run,
    said: str,
    call: Callable[[Run], Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NoiseregError, match=said) as caught:
        call(run)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_one_label_may_be_numpys(run: Run) -> None:
    wanted = run.sample(2, labels=[3])
    for label in (3, np.int64(3), torch.tensor(3), {3}, np.array([3]), range(3, 4)):
        assert torch.equal(run.sample(2, labels=label), wanted)
    step = np.array([line["step"] for line in run.history()]).max()
    assert torch.equal(run.sample(2, labels=[3], checkpoint=step), wanted)


def test_a_run_is_evaluated_by_itself(run: Run) -> None:
    (one,), (several,) = (noisereg.evaluate(given, "fd", num=20) for given in (run, [run.path]))
    assert one["metrics"] == several["metrics"]
    (more,) = noisereg.evaluate([run], {"fd"}, num=20, steps=np.int64(2), eta=np.float32(1))
    assert more["metrics"].keys() == one["metrics"].keys()


def test_several_regularizers_may_be_a_tuple(tmp_path: Path) -> None:
    reg = ("isotropy", "isotropy:weight=0.3,mean=sample")
    made = noisereg.train(out=tmp_path / "run", reg=reg, **FAST)
    assert [spec.name for spec in made.config.reg] == ["isotropy", "isotropy"]


def test_a_runs_diffusion_takes_specs(run: Run) -> None:
    found = run.diffusion.sample(
        run.net,
        2,
        steps=2,
        solver="heun",
        grid="uniform",
        clip="static",
        cond=torch.tensor([1, 2]),
        generator=torch.Generator().manual_seed(0),
    )
    assert found.abs().max() <= 2
    assert found.shape == (2, 1, 8, 8)
