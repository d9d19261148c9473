"""WebDataset shards: .tar files of images and labels, here or in a store, read by random access.

A sample is the files of a shard that share a key, the path up to the first dot of the file's name:
``000/cat.jpg`` and ``000/cat.cls``. An index of where each file lies in its shard, made once and
kept in the cache folder, makes the order of the samples that of every other data set: shuffled by
seed and epoch over all shards, and resumable to the sample.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
import tarfile
import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from noisereg import remote
from noisereg.api import Context
from noisereg.datasets import WebDatasetParams, fingerprint
from noisereg.datasets.decoding import (
    Unfaithful,
    heard,
    is_grey,
    open_picture,
    reading,
    upright_size,
)
from noisereg.datasets.images import Decoders, ImageDataset, ImageSplit
from noisereg.datasets.splits import holdout_by_name
from noisereg.datasets.tree import LARGEST, SUFFIXES
from noisereg.errors import NoiseregError
from noisereg.folders import cache_dir
from noisereg.paths import address, clean, is_remote
from noisereg.store import ARRAY, JSON, Store

MOST_SHARDS = 100_000
MOST_CLASSES = 1_000_000
HASHED = 64 * 2**20
"""Bytes of all shards up to which the fingerprint has a checksum of their contents."""


def shard_names(path: str) -> list[str]:
    """``a-{000..009}.tar`` and ``{train,more}.tar``, written out.

    Raises:
        NoiseregError: for more than 100,000, or a range that runs backwards.
    """
    braces = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", path)
    if braces is None:
        return [path]
    first, last, listed = braces.groups()
    if listed is not None:
        middles = listed.split(",")
    else:
        count = int(last) - int(first) + 1
        if not 0 < count <= MOST_SHARDS:
            raise NoiseregError(
                f"webdataset:path={clean(path)}: {braces[0]} is a range of {count:,}; expected 1 "
                f"to {MOST_SHARDS:,} shards"
            )
        width = len(first) if first.startswith("0") else 0
        middles = [f"{k:0{width}d}" for k in range(int(first), int(last) + 1)]
    before, tails = path[: braces.start()], shard_names(path[braces.end() :])
    if len(middles) * len(tails) > MOST_SHARDS:
        raise NoiseregError(
            f"webdataset:path={clean(path)} names {len(middles) * len(tails):,} shards; expected "
            f"at most {MOST_SHARDS:,}"
        )
    return [f"{before}{middle}{tail}" for middle in middles for tail in tails]


class Shard(ABC):
    """One .tar."""

    name: str
    """As messages say it."""
    place: str
    """Where it is, whatever the current folder."""
    size: int
    version: str
    """Another one where its content is another."""

    @abstractmethod
    def open(self) -> IO[bytes]: ...

    @abstractmethod
    def read(self, offset: int, size: int) -> bytes:
        """Called from several threads."""


class LocalShard(Shard):
    """
    Raises:
        NoiseregError: if it is not there.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.name, self.place = path, str(path), str(path.absolute())
        if not path.is_file():
            raise NoiseregError(
                f"there is no file {path}; expected path= to name the shards, such as "
                "data/shard-{000..009}.tar"
            )
        state = path.stat()
        self.size, self.version = state.st_size, f"{state.st_size} {state.st_mtime_ns}"

    def open(self) -> IO[bytes]:
        return self.path.open("rb")

    def read(self, offset: int, size: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.read(size)


class RemoteShard(Shard):
    """
    Raises:
        NoiseregError: if it is not there, or the store cannot be reached.
    """

    def __init__(self, url: str) -> None:
        self.name, self.place = clean(url), url
        with remote.said(url):
            self._store, self._path = remote.open_store(url)
            try:
                info = self._store.info(self._path)
            except FileNotFoundError:
                raise NoiseregError(f"{self.name}: nothing is there; expected a shard") from None
        self.size, self.version = int(info["size"]), remote.version(info)

    def open(self) -> IO[bytes]:
        return self._store.open(self._path, "rb")

    def read(self, offset: int, size: int) -> bytes:
        with remote.said(self.name):
            return self._store.cat_file(self._path, start=offset, end=offset + size)


def open_shard(name: str) -> Shard:
    if is_remote(name):
        return RemoteShard(address(name))
    return LocalShard(Path(name).expanduser())


class Index:
    """Where the samples of one shard are."""

    def __init__(self, keys: Sequence[str], places: np.ndarray, left_out: int) -> None:
        self.keys = keys
        self.places = places
        """(N, 3) int64: the image's first byte and its size, and the label, −1 for none."""
        self.left_out = left_out
        """Samples without an image."""

    def __len__(self) -> int:
        return len(self.keys)

    @classmethod
    def of(cls, shard: Shard, image: str, label: str) -> Index:
        """The index that the cache folder keeps, or one made now by reading the shard's headers.

        Raises:
            NoiseregError: as :func:`read_index`.
        """
        store = Store(cache_dir() / "webdataset", cache_dir())
        key = {"shard": shard.place, "version": shard.version, "image": image, "label": label}
        made: list[Index] = []

        def read() -> Index:
            if not made:
                made.append(read_index(shard, image, label))
            return made[0]

        keys = store.cached("names", key, JSON, lambda: list(read().keys))
        places = store.cached("places", key, ARRAY, lambda: read().places)
        left_out = store.cached("left-out", key, JSON, lambda: read().left_out)
        return cls(keys, places, left_out)


def read_index(shard: Shard, image: str, label: str) -> Index:
    """Read a shard from its beginning to its end.

    Raises:
        NoiseregError: for a shard that is damaged or compressed, a sample with several images and
        a label that is no whole number.
    """
    keys, places, left_out = [], [], 0
    try:
        with shard.open() as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for key, members in _samples(shard, tar):
                found = _image(shard, key, members, image)
                if found is None:
                    left_out += 1
                    continue
                number = _label(shard, tar, key, members, label)
                keys.append(key)
                places.append((found.offset_data, found.size, number))
            file.seek(tar.offset)  # where reading ended: tarfile takes rubbish for the end
            end_of_archive = file.read(tarfile.BLOCKSIZE)
            if end_of_archive.strip(b"\0"):
                raise tarfile.ReadError(f"no header at byte {tar.offset:,}")
            if len(end_of_archive) < tarfile.BLOCKSIZE:
                raise tarfile.ReadError("it is cut off: the zeros that end a .tar are missing")
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise NoiseregError(
            f"{shard.name} cannot be read as a .tar ({' '.join(str(error).split())[:100]}); "
            "expected a shard that is whole and not compressed"
        ) from None
    except NoiseregError:
        raise
    except Exception:  # whatever a store raises
        if not isinstance(shard, RemoteShard):
            raise
        with remote.said(shard.name):
            raise
    end = max((offset + size for offset, size, _ in places), default=0)
    if end > shard.size:
        raise NoiseregError(f"{shard.name} is cut off: it has {shard.size:,} bytes of {end:,}")
    return Index(keys, np.array(places, np.int64).reshape(-1, 3), left_out)


def _samples(
    shard: Shard, tar: tarfile.TarFile
) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    """Keys, each with its files by what stands after the first dot; they lie side by side."""
    key, members = "", dict[str, tarfile.TarInfo]()
    for member in tar:
        tar.members.clear()  # type: ignore[attr-defined]  # it would keep all of them
        folder, name = posixpath.split(member.name)
        stem, dot, ending = name.partition(".")
        if not member.isfile() or not stem or not dot:
            continue
        own = posixpath.join(folder, stem)
        if own != key and members:
            yield key, members
        if own != key:
            key, members = own, {}
        if ending.lower() in members:
            raise NoiseregError(
                f"{shard.name}: {clean(own)}.{ending} is in it twice; expected a name once, "
                "whatever its case"
            )
        members[ending.lower()] = member
    if members:
        yield key, members


def _image(
    shard: Shard, key: str, members: dict[str, tarfile.TarInfo], image: str
) -> tarfile.TarInfo | None:
    if image != "auto":
        found = [ending for ending in members if ending == image.lower().removeprefix(".")]
    else:
        found = [ending for ending in members if f".{ending}" in SUFFIXES]
    if len(found) > 1:
        raise NoiseregError(
            f"{shard.name}: {clean(key)} has several images ({', '.join(found)}); give image="
            f"{found[0]}"
        )
    if found and members[found[0]].size > LARGEST:
        raise NoiseregError(
            f"{shard.name}: {clean(key)}.{found[0]} has {members[found[0]].size:,} bytes; "
            f"{LARGEST:,} are read at most"
        )
    return members[found[0]] if found else None


def _label(
    shard: Shard,
    tar: tarfile.TarFile,
    key: str,
    members: dict[str, tarfile.TarInfo],
    label: str,
) -> int:
    member = members.get("cls" if label == "auto" else label.lower().removeprefix("."))
    if label == "none" or member is None:
        return -1
    file = tar.extractfile(member) if member.size <= 32 else None
    text = file.read().strip() if file is not None else b"too long"
    if not text.isdigit() or int(text) >= MOST_CLASSES:
        said = clean(text.decode("utf-8", "replace"))
        raise NoiseregError(
            f"{shard.name}: the label of {clean(key)} is {said!r}; expected a whole number from 0"
        )
    return int(text)


class WebDataset(ImageDataset):
    """Images in shards. Held out is a share ``heldout`` by a hash of each sample's key, whatever
    shard it lies in.

    Raises:
        NoiseregError: for shards that are not there or damaged, labels that only some samples
        have, and images of different sizes and no ``size``.
    """

    params: WebDatasetParams

    def __init__(self, params: WebDatasetParams, ctx: Context) -> None:
        super().__init__(params, ctx)
        literal = Path(params.path).expanduser().is_file()
        names = [params.path] if literal else shard_names(params.path)
        if twice := next((name for name, n in Counter(names).items() if n > 1), None):
            raise NoiseregError(
                f"webdataset:path={clean(params.path)} names {clean(twice)} twice; expected each "
                "shard once"
            )
        if len({is_remote(name) for name in names}) > 1:
            raise NoiseregError(
                f"webdataset:path={clean(params.path)} names shards of this machine and of a "
                "store; expected all in one"
            )
        with Decoders() as readers:
            self.shards = list(readers.map(open_shard, names))
            self.indices = list(
                readers.map(lambda s: Index.of(s, params.image, params.label), self.shards)
            )
        self._starts = np.cumsum([0, *map(len, self.indices)])
        self._places = np.concatenate([index.places for index in self.indices])
        keys = [key for index in self.indices for key in index.keys]
        if not keys:
            raise NoiseregError(
                f"webdataset:path={clean(params.path)}: there are no images in "
                f"{len(names):,} shard{'s' * (len(names) > 1)}; expected files that end in .png, "
                ".jpg or the like, or give image="
            )
        self.notes = (f"{len(names):,} shard{'s' * (len(names) > 1)}",)
        if left_out := sum(index.left_out for index in self.indices):
            one = left_out == 1
            self.notes += (
                f"{left_out:,} sample{'s have' if not one else ' has'} no image and "
                f"{'is' if one else 'are'} left out",
            )
        self._count_classes()
        self._side, self._channels = self._look_at_first()
        width, height = (params.size, params.size) if params.size else self._side
        train, heldout = (
            ImageSplit(self, indices, params.size, self._channels, self._place_of)
            for indices in holdout_by_name(keys, params.heldout)
        )
        self.hold(train, heldout, height, width)

    def _count_classes(self) -> None:
        labels = self._places[:, 2]
        if self.params.label == "none" or (labels < 0).all():
            if self.params.label not in ("auto", "none"):
                raise NoiseregError(
                    f"webdataset:label={self.params.label}: no sample has a file that ends so"
                )
            return
        if (labels < 0).any():
            raise NoiseregError(
                f"{self._place_of(int((labels < 0).argmax()))} has no label, and others have; "
                "expected one of each, or label=none"
            )
        self.classes = int(labels.max()) + 1
        self.class_names = tuple(map(str, range(self.classes)))

    def _look_at_first(self) -> tuple[tuple[int, int], int]:
        """(width, height) and channels, by the first image of each shard: to look at all would be
        to read all. One that differs is named when it comes.
        """
        first = [int(at) for k, at in enumerate(self._starts[:-1]) if len(self.indices[k])]
        with Decoders() as readers, heard(self.warnings.append):
            seen = list(readers.each(self._look, first))
        sizes = [size for size, _ in seen]
        if self.params.size is None and len(set(sizes)) > 1:
            other = next(k for k, size in enumerate(sizes) if size != sizes[0])
            raise NoiseregError(
                f"the images differ in size ({self._place_of(first[0])} is "
                f"{sizes[0][0]}×{sizes[0][1]}, {self._place_of(first[other])} is "
                f"{sizes[other][0]}×{sizes[other][1]}); type size=64 or the like to bring them to "
                "one"
            )
        return sizes[0], self.params.channels or (1 if all(grey for _, grey in seen) else 3)

    def _look(self, index: int) -> tuple[tuple[int, int], bool]:
        with reading(self._place_of(index)), self._open(index) as image:
            return upright_size(image), is_grey(image)

    def _open(self, index: int) -> Image.Image:
        which = self._which(index)
        offset, size, _ = self._places[index]
        return open_picture(self.shards[which].read(int(offset), int(size)))

    def _which(self, index: int) -> int:
        return int(np.searchsorted(self._starts, index, side="right")) - 1

    def _place_of(self, index: int) -> str:
        which = self._which(index)
        key = self.indices[which].keys[index - int(self._starts[which])]
        return f"{self.shards[which].name}: {clean(key)}"

    def fingerprint(self) -> dict[str, Any]:
        """The shards by name and size, with a hash of what is where in each; up to 64 MiB in all
        their contents too.
        """
        whole = sum(shard.size for shard in self.shards) <= HASHED
        # By what tells their names apart, so that they may be moved together.
        folder = posixpath.commonpath([posixpath.dirname(shard.place) for shard in self.shards])
        files = {}
        for shard, index in zip(self.shards, self.indices, strict=True):
            text = (
                "\n".join(index.keys).encode("utf-8", "surrogateescape")
                + np.ascontiguousarray(index.places).tobytes()
            )
            content = hashlib.sha256(text).hexdigest()[:16]
            if whole:
                content += f"{zlib.crc32(shard.read(0, shard.size)):08x}"
            files[posixpath.relpath(shard.place, folder)] = (shard.size, content)
        return {
            "shape": list(self.shape),
            **({"classes": list(self.class_names)} if self.classes else {}),
            "files": fingerprint.of_files(files),
            "train": {"count": len(self.train)},
            "heldout": {"count": len(self.heldout)},
        }

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> tuple[Image.Image, int | None]:
        image = self._open(index)
        if self.params.size is None and upright_size(image) != self._side:
            wide, high = upright_size(image)
            raise Unfaithful(
                f"it is {wide}×{high}, and the first is {self._side[0]}×{self._side[1]}; type "
                "size=64 or the like to bring them to one"
            )
        if self.params.channels is None and self._channels == 1 and not is_grey(image):
            raise Unfaithful(
                "it is in colour, and the first of each shard is grey; give channels=3, or 1"
            )
        label = int(self._places[index, 2])
        return image, label if self.classes else None
