"""What ``noisereg eval`` was pointed at: runs, sweeps, folders of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from noisereg.datasets.folder import find_images
from noisereg.errors import NoiseregError
from noisereg.plugins.registry import Registry
from noisereg.plugins.spec import Spec, flatten
from noisereg.runs.config import LISTS, MAY_DIFFER, SECTION_KIND
from noisereg.runs.records import read_environment
from noisereg.runs.run import Run
from noisereg.sweeps.grid import SWEEP_FILE, Sweep
from noisereg.tables.naming import SECTIONS


@dataclass(frozen=True)
class Images:
    """A folder of images, or an .npz as ``noisereg sample`` writes it, from wherever it came."""

    path: Path

    @property
    def name(self) -> str:
        return str(self.path)


@dataclass(frozen=True)
class Targets:
    runs: list[Run]
    images: list[Images]
    notes: list[str]


def find(paths: Sequence[str | Path], registry: Registry) -> Targets:
    """
    Raises:
        NoiseregError: for a path that is none of the three.
    """
    runs: list[Run] = []
    images: list[Images] = []
    notes: list[str] = []
    for path in (Path(p).expanduser() for p in paths):
        if not path.exists():
            raise NoiseregError(
                f"{path} is not there; expected a run, a sweep, a folder of images or an .npz"
            )
        if (path / "config.yaml").is_file():
            runs.append(Run.open(path, registry))
        elif (path / SWEEP_FILE).is_file():
            found, missing = _cells(path, registry)
            runs += found
            notes += missing
        elif path.is_dir() or path.suffix == ".npz":
            images.append(Images(path))
        else:
            raise NoiseregError(
                f"{path} is a single file; expected a run, a sweep, a folder of images or an .npz"
            )
    return Targets(runs, images, notes)


def _cells(path: Path, registry: Registry) -> tuple[list[Run], list[str]]:
    """A sweep's finished cells, and a line on those that are not."""
    sweep = Sweep.open(path)
    unfinished = [cell for cell in sweep.cells if sweep.state(cell) != "finished"]
    finished = [cell for cell in sweep.cells if cell not in unfinished]
    if not finished:
        raise NoiseregError(
            f"{path}: none of the sweep's {len(sweep.cells)} cells is finished; go on with its "
            "command"
        )
    notes = []
    if unfinished:
        names = ", ".join(f"{cell.name} ({sweep.state(cell)})" for cell in unfinished[:4])
        more = f" and {len(unfinished) - 4} more" if len(unfinished) > 4 else ""
        notes.append(
            f"{len(unfinished)} of {len(sweep.cells)} cells of {path} are left out: {names}{more}"
        )
    return [Run.open(sweep.path_of(cell), registry) for cell in finished], notes


# A run's settings, as the table compares them


def components(run: Run) -> dict[str, list[Spec]]:
    """By section; ``data`` without where it lies."""
    found: dict[str, list[Spec]] = {}
    for section in (*SECTIONS, "data"):
        value = getattr(run.config, section)
        specs = list(value) if section in LISTS else [value]
        found[section] = [_where_aside(spec) for spec in specs] if section == "data" else specs
    return found


def _where_aside(spec: Spec) -> Spec:
    places = {key.partition(".")[2] for key in MAY_DIFFER if key.startswith("data.")}
    return Spec(name=spec.name, params={k: v for k, v in spec.params.items() if k not in places})


def values(run: Run) -> dict[str, Any]:
    """The rest of the configuration that can change the numbers, dotted."""
    free = tuple(key for key in MAY_DIFFER if key != "train.steps")
    flat = flatten(
        {k: v for k, v in run.config.dump().items() if k not in SECTION_KIND and k != "seed"}
    )
    return {
        k: v for k, v in flat.items() if not any(k == f or k.startswith(f"{f}.") for f in free)
    }


def environment(run: Run) -> dict[str, Any]:
    """Versions, device and component revisions."""
    recorded = read_environment(run.path)
    versions = {k: recorded[k] for k in ("noisereg", "torch", "device", "ranks") if k in recorded}
    revisions = {
        f"{c['name']} revision": c["revision"] for c in recorded.get("components", {}).values()
    }
    return versions | revisions


# Folders


def read_images(images: Images, shape: tuple[int, ...], data: str) -> Tensor:
    """uint8 (N, C, H, W), or float32 points (N, D), of the data's own shape.

    Raises:
        NoiseregError: names the first file that is of another size or mode, or cannot be read.
    """
    if images.path.suffix == ".npz":
        return _read_npz(images.path, shape, data)
    if len(shape) != 3:
        raise NoiseregError(
            f"{images.path} is a folder of images and {data} has points of {shape[0]} numbers; "
            "expected an .npz, as "
            "noisereg sample --out FILE.npz writes it"
        )
    from PIL import Image

    channels, height, width = shape
    modes = {"L": 1, "1": 1, "RGB": 3, "P": 3}
    pixels = []
    for file in find_images(images.path):
        try:
            with Image.open(file) as image:
                if image.size != (width, height):
                    raise NoiseregError(
                        f"{file} is {image.width}×{image.height} and {data} is {width}×{height}; "
                        "expected images of the "
                        "data's size"
                    )
                if modes.get(image.mode) != channels:
                    raise NoiseregError(
                        f"{file} is of mode {image.mode} and {data} has {channels} "
                        f"channel{'s' * (channels > 1)}; expected mode "
                        f"{'L' if channels == 1 else 'RGB'}"
                    )
                array = np.asarray(image.convert("L" if channels == 1 else "RGB"))
        except (OSError, ValueError, SyntaxError) as error:
            raise NoiseregError(f"{file} cannot be read: {error}") from None
        pixels.append(array[None] if channels == 1 else array.transpose(2, 0, 1))
    return torch.from_numpy(np.stack(pixels))


def _read_npz(path: Path, shape: tuple[int, ...], data: str) -> Tensor:
    try:
        with np.load(path, allow_pickle=False) as archive:
            array = archive["samples"]
    except (OSError, ValueError, KeyError) as error:
        raise NoiseregError(
            f"{path} cannot be read ({error}); expected an .npz of noisereg sample"
        ) from None
    x = torch.from_numpy(array)
    if len(shape) == 3 and x.ndim == 4:
        x = x.permute(0, 3, 1, 2).contiguous()
    if x.shape[1:] != shape or x.dtype != (torch.uint8 if len(shape) == 3 else torch.float32):
        raise NoiseregError(
            f"{path} holds {x.dtype} samples of shape {tuple(x.shape[1:])} and {data} has "
            f"{shape}; expected the data's"
        )
    return x
