"""Every file that a run, a sweep, a cache and a table write, damaged: each command afterwards gives
what it gave before, or one line and exit code 2; never another number.

The files are found by listing the folders, so that a new one is covered on its first day. In the
suite each has one damage; ``make fuzz`` tries a thousand.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from noisereg.cli.main import run

NUMBER = min(1000, int(os.environ.get("NOISEREG_FUZZ", "0")))
TINY = [
    "--data", "swiss-roll:n=200", "--denoiser", "dense:width=8,blocks=1", "--batch-size", "16",
    "--set", "train.checkpoint_every=2", "--set", "runtime.device=cpu", "--set", "sample.steps=2",
    "--steps", "4", "--noise", "white", "--seeds", "2",
]  # fmt: skip


def call(*arguments: str) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(list(arguments))
    return code, out.getvalue(), err.getvalue()


def train() -> tuple[int, object, str]:
    """Both cells go on (they are finished): their weights."""
    code, err = 0, ""
    for cell in ("white_s0", "white_s1"):
        one, _, said = call(
            "train", "--config", f"sweep/cells/{cell}.yaml", "--out", f"sweep/cells/{cell}",
            "--resume", "--steps", "6",
        )  # fmt: skip
        code, err = max(code, one), err + (said if one else "")
    weights = [
        Path(f"sweep/cells/{cell}/checkpoints/000006/{name}.safetensors")
        for cell in ("white_s0", "white_s1")
        for name in ("model", "ema")
    ]
    return code, [file.read_bytes() for file in weights] if code == 0 else None, err


def sample() -> tuple[int, object, str]:
    code, _, err = call("sample", "sweep/cells/white_s0", "--num", "3", "--out", "s.npz")
    return code, np.load("s.npz")["samples"].tolist() if code == 0 else None, err


def evaluate() -> tuple[int, object, str]:
    code, out, err = call("eval", "sweep", "--num", "20", "--format", "csv")
    return code, out, err


def show() -> tuple[int, object, str]:
    code, out, err = call("eval", "t.json", "--format", "csv")
    return code, out, err


COMMANDS: dict[str, Callable[[], tuple[int, object, str]]] = {
    "show": show,
    "eval": evaluate,
    "sample": sample,
    "train": train,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, object]]]:
    """A folder with a sweep, its caches and its table, and what each command says of it."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NOISEREG_CACHE", "cache")
        patch.chdir(folder)
        assert call("sweep", *TINY, "--out", "sweep", "--jobs", "1")[0] == 0
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


def damage(file: Path, kind: str, chance: random.Random) -> None:
    contents = file.read_bytes()
    if kind == "folder":
        file.unlink()
        file.mkdir()
    elif kind == "missing":
        file.unlink()
    elif kind == "empty":
        file.write_bytes(b"")
    elif kind == "cut":
        file.write_bytes(contents[: chance.randrange(len(contents) or 1)])
    elif contents:
        place = chance.randrange(len(contents))
        flipped = contents[place] ^ (1 << chance.randrange(8))
        file.write_bytes(contents[:place] + bytes([flipped]) + contents[place + 1 :])


KINDS = ("flip", "cut", "empty", "folder", "missing")


def check(
    whole: tuple[Path, dict[str, object]], to: Path, name: str, kind: str, seed: int
) -> None:
    """Damage one file of a copy and try each command on a copy of that."""
    folder, expected = whole
    for command, function in COMMANDS.items():
        if not concerns(command, name):
            continue
        shutil.rmtree(to, ignore_errors=True)
        shutil.copytree(folder, to)
        damage(to / name, kind, random.Random(seed))
        os.chdir(to)
        code, found, err = function()
        assert "Traceback" not in err
        assert code in (0, 1, 2), (command, err)
        if code:
            errors = [line for line in err.splitlines() if line.startswith("noisereg: error: ")]
            assert code == 2, (command, err)
            assert errors, (command, err)
        else:
            assert found == expected[command], f"{command}: another result without a word: {err}"


def concerns(command: str, name: str) -> bool:
    """Whether a command reads a file at all, so that the suite's time goes where it counts."""
    if name == "t.json":
        return command == "show"
    return command != "show" and (command == "eval" or "/eval/" not in name)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "chosen" in metafunc.fixturenames:
        metafunc.parametrize("chosen", range(NUMBER or 1))


def test_every_file_of_a_sweep_its_caches_and_its_table(
    whole: tuple[Path, dict[str, object]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NOISEREG_CACHE", "cache")
    monkeypatch.chdir(tmp_path)
    names = files_of(whole[0])
    assert {"t.json", "sweep/sweep.yaml"} <= set(names)
    bad = []
    for number, name in enumerate(names):
        kind = KINDS[(number + zlib.crc32(name.encode())) % len(KINDS)]
        try:
            check(whole, tmp_path / "x", name, kind, number)
        except AssertionError as error:
            bad.append(f"{name} ({kind}): {str(error).splitlines()[0][:300]}")
    assert bad == []
