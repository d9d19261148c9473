"""Arrays in .npy and .npz: as data, and as samples to be evaluated; one reader for both."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from noisereg.api import Context
from noisereg.datasets import ArraysParams
from noisereg.datasets.array_file import read_samples
from noisereg.datasets.arrays import Arrays
from noisereg.errors import NoiseregError
from noisereg.evaluation.selection import SampleFiles, read_files
from noisereg.runs.output import npz_bytes

UINT8 = np.random.default_rng(0).integers(0, 256, (12, 6, 5, 3), dtype=np.uint8)
SIGNED = (UINT8 / 127.5 - 1).astype(np.float64)


def save(path: Path, array: np.ndarray | None = None, **arrays) -> Path:
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        np.savez(path, *([] if array is None else [array]), **arrays)
    return path


def build(path: Path, **params) -> Arrays:
    return Arrays(ArraysParams(path=path, **params), Context())


def everything(dataset: Arrays) -> torch.Tensor:
    """All samples in the order of the file."""
    parts = [s.batch(torch.arange(len(s))).x for s in (dataset.train, dataset.heldout) if len(s)]
    return torch.cat(parts)


# As data


@pytest.mark.parametrize("ending", [".npy", ".npz"])
@pytest.mark.parametrize("nchw", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64])
def test_images_of_any_order_and_type(tmp_path, ending, nchw, dtype):
    array = UINT8 if dtype is np.uint8 else SIGNED.astype(dtype)
    path = save(tmp_path / f"x{ending}", array.transpose(0, 3, 1, 2) if nchw else array)
    dataset = build(path, heldout=0)
    assert dataset.shape == (3, 6, 5)
    assert dataset.levels == (256 if dtype is np.uint8 else 0)
    x = everything(dataset)
    assert x.dtype == torch.float32
    atol = 1e-3 if dtype is np.float16 else 1e-6
    torch.testing.assert_close(
        x, torch.from_numpy(SIGNED.transpose(0, 3, 1, 2)).float(), atol=atol, rtol=0
    )
    said = f"12×{'3×6×5' if nchw else '6×5×3'} {np.dtype(dtype)}, N×{'C×H×W' if nchw else 'H×W×C'}"
    assert dataset.notes[0].endswith(said)


def test_grey_images_without_an_axis_of_channels(tmp_path):
    dataset = build(save(tmp_path / "x.npy", UINT8[..., 0]), heldout=0)
    assert dataset.shape == (1, 6, 5)
    np.testing.assert_array_equal(
        ((everything(dataset) + 1) * 127.5).round().byte()[:, 0], UINT8[..., 0]
    )


def test_bytes_are_resized_and_coloured_as_any_images(tmp_path):
    assert build(save(tmp_path / "x.npy", UINT8), size=4, channels=1).shape == (1, 4, 4)


def test_floats_are_taken_as_they_are(tmp_path):
    path = save(tmp_path / "x.npy", SIGNED)
    for name, value in (("size", 4), ("channels", 1)):
        with pytest.raises(NoiseregError, match=rf"arrays:{name}={value}: these are images as fl"):
            build(path, **{name: value})


def test_points(tmp_path):
    points = np.random.default_rng(0).normal(size=(40, 2)) * 5
    dataset = build(save(tmp_path / "x.npy", points), heldout=0.25)
    assert dataset.shape == (2,)
    assert len(dataset.train) + len(dataset.heldout) == 40
    assert dataset.summary.startswith(f"{len(dataset.train)} points of 2 numbers (")
    assert {tuple(p) for p in everything(dataset).numpy()} == {
        tuple(p) for p in points.astype(np.float32)
    }
    with pytest.raises(NoiseregError, match=r"arrays:flip=True: these are points"):
        build(tmp_path / "x.npy", flip=True)


@pytest.mark.parametrize("array", [UINT8, SIGNED, SIGNED.reshape(12, 90)])
def test_labels_beside_them_are_read(tmp_path, array):
    labels = np.arange(12) % 4
    dataset = build(save(tmp_path / "x.npz", samples=array, labels=labels), heldout=0)
    assert dataset.classes == 4
    assert dataset.train.batch(torch.arange(12)).labels.tolist() == labels.tolist()


def test_rows_added_at_the_end_move_none(tmp_path):
    few, more = (
        build(save(tmp_path / f"{n}.npy", np.resize(UINT8, (n, 6, 5, 3)))) for n in (100, 101)
    )
    before, after = (len(d.heldout) for d in (few, more))
    assert 0 <= after - before <= 1
    assert torch.equal(few.heldout.pixels, more.heldout.pixels[:before])


def test_the_fingerprint_sees_one_value(tmp_path):
    from noisereg.datasets.fingerprint import difference

    many = np.zeros((3000, 2, 2, 1), np.uint8)
    before = build(save(tmp_path / "x.npy", many)).fingerprint()
    many[1501, 0, 0, 0] = 1
    after = build(save(tmp_path / "x.npy", many)).fingerprint()
    assert difference(before, after) == "some samples have other values"


@pytest.mark.parametrize(
    ("arrays", "taken"),
    [
        ({"samples": UINT8, "arr_0": UINT8[:3]}, 12),
        ({"arr_0": UINT8, "arr_1": UINT8[:3]}, 12),
        ({"whatever": UINT8}, 12),
        ({"whatever": UINT8, "labels": np.zeros(12, int)}, 12),
    ],
)
def test_the_array_is_found_by_its_name(tmp_path, arrays, taken):
    assert len(read_samples(save(tmp_path / "x.npz", **arrays)).x) == taken


def test_another_name_is_given(tmp_path):
    path = save(tmp_path / "x.npz", a=UINT8, b=UINT8[:5])
    assert len(read_samples(path, key="b").x) == 5
    with pytest.raises(
        NoiseregError, match=r"holds a, b; expected an array called samples or arr"
    ):
        read_samples(path)
    with pytest.raises(NoiseregError, match=r"has no array 'c'; there are: a, b"):
        read_samples(path, key="c")
    latents = save(tmp_path / "l.npz", latents=SIGNED)
    with pytest.raises(NoiseregError, match=rf"type latents:path={latents}"):
        read_samples(latents)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (UINT8.astype(np.int64), r"is of type int64; expected uint8, or floats in \[−1, 1\]"),
        (UINT8 > 100, r"is of type bool"),
        (UINT8.astype(np.float32), r"run from 0 to 255; .*scale them, or save them as uint8"),
        (UINT8 / 255, r"as images in \[0, 1\] do; floats are expected in \[−1, 1\]"),
        (SIGNED * 3, r"run from -3 to 3; floats are expected in \[−1, 1\]"),
        (np.where(SIGNED > 0.99, np.nan, SIGNED), r"of its values are NaN or infinite"),
        (np.zeros((4, 5, 5, 4), np.uint8), r"neither the second nor the last axis has 1 or 3"),
        (np.zeros((4, 3, 5, 3), np.uint8), r"may be N×H×W×C or N×C×H×W; give layout=nhwc"),
        (np.zeros((0, 5, 5, 3), np.uint8), r"has the shape 0×5×5×3; expected"),
        (np.zeros(5), r"has the shape 5; expected"),
        (np.zeros((5, 2), np.uint8), r"is of type uint8; expected floats for points"),
    ],
)
def test_a_refusal_names_what_is_wrong(tmp_path, array, said):
    with pytest.raises(NoiseregError, match=said) as caught:
        build(save(tmp_path / "x.npy", array))
    assert "\n" not in str(caught.value)


def test_what_is_asked_for_is_believed(tmp_path):
    both = np.zeros((4, 3, 5, 3), np.uint8)
    path = save(tmp_path / "x.npy", both)
    assert build(path, layout="nhwc").shape == (3, 3, 5)
    assert build(path, layout="nchw").shape == (3, 5, 3)
    unit = build(save(tmp_path / "u.npy", UINT8 / 255), range="unit", heldout=0)
    torch.testing.assert_close(
        everything(unit), torch.from_numpy(SIGNED.transpose(0, 3, 1, 2)).float()
    )


# Files that lie


def header(shape: str, dtype: str = "|u1") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}"
    text = text.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nothing",
        header("(1000000, 1000000, 3, 8)") + b"x",
        header("(-1, 5, 5, 3)"),
        header("(2, 5, 5, 3)", "|O"),
        b"\x93NUMPY\x01\x00\xff\xff",
    ],
)
@pytest.mark.parametrize("ending", [".npy", ".npz"])
def test_a_file_that_claims_what_it_does_not_hold_is_refused_at_once(tmp_path, data, ending):
    path = tmp_path / f"x{ending}"
    if ending == ".npz":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("samples.npy", data)
    else:
        path.write_bytes(data)
    with pytest.raises(NoiseregError, match=r"cannot be read \(.*\); expected an .npy or .npz"):
        build(path)


def test_a_small_file_that_unfolds_to_a_huge_one_is_refused(tmp_path):
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("samples.npy", header("(2, 5, 5, 3)") + bytes(150))
    data = path.read_bytes()
    at = data.index(b"PK\1\2") + 24
    path.write_bytes(data[:at] + (2**31).to_bytes(4, "little") + data[at + 4 :])
    with pytest.raises(NoiseregError, match=r"bytes claim to be 2,147,483,648"):
        build(path)


def test_no_file(tmp_path):
    with pytest.raises(NoiseregError, match=r"there is no file .*x.npz; expected an .npy or .npz"):
        build(tmp_path / "x.npz")


# To be evaluated

REAL = torch.from_numpy(UINT8.transpose(0, 3, 1, 2).copy())


@pytest.mark.parametrize(
    "array",
    [UINT8, UINT8.transpose(0, 3, 1, 2), SIGNED, SIGNED.transpose(0, 3, 1, 2).astype(np.float32)],
)
@pytest.mark.parametrize("ending", [".npy", ".npz", ".NPZ"])
def test_samples_of_any_order_and_type_are_the_same_bytes(tmp_path, array, ending):
    path = tmp_path / f"x{ending}"
    with path.open("wb") as file:
        np.save(file, array) if ending == ".npy" else np.savez(file, array)
    assert torch.equal(read_files(SampleFiles(path), REAL, "photos"), REAL)


def test_what_sample_gives_is_accepted_however_it_is_saved(tmp_path):
    """``noisereg sample --out x.npz``, and what ``run.sample`` returns."""
    (tmp_path / "x.npz").write_bytes(npz_bytes(REAL))
    np.save(tmp_path / "x.npy", REAL.numpy())
    np.savez(tmp_path / "y.npz", samples=REAL.numpy())
    for name in ("x.npz", "x.npy", "y.npz"):
        assert torch.equal(read_files(SampleFiles(tmp_path / name), REAL, "photos"), REAL)
    points = torch.randn(9, 2)
    for dtype in (np.float16, np.float32, np.float64):
        np.save(tmp_path / "p.npy", points.numpy().astype(dtype))
        found = read_files(SampleFiles(tmp_path / "p.npy"), points, "roll")
        torch.testing.assert_close(found, points, atol=2e-3, rtol=2e-3)
    latents = 5 * torch.randn(4, 8, 3, 3)
    (tmp_path / "l.npz").write_bytes(npz_bytes(latents))
    assert torch.equal(read_files(SampleFiles(tmp_path / "l.npz"), latents, "latents"), latents)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (UINT8[..., :1], r"has 1 channels and the data 3; expected N×6×5×3 or N×3×6×5"),
        (UINT8[..., 0], r"12×6×5, without channels, and the data have 3"),
        (UINT8[:, :4], r"has images of 4×5 pixels and the data are 6×5"),
        (UINT8.transpose(0, 2, 1, 3), r"is 12×5×6×3: the order of its axes is another one"),
        (UINT8.transpose(0, 3, 2, 1), r"the order of its axes is another one"),
        (UINT8.astype(np.int32), r"is of type int32; expected uint8, or floats"),
        (UINT8 / 255, r"run from 0 to 1, as images in \[0, 1\] do"),
        (np.zeros((4, 2)), r"has the shape 4×2, as points have; expected N×6×5×3"),
        (np.zeros((4, 9, 9, 4), np.uint8), r"neither size nor channels fit"),
    ],
)
def test_a_refusal_of_samples_names_the_property(tmp_path, array, said):
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(NoiseregError, match=said):
        read_files(SampleFiles(tmp_path / "x.npy"), REAL, "photos")


def test_points_of_another_dimension(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((4, 3)))
    with pytest.raises(NoiseregError, match=r"has points of 3 numbers; the data's have 2"):
        read_files(SampleFiles(tmp_path / "x.npy"), torch.zeros(3, 2), "roll")


def test_a_zip_of_images_is_evaluated(tmp_path):
    from PIL import Image

    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for k, pixels in enumerate(UINT8):
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, format="PNG")
            archive.writestr(f"{k:02}.png", buffer.getvalue())
    assert torch.equal(read_files(SampleFiles(tmp_path / "x.zip"), REAL, "photos"), REAL)
