"""How much memory there is, for refusing what would not fit."""

from __future__ import annotations

import os
from pathlib import Path


def available_memory() -> int:
    """Bytes that a process could still take: the system's free and reclaimable memory, or less where a cgroup says so."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        if "MemAvailable" in fields:
            free = int(fields["MemAvailable"].split()[0]) * 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and limit.read_text().strip() != "max":
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return free


def gib(n: int) -> str:
    return f"{n / 2**30:.1f} GiB"
