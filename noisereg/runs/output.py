"""Samples as files: a PNG grid (a scatter plot for points), an .npz, or a folder of PNGs."""

from __future__ import annotations

import io
import itertools
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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


def grid_png(samples: Tensor, columns: int | None = None) -> bytes:
    """uint8 images (N, C, H, W) in a near-square grid, or one of ``columns``, each at least 64
    pixels wide (enlarged without smoothing).
    """
    n, channels, height, width = samples.shape
    scale = max(1, math.ceil(64 / max(height, width)))
    columns = columns or math.ceil(math.sqrt(n))
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


def picture(samples: Tensor, columns: int | None = None) -> bytes:
    """The PNG of uint8 images, of float points, or of latents (their first channels, ±3 standard
    deviations).

    Raises:
        NotFinite: for samples that have no picture.
    """
    check_finite(samples)
    if samples.ndim == 4 and samples.is_floating_point():
        return grid_png(to_uint8(samples / (3 * samples.std()).clamp(min=1e-12)), columns)
    return grid_png(samples, columns) if samples.ndim == 4 else scatter_png(samples)


STRIP, ANIMATED = 12, 40
"""Times in a strip of pictures, and frames of an animation."""
STRIPS = 8
"""Samples in a strip."""
ANIMATIONS = (".gif", ".webp")


def strip(frames: Tensor) -> bytes:
    """Frames (T, N, …) as a PNG: a row for each of N samples, from noise to data; the clouds of
    points side by side.
    """
    if frames.ndim == 5:
        return picture(frames.transpose(0, 1).flatten(0, 1), columns=len(frames))
    images = [_read(picture(frame)) for frame in frames]
    return _png(np.concatenate(images, 1))


def animation(frames: Tensor, ending: str) -> bytes:
    """Frames (T, N, …) as a ``.gif`` or ``.webp`` that goes round: a grid of N samples from noise
    to data, which rests at its end.
    """
    from PIL import Image

    images = [Image.fromarray(_read(picture(frame)).squeeze()) for frame in frames]
    milliseconds = [80] * (len(images) - 1) + [1600]
    buffer = io.BytesIO()
    images[0].save(
        buffer,
        format=ending.removeprefix(".").upper(),
        save_all=True,
        append_images=images[1:],
        duration=milliseconds,
        loop=0,
        **({"lossless": True} if ending == ".webp" else {}),
    )
    return buffer.getvalue()


def _read(png: bytes) -> np.ndarray:
    """(H, W, 1 or 3) uint8."""
    from PIL import Image

    with Image.open(io.BytesIO(png)) as image:
        pixels = np.asarray(image if image.mode == "L" else image.convert("RGB"))
    return pixels[..., None] if pixels.ndim == 2 else pixels


def labelled(rows: Sequence[tuple[str, bytes]]) -> bytes:
    """Pictures (PNG) below one another, each under its label."""
    from matplotlib.figure import Figure

    images = [_read(data) for _, data in rows]
    width = max(image.shape[1] for image in images)
    heights = [image.shape[0] + 24 for image in images]
    figure = Figure(figsize=(width / 100, sum(heights) / 100), dpi=100)
    top = float(sum(heights))
    for (label, _), image, height in zip(rows, images, heights, strict=True):
        low = (top - height) / sum(heights)
        axes = figure.add_axes((0, low, image.shape[1] / width, image.shape[0] / sum(heights)))
        axes.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set_axis_off()
        figure.text(0.004, low + (image.shape[0] + 7) / sum(heights), label, fontsize=9)
        top -= height
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor="white")
    return buffer.getvalue()


def between(latents: Tensor, steps: int) -> Tensor:
    """Latents (2·N, …) as N rows of ``steps``, (N·steps, …), on the great circle from the first of
    each pair to the second: every one is N(0, 1) as the ends are, which a straight line is not
    (White 2016, arXiv 1609.04468).
    """
    first, second = latents[0::2].double(), latents[1::2].double()
    flat = first.flatten(1), second.flatten(1)
    cosine = torch.cosine_similarity(*flat).clamp(-1, 1)
    angle = torch.arccos(cosine).reshape(-1, *([1] * (latents.ndim - 1)))
    sine = torch.sin(angle).clamp(min=1e-12)
    rows = [
        (torch.sin((1 - u) * angle) * first + torch.sin(u * angle) * second) / sine
        for u in torch.linspace(0, 1, steps, dtype=torch.float64)
    ]
    return torch.stack(rows, 1).flatten(0, 1).to(latents.dtype)


def npz_bytes(samples: Tensor, shape: Sequence[int] = (), names: Sequence[str] = ()) -> bytes:
    """``samples``: uint8 (N, H, W, C); float32 (N, D) for points, (N, C, H, W) for latents; with
    ``shape`` in place of N. ``names``, if there are any: (N,) text.
    """
    array = samples.permute(0, 2, 3, 1) if samples.dtype == torch.uint8 else samples
    array = array.reshape(*(shape or array.shape[:1]), *array.shape[1:])
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {"samples": array.contiguous().cpu().numpy()}
    if names:
        arrays["names"] = np.array(names)
    np.savez(buffer, **arrays)
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
        size = num * math.prod(shape) / 1e9
        raise NoiseregError(
            f"`num={num}`: {num:,} samples are {size:,.{0 if size >= 10 else 3}f} GB at least, "
            f"held in memory; expected at most {MOST_SAMPLES:,}, or `many=True` as well"
        )


def check_out(path: Path, moving: bool = False) -> None:
    """
    Raises:
        NoiseregError: for a path that samples, or what they are on their way (``moving``), cannot
            be written to, before anything is drawn.
    """
    if moving and path.suffix.lower() not in (".png", ".npz", *ANIMATIONS):
        raise NoiseregError(
            f"`out={path}`: expected a .gif or .webp, which moves, a .png, a strip, or an .npz"
        )
    if not moving and path.suffix.lower() in ANIMATIONS:
        raise NoiseregError(
            f"`out={path}`: single samples do not move; give `trajectory=True` too, or a .png"
        )
    if path.suffix.lower() in (".png", ".npz", *(ANIMATIONS if moving else ())):
        if path.is_dir():
            raise NoiseregError(f"`out={path}` is a folder; expected a file for {path.suffix}")
    elif path.suffix:
        raise NoiseregError(
            f"`out={path}`: expected a .png (a grid), an .npz, or a folder for single PNGs"
        )
    elif path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise NoiseregError(f"`out={path}` exists; expected a new or empty folder for single PNGs")


def names_of_inputs(path: Path, num: int) -> list[str]:
    """What ``num`` samples that are made of the images in a folder or a .zip are called: as these,
    without their endings; the folders they lie in, and the round in which an image is taken again,
    come before.
    """
    from noisereg.datasets.tree import open_tree

    found = [Path(file.name).with_suffix("") for file in open_tree(path).files]
    plain = ["-".join(path.parts) for path in found]
    times = Counter(plain)
    taken, names = {name for name in plain if times[name] == 1}, []
    for name in plain:
        numbers = itertools.count()
        own = name
        while times[name] > 1 and (own == name or own in taken):
            own = f"{name}-{next(numbers)}"
        taken.add(own)
        names.append(own)
    count, made = len(names), list[str]()
    there = set(names[:num])
    for k in range(num):
        numbers, own = itertools.count(), names[k % count]
        if k >= count:
            again = own = f"round{k // count}-{own}"
            while own in there:  # an input may be called so
                own = f"{again}-{next(numbers)}"
            there.add(own)
        made.append(own)
    return made


def write_samples(samples: Tensor, path: Path, names: Sequence[str] = ()) -> None:
    """Write uint8 images, float points or latents as ``path``'s ending says; single PNGs under
    ``names`` where they are given, else numbered. An .npz holds the ``names`` (N,) as such.

    Raises:
        NoiseregError: if it cannot be written, or for single PNGs of points.
    """
    ending = path.suffix.lower()
    if ending == ".npz":
        write_atomically(path, npz_bytes(samples, names=names))
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
            name = names[k] if names else f"{k:0{digits}d}"
            write_atomically(path / f"{name}.png", _png(image))
