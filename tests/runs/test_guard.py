"""A component that goes wrong while a run trains is one line that says which, where and how."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from noisereg import python as noisereg
from noisereg.api import (
    Component,
    Denoiser,
    Noise,
    Pairing,
    Params,
    Process,
    Regularizer,
    RegularizerParams,
)
from noisereg.cli.main import run as command
from noisereg.errors import NoiseregError
from noisereg.plugins.registry import registry, reset
from noisereg.processes.iadb import IADB

BAD: dict[str, Callable[[Any], Any]] = {}
"""What the method that is tried does with the right value."""


def spoilt(value: Any) -> Any:
    return BAD["now"](value) if BAD else value


class BadNoise(Noise):
    def color(self, latents: Mapping[str, Tensor], t: Tensor) -> Tensor:
        return spoilt(latents["z"])

    def mean_square(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)


class BadProcess(IADB):
    def target(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        return spoilt(super().target(x0, eps, t))


class BadRegularizer(Regularizer):
    def __call__(self, s: Any) -> Tensor:
        return spoilt(s.eps_hat.mean() ** 2)


class BadPairing(Pairing):
    def __call__(self, x0: Tensor, latents: Any, eps: Tensor, t: Tensor) -> Tensor:
        return spoilt(torch.arange(len(x0)))


class BadDenoiser(Denoiser, nn.Module):
    def __init__(self, params: Params, ctx: Any) -> None:
        nn.Module.__init__(self)
        self.layer = nn.Linear(2, 2)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        return spoilt(self.layer(x))


CLASSES = {
    "noise": (BadNoise, Params, "color"),
    "process": (BadProcess, type("P", (), {}), "target"),
    "regularizer": (BadRegularizer, RegularizerParams, "__call__"),
    "pairing": (BadPairing, Params, "__call__"),
    "denoiser": (BadDenoiser, Params, "forward"),
}
SECTION = {"regularizer": "reg"}


@pytest.fixture(autouse=True)
def _plugins() -> Any:
    reset()
    for kind, (impl, params, _) in CLASSES.items():
        if kind == "process":
            params = registry().find("process", "iadb").component.params
        registry().register(Component(name=f"bad-{kind}", impl=impl, params=params), kind)
    BAD.clear()
    yield
    BAD.clear()
    reset()


def train(out: Path, kind: str, **more: Any) -> Any:
    sections: dict[str, Any] = {"denoiser": "mlp:width=8,blocks=1", "process": "iadb"}
    sections[SECTION.get(kind, kind)] = f"bad-{kind}"
    return noisereg.train(
        out=out,
        data="swiss-roll:n=100",
        train={"steps": 4, "batch_size": 8, "checkpoint_every": 1, "log_every": 1},
        sample={"steps": 1},
        runtime={"device": "cpu"},
        **{**sections, **more},
    )


def from_step(step: int, act: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Right until the call in that step, from 1; one call a step."""
    calls = iter(range(1, 1000))
    return lambda value: act(value) if next(calls) == step else value


def exits(_: Any) -> None:
    sys.exit(0)


def raises(error: BaseException) -> Callable[[Any], Any]:
    def act(_: Any) -> None:
        raise error

    return act


WRONG_VALUES: list[tuple[str, Callable[[Any], Any], str]] = [
    ("noise", lambda z: z[:1], r"gave a tensor \(1, 2\) of float32"),
    ("noise", lambda z: z[:, :1], r"gave a tensor \(8, 1\) of float32"),
    (
        "noise",
        lambda z: z.double(),
        r"\(8, 2\) of float64 .* expected a tensor \(8, 2\) of float32",
    ),
    ("noise", lambda z: z.round().long(), "of int64"),
    ("noise", lambda z: None, "gave None"),
    ("noise", lambda z: z.numpy(), "gave a numpy.ndarray"),
    ("process", lambda v: v[:1], r"gave a tensor \(1, 2\)"),
    ("regularizer", lambda v: v.detach(), "without a gradient"),
    ("regularizer", lambda v: None, "gave None"),
    ("regularizer", lambda v: torch.ones(3), r"gave a tensor \(3,\)"),
    ("pairing", lambda order: order.new_zeros(8), "expected a permutation of 0 … 7"),
    ("denoiser", lambda out: out.detach(), "expected a tensor with a gradient"),
    ("denoiser", lambda out: out[:, :1], r"gave a tensor \(8, 1\)"),
]


@pytest.mark.parametrize(("kind", "act", "said"), WRONG_VALUES)
def test_a_wrong_value_is_named_with_what_was_expected(
    kind: str, act: Callable[[Any], Any], said: str, tmp_path: Path
) -> None:
    BAD["now"] = act
    method = CLASSES[kind][2]
    with pytest.raises(
        NoiseregError, match=rf"{kind} \S*bad-{kind}: \w+ gave .* in step 1"
    ) as error:
        train(tmp_path / "run", kind)
    assert method.strip("_") in str(error.value)
    import re

    assert re.search(said, str(error.value))
    status = json.loads((tmp_path / "run/status.json").read_text())
    assert status["status"] == "failed"
    assert status["error"] == str(error.value)


@pytest.mark.parametrize(
    ("gave", "expected"),
    [
        (lambda z: (z[:1], None), r"the pair \(color, basis\) whose first is a tensor \(8, 2\)"),
        (lambda z: z, r"the pair \(color, basis\)"),
    ],
)
def test_a_wrong_color_and_basis_is_named(
    gave: Callable[[Tensor], Any], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BadNoise, "color_and_basis", lambda self, latents, t: gave(latents["z"]))
    with pytest.raises(NoiseregError, match=f"bad-noise: color_and_basis gave .*{expected}"):
        train(tmp_path / "run", "noise")


RAISED = [StopIteration("s"), MemoryError("m"), RecursionError("r"), ValueError("two\nlines")]


@pytest.mark.parametrize("act", [*map(raises, RAISED), exits])
def test_what_it_raises_in_mid_training_is_one_line_and_the_checkpoint_is_kept(
    act: Callable[[Any], Any], tmp_path: Path
) -> None:
    BAD["now"] = from_step(3, act)
    with pytest.raises(
        NoiseregError, match=r"regularizer \S*bad-regularizer: __call__ raised \w+.* in step 3"
    ) as error:
        train(tmp_path / "run", "regularizer")
    assert len(str(error.value).splitlines()) == 1
    BAD.clear()
    found = noisereg.load(tmp_path / "run")
    assert (found.status["status"], found.checkpoint().step) == ("failed", 2)


def test_a_component_that_changes_the_folder_moves_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()

    def moves(value: Any) -> Any:
        os.chdir(tmp_path / "elsewhere")
        return value

    BAD["now"] = moves
    train(Path("run"), "regularizer")
    assert (tmp_path / "run/checkpoints/000004").is_dir()
    assert list((tmp_path / "elsewhere").iterdir()) == []


PLUGIN = """
import sys
from noisereg.api import Component, Regularizer, RegularizerParams, hookimpl

class Leaver(Regularizer):
    def __init__(self, params, ctx):
        pass

    def __call__(self, s):
        sys.exit(0)

@hookimpl
def noisereg_regularizers():
    yield Component(name="leaver", impl=Leaver, params=RegularizerParams)
"""


def test_the_command_says_it_in_one_line_and_shows_the_traceback_when_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "leaver.py").write_text(PLUGIN)
    arguments = [
        *("train", "--plugin", str(tmp_path / "leaver.py"), "--reg", "leaver", "--steps", "2"),
        *("--data", "swiss-roll:n=100", "--denoiser", "mlp:width=8", "--batch-size", "8"),
        *("--set", "runtime.device=cpu"),
    ]
    assert command([*arguments, "--out", str(tmp_path / "a")]) == 2
    said = capsys.readouterr().err
    assert "leaver: __call__ raised SystemExit (sys.exit(0)) in step 1" in said.splitlines()[-1]
    assert "Traceback" not in said
    assert command([*arguments, "--debug", "--out", str(tmp_path / "b")]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_components_are_left_as_they_were(tmp_path: Path) -> None:
    kept: list[Any] = []
    BAD["now"] = lambda value: value

    class Listener(noisereg.Reporter):
        def advance(self, done: int, metrics: Any = None) -> None:
            kept.append(done)

    done = train(tmp_path / "run", "noise", reporter=Listener())
    assert type(done.load().noise) is BadNoise
    assert Process in BadProcess.__mro__
    assert kept
