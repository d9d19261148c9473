"""The place of this process among those that torchrun has started, by its environment. Imports no
torch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from noisereg.errors import NoiseregError

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Place:
    """One process of ``world``, on this machine one of ``local_world``."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1


def place(environment: Mapping[str, str] | None = None) -> Place:
    """That of torchrun's variables; without them the only process.

    Raises:
        NoiseregError: for variables that are not torchrun's: no numbers, out of range, or half
            there.
    """
    given = os.environ if environment is None else environment
    world = _number(given, "WORLD_SIZE", 1, 1, 2**20)
    local_world = _number(given, "LOCAL_WORLD_SIZE", 1, 1, world)
    rank = _number(given, "RANK", 0, 0, world - 1)
    local_rank = _number(given, "LOCAL_RANK", 0, 0, local_world - 1)
    if world > 1:
        missing = [name for name in NAMES if not given.get(name)]
        if missing:
            raise NoiseregError(
                f"WORLD_SIZE is {world} and {', '.join(missing)} "
                f"{'is' if len(missing) == 1 else 'are'} not set; {_EXPECTED}"
            )
        _number(given, "MASTER_PORT", 0, 1, 65535)
    return Place(rank, world, local_rank, local_world)


def cores() -> int:
    """How many this process may use: a job's share of the machine, where that is said."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_EXPECTED = (
    f"expected all that torchrun sets ({', '.join(NAMES)}), or, for one process, none of them "
    "(unset them)"
)


def _number(given: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    text = given.get(name, "")
    if not text:
        return default
    if text.isascii() and text.isdecimal() and least <= int(text[:20]) <= most:
        return int(text)
    where = f"{least}" if least == most else f"a whole number from {least} to {most}"
    raise NoiseregError(f"{name} is {text[:40]!r}, which should be {where}; {_EXPECTED}")
