"""A run whose ranks each hold a part of the network: FSDP2 and its distributed checkpoints.

The denoiser's weights, their gradients and averages and the optimiser's state are split over the
ranks along each tensor's first axis; a block's weights are gathered for its forward and its
backward pass alone (Zhao et al. 2023, arXiv 2304.11277). What is trained is what every rank with
all of it (DDP) would train, but for the order of sums.

A checkpoint is written by all ranks at once, each its part, by torch.distributed.checkpoint in
safetensors, never pickled:

STEP/shard-00001-model-00001-of-00001.safetensors, …   ``model.NAME``, ``ema.NAME`` and, of the
                                                       optimiser, ``optimizer.STATE.NAME``
STEP/state.json                                        the run, the step, the digests

Any number of ranks reads it, one that samples too: :mod:`noisereg.runs.checkpoint`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from noisereg.errors import NoiseregError
from noisereg.inside import inside
from noisereg.runs import checkpoint_files
from noisereg.runs.build import Parts
from noisereg.runs.checkpoint import (
    EMA,
    EMA_OF,
    MODEL_OF,
    OPTIMIZER_OF,
    Checkpoint,
    own_part,
    restore_around,
    tensors_of,
)
from noisereg.runs.checkpoint_files import STATE, name_of
from noisereg.runs.config import Config
from noisereg.runs.objective import Objective
from noisereg.runs.optimizer import learners
from noisereg.runs.runtime import Runtime

ADAM = ("step", "exp_avg", "exp_avg_sq")
"""What the optimiser keeps of each weight."""


def check(config: Config, runtime: Runtime) -> None:
    """
    Raises:
        NoiseregError: for what ``runtime.shard`` cannot be combined with, before anything is
            built.
    """
    if runtime.world == 1:
        raise NoiseregError(
            "runtime.shard shares the network out over ranks, and there is one; expected several, "
            "started by torchrun, or runtime.shard=false, which goes on from the same checkpoint"
        )
    if config.runtime.compile:
        raise NoiseregError(
            "runtime.shard has not been tested with runtime.compile; expected one of them"
        )
    if config.runtime.channels_last is True:
        raise NoiseregError(
            "runtime.shard splits contiguous weights, not those of runtime.channels_last; "
            "expected one of them"
        )
    if config.train.eval_every:
        raise NoiseregError(
            "train.eval_every measures on one rank, and runtime.shard gives none the whole "
            "network; leave it out, and measure the checkpoints: noisereg eval --checkpoint all"
        )


def check_parts(parts: Parts) -> None:
    """
    Raises:
        NoiseregError: for components that learn beside the denoiser, and layers that have
            statistics of their own on each rank.
    """
    for component in learners(parts):
        if isinstance(component, nn.Module) and any(
            p.requires_grad for p in component.parameters()
        ):
            raise NoiseregError(
                f"runtime.shard splits the denoiser alone, and {type(component).__name__} learns "
                "too; expected one that does not, or runtime.shard=false"
            )
    for name, module in parts.denoiser.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise NoiseregError(
                f"runtime.shard: the denoiser's {name} is a batch norm, whose statistics would "
                "differ between ranks; expected another norm, or runtime.shard=false"
            )


def shard(objective: Objective, runtime: Runtime) -> None:
    """Split the denoiser over the ranks, in place. It may be on the CPU: its blocks go to the
    device one by one, so that no device holds all of it.
    """
    mesh = init_device_mesh(runtime.device.type, (runtime.world,))
    for block in _blocks(objective.denoiser):
        fully_shard(block, mesh=mesh)
    fully_shard(objective.denoiser, mesh=mesh, reshard_after_forward=True)
    objective.sharded = True


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The members of the outermost lists of a module: a U-Net's levels, a transformer's layers."""
    for child in module.children():
        members = list(child) if isinstance(child, nn.ModuleList) else []
        if members and not any(isinstance(member, nn.ModuleList) for member in members):
            yield from members
        else:
            yield from _blocks(child)


def _state(objective: Objective, ema: EMA, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """All that a checkpoint has, by the names it has there: this rank's parts of it."""
    state = {MODEL_OF + name: value for name, value in tensors_of(objective).items()}
    state |= {EMA_OF + name: value for name, value in ema.shadow.items()}
    for name, p in objective.named_parameters():
        for key, value in optimizer.state.get(p, {}).items():
            state[f"{OPTIMIZER_OF}{key}.{name}"] = value
    return state


def save(
    folder: Path,
    step: int,
    objective: Objective,
    ema: EMA,
    optimizer: torch.optim.Optimizer,
    run: str,
    runtime: Runtime,
) -> None:
    """:func:`noisereg.runs.checkpoint.save` by all ranks, which call it at the same step; every
    one must see ``folder``. The digests are of what is read back.

    Raises:
        NoiseregError: on every rank, if any cannot write; nothing half-written stays then.
    """
    final = folder / name_of(step)
    temporary = Path(_of_rank_0(str(folder / f".{name_of(step)}.{os.getpid()}")))
    with _together(step, folder, temporary, runtime):
        if runtime.main:
            inside(folder, folder.parent)
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
    with _together(step, folder, temporary, runtime), _quiet():
        writer = HuggingFaceStorageWriter(str(temporary), save_distributed=True)
        dcp.save(_state(objective, ema, optimizer), storage_writer=writer)
    digests: list[dict[str, str]] = [{} for _ in range(runtime.world)]
    with _together(step, folder, temporary, runtime):
        files = sorted(temporary.iterdir())[runtime.rank :: runtime.world]
        own = {file.name: checkpoint_files.sha256_of(file) for file in files}
    dist.all_gather_object(digests, own)
    with _together(step, folder, temporary, runtime):
        if runtime.main:
            by_file = {name: digest for some in digests for name, digest in some.items()}
            state = checkpoint_files.state_of(run, step, by_file)
            with (temporary / STATE).open("xb") as file:
                file.write((json.dumps(state, indent=1) + "\n").encode())
                file.flush()
                os.fsync(file.fileno())
            if final.exists():  # a step reached again after an older, damaged checkpoint of it
                checkpoint_files.remove(final)
            os.replace(temporary, final)


def load(
    found: Checkpoint, objective: Objective, ema: EMA, optimizer: torch.optim.Optimizer
) -> None:
    """Go on from a distributed checkpoint, of however many ranks: each reads its own parts.

    Raises:
        NoiseregError: if names or shapes are not this run's.
    """
    stored = found.stored()
    for name, p in objective.named_parameters():
        kept = [key for key in ADAM if f"{OPTIMIZER_OF}{key}.{name}" in stored]
        if kept:  # a weight that never had a gradient has none
            optimizer.state[p] = {
                key: torch.zeros_like(p)
                if len(stored[f"{OPTIMIZER_OF}{key}.{name}"][1])
                else torch.zeros((), device=own_part(p.detach()).device)
                for key in kept
            }
    state = _state(objective, ema, optimizer)
    around = {name for name in {*state, *stored} if _is_around(name)}
    state = {name: value for name, value in state.items() if name not in around}
    for name in sorted({*state, *stored} - around):
        sizes = [
            tuple(state[name].shape) if name in state else "absent",
            tuple(stored[name][1]) if name in stored else "absent",
        ]
        if sizes[0] != sizes[1]:
            raise NoiseregError(
                f"the checkpoint does not fit this run: {name} is {sizes[1]} there and {sizes[0]} "
                "here"
            )
    rest = found.parts(_is_around)
    restore_around(objective, {name.removeprefix(MODEL_OF): v for name, v in rest.items()})
    with _quiet():
        dcp.load(state, storage_reader=HuggingFaceStorageReader(str(found.path)))


def _is_around(name: str) -> bool:
    """Whether a tensor is of what is not sharded, which is little."""
    return name.startswith(MODEL_OF) and not name.startswith(f"{MODEL_OF}denoiser.")


def _of_rank_0(value: str) -> str:
    box = [value]
    dist.broadcast_object_list(box, 0)
    return box[0]


@contextlib.contextmanager
def _together(step: int, folder: Path, temporary: Path, runtime: Runtime) -> Iterator[None]:
    """What fails on one rank fails on all, in a line; what was written is removed."""
    said: str | None = None
    try:
        yield
    except OSError as error:
        said = error.strerror or str(error)
    except NoiseregError as error:
        said = str(error)
    except dcp.api.CheckpointException as error:  # on all ranks; has those of each
        first: Any = next(iter(error.failures.values()))[0]
        said = getattr(first, "strerror", None) or " ".join(str(first).split())[:200]
    everybody: list[str | None] = [None] * runtime.world
    dist.all_gather_object(everybody, said)
    if (reason := next(filter(None, everybody), None)) is not None:
        if runtime.main:
            shutil.rmtree(temporary, ignore_errors=True)
        raise NoiseregError(
            f"cannot write the checkpoint of step {step}: {reason} ({folder}); the one before it "
            "stays, and the same command with `resume` goes on from there"
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torch warns of its own deprecations while it writes and reads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
