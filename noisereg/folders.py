"""The user's own folders: what noisereg keeps outside of runs, and whether it is the user's."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import platformdirs

from noisereg.terminal import say_once


def config_dir() -> Path:
    """``NOISEREG_CONFIG``, or the platform's folder for settings."""
    return Path(
        os.environ.get("NOISEREG_CONFIG") or platformdirs.user_config_dir("noisereg")
    ).expanduser()


def cache_dir() -> Path:
    """``NOISEREG_CACHE``, or the platform's folder for what can be computed again.

    One that others may write into is not used: what lies in it would be believed. A folder of this
    process's own stands in for it, and one line on stderr says so.
    """
    named = Path(
        os.environ.get("NOISEREG_CACHE") or platformdirs.user_cache_dir("noisereg")
    ).expanduser()
    return _stand_in(str(named), fault) if (fault := not_the_users(named)) else named


def not_the_users(path: Path, group: bool = False) -> str:
    """Why what lies in ``path`` may be another user's doing, or the empty string.

    It must belong to this user or to root, and not be writable by all (with ``group``, by its
    group neither). What is not there yet is the user's, and so is everything where the system
    knows no owners.
    """
    if not hasattr(os, "geteuid"):
        return ""
    try:
        status = path.stat()
    except OSError:
        return ""
    if status.st_uid not in (os.geteuid(), 0):
        return "it belongs to another user"
    if status.st_mode & stat.S_IWOTH:
        return "every user may write into it"
    if group and status.st_mode & stat.S_IWGRP:
        return "its group may write into it"
    return ""


@contextlib.contextmanager
def no_empty_remains(folder: Path) -> Iterator[None]:
    """Where the block raises, the folders that it has made at, below or above ``folder`` and that
    are empty are removed again. Files stay: a part of a download that is whole need not be
    fetched again.
    """
    there = {folder, *folder.parents, *_below(folder)}
    there = {path for path in there if path.is_dir()}
    try:
        yield
    except BaseException:
        made = {*_below(folder), folder, *folder.parents} - there
        for path in sorted(made, key=lambda path: len(path.parts), reverse=True):
            with contextlib.suppress(OSError):  # it is not empty, or was not made
                path.rmdir()
        raise


def _below(folder: Path) -> Iterator[Path]:
    for directory, names, _ in os.walk(folder):
        yield from (Path(directory, name) for name in names)


@functools.cache
def _stand_in(folder: str, fault: str) -> Path:
    """A temporary folder in the place of ``folder``, removed when the process ends."""
    own = tempfile.mkdtemp(prefix="noisereg-cache-")
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    say_once(
        f"the cache folder {folder} is not used: {fault}; computing again each time. Make it "
        "yours (chmod o-w, chown), or set NOISEREG_CACHE to another"
    )
    return Path(own)
