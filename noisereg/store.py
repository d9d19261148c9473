"""Arrays on disk by the hash of what they were computed from.

A file is a SHA-256 of key and contents, then the contents. It is written beside and renamed, so
that two processes at once, or a kill, leave a whole file or none; one that does not match its
checksum is computed again.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import platformdirs
from numpy.typing import NDArray

_DIGEST = 32  # bytes of a SHA-256
_said: set[str] = set()


def cache_dir() -> Path:
    """``NOISEREG_CACHE``, or the platform's folder."""
    return Path(
        os.environ.get("NOISEREG_CACHE") or platformdirs.user_cache_dir("noisereg")
    ).expanduser()


def _say_once(text: str) -> None:
    if text not in _said:
        _said.add(text)
        print(f"noisereg: {text}", file=sys.stderr)


def _digest(key: str, data: NDArray[np.uint8]) -> bytes:
    digest = hashlib.sha256(key.encode())
    digest.update(data)  # type: ignore[arg-type]  # an array is a buffer
    return digest.digest()


def cached_array(
    folder: Path, key: str, shape: tuple[int, ...], compute: Callable[[], NDArray[np.float32]]
) -> NDArray[np.float32]:
    """The float32 array of ``shape`` stored under ``key``, computed and stored where it is missing
    or damaged.

    A folder that cannot be written costs the time of computing again, and one line on stderr a
    process.
    """
    path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.bin"
    found = _load(path, key, shape)
    if found is not None:
        return found
    array = np.ascontiguousarray(compute(), dtype=np.float32)
    try:
        _store(path, key, array)
    except OSError as error:
        _say_once(
            f"the cache folder {folder} cannot be written ({error.strerror}); computing again "
            "each time"
        )
    return array


def _load(path: Path, key: str, shape: tuple[int, ...]) -> NDArray[np.float32] | None:
    try:
        raw = np.fromfile(path, dtype=np.uint8)
    except OSError:
        return None
    if raw.size == _DIGEST + 4 * int(np.prod(shape)) and raw[:_DIGEST].tobytes() == _digest(
        key, raw[_DIGEST:]
    ):
        return raw[_DIGEST:].view(np.float32).reshape(shape)
    _say_once(f"{path} is damaged and is computed again")
    return None


def _store(path: Path, key: str, array: NDArray[np.float32]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = array.reshape(-1).view(np.uint8)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(_digest(key, data))
            data.tofile(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
