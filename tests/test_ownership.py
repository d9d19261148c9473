"""A folder has one owner, and what is refused leaves nothing."""

from __future__ import annotations

import errno
import multiprocessing
import os
import queue
import signal
from pathlib import Path
from typing import Any

import pytest

from noisereg import python as noisereg
from noisereg.errors import NoiseregError
from noisereg.ownership import clear_leftovers, new_folder, owned, owned_file, owned_new, vacant

ROUNDS = int(os.environ.get("NOISEREG_ROUNDS", 3))
"""Of two processes started together; ``make kill`` has 20."""


def _hold(path: Path, ready: Any) -> None:
    with owned(path):
        ready.set()
        signal.pause()


def test_a_second_owner_is_refused_and_a_killed_one_leaves_the_folder_free(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    holder = context.Process(target=_hold, args=(tmp_path / "run", ready))
    holder.start()
    assert ready.wait(20)
    with (
        pytest.raises(
            NoiseregError, match=r"another noisereg process is writing into .*/run; wait"
        ),
        owned(tmp_path / "run", wait=0),
    ):
        pass
    assert holder.pid
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    with owned(tmp_path / "run", wait=0):
        (tmp_path / "run" / "a").touch()
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [".lock", "a"]


def _train(out: Path | None, rate: float, wait: Any, results: Any) -> None:
    os.chdir(os.environ["NOISEREG_TEST_FOLDER"])
    wait()
    try:
        run = noisereg.train(
            out=out,
            data="swiss-roll:n=200",
            denoiser="mlp:width=8,blocks=1",
            train={"steps": 3, "batch_size": 8, "checkpoint_every": 1},
            optim={"lr": rate},
            sample={"steps": 1},
            runtime={"device": "cpu"},
        )
        results.put((rate, str(run.path)))
    except NoiseregError as error:
        results.put((rate, f"refused: {error}"))


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory, _cache: None) -> None:
    """What training imports is imported before the processes part."""
    folder = tmp_path_factory.mktemp("warm")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("NOISEREG_TEST_FOLDER", str(folder))
        _train(folder / "run", 1e-3, bool, queue.SimpleQueue())


def _together(out: Path | None) -> dict[float, str]:
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(2), context.Queue()
    both = [
        context.Process(target=_train, args=(out, lr, barrier.wait, results))
        for lr in (1e-3, 2e-3)
    ]
    for process in both:
        process.start()
    found = dict(results.get(timeout=60) for _ in both)
    for process in both:
        process.join()
    return found


def test_of_two_started_together_one_is_refused_and_the_run_is_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warm: None
) -> None:
    monkeypatch.setenv("NOISEREG_TEST_FOLDER", str(tmp_path))
    for number in range(ROUNDS):
        out = tmp_path / str(number)
        found = _together(out)
        (refused,) = [rate for rate, said in found.items() if said.startswith("refused")]
        (trained,) = found.keys() - {refused}
        run = noisereg.load(out)
        assert run.config.optim.lr == trained
        assert (run.status["status"], run.status["step"]) == ("finished", 3)
        groups = run.checkpoint().optimizer("cpu")["param_groups"]
        assert {group["lr"] for group in groups} == {trained}


def test_default_names_of_two_started_together_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warm: None
) -> None:
    monkeypatch.setenv("NOISEREG_TEST_FOLDER", str(tmp_path))
    paths = _together(None)
    assert len(set(paths.values())) == 2
    assert all(noisereg.load(p).config.optim.lr == rate for rate, p in paths.items())


def test_a_default_name_that_is_taken_gets_a_number_and_a_refusal_leaves_none(
    tmp_path: Path,
) -> None:
    (tmp_path / "runs/a").mkdir(parents=True)
    with owned_new(tmp_path / "runs/a") as path:
        assert path == tmp_path / "runs/a-2"
        assert vacant(path)
    with owned_new(tmp_path / "new/b"):
        pass
    assert not (tmp_path / "runs/a-2").exists()
    assert not (tmp_path / "new").exists()


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NoiseregError, match=r"\.lock is a link"), owned(tmp_path / "run"):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_a_file_system_that_cannot_lock_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    said: list[str] = []
    with owned(tmp_path / "run", note=said.append):
        (tmp_path / "run" / "a").touch()
    assert len(said) == 1
    assert "cannot lock (No locks available)" in said[0]


def test_a_file_and_a_new_folder_keep_no_lock(tmp_path: Path) -> None:
    with owned_file(tmp_path / "made/spectrum.bin"):
        with (
            pytest.raises(NoiseregError, match="another noisereg process"),
            owned_file(tmp_path / "made/spectrum.bin", wait=0),
        ):
            pass
        (tmp_path / "made/spectrum.bin").touch()
    with new_folder(tmp_path / "out"):
        (tmp_path / "out/a").touch()
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a", "made", "out", "spectrum.bin"]
    with pytest.raises(NoiseregError, match="new or empty folder"), new_folder(tmp_path / "out"):
        pass


def test_the_next_owner_clears_what_a_killed_process_left_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / ".000003.4242").mkdir()
    (tmp_path / ".000003.4242/optimizer.pt").touch()
    (tmp_path / "photos").mkdir()
    (tmp_path / ".000004.1").symlink_to(tmp_path / "photos")
    for name in (".hidden.4242", "000003.4242", ".000003"):
        (tmp_path / name).touch()
    clear_leftovers(tmp_path, r"\d{6,}")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        ".000003",
        ".hidden.4242",
        "000003.4242",
        "photos",
    ]
