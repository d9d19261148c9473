"""Samples as files: a PNG grid (a scatter plot for points), an .npz, or a folder of PNGs."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from noisereg.data import check_finite, to_uint8
from noisereg.errors import NoiseregError
from noisereg.store import write_atomically


def _png(image: np.ndarray) -> bytes:
    """(H, W, C) uint8, C 1 or 3, as PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, format="PNG")
    return buffer.getvalue()


def grid_png(samples: Tensor) -> bytes:
    """uint8 images (N, C, H, W) in a near-square grid, each at least 64 pixels wide (enlarged
    without smoothing).
    """
    n, channels, height, width = samples.shape
    scale = max(1, math.ceil(64 / max(height, width)))
    columns = math.ceil(math.sqrt(n))
    rows, pad = math.ceil(n / columns), 2
    images = samples[:, :3] if channels >= 3 else samples[:, :1]
    canvas = np.full(
        (
            rows * (height * scale + pad) + pad,
            columns * (width * scale + pad) + pad,
            images.shape[1],
        ),
        128,
        np.uint8,
    )
    for k, image in enumerate(images.permute(0, 2, 3, 1).cpu().numpy()):
        top = pad + (k // columns) * (height * scale + pad)
        left = pad + (k % columns) * (width * scale + pad)
        canvas[top : top + height * scale, left : left + width * scale] = image.repeat(
            scale, 0
        ).repeat(scale, 1)
    return _png(canvas)


def scatter_png(points: Tensor) -> bytes:
    """Points (N, D), the first two numbers of each, on [−1.5, 1.5]²."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 5), dpi=100)
    axes = figure.add_subplot(aspect="equal", xlim=(-1.5, 1.5), ylim=(-1.5, 1.5))
    xy = points.cpu().numpy()
    axes.scatter(
        xy[:, 0],
        xy[:, min(1, xy.shape[1] - 1)],
        s=max(1, 2000 / max(len(xy), 1)) ** 0.5 * 2,
        linewidths=0,
    )
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def picture(samples: Tensor) -> bytes:
    """The PNG of uint8 images, of float points, or of latents (their first channels, ±3 standard
    deviations).

    Raises:
        NotFinite: for samples that have no picture.
    """
    check_finite(samples)
    if samples.ndim == 4 and samples.is_floating_point():
        return grid_png(to_uint8(samples / (3 * samples.std()).clamp(min=1e-12)))
    return grid_png(samples) if samples.ndim == 4 else scatter_png(samples)


def npz_bytes(samples: Tensor) -> bytes:
    """``samples``: uint8 (N, H, W, C); float32 (N, D) for points, (N, C, H, W) for latents."""
    array = samples.permute(0, 2, 3, 1) if samples.dtype == torch.uint8 else samples
    buffer = io.BytesIO()
    np.savez(buffer, samples=array.contiguous().cpu().numpy())
    return buffer.getvalue()


MOST_SAMPLES = 1_000_000
"""That are drawn without being asked twice: they are held in memory, and take hours."""


def check_num(num: int, shape: Sequence[int], many: bool = False) -> None:
    """
    Raises:
        NoiseregError: for no samples, or for more than ``MOST_SAMPLES`` unless ``many`` is set.
    """
    if num < 1:
        raise NoiseregError(f"`num={num}`: expected at least 1")
    if num > MOST_SAMPLES and not many:
        raise NoiseregError(
            f"`num={num}`: {num:,} samples are {num * math.prod(shape) / 1e9:,.0f} GB at least, "
            "held "
            f"in memory; expected at most {MOST_SAMPLES:,}, or `many=True` as well"
        )


def check_out(path: Path) -> None:
    """
    Raises:
        NoiseregError: for a path that samples cannot be written to, before anything is drawn.
    """
    if path.suffix.lower() in (".png", ".npz"):
        if path.is_dir():
            raise NoiseregError(f"`out={path}` is a folder; expected a file for {path.suffix}")
    elif path.suffix:
        raise NoiseregError(
            f"`out={path}`: expected a .png (a grid), an .npz, or a folder for single PNGs"
        )
    elif path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise NoiseregError(f"`out={path}` exists; expected a new or empty folder for single PNGs")


def write_samples(samples: Tensor, path: Path) -> None:
    """Write uint8 images, float points or latents as ``path``'s ending says.

    Raises:
        NoiseregError: if it cannot be written, or for single PNGs of points.
    """
    ending = path.suffix.lower()
    if ending == ".npz":
        write_atomically(path, npz_bytes(samples))
    elif ending == ".png":
        write_atomically(path, picture(samples))
    elif samples.dtype != torch.uint8:
        what = "points" if samples.ndim == 2 else "latents without a decoder"
        raise NoiseregError(
            f"`out={path}`: {what} have no single pictures; expected an .npz, or a .png of all"
        )
    else:
        digits = len(str(len(samples) - 1))
        for k, image in enumerate(samples.permute(0, 2, 3, 1).cpu().numpy()):
            write_atomically(path / f"{k:0{digits}d}.png", _png(image))
