"""The folders of checkpoints: which there are, which are whole, which stay. Imports no torch.

``checkpoints/STEP/state.json`` holds the step, the run (as environment.json names it), each file's
SHA-256, and a digest over all of that: so a file that was changed, and one that is another step's
or another run's, are told from the right one. The files are :data:`CONTENTS`, or those of several
ranks (:mod:`noisereg.runs.sharding`).
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noisereg.errors import NoiseregError
from noisereg.inside import inside
from noisereg.reading import read_json

STATE = "state.json"
RECORDS = "environment.json"
CONTENTS = ("model.safetensors", "ema.safetensors", "optimizer.pt")
OF_A_RANK = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")
"""A file of a distributed checkpoint."""


def steps_in(folder: Path) -> list[int]:
    """The steps there are folders of, ascending, whole or not."""
    if not folder.is_dir():
        return []
    named = [p for p in folder.iterdir() if p.name.isdecimal() and p.is_dir()]
    return sorted(int(p.name) for p in named if p.name == name_of(int(p.name)))


def name_of(step: int) -> str:
    return f"{step:06d}"


def make_state(run: str, step: int, contents: dict[str, bytes]) -> dict[str, Any]:
    """What state.json holds of a checkpoint with these files."""
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
    return state_of(run, step, digests)


def state_of(run: str, step: int, digests: dict[str, str]) -> dict[str, Any]:
    """:func:`make_state` of files whose SHA-256 are known."""
    state = {"run": run, "step": step, "sha256": digests}
    return {**state, "digest": _digest(state)}


def _digest(state: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def run_of(folder: Path) -> str:
    """The identity of the run in ``folder``, drawn when it was started; empty where there is none.

    Raises:
        NoiseregError: if environment.json cannot be read.
    """
    records = read_json(folder / RECORDS)
    return str(records.get("run", "")) if isinstance(records, dict) else ""


@dataclass(frozen=True)
class Verified:
    """A checkpoint whose files have been found to be those that were written."""

    path: Path
    step: int
    sha256: dict[str, str]
    """By file."""


def verify(path: Path) -> Verified:
    """
    Raises:
        NoiseregError: if a file is missing, cut short or changed, or is another step's or run's.
    """
    state = _read_state(path)
    digests = state["sha256"]
    for name in digests:
        if sha256_of(path / name) != digests[name]:
            raise NoiseregError(f"{path}: {name} is damaged (its SHA-256 is not the recorded one)")
    return Verified(path, state["step"], digests)


def whole(path: Path) -> bool:
    """Whether :func:`verify` has nothing against a checkpoint."""
    return not damage(path)


def damage(path: Path) -> str:
    """What :func:`verify` has against a checkpoint, or nothing. What has not been touched since it
    was asked last is not read again.
    """
    path = path.absolute()
    parts = sorted(file for file in path.glob("shard-*") if OF_A_RANK.fullmatch(file.name))
    contents = parts or [path / name for name in CONTENTS]
    read = [path.parent.parent / RECORDS, path / STATE, *contents]
    try:
        stats = [file.stat() for file in read]
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    return _damage(path, tuple((s.st_mtime_ns, s.st_size, s.st_ino) for s in stats))


@functools.lru_cache(maxsize=4096)
def _damage(path: Path, touched: tuple[tuple[int, ...], ...]) -> str:
    try:
        verify(path)
    except NoiseregError as error:
        return str(error)
    return ""


def _read_state(path: Path) -> dict[str, Any]:
    damaged = NoiseregError(f"{path}: {STATE} is damaged")
    if path.is_symlink() or not (path / STATE).is_file():
        raise NoiseregError(f"{path}: {STATE} is missing")
    try:
        state = read_json(path / STATE)
    except NoiseregError:
        raise damaged from None
    if not isinstance(state, dict) or set(state) != {"run", "step", "sha256", "digest"}:
        raise damaged
    if state.pop("digest") != _digest(state) or not _is_whole_set(state["sha256"]):
        raise damaged
    if name_of(state["step"]) != path.name:
        raise NoiseregError(f"{path} is the checkpoint of step {state['step']} under another name")
    if state["run"] != run_of(path.parent.parent):
        raise NoiseregError(f"{path} is a checkpoint of another run than {RECORDS} names")
    return state


def _is_whole_set(names: Iterable[str]) -> bool:
    return set(names) == set(CONTENTS) or (
        bool(names) and all(OF_A_RANK.fullmatch(name) for name in names)
    )


def sha256_of(file: Path) -> str:
    """
    Raises:
        NoiseregError: if it cannot be read.
    """
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise NoiseregError(
            f"{file.parent}: {file.name} cannot be read ({error.strerror})"
        ) from None


def latest(folder: Path, warn: Callable[[str], None]) -> Verified | None:
    """The newest whole checkpoint; each damaged one passed over is said in a line, with what is
    used in its place.
    """
    damaged: list[str] = []
    verified = None
    for step in reversed(steps_in(folder)):
        try:
            verified = verify(folder / name_of(step))
            break
        except NoiseregError as error:
            damaged.append(str(error))
    for text in damaged:
        used = (
            f"using the checkpoint of step {verified.step}"
            if verified
            else "no other one is whole"
        )
        warn(f"{text}; {used}")
    return verified


BEST = "best.json"


def write_best(
    folder: Path, step: int, metric: str, value: float, measured: Mapping[str, Any], since: int
) -> None:
    """Record which checkpoint is the best by a number that training has ``measured`` so in all
    steps after ``since``.
    """
    from noisereg.store import write_atomically  # with numpy, which help lacks

    record = {
        "step": step,
        "metric": metric,
        "value": value,
        "measured": dict(measured),
        "since": since,
    }
    write_atomically(folder / BEST, (json.dumps(record) + "\n").encode())


def best_record(folder: Path) -> dict[str, Any]:
    """What :func:`write_best` recorded; empty where nothing is, or what is no record.

    Raises:
        NoiseregError: for a file that is damaged.
    """
    if not (folder / BEST).is_file():
        return {}
    record = read_json(folder / BEST)
    return record if isinstance(record, dict) else {}


def best_step(folder: Path) -> int:
    """The step of the checkpoint that :func:`write_best` recorded.

    Raises:
        NoiseregError: where none is recorded, or it is not there.
    """
    if not (folder / BEST).is_file():
        raise NoiseregError(
            f"{folder.parent} has no best checkpoint: it was trained without `train.keep_best`"
        )
    step = best_record(folder).get("step")
    if not isinstance(step, int) or step not in steps_in(folder):
        have = ", ".join(map(str, steps_in(folder))) or "none"
        raise NoiseregError(
            f"{folder / BEST} names no checkpoint that is there; give `checkpoint=STEP`: {have}"
        )
    return step


def prune(
    folder: Path, keep_last: int, keep_every: int | None, known: set[int], best: int | None = None
) -> None:
    """Remove all but the last ``keep_last`` whole checkpoints, the multiples of ``keep_every``
    and the ``best``.

    ``known`` are steps that need no verifying again; those found whole are added.

    Raises:
        NoiseregError: if the folder is not the run's own.
    """
    inside(folder, folder.parent)
    there = steps_in(folder)
    for step in there:
        if step not in known:
            try:
                verify(folder / name_of(step))
                known.add(step)
            except NoiseregError:
                pass
    whole = [step for step in there if step in known]
    kept = {*whole[-keep_last:], *(s for s in whole if keep_every and s % keep_every == 0)}
    kept |= set(whole) & {best}
    for step in there:
        if step not in kept:
            remove(folder / name_of(step))
            known.discard(step)


def remove(path: Path) -> None:
    """Remove a checkpoint, whole or not; a folder that holds anything else is left alone."""
    own = (STATE, *CONTENTS)
    names = [] if path.is_symlink() else [p.name for p in path.iterdir()]
    if names and all(name in own or OF_A_RANK.fullmatch(name) for name in names):
        shutil.rmtree(path, ignore_errors=True)
