"""Values that no run can have are refused by name before anything is built, and leave nothing."""

from __future__ import annotations

import pytest

from noisereg.cli.main import run
from noisereg.errors import NoiseregError
from noisereg.plugins.registry import registry
from noisereg.runs.output import check_num
from noisereg.sweeps.grid import Grid, make_cells

HUGE = "9" * 23


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "optim.betas=[1,1]"], "optim.betas.0: expected less than 1"),
        (["--set", "optim.betas=[-1,0]"], "optim.betas.0: expected at least 0, not -1"),
        (["--set", "optim.betas=[0.9,.nan]"], "optim.betas.1: expected a finite number, not nan"),
        (["--set", "optim.betas=0.9"], "optim.betas: expected a list, not 0.9"),
        (["--set", "optim.lr=.inf"], "optim.lr: expected auto, or a finite number, not inf"),
        (["--set", "optim.lr=x"], "optim.lr: expected auto, or a number, not 'x'"),
        (["--set", "optim.weight_decay=.inf"], "optim.weight_decay: expected a finite number"),
        (
            ["--set", f"sample.eps_scale={HUGE}"],
            "expected a factor above 0, such as 1.02, from 0.001 to",
        ),
        (["--set", "sample.eps_scale=1e-320"], "expected a factor above 0, such as 1.02, from"),
        (["--set", "sample.eta=x"], "sample.eta: expected auto, or a number, not 'x'"),
        (["--set", "sample.steps=1000000000"], "sample.steps: expected at most"),
        (["--set", f"train.steps={HUGE}"], "train.steps: expected a whole number of at most 64"),
        (["--set", "train.steps=" + "9" * 5000], "a number of more than 4,300 digits"),
        (["--steps", HUGE], f"--steps {HUGE}: expected a whole number of at most 64 bits"),
        (["--seed", HUGE], f"--seed {HUGE}: expected a whole number of at most 64 bits"),
        (["--noise", "blue-tv:gamma.tau=nan"], "blue-tv: gamma.tau: expected a finite number"),
        (["--noise", "blue-tv:gamma.learn.gamma.learn=1"], "blue-tv: gamma.learn: expected true"),
        (["--noise", f"blue-tv:{'gamma.learn.' * 3000}x=1"], "has more than 16 parts"),
        (["--noise", 'blue-tv:{"gamma":' + "[" * 5000], "nested more than 64 deep"),
        (["--noise", "s3://bucket/noise"], "s3 is remote storage, where no component is"),
        (["--set", "noise=5"], "noise: expected a component: its name, or a mapping with the key"),
        (["--set", "reg=[[]]"], "reg.0: expected a component: its name, or a mapping"),
        (["--set", "noise={name: [x]}"], "noise: expected a component: its name, or a mapping"),
        (["--set", "train=5"], "train: expected a mapping of keys and values, not 5"),
    ],
)
def test_a_value_that_no_run_can_have(capsys, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    assert run(["train", "--out", "r", *arguments]) == 2
    out, err = capsys.readouterr()
    assert said in err
    assert err.count("\n") == 1
    assert not any(word in err for word in ("<class", "instance of", "literal[", "function-"))
    assert out == ""
    assert not any(tmp_path.iterdir())


def test_a_plugin_that_allows_any_number_is_given_none_that_no_array_holds():
    from pydantic import BaseModel

    from noisereg.plugins.validation import check_numbers

    class Loose(BaseModel):
        rate: float = 1.0
        sides: list[int] = []
        inner: dict[str, float] = {}

    check_numbers(Loose(sides=[2**62, -(2**63)]), "loose")
    for values, said in (
        ({"rate": float("nan")}, "loose: rate: expected a finite number, not nan"),
        ({"inner": {"a": float("inf")}}, "loose: inner.a: expected a finite number, not inf"),
        ({"sides": [1, 2**63]}, "loose: sides: expected a whole number of at most 64 bits"),
    ):
        with pytest.raises(NoiseregError, match=said):
            check_numbers(Loose(**values), "loose")
    found = registry()
    with pytest.raises(NoiseregError, match="expected a finite number"):
        found.params(found.find("regularizer", "isotropy"), {"weight": "nan"})


def test_a_sweep_of_too_many_cells_is_refused_at_once(capsys):
    assert run(["sweep", "--noise", "white", "--seeds", "1000000", "--dry-run"]) == 2
    assert "has 1,000,000 cells; expected at most 10,000: fewer --seeds" in capsys.readouterr().err
    assert len(make_cells({}, Grid(seeds=30))) == 30


def test_a_million_samples_are_drawn_and_more_only_where_they_are_meant():
    check_num(1_000_000, (1, 8, 8))
    check_num(1_000_001, (1, 8, 8), many=True)
    for num, said in (
        (0, "num=0: expected at least 1"),
        (101010101010101010, "are 6,464,646,465 GB at least, held in memory; .* or many=True"),
    ):
        with pytest.raises(NoiseregError, match=said):
            check_num(num, (1, 8, 8))


def test_draws_that_no_memory_holds_are_refused_before_any(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["noise", "show", "white", "--size", "99999999999"]) == 2
    assert "expected at most 2,147,483,648: fewer --draws" in capsys.readouterr().err
