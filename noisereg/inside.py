"""Runs and sweeps as folders that somebody may have sent: nothing is written, read or deleted
outside of them by what is in them. Imports no torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from noisereg.errors import NoiseregError


def inside(path: Path, folder: Path) -> Path:
    """``path``, once it is known to lie in ``folder`` wherever its links lead.

    Raises:
        NoiseregError: if it does not.
    """
    if not _leads_inside(path, folder):
        raise NoiseregError(
            f"{path} leads out of {folder}; nothing outside of a run's or a sweep's own folder is "
            "read, written or deleted"
        )
    return path


def check_contents(folder: Path) -> None:
    """That no link below a run's or a sweep's folder leads out of it, and that there are files and
    folders alone: opening a pipe waits for ever. The folder itself may be a link: that is the
    user's own choice. A folder that is not there is in order.

    Raises:
        NoiseregError: names the first one that does.
    """
    for path, link in _odd(folder):
        if not link:
            raise NoiseregError(
                f"{path} is no ordinary file (a pipe, a socket or a device), as no run or sweep "
                "has; remove it"
            )
        if not _leads_inside(path, folder):
            raise NoiseregError(
                f"{path} is a link that leads out of {folder}; nothing outside of a run's or a "
                "sweep's own folder is read, written or deleted: put what it links to in its "
                "place, or remove it"
            )


def _leads_inside(path: Path, folder: Path) -> bool:
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):  # a loop of links, a null character
        return False


def _odd(folder: Path) -> Iterator[tuple[Path, bool]]:
    """What is neither file nor folder below ``folder``, and whether it is a link, in an order of
    their names; no link is followed.
    """
    try:
        with os.scandir(folder) as entries:
            entries_in_order = sorted(entries, key=lambda entry: entry.name)
    except OSError:  # not there, no folder, or not to be read: whoever uses it will say so
        return
    for entry in entries_in_order:
        if entry.is_symlink():
            yield Path(entry.path), True
        elif entry.is_dir(follow_symlinks=False):
            yield from _odd(Path(entry.path))
        elif not entry.is_file(follow_symlinks=False):
            yield Path(entry.path), False
