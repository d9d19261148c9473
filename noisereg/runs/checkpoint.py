"""Checkpoints: written beside and renamed, each file's SHA-256 in state.json, no pickled code.

STEP/model.safetensors   the weights       STEP/optimizer.pt   read with weights_only
STEP/ema.safetensors     their average     STEP/state.json     the run, the step, the digests

Those of :mod:`noisereg.runs.sharding` have a file a rank in place of the first three, and are read
here like any other.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from noisereg.errors import NoiseregError
from noisereg.inside import inside
from noisereg.runs import checkpoint_files
from noisereg.runs.checkpoint_files import STATE, Verified, name_of
from noisereg.runs.objective import Objective


def _stateful(objective: Objective) -> dict[str, Any]:
    """Components that are no modules and yet have a state (a fitted noise)."""
    diffusion = objective.diffusion
    parts: dict[str, Any] = {
        "noise": diffusion.noise,
        "process": diffusion.process,
        "pairing": diffusion.pairing,
    }
    parts |= {f"regularizers.{i}": r.term for i, r in enumerate(diffusion.regularizers)}
    return {
        name: part
        for name, part in parts.items()
        if hasattr(part, "state_dict") and not isinstance(part, nn.Module)
    }


MODEL_OF, EMA_OF, OPTIMIZER_OF = "model.", "ema.", "optimizer."
"""How names in a distributed checkpoint begin."""


def own_part(value: Tensor) -> Tensor:
    """What this rank holds of a tensor: all, unless it is sharded."""
    return value.to_local() if hasattr(value, "to_local") else value


def _like(whole: Tensor, value: Tensor) -> Tensor:
    """``whole`` as ``value`` is: on its device, and sharded where that is."""
    if not hasattr(value, "to_local") or hasattr(whole, "to_local"):
        return whole
    from torch.distributed.tensor import distribute_tensor

    sharded: Any = value
    # Each rank has all of it: no communication.
    return distribute_tensor(
        whole.to(value.device), sharded.device_mesh, sharded.placements, src_data_rank=None
    )


def _laid_out(whole: Tensor, weight: Tensor) -> Tensor:
    """``whole`` with its numbers in memory as the weight has them (channels last, or not): a fused
    optimiser goes through both by memory.
    """
    return torch.empty_like(weight.detach(), dtype=whole.dtype).copy_(_like(whole, weight))


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
    restore_around(objective, tensors, denoiser=True)


def restore_around(
    objective: Objective, tensors: dict[str, Tensor], denoiser: bool = False
) -> None:
    """:func:`restore` of all but the denoiser, or of that too.

    Raises:
        NoiseregError: if names or shapes are not this run's.
    """
    left = dict(tensors)
    for prefix, part in _stateful(objective).items():
        own = {name: left.pop(name) for name in list(left) if name.startswith(f"{prefix}.")}
        part.load_state_dict(
            {name.removeprefix(f"{prefix}."): value for name, value in own.items()}
        )
    modules = objective if denoiser else objective.diffusion
    if not denoiser:
        left = {name.removeprefix("diffusion."): value for name, value in left.items()}
    try:
        modules.load_state_dict(left)
    except RuntimeError as error:
        raise NoiseregError(
            f"the checkpoint does not fit this run: {' '.join(str(error).split())[:300]}"
        ) from None


class EMA:
    """Exponential moving average of the trainable weights, in their own dtype.

    Decay min(decay, (1 + n)/(10 + n)) after n updates where ``warmup``, so that early weights are
    forgotten.
    """

    def __init__(self, objective: Objective, decay: float, warmup: bool) -> None:
        self.decay, self.warmup = decay, warmup
        self._live = dict(objective.named_parameters())
        self.shadow = {name: p.detach().clone() for name, p in self._live.items()}

    def decay_at(self, count: int) -> float:
        """Of the ``count``-th update, from 1."""
        return min(self.decay, (1 + count) / (10 + count)) if self.warmup else self.decay

    @torch.no_grad()
    def update(self, count: int) -> None:
        """After the ``count``-th optimiser step, from 1."""
        decay = self.decay_at(count)
        averages, weights = (
            [own_part(value) for value in values.values()] for values in (self.shadow, self._live)
        )
        torch._foreach_lerp_(averages, weights, 1 - decay)

    def tensors(self, objective: Objective) -> dict[str, Tensor]:
        """A whole state with the averages in place of the weights."""
        return tensors_of(objective) | self.shadow

    def load(self, tensors: dict[str, Tensor]) -> None:
        for name, value in self.shadow.items():
            value.copy_(_like(tensors[name], value))

    @contextlib.contextmanager
    def applied(self) -> Any:
        """The averages in place of the weights while the block runs."""
        live = {name: own_part(p.detach()) for name, p in self._live.items()}
        with torch.no_grad():
            backup = {name: p.clone() for name, p in live.items()}
            for name, p in live.items():
                p.copy_(own_part(self.shadow[name]))
        try:
            yield
        finally:
            with torch.no_grad():
                for name, p in live.items():
                    p.copy_(backup[name])


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


def save(
    folder: Path,
    step: int,
    objective: Objective,
    ema: EMA,
    optimizer: torch.optim.Optimizer,
    run: str,
) -> Path:
    """Write ``folder/STEP`` of the ``run`` of that identity; a kill at any instant leaves it whole
    or absent. It is read back before it counts.

    Raises:
        NoiseregError: if it cannot be written (no space left), nothing half-written stays then;
        or if what is read back is not what was written.
    """
    inside(folder, folder.parent)
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    contents = {
        "model.safetensors": save_tensors(_contiguous(tensors_of(objective))),
        "ema.safetensors": save_tensors(_contiguous(ema.tensors(objective))),
        "optimizer.pt": buffer.getvalue(),
    }
    state = checkpoint_files.make_state(run, step, contents)
    contents[STATE] = (json.dumps(state, indent=1) + "\n").encode()
    final = folder / name_of(step)
    temporary = folder / f".{name_of(step)}.{os.getpid()}"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        for name, data in contents.items():
            with (temporary / name).open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        if final.exists():  # a step reached again after an older, damaged checkpoint of it
            checkpoint_files.remove(final)
        os.replace(temporary, final)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise NoiseregError(
            f"cannot write the checkpoint of step {step}: {error.strerror} ({folder}); the one "
            "before it stays, and the same command with `resume` goes on from there"
        ) from error
    try:
        checkpoint_files.verify(final)
    except NoiseregError as error:
        raise NoiseregError(
            f"the checkpoint of step {step} is not what was written ({error}); the disk or its "
            "driver is at fault. Those before it stay"
        ) from None
    return final


class Checkpoint(Verified):
    """One checkpoint whose digests have been verified, and are again when a file is read."""

    @classmethod
    def open(cls, path: Path) -> Checkpoint:
        """
        Raises:
            NoiseregError: if a file is missing, cut short or changed, or is not this run's.
        """
        return cls(**vars(checkpoint_files.verify(path)))

    @property
    def sharded(self) -> bool:
        """Whether it is a distributed one, of several ranks."""
        return "model.safetensors" not in self.sha256

    def digest(self, ema: bool) -> str:
        """The SHA-256 of the weights' file; of all files together where each has a part."""
        if self.sharded:
            return hashlib.sha256(json.dumps(self.sha256, sort_keys=True).encode()).hexdigest()
        return self.sha256["ema.safetensors" if ema else "model.safetensors"]

    def stored(self) -> dict[str, tuple[torch.dtype, torch.Size]]:
        """The tensors of a distributed checkpoint, by the names they have there."""
        from torch.distributed.checkpoint import HuggingFaceStorageReader

        found: dict[str, Any] = (
            HuggingFaceStorageReader(str(self.path)).read_metadata().state_dict_metadata
        )
        return {name: (each.properties.dtype, each.size) for name, each in found.items()}

    def parts(self, wanted: Callable[[str], bool]) -> dict[str, Tensor]:
        """Of a distributed checkpoint the whole tensors with such names, on the CPU.

        Raises:
            NoiseregError: if a file has changed.
        """
        from torch.distributed import checkpoint as dcp

        for name, digest in self.sha256.items():
            if checkpoint_files.sha256_of(self.path / name) != digest:
                raise NoiseregError(f"{self.path}: {name} has changed since it was looked at")
        tensors: dict[str, Any] = {
            name: torch.empty(size, dtype=dtype)
            for name, (dtype, size) in self.stored().items()
            if wanted(name)
        }
        reader = dcp.HuggingFaceStorageReader(str(self.path))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of one process that reads alone, as is meant
            dcp.load(tensors, storage_reader=reader, no_dist=True)
        return tensors

    def _read(self, name: str) -> bytes:
        try:
            data = (self.path / name).read_bytes()
        except OSError as error:
            raise NoiseregError(f"{self.path}: {name} cannot be read ({error.strerror})") from None
        if hashlib.sha256(data).hexdigest() != self.sha256[name]:
            raise NoiseregError(f"{self.path}: {name} has changed since it was looked at")
        return data

    def weights(self, ema: bool = True) -> dict[str, Tensor]:
        """
        Raises:
            NoiseregError: if they have changed, or are none.
        """
        if self.sharded:
            kinds = (MODEL_OF, EMA_OF) if ema else (MODEL_OF,)  # averages go over weights
            found = self.parts(lambda name: name.startswith(kinds))
            return {
                name.removeprefix(kind): value
                for kind in kinds
                for name, value in found.items()
                if name.startswith(kind)
            }
        name = "ema.safetensors" if ema else "model.safetensors"
        try:
            return load_tensors(self._read(name))
        except SafetensorError as error:
            raise NoiseregError(f"{self.path}: {name} holds no weights: {error}") from None

    def optimizer(self, device: torch.device) -> dict[str, Any]:
        """
        Raises:
            NoiseregError: if it has changed, or holds something else than tensors and plain
            values: code, above all, which is not executed.
        """
        assert not self.sharded
        data = io.BytesIO(self._read("optimizer.pt"))
        try:
            return torch.load(data, map_location=device, weights_only=True)
        except Exception as error:  # torch.load raises many types on a file that is none
            said = next(iter(str(error).splitlines()), "")
            raise NoiseregError(
                f"{self.path}: optimizer.pt holds no state of an optimiser: {said}"
            ) from None


def restore_optimizer(
    optimizer: torch.optim.Optimizer, objective: Objective, found: Checkpoint
) -> None:
    """Put a checkpoint's state of the optimiser into this run's, sharded or not; rates are set at
    every step.

    Raises:
        NoiseregError: if it has changed, or holds something else.
    """
    params = [p for group in optimizer.param_groups for p in group["params"]]
    saved = optimizer.state_dict()
    if found.sharded:
        names = {p: name for name, p in objective.named_parameters()}
        places = {names[p]: index for index, p in enumerate(params)}
        states: dict[int, dict[str, Tensor]] = {}
        for name, value in found.parts(lambda name: name.startswith(OPTIMIZER_OF)).items():
            key, _, of = name.removeprefix(OPTIMIZER_OF).partition(".")
            states.setdefault(places[of], {})[key] = value
        saved["state"] = states
    else:
        saved = found.optimizer(params[0].device)
    saved["state"] = {
        index: {
            key: _laid_out(value, params[index])
            if value.shape == params[index].shape and value.ndim
            else value
            for key, value in state.items()
        }
        for index, state in saved["state"].items()
    }
    optimizer.load_state_dict(saved)


def latest(folder: Path, warn: Callable[[str], None]) -> Checkpoint | None:
    """The newest whole checkpoint; see :func:`noisereg.runs.checkpoint_files.latest`."""
    verified = checkpoint_files.latest(folder, warn)
    return None if verified is None else Checkpoint(**vars(verified))


def finite(tensors: Iterable[Tensor]) -> bool:
    """Whether no number is infinite or nan, of what this rank holds."""
    own = [own_part(v.detach()) for v in tensors if v.is_floating_point()]
    if not own:
        return True

    def all_of(each: list[Tensor]) -> bool:
        return bool(torch.stack([one.to(each[0].device) for one in each]).all())

    # The sum of what is not finite is not finite, and is quick; that of finite numbers may be too
    # large for their format.
    return all_of([torch.isfinite(v.sum()) for v in own]) or all_of(
        [torch.isfinite(v).all() for v in own]
    )
