"""How much memory there is, and how much something takes."""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from noisereg.ranks import place

GUESS = 4 * 2**30
"""Where the system does not say."""
DEVICE_SHARE = 0.25
"""How much of a GPU's free memory data may take: the network and its activations need the rest."""


def free_host_memory(root: Path = Path("/")) -> int:
    """Bytes of RAM this process may still take: its share of the node's, and no more than its
    container or job allows.

    ``root`` is where ``proc`` and ``sys`` are.
    """
    free = min([_available(root / "proc/meminfo"), *_allowances(root)])
    # Each rank of a node holds its own copy.
    return max(0, free) // place().local_world


def _available(meminfo: Path) -> int:
    try:
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:  # no /proc: macOS, which says only how much there is in all
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (ValueError, OSError, AttributeError):
        return GUESS


def _allowances(root: Path) -> list[int]:
    """What each control group (version 2) that this process is in still allows: Slurm's and
    containers' limits.
    """
    base = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    own = next((line[3:] for line in lines if line.startswith("0::")), "/")
    group = base / own.lstrip("/")
    groups = [group, *group.parents] if group.is_relative_to(base) else [base]
    allowances = []
    for folder in groups:
        if not folder.is_relative_to(base):
            break
        try:
            limit = int((folder / "memory.max").read_text())
            used = int((folder / "memory.current").read_text())
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):  # no limit here ("max"), or no such group
            continue
        allowances.append(
            limit - used + int(stat.get("inactive_file", 0))
        )  # the file cache gives way
    return allowances


def free_device_memory(device: torch.device) -> int:
    """Bytes free on a CUDA device, what torch holds and does not use among them; 0 for any other,
    whose memory is the host's.
    """
    if device.type != "cuda":
        return 0
    idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + idle


def held_on(needed: int, device: torch.device | str) -> torch.device:
    """Where data of ``needed`` bytes are held: on ``device``, but for a GPU on which they would
    take more than :data:`DEVICE_SHARE` of what is free; there in the host's memory.
    """
    device = torch.device(device)
    if device.type == "cuda" and needed > free_device_memory(device) * DEVICE_SHARE:
        return torch.device("cpu")
    return device


class Peak(TorchDispatchMode):
    """Counts, while it is entered, the bytes of the tensors that are made and not yet gone:
    ``most`` at a time. On any device; what a kernel takes for itself is not seen.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Or torch imports the whole of torch.compile's tracer, to keep it out of this method."""
        return False

    def __init__(self) -> None:
        super().__init__()
        self.most = self._now = 0
        self._tensors: dict[int, int] = {}
        """How many tensors share each storage, by its address."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for each in tree_leaves(made):
            if isinstance(each, Tensor):
                self._add(each)
        return made

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        address, size = storage.data_ptr(), storage.nbytes()
        if address not in self._tensors:
            self._tensors[address] = 0
            self._now += size
            self.most = max(self.most, self._now)
        self._tensors[address] += 1
        weakref.finalize(tensor, self._remove, address, size)

    def _remove(self, address: int, size: int) -> None:
        self._tensors[address] -= 1
        if not self._tensors[address]:
            del self._tensors[address]
            self._now -= size
