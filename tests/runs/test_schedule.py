"""Learning rates and regularizers' weights over training."""

import json

import pytest

from noisereg import python as noisereg
from noisereg.errors import NoiseregError
from noisereg.runs.schedule import Schedule


def test_a_constant_is_1_from_the_first_step():
    assert [Schedule()(step) for step in (0, 5, 1000)] == [1, 1, 1]


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_it_rises_to_1_and_falls_to_0_after_the_last_step(kind):
    schedule = Schedule(kind, warmup=4, steps=104)
    assert [schedule(k) for k in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert schedule(4) == 1
    assert schedule(54) == pytest.approx(0.5)
    assert schedule(104) == pytest.approx(0, abs=1e-12)


def test_a_regularizers_weight_follows_its_schedule_and_the_loss_is_what_the_columns_say(tmp_path):
    """λ(k) = 0.5·(k+1)/3 over three steps, then 0.5·(1 − (k−3)/3)."""
    run = noisereg.train(
        out=tmp_path / "run",
        reg=["isotropy:weight=0.5,warmup=3,schedule=linear"],
        denoiser="mlp:width=16",
        train={"steps": 6, "batch_size": 16, "log_every": 1},
        sample={"steps": 2},
        runtime={"device": "cpu"},
    )
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    weights = [0.5 / 3, 1.0 / 3, 0.5, 0.5, 1.0 / 3, 0.5 / 3]
    assert [line["isotropy/weight"] for line in lines] == pytest.approx(weights, rel=1e-5)
    for line, weight in zip(lines, weights, strict=True):
        assert line["loss"] == pytest.approx(line["mse"] + weight * line["isotropy"], rel=1e-4)


def test_a_constant_weight_has_no_column_of_its_own(tmp_path):
    run = noisereg.train(
        out=tmp_path / "run",
        reg=["isotropy"],
        denoiser="mlp:width=16",
        train={"steps": 1, "batch_size": 16},
        sample={"steps": 2},
        runtime={"device": "cpu"},
    )
    assert "isotropy/weight" not in json.loads(
        (run.path / "metrics.jsonl").read_text().splitlines()[0]
    )


def test_another_schedule_is_refused() -> None:
    """A regularizer's parameters may allow what the engine does not know: it was cosine's."""
    with pytest.raises(NoiseregError, match=r"schedule=exp: expected constant, linear, cosine"):
        Schedule("exp")
