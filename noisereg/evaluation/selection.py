"""What ``noisereg eval`` was pointed at: runs, sweeps, folders of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from noisereg.data import to_uint8
from noisereg.datasets import array_file
from noisereg.datasets.decoding import read_all, upright_size
from noisereg.datasets.tree import open_tree
from noisereg.errors import NoiseregError
from noisereg.plugins.registry import Registry
from noisereg.plugins.spec import Spec, flatten
from noisereg.runs.checkpoint_files import steps_in
from noisereg.runs.config import LISTS, MAY_DIFFER, SECTION_KIND
from noisereg.runs.records import read_environment
from noisereg.runs.run import Run
from noisereg.sweeps.grid import SWEEP_FILE, Sweep
from noisereg.tables.naming import CONTROL, SECTIONS, declared_strengths

UNTRAINED = "before its first checkpoint"


@dataclass(frozen=True)
class SampleFiles:
    """A folder or a .zip of images, or an .npz or .npy of samples, from wherever it came."""

    path: Path

    @property
    def name(self) -> str:
        return str(self.path)


@dataclass(frozen=True)
class Selection:
    """What was selected for evaluation."""

    runs: list[Run] = field(default_factory=list)
    files: list[SampleFiles] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What was left out, a line each."""
    diverged: dict[Path, str] = field(default_factory=dict)
    """How the training of some of the runs diverged, by their folder."""


def select(paths: Sequence[str | Path], registry: Registry) -> Selection:
    """
    Raises:
        NoiseregError: for a path that is none of the three.
    """
    selected = Selection()
    places = [Path(p).expanduser() for p in paths]
    if twice := next((p for k, p in enumerate(places) if p in places[:k]), None):
        raise NoiseregError(f"{twice} is given twice; expected it once")
    for path in places:
        if not path.exists():
            raise NoiseregError(
                f"{path} is not there; expected a run, a sweep, a folder of images or an .npz of "
                "samples"
            )
        if (path / "config.yaml").exists() or (path / "checkpoints").is_dir():
            selected.runs.append(Run.open(path, registry))
            if selected.runs[-1].status["diverged"] and not steps_in(path / "checkpoints"):
                selected.diverged[path] = _when(path)
        elif (path / SWEEP_FILE).exists() or any((path / "cells").glob("*.yaml")):
            _cells(path, registry, selected)
        elif path.is_dir():
            _refuse_folder_of_runs(path)
            selected.files.append(SampleFiles(path))
        elif path.suffix.lower() in (*array_file.ENDINGS, ".zip"):
            selected.files.append(SampleFiles(path))
        else:
            raise NoiseregError(
                f"{path} is a single file; expected a run, a sweep, a folder or a .zip of images, "
                "or an .npz or .npy of samples"
            )
    return selected


def _refuse_folder_of_runs(path: Path) -> None:
    """
    Raises:
        NoiseregError: for a folder that is empty, or whose folders are runs or sweeps.
    """
    if not any(path.iterdir()):
        raise NoiseregError(f"{path} is empty; expected a run, a sweep or a folder of images")
    below = {
        file.parent for name in ("config.yaml", SWEEP_FILE) for file in path.glob(f"*/{name}")
    }
    if below:
        some = ", ".join(map(str, sorted(below)[:3])) + ", …" * (len(below) > 3)
        raise NoiseregError(
            f"{path} is neither a run nor a sweep, and holds {len(below)}: {some}; expected these"
        )


def _cells(path: Path, registry: Registry, selected: Selection) -> None:
    """Add a sweep's finished cells and those that diverged, and a line on the others."""
    sweep = Sweep.open(path)
    states = {cell.name: sweep.state(cell) for cell in sweep.cells}
    unfinished = []
    finished = 0
    for cell in sweep.cells:
        state, run_path = states[cell.name], sweep.path_of(cell)
        if state == "finished":
            finished += 1
            selected.runs.append(Run.open(run_path, registry))
        elif state.startswith("diverged"):
            selected.runs.append(Run.open(run_path, registry))
            selected.diverged[run_path] = _when(run_path)
        else:
            unfinished.append(cell)
    if not finished:
        raise NoiseregError(
            f"{path}: none of the sweep's {len(sweep.cells)} cells is finished; go on with its "
            "command"
        )
    if unfinished:
        names = ", ".join(f"{cell.name} ({states[cell.name]})" for cell in unfinished[:4])
        more = f" and {len(unfinished) - 4} more" if len(unfinished) > 4 else ""
        selected.notes.append(
            f"{len(unfinished)} of {len(sweep.cells)} cells of {path} are left out: {names}{more}"
        )


def _when(path: Path) -> str:
    """When the training of a run diverged, by its checkpoints."""
    reached = steps_in(path / "checkpoints")
    return f"in training, {f'after step {reached[-1]:,}' if reached else UNTRAINED}"


# A run's settings, as the table compares them


def components(run: Run) -> dict[str, list[Spec]]:
    """By section; ``data`` without where it lies."""
    by_section: dict[str, list[Spec]] = {}
    for section in (*SECTIONS, "data"):
        value = getattr(run.config, section)
        specs = list(value) if section in LISTS else [value]
        by_section[section] = (
            [_where_aside(spec) for spec in specs] if section == "data" else specs
        )
    return by_section


def _where_aside(spec: Spec) -> Spec:
    places = {key.partition(".")[2] for key in MAY_DIFFER if key.startswith("data.")}
    return Spec(name=spec.name, params={k: v for k, v in spec.params.items() if k not in places})


def control(scale: float | Spec) -> Spec:
    """A scale of ε̂ as what stands in a regularizer's place: ``rescaled-isotropy`` with its
    parameters, or ``rescaled`` by a ``factor``.
    """
    if isinstance(scale, Spec):
        name = scale.name.rpartition("/")[2]
        return Spec(name=f"{CONTROL}{name}", params=scale.params)
    return Spec(name="rescaled", params={"factor": scale})


def values(run: Run) -> dict[str, Any]:
    """The rest of the configuration that can change the numbers, dotted."""
    free = tuple(key for key in MAY_DIFFER if key != "train.steps")
    flat = flatten(
        {k: v for k, v in run.config.dump().items() if k not in SECTION_KIND and k != "seed"}
    )
    return {
        k: v for k, v in flat.items() if not any(k == f or k.startswith(f"{f}.") for f in free)
    }


def strengths(run: Run) -> dict[str, tuple[str, ...]]:
    """By component name, the parameters that it declares to be strengths."""
    assert run.registry is not None
    declared_by = {}
    for section, specs in components(run).items():
        for spec in specs:
            if spec.name == "none":
                continue
            entry = run.registry.find(SECTION_KIND[section], spec.name)
            if declared := declared_strengths(entry.component.params):
                declared_by[spec.name] = declared
    return declared_by


def environment(run: Run) -> dict[str, Any]:
    """Versions, device and component revisions."""
    recorded = read_environment(run.path)
    versions = {k: recorded[k] for k in ("noisereg", "torch", "device", "ranks") if k in recorded}
    revisions = {
        f"{c['name']} revision": c["revision"] for c in recorded.get("components", {}).values()
    }
    return versions | revisions


# Folders


def read_files(files: SampleFiles, like: Tensor, data: str) -> Tensor:
    """Samples of the shape and type of ``like``, the real ones: uint8 (N, C, H, W), float32
    points (N, D) or float32 latents (N, C, H, W).

    Raises:
        NoiseregError: names the first file that is of another size or mode, or cannot be read; of
        arrays what is wrong: type, range, channels, size or the order of axes.
    """
    shape = tuple(like.shape[1:])
    if files.path.suffix.lower() in array_file.ENDINGS:
        content = array_file.read_samples(
            files.path, like=shape, anything=like.is_floating_point()
        )
        x = torch.from_numpy(content.x)
        return x if like.is_floating_point() or x.dtype == torch.uint8 else to_uint8(x)
    if like.is_floating_point():
        what = f"points of {shape[0]} numbers" if len(shape) == 1 else "latents"
        raise NoiseregError(
            f"{files.path} holds images and {data} has {what}; expected an .npz, as "
            "noisereg sample --out FILE.npz writes it"
        )
    channels, height, width = shape
    modes = {"L": 1, "1": 1, "RGB": 3, "P": 3}

    def check(name: str, image: Image.Image) -> None:
        wide, high = upright_size(image)
        if (wide, high) != (width, height):
            raise NoiseregError(
                f"{name} is {wide}×{high} and {data} is {width}×{height}; "
                "expected images of the data's size"
            )
        if modes.get(image.mode) != channels:
            raise NoiseregError(
                f"{name} is of mode {image.mode} and {data} has {channels} "
                f"channel{'s' * (channels > 1)}; expected mode "
                f"{'L' if channels == 1 else 'RGB'}"
            )

    return torch.from_numpy(read_all(open_tree(files.path), shape, check))
