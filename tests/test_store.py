"""Computed things on disk: found again, never trusted when damaged, not needed."""

import json
import multiprocessing
import os
import time

import numpy as np
import pytest
import torch

from noisereg import terminal
from noisereg.api import Context
from noisereg.errors import NoiseregError
from noisereg.folders import cache_dir
from noisereg.noises import MaskParams
from noisereg.noises.blue import BlueNoise
from noisereg.store import ARRAY, BYTES, JSON, Store

TIMES = torch.zeros(2, dtype=torch.float64)
KEY = {"of": "this", "n": 3}
VALUES = {
    "array": (ARRAY, np.arange(12, dtype=np.float32).reshape(3, 4)),
    "uint8": (ARRAY, np.zeros((0, 2), np.uint8)),
    "number": (ARRAY, np.array(2.5)),
    "json": (JSON, {"numbers": {"fid": 3.5}, "notes": ["ε × 2"]}),
    "bytes": (BYTES, b"\x00weights\xff" * 40),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(terminal, "_said", set())
    return tmp_path / "cache"


def never():
    raise AssertionError("it is stored")


def blue(folder, size=8):
    return BlueNoise(MaskParams(), Context(shape=(1, size, size), cache_dir=folder))


def draw(noise):
    z = torch.randn(2, 1, noise.height, noise.width, generator=torch.Generator().manual_seed(0))
    return noise.color({"z": z}, TIMES)


def files(folder):
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.parent.name != ".locks")


# What is stored


@pytest.mark.parametrize("what", VALUES)
def test_what_is_stored_is_found_again(folder, what):
    form, value = VALUES[what]
    assert Store(folder).get("a/b", KEY, form) is None
    Store(folder).put("a/b", KEY, value, form)
    found = Store(folder).cached("a/b", KEY, form, never)
    if form is ARRAY:
        assert found.dtype == value.dtype
        assert found.flags.writeable
        assert np.array_equal(found, value)
        torch.from_numpy(found)
    else:
        assert found == value
    assert Store(folder).get("a/b", {**KEY, "n": 4}, form) is None


def test_a_file_says_what_it_was_made_from(folder):
    Store(folder).put("a", KEY, {"x": 1}, JSON)
    lines = files(folder)[0].read_text().splitlines()
    assert json.loads(lines[1]) == KEY
    assert json.loads("".join(lines[2:])) == {"x": 1}


def test_no_array_of_objects_is_stored(folder):
    with pytest.raises((ValueError, TypeError)):
        Store(folder).put("a", KEY, np.array([{}], dtype=object), ARRAY)


@pytest.mark.parametrize("what", VALUES)
def test_any_flipped_bit_is_found(folder, what, capsys):
    """In the digest, the key, its padding, an array's header and the content alike."""
    form, value = VALUES[what]
    store = Store(folder)
    store.put("a", KEY, value, form)
    (stored,) = files(folder)
    whole = stored.read_bytes()
    for place in range(0, len(whole), 1 if what == "json" else 7):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        stored.write_bytes(damaged)
        assert store.get("a", KEY, form) is None, place
    stored.write_bytes(whole)
    assert store.get("a", KEY, form) is not None
    said = capsys.readouterr().err
    assert said == f"noisereg: {stored} is damaged and is computed again\n"


@pytest.mark.parametrize("left", [0, 10, 81, 200, -1])
def test_a_file_cut_short_is_computed_again(folder, left):
    store, value = Store(folder), np.arange(100.0)
    store.put("a", KEY, value, ARRAY)
    (stored,) = files(folder)
    whole = stored.read_bytes()
    stored.write_bytes(whole[:left])
    assert np.array_equal(store.cached("a", KEY, ARRAY, lambda: value), value)
    assert stored.read_bytes() == whole


def test_another_files_content_is_not_taken(folder, capsys):
    store = Store(folder)
    store.put("a", KEY, {"fid": 1.0}, JSON)
    other = {**KEY, "n": 4}
    store.path("a", KEY).rename(store.path("a", other))
    assert store.get("a", other, JSON) is None
    assert "damaged" in capsys.readouterr().err


# Where it is stored


@pytest.mark.parametrize("where", ["folder", "below", "file"])
def test_no_link_out_of_the_folder_is_followed(folder, tmp_path, where):
    elsewhere = tmp_path / "home"
    elsewhere.mkdir()
    store = Store(folder / "eval", within=folder)
    target = elsewhere
    if where == "file":
        store.put("metrics/a", KEY, {"fid": 1.0}, JSON)
        path = store.path("metrics/a", KEY)
        path.rename(elsewhere / path.name)
        path.symlink_to(elsewhere / path.name)
        target = elsewhere / path.name
    elif where == "below":
        (folder / "eval").mkdir(parents=True)
        (folder / "eval" / "metrics").symlink_to(elsewhere)
    else:
        folder.mkdir()
        (folder / "eval").symlink_to(elsewhere)
        assert store.refusal() == f"{folder / 'eval'} is a link"
    before = target.read_bytes() if target.is_file() else None
    assert store.get("metrics/a", KEY, JSON) is None
    assert store.cached("metrics/a", KEY, JSON, lambda: {"fid": 2.0}) == {"fid": 2.0}
    if where == "file":  # the link itself is replaced
        assert target.read_bytes() == before
    else:
        assert list(elsewhere.iterdir()) == []
        with pytest.raises(NoiseregError, match="is a link"):
            store.put("metrics/a", KEY, {}, JSON)


def test_a_folder_that_is_the_users_choice_may_be_a_link(folder, tmp_path):
    (tmp_path / "disk").mkdir()
    folder.symlink_to(tmp_path / "disk")
    Store(folder).put("a", KEY, {}, JSON)
    assert Store(folder).get("a", KEY, JSON) == {}


def test_another_users_folder_is_not_used(folder, monkeypatch, capsys):
    Store(folder).put("a", KEY, {"fid": 1.0}, JSON)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    store = Store(folder)
    assert "belongs to another user" in store.refusal()
    assert store.cached("a", KEY, JSON, lambda: {"fid": 2.0}) == {"fid": 2.0}
    assert "belongs to another user" in capsys.readouterr().err


def test_a_pipe_in_a_files_place_hangs_nothing(folder):
    store = Store(folder)
    folder.mkdir()
    os.mkfifo(store.path("a", KEY))
    assert store.cached("a", KEY, JSON, lambda: 1) == 1
    assert store.get("a", KEY, JSON) == 1


def test_a_folder_that_cannot_be_written_is_said_once_and_not_needed(folder, capsys):
    folder.write_text("a file is in the way")
    assert torch.isfinite(draw(blue(folder))).all()
    assert torch.isfinite(draw(blue(folder))).all()
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "cannot be written" in said


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_a_read_only_folder_is_not_needed(folder, capsys):
    folder.mkdir()
    folder.chmod(0o500)
    assert torch.isfinite(draw(blue(folder))).all()
    assert "cannot be written" in capsys.readouterr().err


def test_a_failed_write_leaves_nothing_behind(folder, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert torch.isfinite(draw(blue(folder))).all()
    assert files(folder) == []
    assert "No space left" in capsys.readouterr().err


def test_the_environment_names_the_default_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("NOISEREG_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("NOISEREG_CACHE")
    assert cache_dir().name == "noisereg"


# Processes at once


def _race(folder, start, out):
    start.wait()

    def compute():
        time.sleep(0.2)
        out.put(os.getpid())
        return np.full((64, 64), os.getpid(), dtype=np.float32)

    made = Store(folder).cached("a", KEY, ARRAY, compute)
    out.put(float(made[0, 0]) if (made == made[0, 0]).all() else -1.0)


def test_of_two_processes_one_computes_and_both_have_it(tmp_path):
    context = multiprocessing.get_context("fork")
    start, out = context.Event(), context.Queue()
    processes = [context.Process(target=_race, args=(tmp_path, start, out)) for _ in range(2)]
    for process in processes:
        process.start()
    start.set()
    said = [out.get(timeout=60) for _ in range(3)]
    for process in processes:
        process.join()
    assert len(set(said)) == 1
    assert said[0] in [process.pid for process in processes]
    assert len(files(tmp_path)) == 1


# Factors of blue noise


def test_a_factor_is_stored_once_and_gives_the_same_draws_bit_for_bit(folder):
    first = draw(blue(folder))
    (stored,) = files(folder)
    before = stored.stat().st_mtime_ns
    assert torch.equal(draw(blue(folder)), first)
    assert files(folder) == [stored]
    assert stored.stat().st_mtime_ns == before


def test_another_jitter_is_another_file(folder):
    draw(blue(folder))
    draw(BlueNoise(MaskParams(jitter=0.01), Context(shape=(1, 8, 8), cache_dir=folder)))
    assert len(files(folder)) == 2


def test_a_damaged_factor_is_computed_again(folder, capsys):
    good = draw(blue(folder))
    (stored,) = files(folder)
    whole = stored.read_bytes()
    stored.write_bytes(whole[:5000] + b"x" + whole[5001:])
    assert torch.equal(draw(blue(folder)), good)
    assert stored.read_bytes() == whole
    assert "damaged" in capsys.readouterr().err


def test_the_second_use_computes_no_factor(folder, monkeypatch):
    first = draw(blue(folder, 16))
    monkeypatch.setattr("scipy.linalg.cholesky", lambda *_, **__: never())
    assert torch.equal(first, draw(blue(folder, 16)))
    with pytest.raises(AssertionError, match="it is stored"):
        draw(blue(folder, 8))
