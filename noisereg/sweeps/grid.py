"""A sweep: the grid noise × regularizer × pairing × process × any other key × seeds, and its
folder. Imports no torch.

SWEEP/sweep.yaml            the grid and what all cells share; noisereg sweep --config
                            SWEEP/sweep.yaml repeats it
SWEEP/cells/NAME.yaml       a cell's whole configuration
SWEEP/cells/NAME/           its run, an ordinary one
SWEEP/cells/NAME.log        what its training said
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from noisereg import remote
from noisereg.errors import NoiseregError
from noisereg.inside import check_contents
from noisereg.ownership import LOCK, clear_leftovers, lock_of_children, share
from noisereg.plugins.registry import registry
from noisereg.plugins.spec import Spec, added
from noisereg.plugins.validation import validation_message
from noisereg.reading import parse_yaml, read_yaml, write_yaml
from noisereg.runs.checkpoint_files import damage, name_of
from noisereg.runs.config import (
    SECTION_KIND,
    Config,
    apply_set,
    layer,
    read_complete,
    resume_difference,
    validate,
)
from noisereg.runs.records import Status, status_of
from noisereg.store import write_atomically

SWEEP_FILE = "sweep.yaml"
MEMBERS = ".members.lock"
"""The lock that every command at work on a sweep shares."""
MAX_CELLS = 10_000
"""Of one sweep: each is a folder, and a training of minutes at least."""
COMPONENT_AXES = ("noise", "reg", "pairing", "process")


class Grid(BaseModel):
    """The axes of a sweep; the key ``sweep`` of its YAML file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    noise: list[Any] = Field([], description="specs; by default the configuration's own")
    reg: list[Any] = Field([], description="specs, none, or A+B for both at once")
    pairing: list[Any] = Field([], description="specs, or none")
    process: list[Any] = Field([], description="specs")
    axes: dict[str, list[Any]] = Field(
        {}, description="any other key: train.batch_size: [64, 128]"
    )
    seeds: int = Field(1, ge=1, description="counted from the configuration's seed")
    cells: list[str] = Field([], description="written by noisereg: the cells in order")

    @field_validator("cells")
    @classmethod
    def _names(cls, value: list[str]) -> list[str]:
        """They name folders of the sweep's own."""
        for name in value:
            if not re.fullmatch(r"[A-Za-z0-9+_=-][A-Za-z0-9.+_=-]*", name):
                raise ValueError(f"{name!r} is no cell's name")
        return value

    @field_validator("axes")
    @classmethod
    def _usable(cls, value: dict[str, list[Any]]) -> dict[str, list[Any]]:
        if empty := next((key for key, values in value.items() if not values), None):
            raise ValueError(f"{empty} has no value; expected one at least")
        if "seed" in value:
            raise ValueError(
                "seed is no axis: `seeds=N` trains every cell with N seeds, from `seed` on"
            )
        return value

    @field_validator(*COMPONENT_AXES, mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        return value if isinstance(value, list) else [value]


def read_grid(values: Any) -> Grid:
    """
    Raises:
        NoiseregError: for an unknown key or a value out of range.
    """
    try:
        return Grid.model_validate(values or {})
    except ValidationError as error:
        raise NoiseregError(f"sweep: {validation_message(error, Grid, '')}") from None


def parse_axes(assignments: Sequence[str]) -> dict[str, list[Any]]:
    """``--axis KEY=VALUE``, repeated: each repetition of a key is one value of that axis."""
    axes: dict[str, list[Any]] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise NoiseregError(
                f"`axis={assignment}`: expected KEY=VALUE, such as train.batch_size=64"
            )
        if key in COMPONENT_AXES:
            raise NoiseregError(
                f"`axis={assignment}`: {key} has a flag of its own: `{key}={text}`"
            )
        axes.setdefault(key, []).append(
            parse_yaml(f"value: {text}", f"`axis={assignment}`").get("value")
        )
    return axes


@dataclass(frozen=True)
class Cell:
    """One run of a sweep."""

    name: str
    """Of its folder, below ``cells``."""
    config: Config
    combination: str
    """Equal for cells that differ in their seed alone."""


def _regularizers(value: Any) -> list[Any]:
    """``A+B`` is both at once, ``none`` neither."""
    if isinstance(value, str):
        return added(value)
    return value if isinstance(value, list) else [value]


def _slug(value: Any) -> str:
    text = (
        value
        if isinstance(value, str)
        else Spec.model_validate(value).label()
        if isinstance(value, dict) and "name" in value
        else str(value)
    )
    below_0 = re.match(r"-[\d.]", text)
    text = "-" * bool(below_0) + re.sub(r"[^A-Za-z0-9.=+_-]+", "-", text).strip("-")
    return (
        text if len(text) <= 60 else f"{text[:50]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    )


def make_cells(base: Mapping[str, Any], grid: Grid) -> list[Cell]:
    """Every cell of the grid, seeds outermost, so that an unfinished sweep has whole tables of
    fewer seeds.

    Raises:
        NoiseregError: for an axis that is no key, or two values of one axis that are the same.
    """
    first_seed = validate(dict(base)).seed
    axes: dict[str, list[Any]] = {
        name: getattr(grid, name) for name in COMPONENT_AXES if getattr(grid, name)
    }
    axes |= grid.axes
    count = grid.seeds * math.prod(len(values) for values in axes.values())
    if count > MAX_CELLS:
        raise NoiseregError(
            f"the sweep has {count:,} cells; expected at most {MAX_CELLS:,}: fewer `seeds`, or "
            "fewer "
            "values of its axes"
        )
    cells: list[Cell] = []
    for seed in range(first_seed, first_seed + grid.seeds):
        for combination in itertools.product(*axes.values()):
            chosen = dict(zip(axes, combination, strict=True))
            named = {
                k: _regularizers(v) if k == "reg" else v
                for k, v in chosen.items()
                if k in COMPONENT_AXES
            }
            values = layer(base, named, {"seed": seed})
            if sets := [
                f"{k}={json.dumps(v)}" for k, v in chosen.items() if k not in COMPONENT_AXES
            ]:
                values = apply_set(values, sets)
            words = [
                _slug(v) if k in COMPONENT_AXES else f"{k.rpartition('.')[2]}={_slug(v)}"
                for k, v in chosen.items()
            ]
            label = "_".join(words) or "run"
            cells.append(Cell(f"{label}_s{seed}", validate(values), label))
    times = Counter(cell.name for cell in cells)
    if twice := next((name for name, count in times.items() if count > 1), None):
        raise NoiseregError(
            f"two cells of the sweep are the same ({twice}); give each value of an axis once"
        )
    return cells


@dataclass(frozen=True)
class Sweep:
    """A sweep's folder."""

    path: Path
    cells: list[Cell]

    @classmethod
    def open(cls, path: Path) -> Sweep:
        """
        Raises:
            NoiseregError: if the folder holds no sweep, one that cannot be read, or one with a
            cell or a link outside of it.
        """
        if not (path / SWEEP_FILE).exists():
            raise NoiseregError(f"{path} holds no sweep (no {SWEEP_FILE})")
        check_contents(path)
        try:
            grid = read_grid(read_yaml(path / SWEEP_FILE).get("sweep"))
        except NoiseregError as error:
            named = str(error) if SWEEP_FILE in str(error) else f"{path / SWEEP_FILE}: {error}"
            raise NoiseregError(named) from None
        there = {file.stem for file in (path / "cells").glob("[!.]*.yaml")}
        if forgotten := sorted(there - set(grid.cells)) or ["none"] * (not grid.cells):
            raise NoiseregError(
                f"{path / SWEEP_FILE} is damaged: its cells are {len(grid.cells)}, without "
                f"{forgotten[0]}; give the sweep's command again, which writes it anew"
            )
        cells = []
        for name in grid.cells:
            config = read_complete(path / "cells" / f"{name}.yaml")
            cells.append(Cell(name, config, name.rpartition("_s")[0]))
        return cls(path, cells)

    def config_of(self, cell: Cell) -> Path:
        return self.path / "cells" / f"{cell.name}.yaml"

    def path_of(self, cell: Cell) -> Path:
        return self.path / "cells" / cell.name

    def log_of(self, cell: Cell) -> Path:
        return self.path / "cells" / f"{cell.name}.log"

    def lock_of(self, cell: Cell) -> Path:
        return self.path / "cells" / f".{cell.name}.lock"

    def status(self, cell: Cell) -> Status | None:
        """How far its run is; None before it is started."""
        if not (self.path_of(cell) / "config.yaml").is_file():
            return None
        return status_of(self.path_of(cell), cell.config.train.steps)[0]

    def finished(self, cell: Cell) -> bool:
        """Whether it is trained to the end, and the checkpoint that says so is whole."""
        status, steps = self.status(cell), cell.config.train.steps
        if status is None or status.status != "finished" or status.step < steps:
            return False
        return not damage(self.path_of(cell) / "checkpoints" / name_of(status.step))

    def state(self, cell: Cell) -> str:
        """``finished``, or a phrase on how far it is."""
        status = self.status(cell)
        if status is None and (self.path_of(cell) / "checkpoints").exists():
            return "its config.yaml is missing"
        if status is None:
            return "not started"
        if self.finished(cell):
            return "finished"
        steps = cell.config.train.steps
        if status.diverged and not status.step:
            return "diverged before its first checkpoint"
        if status.diverged:
            return f"diverged, with a checkpoint of step {status.step:,} of {steps:,}"
        if status.status == "finished" and status.step >= steps:
            folder = self.path_of(cell)
            said = damage(folder / "checkpoints" / name_of(status.step))
            said = said.replace(f"{folder.absolute()}{os.sep}", "")
            return f"its checkpoint of step {status.step:,} is damaged: {said}"
        return f"{status.status}, step {status.step:,} of {steps:,}"

    def command(self, cell: Cell) -> list[str]:
        """The arguments of ``noisereg`` that train a cell, or go on with it."""
        return [
            "train",
            "--config",
            str(self.config_of(cell)),
            "--out",
            str(self.path_of(cell)),
            "--resume",
        ]


def _edited(old: Config, new: Config) -> str | None:
    """What to say of a plugin's file that a cell's components come from and that has another
    content than when the cell was made: one row would be of two codes.
    """
    before = {record.source: record.sha256 for record in old.plugins}
    found = registry()
    for section, kind in SECTION_KIND.items():
        if section == "log":  # which makes no numbers
            continue
        named = getattr(new, section)
        for spec in named if isinstance(named, list) else [named]:
            try:
                plugin = found.plugin_of(found.find(kind, spec.name))
            except NoiseregError:  # auto, none
                continue
            was = before.get(plugin.source)
            if was and plugin.sha256 and was != plugin.sha256:
                return (
                    f"{spec.name} is of {plugin.source}, which has changed since (SHA-256 "
                    f"{plugin.sha256[:12]}… in place of {was[:12]}…)"
                )
    return None


def check_continues(path: Path, cells: Sequence[Cell]) -> None:
    """That a folder is free, or holds a sweep of which ``cells`` are a continuation: more cells,
    or more steps.

    Raises:
        NoiseregError: names what differs.
    """
    if not path.exists():
        return
    if not path.is_dir() or not _own(path):
        raise NoiseregError(
            f"{path} is not empty and holds no sweep; expected a new folder for `out`"
        )
    check_contents(path)
    new = {cell.name: cell for cell in cells}
    for file in sorted((path / "cells").glob("[!.]*.yaml")):
        if not (path / SWEEP_FILE).exists() and not file.with_suffix("").exists():
            continue  # it was killed before it was defined, and never trained
        if file.stem not in new:
            raise NoiseregError(
                f"{path} was started with a cell {file.stem} that this command has not; give all "
                "its cells (more may be "
                "added), or another `out`"
            )
        old, config = read_complete(file), new[file.stem].config
        difference = resume_difference(old, config)
        if not difference and (status := Sweep(path, []).status(Cell(file.stem, old, ""))):
            steps = config.train.steps
            if status.step:  # one that was never trained takes what has been mended
                difference = _edited(old, config)
            if status.step > steps:
                difference = (
                    f"train.steps was {old.train.steps:,} and is now {steps:,}, and it is trained "
                    f"to step {status.step:,}"
                )
        if difference:
            raise NoiseregError(
                f"{path} was started otherwise: in {file.stem}, {difference}; give another `out`"
            )


def _own(path: Path) -> bool:
    """Whether a folder holds a sweep; or nothing, or what one leaves that was killed before it was
    defined, or whose sweep.yaml was lost.
    """
    if (path / SWEEP_FILE).exists():
        return True
    own = rf"{re.escape(LOCK)}|{re.escape(MEMBERS)}|\.{re.escape(SWEEP_FILE)}\.\d+"
    others = [entry for entry in path.iterdir() if not re.fullmatch(own, entry.name)]
    if others != [path / "cells"] or not others[0].is_dir():
        return not others
    return all(
        re.fullmatch(r".+\.(yaml(\.\d+)?|log|lock)", entry.name)
        or entry.with_name(f"{entry.name}.yaml").is_file()
        for entry in others[0].iterdir()
    )


def definition(
    path: Path, base: Mapping[str, Any], grid: Grid, cells: Sequence[Cell]
) -> dict[Path, bytes]:
    """The files that say what a sweep is: every cell's configuration, and sweep.yaml."""
    sweep = Sweep(path, list(cells))
    files = {sweep.config_of(cell): write_yaml(cell.config.dump()).encode() for cell in cells}
    named = grid.model_copy(update={"cells": [cell.name for cell in cells]}).model_dump(
        mode="json"
    )
    shared = {k: v for k, v in base.items() if k not in COMPONENT_AXES or not getattr(grid, k)}
    files[path / SWEEP_FILE] = write_yaml({"sweep": named, **shared}).encode()
    return files


def write(path: Path, base: Mapping[str, Any], grid: Grid, cells: Sequence[Cell]) -> Sweep:
    """Write the definition, sweep.yaml last, into a store too; each file whole or not at all."""
    for file, content in definition(path, base, grid, cells).items():
        write_atomically(file, content)
        remote.put(file)
    return Sweep(path, list(cells))


@contextlib.contextmanager
def taking_part(
    path: Path, base: Mapping[str, Any], grid: Grid, cells: Sequence[Cell]
) -> Iterator[tuple[Sweep, IO[Any]]]:
    """The sweep in ``path``, defined so as long as the block lasts, and the lock that says so.

    Several commands may train the cells of one sweep at once (array jobs), each cell by one of
    them; but while one is at work, or a cell that it started, no other changes what a cell is.
    To be entered by the owner of the folder.

    Raises:
        NoiseregError: if another is at work on the sweep as it was.
    """
    changed = [
        file
        for file, content in definition(path, base, grid, cells).items()
        if not file.is_file() or file.read_bytes() != content
    ]
    lock = lock_of_children(path / MEMBERS, shared=not changed)
    if lock is None:
        raise NoiseregError(
            f"another noisereg sweep is at work in {path}, and this command would change "
            f"{changed[0].relative_to(path)}; wait until it has ended, or give the command that "
            "it was started with, which shares the cells"
        )
    with lock:
        clear_leftovers(path, re.escape(SWEEP_FILE))
        clear_leftovers(path / "cells", r".+\.yaml")
        sweep = write(path, base, grid, cells) if changed else Sweep(path, list(cells))
        share(lock)
        yield sweep, lock
