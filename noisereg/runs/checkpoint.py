"""Checkpoints: written beside and renamed, each file's SHA-256 in state.json, no pickled code.

STEP/model.safetensors   the weights       STEP/optimizer.pt   read with weights_only
STEP/ema.safetensors     their average     STEP/state.json     the step, the digests
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from noisereg.errors import NoiseregError
from noisereg.runs.objective import Objective


def _stateful(objective: Objective) -> dict[str, Any]:
    """Components that are no modules and yet have a state (a fitted noise)."""
    parts: dict[str, Any] = {
        "noise": objective.noise,
        "process": objective.process,
        "pairing": objective.pairing,
    }
    parts |= {f"regularizers.{i}": r.term for i, r in enumerate(objective.regularizers)}
    return {
        name: part
        for name, part in parts.items()
        if hasattr(part, "state_dict") and not isinstance(part, nn.Module)
    }


def tensors_of(objective: Objective) -> dict[str, Tensor]:
    """All weights, buffers and fitted tensors by name, detached."""
    state = {name: value.detach() for name, value in objective.state_dict().items()}
    for prefix, part in _stateful(objective).items():
        state |= {f"{prefix}.{name}": value.detach() for name, value in part.state_dict().items()}
    return state


def restore(objective: Objective, tensors: dict[str, Tensor]) -> None:
    """
    Raises:
        NoiseregError: if names or shapes are not this run's.
    """
    left = dict(tensors)
    for prefix, part in _stateful(objective).items():
        own = {name: left.pop(name) for name in list(left) if name.startswith(f"{prefix}.")}
        part.load_state_dict(
            {name.removeprefix(f"{prefix}."): value for name, value in own.items()}
        )
    try:
        objective.load_state_dict(left)
    except RuntimeError as error:
        raise NoiseregError(
            f"the checkpoint does not fit this run: {' '.join(str(error).split())[:300]}"
        ) from None


class EMA:
    """Exponential moving average of the trainable weights, in their own dtype.

    Decay min(decay, (1 + n)/(10 + n)) after n updates where ``warmup``, so that early weights are forgotten.
    """

    def __init__(self, objective: Objective, decay: float, warmup: bool) -> None:
        self.decay, self.warmup = decay, warmup
        self._live = dict(objective.named_parameters())
        self.shadow = {name: p.detach().clone() for name, p in self._live.items()}

    @torch.no_grad()
    def update(self, count: int) -> None:
        """After the ``count``-th optimiser step, from 1."""
        decay = min(self.decay, (1 + count) / (10 + count)) if self.warmup else self.decay
        torch._foreach_lerp_(list(self.shadow.values()), list(self._live.values()), 1 - decay)

    def tensors(self, objective: Objective) -> dict[str, Tensor]:
        """A whole state with the averages in place of the weights."""
        return tensors_of(objective) | self.shadow

    def load(self, tensors: dict[str, Tensor]) -> None:
        for name, value in self.shadow.items():
            value.copy_(tensors[name])

    @contextlib.contextmanager
    def applied(self) -> Any:
        """The averages in place of the weights while the block runs."""
        with torch.no_grad():
            backup = {name: p.detach().clone() for name, p in self._live.items()}
            for name, p in self._live.items():
                p.copy_(self.shadow[name])
        try:
            yield
        finally:
            with torch.no_grad():
                for name, p in self._live.items():
                    p.copy_(backup[name])


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


def save(
    folder: Path, step: int, objective: Objective, ema: EMA, optimizer: torch.optim.Optimizer
) -> Path:
    """Write ``folder/STEP``; a kill at any instant leaves it whole or absent.

    Raises:
        NoiseregError: if it cannot be written (no space left); nothing half-written stays.
    """
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    contents = {
        "model.safetensors": save_tensors(_contiguous(tensors_of(objective))),
        "ema.safetensors": save_tensors(_contiguous(ema.tensors(objective))),
        "optimizer.pt": buffer.getvalue(),
    }
    state = {
        "step": step,
        "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()},
    }
    contents["state.json"] = (json.dumps(state, indent=1) + "\n").encode()
    final, temporary = folder / f"{step:06d}", folder / f".{step:06d}.{os.getpid()}"
    try:
        temporary.mkdir(parents=True)
        for name, data in contents.items():
            with (temporary / name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        if final.exists():  # a step reached again after an older, damaged checkpoint of it
            shutil.rmtree(final)
        os.replace(temporary, final)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise NoiseregError(
            f"cannot write the checkpoint of step {step}: {error.strerror} ({folder}); the one before it stays, "
            "and the same command with `resume` goes on from there"
        ) from error
    return final


def steps_in(folder: Path) -> list[int]:
    """The steps there are checkpoints of, ascending."""
    return sorted(int(p.name) for p in folder.glob("[0-9]*") if p.is_dir() and p.name.isdigit())


def prune(folder: Path, keep_last: int, keep_every: int | None) -> None:
    """Remove all but the last ``keep_last`` and the multiples of ``keep_every``, and leftovers of killed writes."""
    steps = steps_in(folder)
    for step in steps[:-keep_last]:
        if not (keep_every and step % keep_every == 0):
            shutil.rmtree(folder / f"{step:06d}", ignore_errors=True)
    for leftover in folder.glob(".[0-9]*"):
        shutil.rmtree(leftover, ignore_errors=True)


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint whose digests have been verified; its files are read when asked for."""

    path: Path
    step: int
    sha256: dict[str, str]

    @classmethod
    def open(cls, path: Path) -> Checkpoint:
        """
        Raises:
            NoiseregError: if a file is missing, cut short or changed.
        """
        try:
            state = json.loads((path / "state.json").read_text(encoding="utf-8"))
            step, digests = int(state["step"]), dict(state["sha256"])
            if step != int(path.name) or set(digests) != {
                "model.safetensors",
                "ema.safetensors",
                "optimizer.pt",
            }:
                raise ValueError
        except OSError as error:
            raise NoiseregError(f"{path}: state.json cannot be read ({error.strerror})") from None
        except (ValueError, KeyError, TypeError):
            raise NoiseregError(f"{path}: state.json is damaged") from None
        for name, digest in digests.items():
            try:
                found = hashlib.sha256((path / name).read_bytes()).hexdigest()
            except OSError as error:
                raise NoiseregError(f"{path}: {name} cannot be read ({error.strerror})") from None
            if found != digest:
                raise NoiseregError(
                    f"{path}: {name} is damaged (its SHA-256 is not the recorded one)"
                )
        return cls(path, step, digests)

    def weights(self, ema: bool = True) -> dict[str, Tensor]:
        return load_tensors(
            (self.path / ("ema.safetensors" if ema else "model.safetensors")).read_bytes()
        )

    def optimizer(self, device: torch.device) -> dict[str, Any]:
        return torch.load(self.path / "optimizer.pt", map_location=device, weights_only=True)


def latest(folder: Path, warn: Callable[[str], None]) -> Checkpoint | None:
    """The newest whole checkpoint; each damaged one passed over is said in a line, with what is
    used in its place.
    """
    damaged: list[str] = []
    found = None
    for step in reversed(steps_in(folder)):
        try:
            found = Checkpoint.open(folder / f"{step:06d}")
            break
        except NoiseregError as error:
            damaged.append(str(error))
    for text in damaged:
        used = f"using the checkpoint of step {found.step}" if found else "no other one is whole"
        warn(f"{text}; {used}")
    return found
