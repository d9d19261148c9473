"""Ranks, devices and what must be the same on all of them."""

from __future__ import annotations

import datetime
import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from noisereg.errors import NoiseregError
from noisereg.ranks import place
from noisereg.runs.config import RuntimeConfig


def pick_device(name: str, local_rank: int = 0) -> torch.device:
    """
    Raises:
        NoiseregError: for a device that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise NoiseregError(
            f"runtime.device: no device is called {name!r}; expected auto, cpu, cuda or cuda:N"
        ) from None
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if device.index is not None and place().local_world > 1:
            raise NoiseregError(
                f"runtime.device: {name} is one GPU, and {place().local_world} ranks would share "
                "it; expected cuda, by which each rank takes its own"
            )
        index = local_rank if device.index is None else device.index
        if index >= count:
            raise NoiseregError(
                f"runtime.device: {name} (GPU {index}) is not there: {count} GPUs are visible"
            )
        return torch.device("cuda", index)
    if device.type != "cpu":
        raise NoiseregError(
            f"runtime.device: {name} has no float64, which the tables need; expected cpu or cuda"
        )
    return device


def rank() -> int:
    """This process's rank under torchrun, else 0."""
    return place().rank


@dataclass(frozen=True)
class Runtime:
    """One process's place: its rank, its device, its number format."""

    device: torch.device
    bf16: bool = False
    channels_last: bool = False
    compile: bool = False
    rank: int = 0
    world: int = 1
    shard: bool = False
    """Whether ranks hold a part of the network each; in training alone."""

    @classmethod
    def start(cls, config: RuntimeConfig) -> Runtime:
        """Read torchrun's environment and join its group (NCCL on GPUs, gloo otherwise).

        Raises:
            NoiseregError: for an environment that is not torchrun's, a device that is not there,
                and ranks that do not meet.
        """
        here = place()
        world = here.world
        device = pick_device(config.device, here.local_rank)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        if world > 1 and not dist.is_initialized():
            backend = "nccl" if device.type == "cuda" else "gloo"
            try:
                dist.init_process_group(
                    backend,
                    timeout=datetime.timedelta(minutes=30),
                    device_id=device if device.type == "cuda" else None,
                )
            except (RuntimeError, ValueError) as error:  # torch's DistError is the first
                where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
                said = next(iter(str(error).splitlines()), type(error).__name__)[:200]
                raise NoiseregError(
                    f"the {world} ranks do not meet at {where} ({said}); expected every one of "
                    "them to be started by one torchrun, and the port to be free"
                ) from None
        cuda = device.type == "cuda"
        return cls(
            device=device,
            bf16=config.precision == "bf16"
            or (
                config.precision == "auto"
                and cuda
                and torch.cuda.is_bf16_supported(including_emulation=False)
            ),
            channels_last=cuda if config.channels_last == "auto" else config.channels_last,
            compile=config.compile,
            rank=here.rank,
            world=world,
        )

    @property
    def main(self) -> bool:
        """Rank 0 prepares data, prints and writes."""
        return self.rank == 0

    def describe(self) -> str:
        name = (
            torch.cuda.get_device_name(self.device)
            if self.device.type == "cuda"
            else str(self.device)
        )
        ranks = f" · {self.world} ranks" if self.world > 1 else ""
        ranks += ", a part of the network each" * self.shard
        return f"{name} · {'bf16' if self.bf16 else 'float32'}{ranks}"

    def barrier(self) -> None:
        if self.world > 1:
            dist.barrier()

    def any(self, flag: bool) -> bool:
        """True on every rank if it is on any."""
        return flag if self.world == 1 else bool(self.largest([float(flag)])[0])

    def largest(self, values: Sequence[float]) -> list[float]:
        """The largest of each value over ranks."""
        if self.world == 1:
            return list(values)
        every = torch.tensor(values, dtype=torch.float32, device=self.device)
        dist.all_reduce(every, dist.ReduceOp.MAX)
        return every.tolist()

    def average(self, values: Tensor) -> Tensor:
        """Detached values averaged over ranks."""
        if self.world > 1:
            dist.all_reduce(values)
            values /= self.world
        return values

    def share(self, count: int) -> range:
        """This rank's part of ``range(count)``: contiguous, sizes differing by at most 1."""
        return range(count * self.rank // self.world, count * (self.rank + 1) // self.world)


def leave_group(wait: bool) -> None:
    """Leave torchrun's group, if it was joined, and ``wait`` for the other ranks first.

    A rank that tears its group down while another still uses it is now and then aborted (gloo,
    torch 2.15: one run in six); but a rank that failed must not wait for those that wait for it.
    """
    if dist.is_available() and dist.is_initialized():
        if wait:
            dist.barrier()
        dist.destroy_process_group()
