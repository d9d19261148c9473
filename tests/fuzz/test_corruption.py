"""Every file that a run, a sweep, a cache and a table write, damaged: each command afterwards gives
what it gave before, or one line and exit code 2; never another number without a word.

The files are found by listing the folders, so that a new one is covered on its first day. In the
suite one of each kind has one damage; ``make fuzz`` tries a thousand.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import re
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sweep_fixtures import train_sweep

from noisereg.cli.main import run

pytestmark = pytest.mark.timeout(6 * 3600)  # `make fuzz` takes as long as its number asks
NUMBER = min(1000, int(os.environ.get("NOISEREG_FUZZ", "0")))
GRID: dict[str, Any] = {"noise": ["white"], "seeds": 2}
BASE: dict[str, Any] = {
    "data": "swiss-roll:n=200",
    "denoiser": "dense:widths=8,embedding=8",
    "train": {"steps": 4, "batch_size": 16, "checkpoint_every": 2},
    "sample": {"steps": 2},
}
CELL = "sweep/cells/white_s0"
KINDS = ("flip", "cut", "empty", "folder", "missing", "pipe")
Answer = tuple[int, object, str]
"""Exit code, result, and what was said on stderr."""


def call(*arguments: str) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(list(arguments))
    return code, out.getvalue(), err.getvalue()


def train() -> Answer:
    """A cell goes on for two steps: its weights."""
    code, _, err = call("train", "--out", CELL, "--resume", "--steps", "6")
    if code:
        return code, None, err
    files = [Path(CELL, "checkpoints/000006", f"{n}.safetensors") for n in ("model", "ema")]
    return code, [file.read_bytes() for file in files], err


def sample() -> Answer:
    code, _, err = call("sample", CELL, "--num", "3", "--out", "s.npz")
    return code, np.load("s.npz")["samples"].tolist() if code == 0 else None, err


def evaluate() -> Answer:
    code, out, err = call("eval", "sweep", "--num", "20", "--format", "csv")
    return code, out, err


def show() -> Answer:
    code, out, err = call("eval", "t.json", "--format", "csv")
    return code, out, err


COMMANDS: dict[str, Callable[[], Answer]] = {
    "eval": evaluate,
    "show": show,
    "sample": sample,
    "train": train,
}


def concerns(command: str, name: str) -> bool:
    """Whether a command reads a file at all, so that the time goes where it counts."""
    if name == "t.json":
        return command == "show"
    if command == "show" or name.endswith((".log", ".png", ".npz", ".lock")):
        return False
    return command == "eval" or (name.startswith(CELL) and "/eval/" not in name)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, object]]]:
    """A folder with a sweep, its caches and its table, and what each command says of it."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NOISEREG_CACHE", "cache")
        patch.chdir(folder)
        train_sweep(Path("sweep"), GRID, BASE)
        assert call("eval", "sweep", "--num", "20", "--out", "t.json")[0] == 0
        spare = tmp_path_factory.mktemp("spare") / "x"
        shutil.copytree(folder, spare)
        patch.chdir(spare)
        expected = {}
        for name, command in COMMANDS.items():
            code, expected[name], err = command()
            assert code == 0, (name, err)
        yield folder, expected


def files_of(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def one_of_a_kind(names: list[str]) -> list[str]:
    """Of files that differ in a number or a hash alone the first."""
    return list({re.sub(r"[0-9a-f]*\d[0-9a-f]*", "N", n): n for n in names[::-1]}.values())


def damage(file: Path, kind: str, chance: random.Random) -> None:
    contents = file.read_bytes()
    if kind in ("folder", "missing", "pipe"):
        file.unlink()
        if kind == "folder":
            file.mkdir()
        elif kind == "pipe":  # which waits, when it is opened, for somebody who writes
            os.mkfifo(file)
    elif kind == "empty":
        file.write_bytes(b"")
    elif kind == "cut":
        file.write_bytes(contents[: chance.randrange(len(contents) or 1)])
    elif contents:
        place = chance.randrange(len(contents))
        flipped = contents[place] ^ (1 << chance.randrange(8))
        file.write_bytes(contents[:place] + bytes([flipped]) + contents[place + 1 :])


def fault(whole: tuple[Path, dict[str, object]], to: Path, command: str, name: str, kind: str,
          seed: int) -> str:  # fmt: skip
    """Damage one file of a copy and try a command on it; what it did that it may not."""
    folder, expected = whole
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(folder, to)
    damage(to / name, kind, random.Random(seed))
    os.chdir(to)
    code, found, err = COMMANDS[command]()
    if "Traceback" in err or code not in (0, 2):
        return f"exit code {code}: {err}"
    if code == 2:
        lines = [line for line in err.splitlines() if line.startswith("noisereg: error: ")]
        if len(lines) != 1:
            return f"not one line: {err}"
    elif found == expected[command]:
        return ""
    return "" if Path(name).name in err else f"another result, and {name} is not named: {err}"


def test_every_file_of_a_sweep_its_caches_and_its_table(
    whole: tuple[Path, dict[str, object]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOISEREG_CACHE", "cache")
    monkeypatch.chdir(tmp_path)
    names = files_of(whole[0])
    assert {"t.json", "sweep/sweep.yaml", f"{CELL}/status.json"} <= set(names)
    names = names * (NUMBER // len(names) + 1) if NUMBER else one_of_a_kind(names)
    bad = []
    for number, name in enumerate(names):
        kind = KINDS[(number + zlib.crc32(name.encode())) % len(KINDS)]
        able = [command for command in COMMANDS if concerns(command, name)]
        for command in able if NUMBER else able[number % max(len(able), 1) :][:1]:
            if said := fault(whole, tmp_path / "x", command, name, kind, number):
                bad.append(f"{name} ({kind}), {command}: {' '.join(said.split())[:300]}")
    assert bad == [], "\n".join(["", *bad])


@pytest.mark.parametrize(
    ("name", "was", "now"),
    [
        (f"{CELL}/environment.json", '"revision"', '"revisiof"'),
        (f"{CELL}/environment.json", '"version"', '"versiof"'),
        ("sweep/sweep.yaml", "seeds:", "smeds:"),
    ],
)
def test_what_make_fuzz_has_found(
    whole: tuple[Path, dict[str, object]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    was: str,
    now: str,
) -> None:
    """A key with a flipped bit, which no byte order or type shows."""
    monkeypatch.setenv("NOISEREG_CACHE", "cache")
    shutil.copytree(whole[0], tmp_path / "x")
    file = tmp_path / "x" / name
    assert was in file.read_text(encoding="utf-8")
    file.write_text(file.read_text(encoding="utf-8").replace(was, now, 1), encoding="utf-8")
    monkeypatch.chdir(tmp_path / "x")
    code, _, err = COMMANDS["eval"]()
    assert code == 2
    assert Path(name).name in err
    assert "Traceback" not in err
