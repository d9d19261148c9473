"""The tutorial's plugin, as printed, trains."""

import re
from pathlib import Path

import pytest

from noisereg.cli.main import run
from noisereg.plugins.registry import reset

TUTORIAL = (Path(__file__).parent.parent / "docs/tutorial.md").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def _forget_its_plugin():
    yield
    reset()


def test_the_tutorials_own_noise_trains(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", TUTORIAL, re.S)
    Path("mine.py").write_text(code)
    line = "train --plugin mine.py --noise loud --reg isotropy --steps 300 --out runs/loud"
    assert f"$ noisereg {line}" in TUTORIAL
    assert (
        run([*line.replace("300", "2").split(), "--set", "sample.steps=2", "--batch-size", "8"])
        == 0
    )
    assert "file/loud" in Path("runs/loud/config.yaml").read_text()
    assert run(["sample", "runs/loud", "--num", "2", "--out", "s.npz"]) == 0
    capsys.readouterr()
