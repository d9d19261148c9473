"""The files below a folder or in a .zip, by name. A .zip is read in memory and never unpacked."""

from __future__ import annotations

import os
import re
import stat
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from noisereg.errors import NoiseregError

SUFFIXES = (
    ".png",
    ".jpg",
    ".jpeg",
    ".jfif",
    ".webp",
    ".bmp",
    ".gif",
    ".tif",
    ".tiff",
    ".ppm",
    ".pgm",
    ".jp2",
    ".avif",
)
"""The endings by which images are found."""
LABELS = "dataset.json"
"""Labels beside the images, in EDM's layout."""
LARGEST = 256 * 2**20
"""Bytes of the largest file that is read out of a .zip."""
SUMMED = 64 * 2**20
"""Bytes up to which files are read for their checksums."""
GROWTH = 1100
"""By how much an archive may grow: deflate's own limit is 1,032."""


@dataclass(frozen=True)
class File:
    """One file: its name, relative and with slashes, its size in bytes, and a checksum where there
    is one already.
    """

    name: str
    size: int
    checksum: str = ""


class Tree(ABC):
    """Files by name, in the order of their names."""

    path: Path
    files: list[File]
    """The images."""
    left_out: Counter[str]
    """How many other files there are, by their ending."""
    what: str
    """What it is, in a message: a folder, a .zip."""

    @abstractmethod
    def source(self, name: str) -> Path | bytes:
        """A file's path, or its contents."""

    @abstractmethod
    def labels(self) -> File | None:
        """:data:`LABELS`, where there is one."""

    def read(self, name: str) -> bytes:
        source = self.source(name)
        return source.read_bytes() if isinstance(source, Path) else source

    def place(self, name: str) -> str:
        """A file as messages name it."""
        return str(self.path / name)

    def notes(self) -> list[str]:
        """What was left out, in a line; none if nothing was."""
        if not self.left_out:
            return []
        total = sum(self.left_out.values())
        kinds = ", ".join(
            f"{count:,} {ending or 'without an ending'}"
            for ending, count in self.left_out.most_common(6)
        )
        heic = any(ending in (".heic", ".heif") for ending in self.left_out)
        hint = "; convert HEIC to PNG or JPEG to use it" * heic
        return [f"{total:,} file{'s' * (total > 1)} left out, not known as images: {kinds}{hint}"]

    def nothing(self) -> NoiseregError:
        there = f" ({self.notes()[0]})" if self.left_out else ""
        return NoiseregError(
            f"there are no images in {self.path}{there}; expected files that end in .png, .jpg, "
            ".webp or the like, at any depth"
        )


def natural(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts ``2`` before ``10``, and otherwise as plain text."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part), part) if k % 2 else (1, 0, part) for k, part in enumerate(parts)]


def open_tree(path: Path) -> Tree:
    """
    Raises:
        NoiseregError: if there is nothing, no folder and no .zip, no image, or an archive that is
        damaged or not to be trusted.
    """
    if path.is_dir():
        return Folder(path)
    if path.is_file() and path.suffix.lower() == ".zip":
        return Archive(path)
    if path.exists():
        raise NoiseregError(
            f"{path} is a file; expected a folder of images, such as path={path.parent}, or a .zip"
        )
    raise NoiseregError(
        f"there is no folder {path}; expected path= to name a folder of images, or a .zip"
    )


def _hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].lower()


class Folder(Tree):
    """A folder on disk; hidden files and folders are passed over, linked ones are followed, once.

    Raises:
        NoiseregError: if it cannot be listed, or holds no image.
    """

    what = "folder"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.left_out = Counter()
        paths: list[Path] = []
        seen: set[str] = set()
        for directory, subfolders, files in os.walk(path, followlinks=True, onerror=_refuse):
            real = os.path.realpath(directory)
            if real in seen:
                subfolders.clear()
                continue
            seen.add(real)
            subfolders[:] = sorted(name for name in subfolders if not _hidden(name))
            for name in files:
                if _hidden(name) or name == LABELS:
                    continue
                if _ending(name) in SUFFIXES:
                    paths.append(Path(directory, name))
                else:
                    self.left_out[_ending(name)] += 1
        if not paths:
            raise self.nothing()
        self.files = [
            File(file.relative_to(path).as_posix(), _size(file)) for file in sorted(paths)
        ]

    def source(self, name: str) -> Path:
        return self.path / name

    def labels(self) -> File | None:
        file = self.path / LABELS
        return File(LABELS, file.stat().st_size) if file.is_file() else None


def _refuse(error: OSError) -> None:
    raise NoiseregError(
        f"{error.filename} cannot be listed: {error.strerror}; expected a folder of images"
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # a link to nothing: it is named when it is read
        return 0


class Archive(Tree):
    """A .zip, such as EDM's ``dataset_tool.py`` makes.

    Raises:
        NoiseregError: for a damaged archive; for a name that leads out of it, is there twice, or
        is a link or encrypted; and for one that claims to grow as no picture does.
    """

    what = ".zip"

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
            members = self._zip.infolist()
            size = path.stat().st_size
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
            reason = " ".join(str(error).split())
            raise NoiseregError(
                f"{path} cannot be read as a .zip ({reason}); repair it or take it away"
            ) from None
        self._members = {m.filename: m for m in members if not m.is_dir()}
        self._check(members, size)
        names = [name for name in self._members if not _hidden(name) and name != LABELS]
        images = [name for name in names if _ending(name) in SUFFIXES]
        self.left_out = Counter(_ending(name) for name in names if _ending(name) not in SUFFIXES)
        if not images:
            raise self.nothing()
        self.files = [self._file(name) for name in sorted(images)]

    def _check(self, members: Iterable[zipfile.ZipInfo], size: int) -> None:
        files = [member for member in members if not member.is_dir()]
        twice = [name for name, n in Counter(m.filename for m in files).items() if n > 1]
        if twice:
            raise self._refusal(twice[0], "is in it twice")
        for member in files:
            name = member.filename
            if (
                name.startswith("/")
                or "\\" in name
                or "\0" in name
                or ".." in PurePosixPath(name).parts
                or re.match(r"[A-Za-z]:", name)
            ):
                raise self._refusal(name, "is a name that leads out of the archive")
            if stat.S_ISLNK(member.external_attr >> 16):
                raise self._refusal(name, "is a link")
            if member.flag_bits & 1:
                raise self._refusal(name, "is encrypted")
            if member.file_size > LARGEST:
                raise self._refusal(
                    name, f"claims {member.file_size:,} bytes, and {LARGEST:,} are read at most"
                )
        claimed = sum(member.file_size for member in files)
        if claimed > GROWTH * size:
            raise NoiseregError(
                f"{self.path} has {size:,} bytes and claims to hold {claimed:,}: it is not read; "
                "expected a .zip of images"
            )

    def _refusal(self, name: str, why: str) -> NoiseregError:
        return NoiseregError(
            f"{self.path}: {name!r} {why}; nothing of it is read: make the archive anew"
        )

    def _file(self, name: str) -> File:
        member = self._members[name]
        return File(name, member.file_size, f"{member.CRC:08x}")

    def source(self, name: str) -> bytes:
        return self._zip.read(self._members[name])

    def labels(self) -> File | None:
        return self._file(LABELS) if LABELS in self._members else None


def with_checksums(tree: Tree, files: Iterable[File]) -> list[File]:
    """The files with a checksum of what is in each, unless that would be to read more than
    :data:`SUMMED` bytes.
    """
    files = list(files)
    if sum(file.size for file in files if not file.checksum) > SUMMED:
        return files
    return [
        file if file.checksum else File(file.name, file.size, _crc(tree, file.name))
        for file in files
    ]


def _crc(tree: Tree, name: str) -> str:
    return f"{zlib.crc32(tree.read(name)):08x}"
