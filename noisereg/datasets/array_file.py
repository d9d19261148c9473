"""Images and points in a ``.npy`` or ``.npz``: for the data set ``arrays`` and for ``noisereg
eval``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from noisereg.arrays import ArrayFile, explained, open_arrays
from noisereg.errors import NoiseregError
from noisereg.memory import free_host_memory

ENDINGS = (".npy", ".npz")
KEYS = ("samples", "arr_0")
"""The names by which samples are found in an ``.npz``: ours, and ``np.savez``'s own."""
LABELS = "labels"
EXPECTED = "expected an .npy or .npz of images (N×H×W×C or N×C×H×W) or points (N×D)"
Layout = Literal["auto", "nhwc", "nchw"]
SLACK = 1e-3
"""How far beyond −1 and 1 a float may lie: what arithmetic leaves."""


@dataclass(frozen=True)
class Samples:
    """What a file holds, in the order of axes that noisereg uses."""

    x: np.ndarray
    """uint8 or float32 images (N, C, H, W), floats in [−1, 1]; or float32 points (N, D)."""
    labels: np.ndarray | None
    """(N,) int64."""
    said: str
    """How the file was read, for a person: ``samples: 100×8×8×1 uint8, N×H×W×C``."""


def read_samples(
    path: Path,
    *,
    key: str | None = None,
    layout: Layout = "auto",
    unit: bool = False,
    like: Sequence[int] | None = None,
    anything: bool = False,
) -> Samples:
    """
    Args:
        key: the array's name; None: ``samples``, ``arr_0`` or the only one.
        layout: which axis holds the channels; auto: the one that has 1 or 3 entries.
        unit: whether floats run from 0 to 1 instead of from −1 to 1.
        like: the shape that one sample must have, (C, H, W) or (D,); None: any.
        anything: whether images may be floats of any size, as latents are.

    Raises:
        NoiseregError: names what is wrong: the array, its type, range, channels or order of axes.
    """
    file = open_arrays(path, EXPECTED)
    name = _choose(path, file, key)
    where = f"{path}: {name}" if name else str(path)
    shape, dtype = file.headers[name]
    labels = file.headers.get(LABELS) if name != LABELS else None
    _check_kind(where, shape, dtype)
    order = _order(where, shape, layout, like)
    size = int(np.prod(shape)) * dtype.itemsize
    if size > free_host_memory():
        raise NoiseregError(
            f"{where} takes {size / 2**30:.1f} GiB and there are {free_host_memory() / 2**30:.1f}"
            " free; write it as a folder or a .zip of images, which are streamed"
        )
    with explained(path, EXPECTED):
        x = file.read(name)
        y = file.read(LABELS) if labels is not None else None
    if dtype.kind == "f":
        x = _floats(where, x, points=len(shape) == 2, unit=unit, anything=anything)
    if order == "n×h×w":
        x = x[:, None]
    elif order == "n×h×w×c":
        x = x.transpose(0, 3, 1, 2)
    said = f"{name + ': ' if name else ''}{'×'.join(map(str, shape))} {dtype}, {order.upper()}"
    return Samples(np.ascontiguousarray(x), checked_labels(path, y, len(x)), said)


def _choose(path: Path, file: ArrayFile, key: str | None) -> str:
    names = list(file.headers)
    if names == [""]:
        if key not in (None, ""):
            raise NoiseregError(f"{path} is an .npy, which has no names; leave out key={key}")
        return ""
    if key is not None and key in names:
        return key
    listed = ", ".join(names[:8]) or "no array"
    if key is not None:
        raise NoiseregError(f"{path} has no array {key!r}; there are: {listed}")
    found = next((k for k in KEYS if k in names), None)
    others = [name for name in names if name != LABELS]
    if found is None and len(others) == 1 and others != ["latents"]:
        found = others[0]
    if found is None:
        hint = f"; type latents:path={path}" if "latents" in names else ", or key= to name it"
        raise NoiseregError(
            f"{path} holds {listed}; expected an array called {' or '.join(KEYS)}, or one "
            f"alone{hint}"
        )
    return found


def _check_kind(where: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    if len(shape) not in (2, 3, 4) or 0 in shape:
        raise NoiseregError(
            f"{where} has the shape {_times(shape)}; expected N×H×W×C, N×C×H×W or N×H×W for "
            "images, N×D for points, none of them 0"
        )
    if len(shape) == 2 and dtype.kind != "f":
        raise NoiseregError(f"{where} is of type {dtype}; expected floats for points (N×D)")
    if len(shape) > 2 and dtype != np.uint8 and dtype.kind != "f":
        raise NoiseregError(
            f"{where} is of type {dtype}; expected uint8, or floats in [−1, 1], for images"
        )


def _times(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape)) or "a single number"


def _order(where: str, shape: tuple[int, ...], layout: Layout, like: Sequence[int] | None) -> str:
    """``n×d``, ``n×h×w``, ``n×h×w×c`` or ``n×c×h×w``."""
    if like is not None:
        return _order_like(where, shape, tuple(like))
    if len(shape) == 2:
        return "n×d"
    if len(shape) == 3:
        return "n×h×w"
    if layout != "auto":
        channels = shape[3 if layout == "nhwc" else 1]
        order = "n×h×w×c" if layout == "nhwc" else "n×c×h×w"
        if channels not in (1, 3):
            raise NoiseregError(
                f"{where} is {_times(shape)}: by layout={layout} that is {channels} channels; "
                "expected 1 or 3"
            )
        return order
    last, first = shape[3] in (1, 3), shape[1] in (1, 3)
    if last and first:
        raise NoiseregError(
            f"{where} is {_times(shape)}, which may be N×H×W×C or N×C×H×W; give layout=nhwc or "
            "layout=nchw"
        )
    if not last and not first:
        raise NoiseregError(
            f"{where} is {_times(shape)}: neither the second nor the last axis has 1 or 3 "
            "channels; expected grey or RGB images, N×H×W×C or N×C×H×W"
        )
    return "n×h×w×c" if last else "n×c×h×w"


def _order_like(where: str, shape: tuple[int, ...], like: tuple[int, ...]) -> str:
    """The order of axes in which ``shape`` holds samples like the data's.

    Raises:
        NoiseregError: if there is none; says whether number of axes, channels, size or order
        differ.
    """
    if len(like) == 1:
        if len(shape) != 2:
            raise NoiseregError(
                f"{where} has the shape {_times(shape)} and the data are points of {like[0]} "
                f"numbers; expected N×{like[0]}"
            )
        if shape[1] != like[0]:
            raise NoiseregError(
                f"{where} has points of {shape[1]} numbers; the data's have {like[0]}"
            )
        return "n×d"
    channels, height, width = like
    wanted = f"expected N×{height}×{width}×{channels} or N×{channels}×{height}×{width}"
    if len(shape) == 2:
        raise NoiseregError(f"{where} has the shape {_times(shape)}, as points have; {wanted}")
    if len(shape) == 3:
        if channels != 1:
            raise NoiseregError(
                f"{where} has the shape {_times(shape)}, without channels, and the data have "
                f"{channels}; {wanted}"
            )
        if shape[1:] != (height, width):
            raise _size(where, shape[1:], (height, width))
        return "n×h×w"
    if shape[1:] == (height, width, channels):
        return "n×h×w×c"
    if shape[1:] == like:
        return "n×c×h×w"
    if sorted(shape[1:]) == sorted(like):
        raise NoiseregError(
            f"{where} is {_times(shape)}: the order of its axes is another one; {wanted}"
        )
    if shape[1:3] == (height, width) or shape[2:] == (height, width):
        has = shape[3] if shape[1:3] == (height, width) else shape[1]
        raise NoiseregError(f"{where} has {has} channels and the data {channels}; {wanted}")
    if shape[3] == channels or shape[1] == channels:
        sides = shape[1:3] if shape[3] == channels else shape[2:]
        raise _size(where, sides, (height, width))
    raise NoiseregError(f"{where} is {_times(shape)}: neither size nor channels fit; {wanted}")


def _size(where: str, sides: Sequence[int], wanted: Sequence[int]) -> NoiseregError:
    return NoiseregError(
        f"{where} has images of {_times(sides)} pixels and the data are {_times(wanted)}; "
        "expected the data's size"
    )


def _floats(where: str, x: np.ndarray, *, points: bool, unit: bool, anything: bool) -> np.ndarray:
    """float32, images in [−1, 1]."""
    low, high = float(x.min()), float(x.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        bad = int(np.count_nonzero(~np.isfinite(x)))
        raise NoiseregError(f"{where}: {bad:,} of its values are NaN or infinite")
    if points or anything:
        most = float(np.finfo(np.float32).max)
        if max(-low, high) > most:
            raise NoiseregError(
                f"{where}: its values run from {low:.4g} to {high:.4g}; expected at most "
                f"{most:.4g}, what float32 holds: scale them"
            )
        return x.astype(np.float32)
    runs = f"{where}: its values run from {low:.4g} to {high:.4g}"
    if unit:
        if low < -SLACK or high > 1 + SLACK:
            raise NoiseregError(f"{runs}; by range=unit they are expected in [0, 1]")
        return np.clip(x.astype(np.float32) * 2 - 1, -1, 1)
    if high > 1 + SLACK or low < -1 - SLACK:
        hint = ", or save them as uint8" if low >= 0 and high <= 255 else ""
        raise NoiseregError(f"{runs}; floats are expected in [−1, 1]: scale them{hint}")
    if low >= 0 and high > low:
        raise NoiseregError(
            f"{runs}, as images in [0, 1] do; floats are expected in [−1, 1]: save 2·x − 1, or "
            "uint8 (as data: range=unit)"
        )
    return np.clip(x.astype(np.float32), -1, 1)


def checked_labels(path: Path, labels: np.ndarray | None, count: int) -> np.ndarray | None:
    """The labels of ``count`` samples, (count,) int64.

    Raises:
        NoiseregError: for another number of them, and what is no whole number below a million.
    """
    if labels is None:
        return None
    if labels.shape == (count,) and labels.dtype.kind == "i" and labels.min() < 0:
        raise NoiseregError(f"{path}: a label is {labels.min()}; expected whole numbers from 0")
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise NoiseregError(
            f"{path}: {LABELS} are {_times(labels.shape)} {labels.dtype}; expected {count:,} "
            "whole numbers from 0"
        )
    if labels.max() >= 1_000_000:
        raise NoiseregError(f"{path}: a label is {labels.max()}; expected below a million")
    return labels.astype(np.int64)
