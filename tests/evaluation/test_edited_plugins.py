"""What is kept on disk of a plugin's is kept by its code: an edited file, and a class that a
notebook defines again, give numbers of their own.
"""

import subprocess
import sys
from pathlib import Path

import pytest
from fake_packages import LOUDER

import noisereg
from noisereg.api import Component, Metric, Noise
from noisereg.plugins.registry import registry, reset
from noisereg.plugins.sources import code_of

FILE = (
    LOUDER
    + """
from noisereg.api import Metric

class Constant(Metric):
    better = {{"constant": "lower"}}

    def __init__(self, params, ctx):
        pass

    def compute(self, samples, reference, features):
        return {{"constant": {number}}}

@hookimpl
def noisereg_metrics():
    yield Component(name="constant", impl=Constant, params=Params)
"""
)
SETTINGS = {
    "process": "iadb",
    "denoiser": "mlp:width=8,blocks=1",
    "train": {"steps": 2, "batch_size": 16},
    "sample": {"steps": 2},
    "runtime": {"device": "cpu"},
}


def numbers(run, *metrics):
    (row,) = noisereg.evaluate([run], metrics=list(metrics), num=8, num_reference=8)
    return {name: found["mean"] for name, found in row["metrics"].items()}


@pytest.fixture(autouse=True)
def anew():
    reset()
    yield
    reset()


def test_an_edited_file_gives_numbers_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"

    def write(**values: float) -> None:
        file.write_text(FILE.format(**values))
        reset()
        registry().load(str(file))

    write(scale=1.0, number=1.0)
    noisereg.train(out=tmp_path / "run", noise="louder", plugins=str(file), **SETTINGS)
    first = numbers(tmp_path / "run", "constant", "fd")
    assert first["constant"] == 1
    write(scale=1.0, number=2.0)
    assert numbers(tmp_path / "run", "constant") == {"constant": 2}
    write(scale=3.0, number=2.0)
    assert numbers(tmp_path / "run", "fd")["fd-pixels"] != first["fd-pixels"]
    write(scale=1.0, number=1.0)
    assert numbers(tmp_path / "run", "constant", "fd") == first


def metric(number: float) -> type[Metric]:
    class Mine(Metric):
        better = {"mine": "lower"}

        def __init__(self, params, ctx):
            pass

        def compute(self, samples, reference, features):
            return {"mine": number}

    return Mine


def test_a_class_that_is_registered_again_gives_numbers_of_its_own(tmp_path: Path) -> None:
    """In one file, and where there is none."""
    noisereg.train(out=tmp_path / "run", **SETTINGS)

    class Mine(Metric):
        better = {"mine": "lower"}

        def __init__(self, params, ctx):
            pass

        def compute(self, samples, reference, features):
            return {"mine": 1.0}

    noisereg.register(Component(name="mine", impl=Mine))
    assert numbers(tmp_path / "run", "mine") == {"mine": 1}

    class Mine(Metric):  # type: ignore[no-redef]
        better = {"mine": "lower"}

        def __init__(self, params, ctx):
            pass

        def compute(self, samples, reference, features):
            return {"mine": 42.0}

    noisereg.register(Component(name="mine", impl=Mine))
    assert numbers(tmp_path / "run", "mine") == {"mine": 42}
    for number in (3.0, 4.0):
        noisereg.register(Component(name="mine", impl=metric(number)))
        assert numbers(tmp_path / "run", "mine") == {"mine": number}
    for number in (5.0, 6.0):  # as in a notebook
        without_a_file = metric(number)
        without_a_file.__module__ = "__nowhere__"
        noisereg.register(Component(name="mine", impl=without_a_file))
        assert numbers(tmp_path / "run", "mine") == {"mine": number}


def test_code_is_the_same_for_the_same_file_and_empty_for_a_built_in() -> None:
    assert registry().find("noise", "white").code == ""
    assert code_of(FileNoise) == code_of(FileNoise)
    FileNoise.__module__ = "__nowhere__"
    assert code_of(FileNoise) != code_of(FileNoise)


class FileNoise(Noise):
    def color(self, latents, t):
        return latents["z"]


def noise_of(factor: float) -> type[Noise]:
    class Mine(Noise):
        def color(self, latents, t):
            return latents["z"] * factor

    return Mine


def test_what_a_noise_makes_is_in_its_code() -> None:
    """``color`` is wrapped by the base."""

    class Mine(Noise):
        def color(self, latents, t):
            return latents["z"]

    turned = Mine

    class Mine(Noise):  # type: ignore[no-redef]
        def color(self, latents, t):
            return latents["z"].flip(-1)

    assert code_of(turned) != code_of(Mine)
    assert code_of(noise_of(1.0)) != code_of(noise_of(2.0))
    assert code_of(noise_of(1.0)) == code_of(noise_of(1.0))


SCRIPT = """
from noisereg.api import Noise
from noisereg.plugins.sources import code_of


class Mine(Noise):
    parts = (abs, 1, "a")

    def color(self, latents, t, act=abs, *, more=abs):
        return act(latents["z"])


print(code_of(Mine))
"""


def test_code_is_the_same_in_every_process(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(SCRIPT)
    found = {
        subprocess.run(
            [sys.executable, "a.py"], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout
        for _ in range(2)
    }
    assert len(found) == 1
    assert len(found.pop().strip()) == 64
