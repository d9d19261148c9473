"""NumPy's ``.npy`` and ``.npz`` as strangers write them: a header is believed only as far as the
file is long, so that nothing is allocated for what is not there, and nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import math
import zipfile
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from noisereg.errors import NoiseregError
from noisereg.reading import check_ordinary

LARGEST = 64 * 2**30
"""Bytes of one array that are read at most, whatever the file claims."""

DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    ValueError,
    TypeError,
    KeyError,
    EOFError,
    OSError,
    NotImplementedError,
    RuntimeError,
    SyntaxError,
    OverflowError,
)
"""What a file that is cut, damaged or something else raises, in NumPy and in the archive."""


class ArrayFile:
    """The arrays in an ``.npz`` by name, or the one of an ``.npy`` under the name ``""``.

    Raises:
        DAMAGED: for anything that is neither; the caller says what was expected.
    """

    def __init__(self, source: Path | bytes) -> None:
        self._source = source
        self._zip: zipfile.ZipFile | None = None
        self._sizes: dict[str, int] = {}
        with self._whole() as file:
            start = file.read(len(npy.MAGIC_PREFIX))
            size = file.seek(0, 2)
        if start == npy.MAGIC_PREFIX:
            self._sizes[""] = size
        else:
            self._zip = zipfile.ZipFile(BytesIO(source) if isinstance(source, bytes) else source)
            for member in self._zip.infolist():
                if member.filename.endswith(".npy"):
                    self._sizes[member.filename.removesuffix(".npy")] = member.file_size
            # A file that unfolds to more than deflate can claims what it does not hold.
            if sum(self._sizes.values()) > 1100 * size:
                raise ValueError(f"its {size:,} bytes claim to be {sum(self._sizes.values()):,}")
        self.headers = {name: self._header(name) for name in self._sizes}

    @contextlib.contextmanager
    def _whole(self) -> Iterator[IO[bytes]]:
        if isinstance(self._source, bytes):
            yield BytesIO(self._source)
        else:
            with self._source.open("rb") as file:
                yield file

    @contextlib.contextmanager
    def _member(self, name: str) -> Iterator[IO[bytes]]:
        if self._zip is None:
            with self._whole() as file:
                yield file
        else:
            with self._zip.open(f"{name}.npy") as file:
                yield file

    def _header(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Shape and type of an array, whose length is checked against the file's."""
        with self._member(name) as file:
            version = npy.read_magic(file)
            read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, _, dtype = read(file)
            start = file.tell()
        if dtype.hasobject:
            raise ValueError("it holds Python objects, which are not read")
        needed = start + math.prod(shape) * dtype.itemsize
        if any(side < 0 for side in shape) or needed > LARGEST or needed > self._sizes[name]:
            raise ValueError(
                f"its header claims {'×'.join(map(str, shape))} {dtype} and there are "
                f"{self._sizes[name]:,} bytes"
            )
        return shape, dtype

    def read(self, name: str) -> np.ndarray:
        """
        Raises:
            DAMAGED: if what follows the header is cut or damaged.
        """
        with self._member(name) as file:
            return npy.read_array(file, allow_pickle=False)


def open_arrays(path: Path, expected: str) -> ArrayFile:
    """
    Raises:
        NoiseregError: in one line, with what was ``expected``.
    """
    check_ordinary(path)
    with explained(path, expected):
        return ArrayFile(path)


@contextlib.contextmanager
def explained(path: Path, expected: str) -> Iterator[None]:
    """What a damaged file raises within the block, in one line that names it."""
    try:
        yield
    except FileNotFoundError:
        raise NoiseregError(f"there is no file {path}; {expected}") from None
    except DAMAGED as error:
        if isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        else:
            reason = " ".join(str(error).split()) or type(error).__name__
        raise NoiseregError(f"{path} cannot be read ({reason}); {expected}") from None
