"""Factors on disk: found again, never trusted when damaged, not needed."""

import multiprocessing
import os
import time

import numpy as np
import pytest
import torch

import noisereg.store as cache
from noisereg.api import Context
from noisereg.noises import MaskParams
from noisereg.noises.blue import BlueNoise
from noisereg.store import cache_dir, cached_array

TIMES = torch.zeros(2, dtype=torch.float64)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "_said", set())
    return tmp_path / "cache"


def blue(folder, size=8):
    return BlueNoise(MaskParams(), Context(shape=(1, size, size), cache_dir=folder))


def draw(noise):
    z = torch.randn(2, 1, noise.height, noise.width, generator=torch.Generator().manual_seed(0))
    return noise.color({"z": z}, TIMES)


def files(folder):
    return sorted(p for p in folder.rglob("*") if p.is_file())


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


@pytest.mark.parametrize("place", [0, 31, 32, 5000, -1])
def test_a_flipped_byte_is_found_and_the_factor_computed_again(folder, place, capsys):
    good = draw(blue(folder))
    (stored,) = files(folder)
    whole = stored.read_bytes()
    damaged = bytearray(whole)
    damaged[place] ^= 4
    stored.write_bytes(damaged)
    assert torch.equal(draw(blue(folder)), good)
    assert stored.read_bytes() == whole
    assert "damaged" in capsys.readouterr().err


@pytest.mark.parametrize("left", [0, 10, 32, 4000])
def test_a_file_cut_short_is_computed_again(folder, left):
    good = draw(blue(folder))
    (stored,) = files(folder)
    whole = stored.read_bytes()
    stored.write_bytes(whole[:left])
    assert torch.equal(draw(blue(folder)), good)
    assert stored.read_bytes() == whole


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

    monkeypatch.setattr(cache.os, "replace", full)
    assert torch.isfinite(draw(blue(folder))).all()
    assert files(folder) == []
    assert "No space left" in capsys.readouterr().err


def _race(folder, start, out):
    start.wait()
    made = cached_array(
        folder, "key", (64, 64), lambda: np.full((64, 64), os.getpid(), dtype=np.float32)
    )
    out.put(float(made[0, 0]) if (made == made[0, 0]).all() else -1.0)


def test_processes_at_once_leave_one_whole_file(tmp_path):
    context = multiprocessing.get_context("spawn")
    start, out = context.Event(), context.Queue()
    processes = [context.Process(target=_race, args=(tmp_path, start, out)) for _ in range(2)]
    for process in processes:
        process.start()
    start.set()
    made = [out.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    kept = cached_array(tmp_path, "key", (64, 64), lambda: np.zeros((64, 64), dtype=np.float32))
    assert float(kept[0, 0]) in made
    assert -1.0 not in made
    assert len(files(tmp_path)) == 1


def test_the_environment_names_the_default_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("NOISEREG_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("NOISEREG_CACHE")
    assert cache_dir().name == "noisereg"


def test_first_use_at_64_takes_under_10_seconds_and_the_second_under_one(folder):
    began = time.perf_counter()
    first = draw(blue(folder, 64))
    assert time.perf_counter() - began < 10
    began = time.perf_counter()
    second = draw(blue(folder, 64))
    assert time.perf_counter() - began < 1
    assert torch.equal(first, second)
