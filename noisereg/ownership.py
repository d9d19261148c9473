"""One owner at a time: a process that writes into a folder, or a file, keeps others out of it.

The lock is the kernel's (``flock``, by the filelock library): it ends with the process that holds
it, however that ends, so there is nothing to clear after a kill.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from noisereg.errors import NoiseregError

LOCK = ".lock"
"""The lock file's name in a folder; it stays there, empty, and means nothing by itself."""
CANNOT_LOCK = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)
PATIENCE = 0.5
"""Seconds before a lock counts as another's: one that only looks lets go at once."""


def _silent(text: str) -> None:
    """Drops a note."""


@contextlib.contextmanager
def owned(
    path: Path,
    *,
    note: Callable[[str], None] = _silent,
    instead: str = "give another `out`",
    wait: float = PATIENCE,
) -> Iterator[None]:
    """This process alone writes into the folder ``path`` until the block ends.

    A folder that is not there is made; if nothing else is in it at the end, it is removed again,
    so that a command that is refused leaves nothing. On a file system that cannot lock, ``note``
    gets a line that says so and the block goes on.

    Raises:
        NoiseregError: if another process owns it, or it cannot be written; ``instead`` says what
        else can be done.
    """
    with _held(path, _make(path), note, instead, wait):
        yield


@contextlib.contextmanager
def owned_new(base: Path, *, note: Callable[[str], None] = _silent) -> Iterator[Path]:
    """:func:`owned` of a new folder: ``base``, or ``base-2`` … if that is taken. Making it is the
    claim, so that two processes that start at once get two.

    Raises:
        NoiseregError: if it cannot be made.
    """
    made = _make(base.parent)
    path, number = base, 2
    while path not in made:
        try:
            path.mkdir()
            made.append(path)
        except FileExistsError:
            path, number = base.with_name(f"{base.name}-{number}"), number + 1
        except OSError as error:
            raise NoiseregError(f"cannot make the folder {path}: {error.strerror}") from error
    with _held(path, made, note, "give `out`", PATIENCE):
        yield path


@contextlib.contextmanager
def _held(
    path: Path, made: list[Path], note: Callable[[str], None], instead: str, wait: float
) -> Iterator[None]:
    """The lock of the folder ``path``; of the folders ``made`` for it, empty ones are removed."""
    try:
        with _locked(path / LOCK, f"into {path}", note, instead, wait):
            try:
                yield
            finally:
                # While the lock is held: whoever waits for it finds that its file is gone, and
                # makes another.
                if made and vacant(path):
                    with contextlib.suppress(OSError):
                        (path / LOCK).unlink(missing_ok=True)
    finally:
        _remove_empty(made)


@contextlib.contextmanager
def owned_file(
    path: Path,
    *,
    note: Callable[[str], None] = _silent,
    wait: float = PATIENCE,
) -> Iterator[None]:
    """This process alone writes the file ``path`` until the block ends; nothing else is left.

    Raises:
        NoiseregError: as :func:`owned`.
    """
    lock = path.with_name(f".{path.name}{LOCK}")
    made = _make(path.parent)
    try:
        with _locked(lock, str(path), note, "give another `out`", wait):
            try:
                yield
            finally:
                with contextlib.suppress(OSError):
                    lock.unlink(missing_ok=True)
    finally:
        _remove_empty(made)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[None]:
    """:func:`owned` of a folder that is new or empty, and that keeps no lock file.

    Raises:
        NoiseregError: also if it holds anything.
    """
    if path.exists() and not path.is_dir():
        raise NoiseregError(f"`out={path}` is a file; expected a new or empty folder")
    taken = NoiseregError(
        f"`out={path}` is there already and not empty; expected a new or empty folder"
    )
    # Before the lock, which would leave a file; where there is one, another may be at work.
    if path.exists() and not vacant(path) and not (path / LOCK).exists():
        raise taken
    with owned(path):
        try:
            if not vacant(path):
                raise taken
            yield
        finally:
            with contextlib.suppress(OSError):
                (path / LOCK).unlink(missing_ok=True)


def lock_of_children(path: Path, *, shared: bool = False) -> IO[Any] | None:
    """The lock of the file ``path``, held until the last process that inherited it ends; None
    while another process holds it. Of those that are ``shared`` there may be several at once.
    Where the file system cannot lock, the file is open and no lock.

    A child keeps it when its parent is killed, so that whoever comes next knows of it. (So it is
    not filelock's, which no child inherits and nobody shares.)

    Raises:
        NoiseregError: if it cannot be made, or is a link.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise NoiseregError(f"{path} cannot be a lock: {error.strerror}") from None
    file = os.fdopen(descriptor, "a")
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in CANNOT_LOCK:  # as `owned` says of the folder
            return file
        file.close()
        if error.errno not in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES):
            raise NoiseregError(f"{path} cannot be a lock: {error.strerror}") from None
        return None
    return file


def share(lock: IO[Any]) -> None:
    """Let others share a lock that this process has held alone."""
    try:
        fcntl.flock(lock, fcntl.LOCK_SH)
    except OSError as error:
        if error.errno not in CANNOT_LOCK:
            raise


def vacant(folder: Path) -> bool:
    """Whether a folder holds nothing but, perhaps, a lock file."""
    return all(entry.name == LOCK for entry in folder.iterdir())


def clear_leftovers(folder: Path, name: str) -> None:
    """Remove what killed processes left of files or folders whose names match the regular
    expression ``name``: ``.NAME.PID``, as they are called before they are renamed.

    To be called by the owner of the folder alone, for names that none but an owner writes.
    """
    if folder.is_symlink() or not folder.is_dir():
        return
    for entry in folder.iterdir():
        if re.fullmatch(rf"\.({name})\.\d+", entry.name):
            with contextlib.suppress(OSError):
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()


def _make(folder: Path) -> list[Path]:
    """Make a folder; those that had to be made, outermost first."""
    missing = []
    for parent in (folder, *folder.parents):
        if parent.exists():
            break
        missing.append(parent)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NoiseregError(f"cannot make the folder {folder}: {error.strerror}") from error
    return missing[::-1]


def _remove_empty(folders: list[Path]) -> None:
    for folder in reversed(folders):
        with contextlib.suppress(OSError):
            folder.rmdir()


@contextlib.contextmanager
def _locked(
    path: Path, where: str, note: Callable[[str], None], instead: str, wait: float
) -> Iterator[None]:
    # No soft lock where the kernel has none: its marker would outlive a kill.
    lock = FileLock(path, timeout=wait, fallback_to_soft=False, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise NoiseregError(
            f"another noisereg process is writing {where}; wait until it has ended, or {instead}"
        ) from None
    except OSError as error:
        if error.errno == errno.ELOOP or path.is_symlink():
            raise NoiseregError(
                f"{path} is a link; expected noisereg's own lock file: remove it"
            ) from None
        if error.errno not in CANNOT_LOCK:
            raise NoiseregError(f"cannot write {path}: {error.strerror}") from error
        note(
            f"the file system of {path.parent} cannot lock ({os.strerror(error.errno)}): see to "
            "it "
            "that no other process writes there"
        )
        yield
        return
    try:
        yield
    finally:
        lock.release()
