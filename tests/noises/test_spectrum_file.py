"""Building, storing and reading spectra."""

import contextlib
import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from noisereg.api import Context
from noisereg.errors import NoiseregError
from noisereg.noises import MaskParams
from noisereg.noises.blue import BlueNoise
from noisereg.noises.build import CHUNK, build_spectrum
from noisereg.noises.covariance import frequency
from noisereg.noises.spectrum_file import (
    FORMAT,
    SHIPPED,
    check_free,
    decode,
    encode,
    read,
    shipped,
)


@pytest.mark.parametrize("size", [(8, 8), (5, 7), (6, 9), (1, 4)])
def test_a_spectrum_survives_its_file(size, tmp_path):
    spectrum = build_spectrum(*size, masks=3, seed=2, jobs=1)
    (tmp_path / "s").write_bytes(encode(spectrum))
    back = read(tmp_path / "s")
    assert np.allclose(back.power, spectrum.power, atol=1e-6)
    assert (back.masks, back.seed, back.method) == (3, 2, spectrum.method)


def test_the_file_is_a_few_kib_and_the_same_spectrum_gives_the_same_bytes():
    data = encode(shipped(64))
    assert len(data) < 10_000
    assert encode(decode(data, "again")) == data


def test_the_shipped_spectra_are_what_our_own_command_makes():
    """In full at 8²; at the larger sizes a build of 200 masks, whose modes differ from 4,000
    masks' by their own scatter.

    A mode's power is a mean over masks of an exponential variable: relative standard deviation
    1/√200 at most.
    """
    eight = shipped(8)
    assert np.allclose(build_spectrum(8, 8, eight.masks, eight.seed).power, eight.power, atol=1e-6)
    sixteen = shipped(16).power
    small = build_spectrum(16, 16, masks=200, seed=1, jobs=1).power
    loud = sixteen > 0.1
    assert (
        np.abs(small[loud] / sixteen[loud] - 1).max() < 5.5 / 200**0.5
    )  # 5.5 sd: 256 modes at 99.99 %
    assert all(shipped(size).masks == 4000 for size in SHIPPED)


def test_the_result_does_not_depend_on_the_number_of_processes():
    alone = build_spectrum(6, 6, masks=2 * CHUNK + 3, seed=1, jobs=1)
    done = []
    together = build_spectrum(6, 6, masks=2 * CHUNK + 3, seed=1, jobs=2, progress=done.append)
    assert np.array_equal(alone.power, together.power)
    assert done == [CHUNK, 2 * CHUNK, 2 * CHUNK + 3]


def test_seeds_differ_and_repeat():
    first, again, other = (build_spectrum(8, 8, 4, seed, jobs=1).power for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"height": 0}, "size="),
        ({"height": 1, "width": 1}, "size="),
        ({"masks": 0}, "masks="),
        ({"seed": -1}, "seed"),
        ({"jobs": 0}, "jobs="),
        ({"sigma": 0.1}, "sigma=0.1: expected 0.5 to 16 pixels"),
        ({"sigma": float("nan")}, "sigma=nan"),
        ({"height": 5000, "width": 5000}, "take too long; expected at most 1,048,576 pixels"),
    ],
)
def test_what_cannot_be_built_is_refused(arguments, says):
    with pytest.raises(NoiseregError, match=says):
        build_spectrum(**{"height": 8, "width": 8, "masks": 1, "jobs": 1, **arguments})


def archive(**changes):
    about = {
        "format": FORMAT,
        "height": 8,
        "width": 8,
        "masks": 1,
        "seed": 0,
        "method": "m",
    } | changes.pop("about", {})
    buffer = io.BytesIO()
    np.savez(
        buffer,
        **{"power": shipped(8).power[:, :5], "about": np.array(json.dumps(about))} | changes,
    )
    return buffer.getvalue()


GOOD = archive()
NOT_SPECTRA = {
    "empty": b"",
    "text": b"hello, this is a text\n" * 10,
    "pickle": b"\x80\x04K\x01.",
    "cut short": GOOD[:-40],
    "a flipped byte": GOOD[:300] + bytes([GOOD[300] ^ 1]) + GOOD[301:],
    "another npz": (lambda b: (np.savez(b, x=np.zeros(3)), b.getvalue())[1])(io.BytesIO()),
    "another format": archive(about={"format": "x"}),
    "another shape": archive(about={"height": 9}),
    "NaN": archive(power=np.full((8, 5), np.nan)),
    "negative": archive(power=np.full((8, 5), -1.0)),
    "nothing but zeros": archive(power=np.zeros((8, 5))),
    "objects": archive(power=np.array([None])),
}


@pytest.mark.parametrize("kind", NOT_SPECTRA)
def test_what_is_no_spectrum_file_is_named_in_one_line(kind, tmp_path):
    (tmp_path / "s.npz").write_bytes(NOT_SPECTRA[kind])
    with pytest.raises(
        NoiseregError, match=r"s\.npz is not a spectrum file.*noisereg noise build"
    ) as caught:
        read(tmp_path / "s.npz")
    assert "\n" not in str(caught.value)


def test_the_good_one_of_these_is_read():
    assert np.allclose(decode(GOOD, "good").power, shipped(8).power, atol=1e-6)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(NoiseregError, match="spectrum="):
            read(path)


def test_a_spectrum_of_the_wrong_size_says_how_to_make_the_right_one(tmp_path):
    (tmp_path / "s").write_bytes(encode(shipped(16)))
    with pytest.raises(NoiseregError, match=r"16×16 pixels and 24×40 are needed.*--size 24x40"):
        BlueNoise(MaskParams(spectrum=tmp_path / "s"), Context(shape=(1, 24, 40)))


def test_a_spectrum_of_ones_own_is_used(tmp_path):
    own = dataclasses.replace(build_spectrum(6, 10, masks=5, jobs=1), method="mine")
    (tmp_path / "s").write_bytes(encode(own))
    noise = BlueNoise(MaskParams(spectrum=tmp_path / "s", jitter=0.01), Context(shape=(1, 6, 10)))
    assert np.allclose(noise.factor.eigenvalues, (0.99 * own.power + 0.01).ravel(), atol=1e-6)


def test_images_above_the_largest_tile_take_a_spectrum_of_the_tiles_size(tmp_path):
    (tmp_path / "s").write_bytes(encode(build_spectrum(5, 35, masks=2, jobs=1)))
    noise = BlueNoise(MaskParams(spectrum=tmp_path / "s"), Context(shape=(1, 5, 70)))
    assert noise.factor.widths == [35, 35]


def claiming(shape: str) -> bytes:
    """A spectrum file whose array is said to have ``shape``."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    header = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()
    buffer = io.BytesIO(archive())
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(new := io.BytesIO(), "w") as out:
        out.writestr("about.npy", old.read("about.npy"))
        out.writestr("power.npy", header + bytes(160))
    return new.getvalue()


READ = np.lib.format.read_array


@pytest.mark.parametrize("shape", ["(8, 5)", "(1000000, 500001)", "(4611686018427387904, 4)"])
def test_a_huge_shape_is_refused_from_the_header(shape, monkeypatch):
    data = claiming(shape)
    reads = []
    monkeypatch.setattr(
        np.lib.format, "read_array", lambda f, **k: reads.append(f) or READ(f, **k)
    )
    if shape == "(8, 5)":
        with pytest.raises(NoiseregError, match="no power spectrum"):  # zeros, but of that shape
            decode(data, "x")
    else:
        with pytest.raises(NoiseregError, match=r"is not a spectrum file .*its header claims"):
            decode(data, "x")
        assert not reads


def test_what_is_no_spectrum_is_never_overwritten(tmp_path):
    from noisereg.cli.main import run

    mine = tmp_path / "thesis.npz"
    np.savez(mine, x=np.zeros(3))
    before = mine.read_bytes()
    command = ["noise", "build", "--size", "4", "--masks", "1", "--jobs", "1", "--out"]
    assert run([*command, str(mine)]) == 2
    assert mine.read_bytes() == before
    with pytest.raises(NoiseregError, match=r"out=.*is there and is no spectrum file"):
        check_free(mine)
    assert run([*command, str(tmp_path / "s.npz")]) == 0
    assert run([*command, str(tmp_path / "s.npz"), "--seed", "1"]) == 0  # its own kind
    assert read(tmp_path / "s.npz").seed == 1


def test_another_sigma_is_another_texture():
    """A wider kernel moves the power of the masks to lower frequencies."""
    ours, theirs = (build_spectrum(32, 32, 4, jobs=1, sigma=s) for s in (1.5, 1.9))
    assert theirs.method.endswith("Gaussian sigma 1.9")
    band = (frequency(32, 32) > 0.2) & (frequency(32, 32) < 0.35)
    assert theirs.power[band].mean() > 1.3 * ours.power[band].mean()
    again = decode(encode(theirs), "x")
    assert again.method == theirs.method


@pytest.mark.parametrize("sigma", [0.5, 1.5, 4.0, 16.0])
def test_energies_of_any_sigma_stay_whole_and_below_the_mark_of_what_is_taken(sigma):
    from noisereg.noises import masks

    total = masks._kernels(128, 128, sigma)[:128, :128].astype(object).sum()
    assert total + 2**18 < 2**62
    ranks = masks.void_and_cluster(16, 12, np.random.default_rng(0), sigma)
    assert sorted(ranks.ravel()) == list(range(192))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_a_killed_build_leaves_no_workers_behind(tmp_path):
    code = "from noisereg.noises.build import build_spectrum as b; b(64, 64, 10**6, jobs=2)"
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)

    def workers() -> list[str]:
        """Processes of the session but for the one that was started."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                pid, rest = stat.read_text().split(" (", 1)
                fields = rest.rsplit(") ", 1)[1].split()
                if fields[3] == str(process.pid) and fields[0] != "Z" and int(pid) != process.pid:
                    found.append(pid)
        return found

    try:
        wait_for(lambda: len(workers()) >= 3)  # two workers and Python's resource tracker
        time.sleep(0.5)
        process.kill()
        process.wait()
        wait_for(lambda: not workers())
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def wait_for(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.05)
