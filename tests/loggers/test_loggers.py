"""Loggers are told what a run measures, and cannot stop it."""

from pathlib import Path

import pytest

from noisereg import python as noisereg
from noisereg.api import Component, Logger
from noisereg.errors import NoiseregError
from noisereg.plugins.registry import COMES_WITH, registry, reset
from noisereg.runs.reporter import Reporter

RUN = {"denoiser": "mlp:width=16", "runtime": {"device": "cpu"}, "sample": {"steps": 2}}
TRAIN = {"steps": 4, "batch_size": 8, "log_every": 2}

told = []


class Listening(Logger):
    def __init__(self, params, ctx):
        told.clear()

    def run_started(self, out, config):
        told.append(("started", out.name, config["noise"]["name"]))

    def logged(self, step, metrics):
        told.append(("logged", step, sorted(metrics)))
        raise RuntimeError("the network is down")

    def pictured(self, step, name, picture):
        told.append(("pictured", step, name, picture))

    def run_ended(self, error):
        told.append(("ended", error))


@pytest.fixture
def listening():
    noisereg.register(Component(name="listening", impl=Listening))
    yield
    reset()


def test_a_logger_that_fails_is_said_once_and_the_run_goes_on(listening, tmp_path):
    said = []

    class Reading(Reporter):
        def note(self, text):
            said.append(text)

    run = noisereg.train(
        out=tmp_path / "run", log=["listening"], train=TRAIN, reporter=Reading(), **RUN
    )
    assert run.status["status"] == "finished"
    assert [event[0] for event in told] == ["started", *["logged"] * 2, *["pictured"] * 2, "ended"]
    assert told[1][2] == ["images_per_second", "loss", "lr", "mse"]
    assert sum("the network is down" in text for text in said) == 1
    assert [event[2] for event in told[3:5]] == ["samples", "trajectory"]
    assert told[3][1:] == (4, "samples", (run.path / "samples/000004.png").read_bytes())


def test_tensorboard_writes_its_events(tmp_path):
    pytest.importorskip("tensorboard", reason="the extra noisereg[tensorboard] is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    noisereg.train(out=tmp_path / "run", log=["tensorboard"], train=TRAIN, **RUN)
    events = EventAccumulator(str(tmp_path / "run/tensorboard"))
    events.Reload()
    assert [e.step for e in events.Scalars("loss")] == [2, 4]
    (image,) = events.Images("samples")
    assert (image.step, image.encoded_image_string[1:4]) == (4, b"PNG")


def test_loggers_are_components():
    assert "tensorboard" in {e.name for e in registry().entries("logger")}


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_logger_that_a_plugin_of_ours_brings_is_refused_with_its_name(name):
    if name in {e.name for e in registry().entries("logger")}:
        pytest.skip("it is installed")
    with pytest.raises(NoiseregError, match=rf"pip install \./plugins/noisereg-{name}"):
        noisereg.train(log=[name])


def test_what_our_plugins_bring_is_what_they_say():
    root = Path(__file__).parents[2] / "plugins"
    for name, package in COMES_WITH.items():
        source = (root / package / package.replace("-", "_") / "__init__.py").read_text()
        assert f'name="{name}"' in source
