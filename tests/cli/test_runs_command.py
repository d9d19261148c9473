"""``noisereg runs``: the runs of a folder, what differs, and removing them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from noisereg.cli.main import run
from noisereg.ownership import owned
from noisereg.reading import write_yaml
from noisereg.runs.config import validate


def make(path: Path, step: int = 3, status: str = "stopped", **sections: object) -> Path:
    """A run's folder without its weights."""
    path.mkdir(parents=True)
    config = validate({"train": {"steps": 10}, **sections})
    (path / "config.yaml").write_text(write_yaml(config.dump()), encoding="utf-8")
    (path / "status.json").write_text(json.dumps({"status": status, "step": step}))
    (path / "metrics.jsonl").write_text('{"step": 1, "loss": 2}\n{"step": 3, "loss": 0.25}\n{"st')
    return path


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    make(Path("runs/a"), noise="white")
    make(Path("runs/deep/b"), 10, "finished", noise="blue-tv:gamma.tau=0.3", seed=1)
    return tmp_path


def test_the_list_shows_status_step_loss_and_what_differs(two, capsys):
    assert run(["runs", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["run", "status", "step", "loss", "what", "differs"]
    assert lines[1].split() == [
        "runs/a", "stopped", "3", "of", "10", "0.25", "seed=0", "noise=white",
    ]  # fmt: skip
    assert "finished  10 of 10" in lines[2]
    # What the component has by itself is not worth a word.
    assert lines[2].split()[-3:] == ["seed=1", "noise=blue-tv", "noise.gamma.tau=0.3"]
    assert run(["runs", "list", "runs", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["step"] for row in rows] == [3, 10]
    assert rows[0]["metrics"] == {"step": 3, "loss": 0.25}


def test_the_list_shows_a_parameter_in_which_runs_of_one_component_differ(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    for name, noise in {"a": "blue-tv:gamma.tau=0.2", "b": "blue-tv:gamma.tau=0.3"}.items():
        make(Path("runs") / name, noise=noise)
    make(Path("runs/c"), noise="white")
    assert run(["runs", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    # The first is as the component has it by itself, and shown: it is what tells it from b.
    assert lines[1].endswith("noise=blue-tv noise.gamma.tau=0.2")
    assert lines[2].endswith("noise=blue-tv noise.gamma.tau=0.3")
    assert lines[3].endswith("noise=white")


def test_the_list_shows_settings_of_a_section_that_is_no_component(tmp_path, monkeypatch, capsys):
    """optim has a ``name``, and is none."""
    monkeypatch.chdir(tmp_path)
    make(Path("runs/a"), optim={"name": "adam", "lr": 0.001})
    make(Path("runs/b"), optim={"name": "adamw", "lr": 0.0002})
    assert run(["runs", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].endswith("optim.name=adam optim.lr=0.001")
    assert lines[2].endswith("optim.name=adamw optim.lr=0.0002")


def test_the_list_leaves_out_what_a_regularizer_has_by_itself(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    reg = {"name": "isotropy", "weight": 0.1, "mean": "batch", "space": "plain"}
    make(Path("runs/a"), reg=[reg])
    make(Path("runs/b"), reg=[{**reg, "weight": 0.3}])
    make(Path("runs/c"), plugins=[{"source": "/here/mine.py", "sha256": "0123456789abcdef"}])
    assert run(["runs", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[6:] == ["reg.0=isotropy", "reg.0.weight=0.1"]
    assert lines[2].split()[6:] == ["reg.0=isotropy", "reg.0.weight=0.3"]
    assert "plugins.0.sha256=01234567…" in lines[3]
    assert "/here" not in lines[3]


def test_a_damaged_run_is_listed_with_what_is_wrong(two, capsys):
    (two / "runs/a/status.json").write_text("{")
    (two / "runs/deep/b/config.yaml").write_bytes(b"\xff")
    assert run(["runs", "list"]) == 0
    out = capsys.readouterr().out
    assert "status.json, line 1: expecting property name" in out
    assert "is not UTF-8 text" in out
    assert run(["runs", "list", "nowhere"]) == 2
    assert "there is no folder nowhere" in capsys.readouterr().err


def test_the_difference_of_two_runs(two, capsys):
    assert run(["runs", "diff", "runs/a", "runs/deep/b", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "seed": ["0", "1"],
        "noise.name": ["white", "blue-tv"],
        "noise.gamma.tau": [None, "0.3"],
    }
    assert run(["runs", "diff", "runs/a", "runs/a"]) == 0
    assert capsys.readouterr().out == "no setting differs\n"


def test_a_run_is_removed_only_where_that_is_meant(two, capsys, monkeypatch):
    assert run(["runs", "rm", "runs/a"]) == 2  # nobody can be asked
    assert "give --yes" in capsys.readouterr().err
    Path("runs/link").symlink_to("a")
    for wrong, said in (("runs", "holds no run"), ("runs/link", "is a link")):
        assert run(["runs", "rm", "runs/a", wrong, "--yes"]) == 2
        assert said in capsys.readouterr().err
    assert Path("runs/a/config.yaml").is_file()
    assert run(["runs", "rm", "runs/a", "--yes"]) == 0
    assert capsys.readouterr().out == "removed runs/a\n"
    assert not Path("runs/a").exists()
    assert Path("runs/deep/b/config.yaml").is_file()


def test_a_run_in_training_is_not_removed(two, tmp_path):
    import subprocess
    import sys

    with owned(Path("runs/a")):
        done = subprocess.run(
            [sys.executable, "-m", "noisereg", "runs", "rm", "runs/a", "--yes"],
            capture_output=True,
            text=True,
        )
    assert done.returncode == 2
    assert "stop its training first" in done.stderr
    assert Path("runs/a/config.yaml").is_file()
