"""A new run from another run's weights (``train --from RUN[@STEP|@best]``)."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from noisereg.errors import NoiseregError
from noisereg.inside import check_contents
from noisereg.paths import address, is_remote
from noisereg.remote import local_or_copy
from noisereg.runs import checkpoint, checkpoint_files
from noisereg.runs.build import Parts
from noisereg.runs.checkpoint import Checkpoint
from noisereg.runs.checkpoint_files import name_of
from noisereg.runs.config import Config, ParentRecord, read_complete
from noisereg.runs.objective import Objective
from noisereg.runs.run import shown


def continued(config: Config, old: Config) -> Config:
    """A resumed run's configuration with the parent that it recorded, so that the parent's folder
    is not needed again.
    """
    asked, had = config.parent, old.parent
    if asked is None or had is None or _place(asked.path) != _place(had.path):
        return config
    same_step = asked.step in (None, "best", had.step)  # which was the best is recorded
    return config.model_copy(update={"parent": had}) if same_step else config


def _place(path: Path) -> str:
    """Equal for what is typed and what is recorded, which is absolute."""
    return address(path) if is_remote(path) else os.path.abspath(path.expanduser())


def start(parts: Parts, note: Callable[[str], None]) -> Checkpoint | None:
    """Give a new run the weights that its configuration's ``parent`` names, and record which they
    were; the parent's checkpoint, None for a run without one.

    Raises:
        NoiseregError: as :func:`open_parent` and :func:`inherit`.
    """
    if parts.config.parent is None:
        return None
    record, config, weights = open_parent(parts.config.parent, note)
    parts.notes += inherit(parts.objective, parts.config, config, weights)
    parts.config = parts.config.model_copy(update={"parent": record})
    run = weights.path.parent.parent
    parts.lines["weights"] = f"of {shown(run)}, step {weights.step:,}"
    return weights


def open_parent(
    record: ParentRecord, note: Callable[[str], None]
) -> tuple[ParentRecord, Config, Checkpoint]:
    """The parent's checkpoint and configuration, and the record with its step and digest.

    Raises:
        NoiseregError: for a folder that holds no run, a step it has no whole checkpoint of, or one
        that has changed since it was recorded.
    """
    path = record.path
    place, run = _opened(path)
    config = read_complete(run / "config.yaml")
    folder = run / "checkpoints"
    step = checkpoint_files.best_step(folder) if record.step == "best" else record.step
    if step is None:
        weights = checkpoint.latest(folder, note)
    elif step in checkpoint_files.steps_in(folder):
        weights = Checkpoint.open(folder / name_of(step))
    else:
        weights = None
    if weights is None:
        have = ", ".join(map(str, checkpoint_files.steps_in(folder))) or "none"
        asked = "whole checkpoint" if step is None else f"checkpoint of step {step}"
        raise NoiseregError(f"`parent={place}` has no {asked}; there are: {have}")
    digest = weights.digest(ema=False)
    if record.sha256 and record.sha256 != digest:
        raise NoiseregError(
            f"`parent={place}@{weights.step}` has changed since this configuration recorded it "
            f"(its SHA-256 was {record.sha256[:12]}… and is {digest[:12]}…); take parent.sha256 "
            "out of the configuration to start from what it is"
        )
    before = config.parent.updates if config.parent else 0
    resolved = ParentRecord(
        path=path if is_remote(path) else run.absolute(),
        step=weights.step,
        sha256=digest,
        updates=before + weights.step,
    )
    return resolved, config, weights


def _opened(path: Path) -> tuple[str, Path]:
    """A run as the user names it, and its folder, which of an address is the working copy.

    Raises:
        NoiseregError: if there is no run.
    """
    folder = local_or_copy(path.expanduser())
    place = shown(folder) if is_remote(path) else str(folder)
    if not (folder / "config.yaml").is_file():
        raise NoiseregError(f"`parent={place}` holds no run; expected the folder of one")
    check_contents(folder)
    return place, folder


def inherit(objective: Objective, config: Config, parent: Config, found: Checkpoint) -> list[str]:
    """Put a parent's weights into a new run: the network's, and what the components have learned
    that are the same in both. Returns what the user should know.

    Raises:
        NoiseregError: if the network is of other sizes, or its weights are not finite.
    """
    own, theirs = checkpoint.tensors_of(objective), found.weights(ema=False)
    network = {name for name in {*own, *theirs} if name.startswith("denoiser.")}
    for name in sorted(network):
        sizes = [tuple(side[name].shape) if name in side else "absent" for side in (theirs, own)]
        if sizes[0] != sizes[1]:
            raise NoiseregError(
                f"`parent={found.path.parent.parent}`: {name} is {sizes[0]} there and {sizes[1]} "
                "here; keep what sizes the network: the denoiser, the data's shape, the task, and "
                "heads of the noise or the process"
            )
    taken = _shared(theirs, own, config, parent)
    if not checkpoint.finite(taken.values()):
        raise NoiseregError(
            f"`parent={found.path.parent.parent}`: the weights of step {found.step} are not "
            "finite; "
            "give an earlier one: RUN@STEP"
        )
    checkpoint.restore(objective, {**own, **taken})
    fresh = sorted({_section(name) for name in theirs} - {_section(name) for name in taken})
    return [f"the {name} is another than the parent's and starts anew" for name in fresh]


def averages(found: Checkpoint, own: Mapping[str, Tensor], config: Config) -> dict[str, Tensor]:
    """The parent's averaged weights where :func:`inherit` took its weights, else the new run's
    own.
    """
    parent = read_complete(found.path.parent.parent / "config.yaml")
    taken = _shared(found.weights(ema=True), own, config, parent)
    return {name: taken[name].to(v.device) if name in taken else v for name, v in own.items()}


def _section(name: str) -> str:
    place = re.search(r"(?:^|\.)(denoiser|noise|process|pairing)\.", name)
    return place[1] if place else "reg"


def _shared(
    theirs: Mapping[str, Tensor], own: Mapping[str, Tensor], config: Config, parent: Config
) -> dict[str, Tensor]:
    """Of the parent's tensors, the network's and those of components that are the same here."""
    same = {s for s in ("noise", "process", "pairing", "reg") if _of(config, s) == _of(parent, s)}
    same.add("denoiser")
    return {
        name: value
        for name, value in theirs.items()
        if _section(name) in same and name in own and own[name].shape == value.shape
    }


def _of(config: Config, section: str) -> Any:
    value = getattr(config, section)
    return [spec.name for spec in value] if isinstance(value, list) else value


def base_of(parent: str, changed: set[str]) -> dict[str, Any]:
    """The configuration that a new run starts from: the parent's, without what was its own past.
    What was resolved to go with its components is resolved anew where one of them is ``changed``.

    Raises:
        NoiseregError: if there is no run.
    """
    _, run = _opened(ParentRecord.model_validate(parent).path)
    values = read_complete(run / "config.yaml").dump()
    for key in ("init", "parent"):
        values.pop(key, None)
    values.get("optim", {}).pop("horizon", None)
    if changed & {"noise", "process", "pairing"}:
        for key in ("eta", "grid"):
            values.get("sample", {}).pop(key, None)
    return values
