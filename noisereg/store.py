"""Computed things on disk, each under a key made of everything that it was made from.

A file is a line with a SHA-256, a line with the key, and the content; the SHA-256 is of key and
content together. A file whose digest or key is not the expected one is computed again, with one
line on stderr. Files are written beside and renamed, so that a kill, or two processes at once,
leave a whole file or none.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import filelock
import numpy as np
from numpy.typing import NDArray

from noisereg.errors import NoiseregError
from noisereg.terminal import say_once

T = TypeVar("T")
Buffer = bytes | NDArray[Any]

MAGIC = b"noisereg-store 1 "
ALIGNED = 64
"""Content begins at a multiple of it, as arrays in an .npy do."""
PATIENCE = 5.0
"""Seconds that another process is waited for in silence."""


# Files


def _no_link(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _replace(path: Path, chunks: Iterable[Buffer]) -> None:
    """
    Raises:
        OSError: if it cannot be written; nothing is left then.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb", opener=_no_link) as file:
            for chunk in chunks:
                file.write(chunk)  # type: ignore[arg-type]  # an array is a buffer
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def write_atomically(path: Path, data: bytes) -> None:
    """All of ``data`` under ``path``, or nothing.

    Raises:
        NoiseregError: if it cannot be written.
    """
    try:
        _replace(path, [data])
    except OSError as error:
        raise NoiseregError(f"cannot write {path}: {error.strerror}") from error


def _read_regular(path: Path) -> NDArray[np.uint8] | None:
    """The bytes of a file; None if there is none. No link is followed and no pipe waited for."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        descriptor = os.open(path, flags | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        return None
    except OSError:
        return np.empty(0, np.uint8)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return np.empty(0, np.uint8)
    with os.fdopen(descriptor, "rb") as file:
        return np.fromfile(file, dtype=np.uint8)


# What can be stored


@dataclass(frozen=True)
class Form(Generic[T]):
    """How values of one type become the content of a file."""

    encode: Callable[[T], list[Buffer]]
    decode: Callable[[NDArray[np.uint8]], T]
    """Raises ValueError for a content that is none of it."""


def _array_chunks(value: NDArray[Any]) -> list[Buffer]:
    value = np.asarray(value, order="C")
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(value))
    return [header.getvalue(), value.reshape(-1).view(np.uint8)]


def _array(content: NDArray[np.uint8]) -> NDArray[Any]:
    start = io.BytesIO(content[:65_600].tobytes())
    if np.lib.format.read_magic(start) != (1, 0):
        raise ValueError("another version of .npy")
    shape, _, dtype = np.lib.format.read_array_header_1_0(start)
    if dtype.hasobject:
        raise ValueError("an array of objects")
    return content[start.tell() :].view(dtype).reshape(shape)


def _json(content: NDArray[np.uint8]) -> Any:
    return json.loads(content.tobytes())


BYTES: Form[bytes] = Form(lambda value: [value], lambda content: content.tobytes())
ARRAY: Form[NDArray[Any]] = Form(_array_chunks, _array)
"""Numbers of any shape; no objects, so nothing is ever unpickled."""
JSON: Form[Any] = Form(lambda value: [(json.dumps(value, indent=1) + "\n").encode()], _json)


# The store


class Store:
    """A folder of computed things.

    Args:
        folder: where they lie; made when the first is put there.
        within: the folder that the user named. Between it and a file nothing may be a link, and
            both folders must be the user's own: what lies elsewhere, or is somebody else's, is
            neither read nor written.
    """

    def __init__(self, folder: Path, within: Path | None = None) -> None:
        self.folder = folder
        self.within = within or folder

    def refusal(self) -> str:
        """Why the folder is not used; empty if it is."""
        return self._not_ours(self.folder)

    def _not_ours(self, folder: Path) -> str:
        steps = [self.within]
        for name in folder.relative_to(self.within).parts:
            steps.append(steps[-1] / name)
        for step in steps:
            try:
                # the user's own choice may be a link
                state = step.stat() if step == self.within else step.lstat()
            except FileNotFoundError:
                return ""
            except OSError as error:
                return f"{step} cannot be used ({error.strerror})"
            if stat.S_ISLNK(state.st_mode):
                return f"{step} is a link"
            if not stat.S_ISDIR(state.st_mode):
                return f"{step} is no folder"
            if hasattr(os, "geteuid") and state.st_uid != os.geteuid():
                return f"{step} belongs to another user"
        return ""

    def path(self, name: str, key: Any) -> Path:
        """The file of ``key``, a value that JSON can say; ``name`` is for people, and may name
        folders.
        """
        digest = hashlib.sha256(_text(key)).hexdigest()[:32]
        return self.folder / f"{name}-{digest}.stored"

    def get(self, name: str, key: Any, form: Form[T]) -> T | None:
        """What is stored under ``key``; None where there is nothing, or what is there is damaged,
        which one line on stderr says.
        """
        path = self.path(name, key)
        if self._not_ours(path.parent):
            return None
        raw = _read_regular(path)
        if raw is None:
            return None
        head = _head(key)
        begin = len(MAGIC) + 64
        if (
            raw[: len(MAGIC)].tobytes() == MAGIC
            and raw[begin : len(head) + begin].tobytes() == head
        ):
            content = raw[len(head) + begin :]
            if raw[len(MAGIC) : begin].tobytes() == _digest(head, [content]):
                with contextlib.suppress(ValueError):
                    return form.decode(content)
        say_once(f"{path} is damaged and is computed again")
        return None

    def put(self, name: str, key: Any, value: T, form: Form[T]) -> None:
        """
        Raises:
            NoiseregError: if it cannot be stored; what was there before is left then.
        """
        path = self.path(name, key)
        if reason := self._not_ours(path.parent):
            raise NoiseregError(f"cannot write {path}: {reason}")
        head, chunks = _head(key), form.encode(value)
        try:
            _replace(path, [MAGIC + _digest(head, chunks) + head, *chunks])
        except OSError as error:
            raise NoiseregError(f"cannot write {path}: {error.strerror}") from error

    def cached(self, name: str, key: Any, form: Form[T], compute: Callable[[], T]) -> T:
        """What is stored under ``key``, computed and stored where there is nothing. Of several
        processes that want it at once, one computes.

        A folder that cannot be written costs the time of computing again, and one line on stderr a
        process.
        """
        held = self.get(name, key, form)
        if held is not None:
            return held
        with self.lock(name, key):
            held = self.get(name, key, form)  # while this process waited
            if held is not None:
                return held
            value = compute()
            try:
                self.put(name, key, value, form)
            except NoiseregError as error:
                reason = str(error).rpartition(": ")[2]
                say_once(
                    f"the cache folder {self.folder} cannot be written ({reason}); computing "
                    "again each time"
                )
            return value

    @contextlib.contextmanager
    def lock(self, name: str, key: Any) -> Iterator[None]:
        """No other process is inside such a block for the same file. Where no lock can be had
        (a folder that cannot be written) there is none.
        """
        path = self.path(name, key)
        folder = self.folder / ".locks"
        held: filelock.BaseFileLock | None = None
        if not self._not_ours(folder):
            with contextlib.suppress(OSError):
                folder.mkdir(parents=True, exist_ok=True)
                held = filelock.FileLock(folder / f"{path.stem}.lock")
                try:
                    held.acquire(timeout=PATIENCE)
                except filelock.Timeout:
                    say_once(f"waiting for another process that makes {path}")
                    held.acquire()
        try:
            yield
        finally:
            if held is not None:
                held.release()


def _text(key: Any) -> bytes:
    return json.dumps(key, sort_keys=True).encode("ascii")


def _head(key: Any) -> bytes:
    """What stands between a file's digest and its content: the key's own line, padded."""
    text = b"\n" + _text(key)
    return text + b" " * (-(len(MAGIC) + 64 + len(text) + 1) % ALIGNED) + b"\n"


def _digest(head: bytes, chunks: Iterable[Buffer]) -> bytes:
    """64 hex digits."""
    digest = hashlib.sha256(head)
    for chunk in chunks:
        digest.update(chunk)  # type: ignore[arg-type]  # an array is a buffer
    return digest.hexdigest().encode()


def digest_of(path: Path) -> str:
    """The SHA-256 of a file, which is not read again until it is touched.

    Raises:
        OSError: if it cannot be read.
    """
    seen = path.stat()
    return _file_digest(path.absolute(), (seen.st_mtime_ns, seen.st_size, seen.st_ino))


@functools.lru_cache(maxsize=4096)
def _file_digest(path: Path, touched: tuple[int, ...]) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
