"""Runs, data and tables by URL: read and written in copies of this machine, kept at an address of
fsspec's.

The engine locks, renames and maps files, which object stores cannot. So a run at
``s3://bucket/run`` has a working copy below the cache folder: :func:`working_copy` makes it what
the store holds, and :func:`upload`, called after each checkpoint, brings the store up to it. A
store has whole files (an object is put at once; elsewhere a file is written beside and moved), and
of a checkpoint ``state.json`` comes last and goes first: it holds the other files' SHA-256, so
that a checkpoint is whole or none, as on a disk. status.json comes after everything that it speaks
of.

What the working copy has and the store has not was never safe, so it is dropped: the store says
how far a run is. A sweep's working copy is that of all its cells, each of which is uploaded as a
run.

Nothing locks a store. So a run that is trained there has an owner, ``.owner.json``, written anew
every few seconds (:func:`claimed`): whoever finds one waits whether it changes, which needs no
clocks that agree, and is refused if it does. An owner that has been taken over finds that before
it uploads.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
import os
import posixpath
import re
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from noisereg.errors import NoiseregError
from noisereg.folders import cache_dir
from noisereg.ownership import LOCK, lock_of_children, owned
from noisereg.paths import address, clean, is_remote
from noisereg.store import digest_of, write_atomically

STATE, STATUS = "state.json", "status.json"
KEPT_HERE = ("eval", "cache")
"""Folders of a working copy that can be computed again: neither uploaded nor dropped."""

OBJECTS = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "memory"}
"""Schemes of stores that have no folders to be made."""

OWNER = ".owner.json"
BEAT = 10.0
"""Seconds between the signs of life of a run's owner."""
SILENT = 60.0
"""Seconds without one after which it is taken for dead."""
COPIES = "NOISEREG_COPIES"
"""The variable that tells a sweep's processes of its working copy."""
FETCHING = 600.0
"""Seconds that another process is waited for that fetches the same data."""
AT_ONCE = 256
"""Files that are fetched together."""

PRUNED = ("checkpoints", "samples")
"""The folders of a run in which training removes files."""

_copies: dict[Path, str] = {}
"""By working copy: the address. Of this process alone: what a folder says of itself, which anybody
may have written, must not send its contents anywhere. (The processes that it starts are told by
:data:`COPIES`.)"""
_claims: dict[Path, str] = {}
"""By working copy: what this process calls itself as its owner."""


class Lost(NoiseregError):
    """Another machine has taken over what this one was writing."""


SINGLE = (".json", ".npz", ".npy", ".zip", ".parquet", ".tar")
"""How addresses end that are of a file, and not of a run or a folder."""


def local_or_copy(path: str | os.PathLike[str]) -> Path:
    """A path of this machine as it is; of an address its :func:`working_copy`, or the file."""
    if not is_remote(path):
        return Path(path)
    return fetched(path) if os.fspath(path).lower().endswith(SINGLE) else working_copy(path)


def working_copy(path: str | os.PathLike[str]) -> Path:
    """The folder of this machine that stands for a run's address, as the store has it now. While
    another process works in it, it is left as it is.

    Raises:
        NoiseregError: if the store cannot be reached, or the package for it is missing.
    """
    url = address(path)
    name = re.sub(r"[^A-Za-z0-9.+_-]", "-", posixpath.basename(url.rstrip("/"))) or "run"
    folder = (
        cache_dir() / "remote" / hashlib.sha256(url.encode()).hexdigest()[:16] / name
    ).absolute()
    _copies[folder] = url
    folder.parent.mkdir(parents=True, exist_ok=True)
    busy = True
    with contextlib.suppress(_Busy), _alone(folder):
        busy = False
        with said(url):
            _download(*open_store(url), url, folder)
    if busy and not folder.exists():
        raise NoiseregError(f"{clean(url)}: another process is fetching it; try again")
    return folder


def address_of(folder: Path) -> str:
    """The address that a working copy of this process's, or a path in one, stands for, or the
    empty string.
    """
    folder = folder.absolute()
    told = json.loads(os.environ.get(COPIES, "{}"))
    copies = {Path(place): url for place, url in told.items()} | _copies
    for place in (folder, *folder.parents):
        if place in copies:
            inside = folder.relative_to(place).as_posix()
            return copies[place] if inside == "." else f"{copies[place]}/{inside}"
    return ""


def passed_on(folder: Path) -> dict[str, str]:
    """What a process that works in a working copy is told by its environment; nothing for any
    other folder.
    """
    url = address_of(folder)
    return {COPIES: json.dumps({str(folder.absolute()): url})} if url else {}


@contextlib.contextmanager
def claimed(folder: Path, note: Callable[[str], None]) -> Iterator[None]:
    """This machine alone trains the run of a working copy, which is what the store has then;
    nothing for any other folder. To be entered by the owner of the folder.

    Raises:
        NoiseregError: if another machine does, or the store cannot be reached.
    """
    url = address_of(folder)
    if not url:
        yield
        return
    own: dict[str, Any] = {
        "owner": uuid.uuid4().hex,
        "host": socket.gethostname(),
        "pid": os.getpid(),
    }
    mine = folder.with_name(f".{folder.name}{OWNER}")
    with said(url):
        store, root = open_store(url)
        place = f"{root}/{OWNER}"
        _take(store, place, own, mine, url, note)
    stop = threading.Event()
    beating = threading.Thread(target=_beat, args=(store, place, own, stop), daemon=True)
    beating.start()  # before what may take longer than the silence of the dead
    try:
        with said(url):
            _download(store, root, url, folder)
        write_atomically(mine, json.dumps(own).encode())
        _claims[folder.absolute()] = own["owner"]
        yield
    finally:
        stop.set()
        beating.join()
        _claims.pop(folder.absolute(), None)
        mine.unlink(missing_ok=True)
        with contextlib.suppress(Exception):  # an owner that is silent is taken for dead
            if _owner(store, place).get("owner") == own["owner"]:
                store.rm_file(place)


def _mapping_in(path: Path) -> dict[str, Any]:
    """What a JSON file of ours holds; nothing if it is not there, or not whole."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _take(
    store: Any,
    place: str,
    own: dict[str, Any],
    mine: Path,
    url: str,
    note: Callable[[str], None],
) -> None:
    """Become the owner: where there is none, it was this machine, or it is silent."""
    found = _owner(store, place)
    before = _mapping_in(mine)
    if found and found.get("owner") != before.get("owner"):
        who = f"{found.get('host', 'another machine')} (process {found.get('pid', '?')})"
        note(f"{clean(url)} was being trained by {who}; looking whether it still is")
        deadline = time.monotonic() + SILENT
        while time.monotonic() < deadline:
            time.sleep(min(BEAT, SILENT) / 5)
            now = _owner(store, place)
            if not now:
                break
            if now != found:
                raise NoiseregError(
                    f"{clean(url)} is being trained by {who}; wait until it has ended, or give "
                    "another `out`"
                )
        else:
            note(f"{who} has given no sign of life for {SILENT:.0f} s; going on with its run")
    if found and _owner(store, place) == found:
        store.rm_file(place)
    if not _create(store, json.dumps(own).encode(), place):
        raise NoiseregError(
            f"{clean(url)}: another machine has just begun to train it; wait until it has ended, "
            "or give another `out`"
        )


def _owner(store: Any, place: str) -> dict[str, Any]:
    """Who trains a run, empty for nobody."""
    try:
        found = json.loads(store.cat_file(place))
    except FileNotFoundError:
        return {}
    except ValueError:  # of another writer's, half-read
        found = None
    return found if isinstance(found, dict) else {"owner": "unknown"}


def _create(store: Any, data: bytes, target: str) -> bool:
    """Put a file where there is none; False where there is one. A store that cannot do both at
    once is asked before.
    """
    if not OBJECTS & set(_protocols(store)):
        store.makedirs(posixpath.dirname(target), exist_ok=True)
    try:
        store.pipe_file(target, data, mode="create")
    except FileExistsError:
        return False
    except (TypeError, NotImplementedError, ValueError):
        if _owner(store, target):
            return False
        _put_bytes(store, data, target)
    return True


def _beat(store: Any, place: str, own: dict[str, Any], stop: threading.Event) -> None:
    """Give a sign of life until it is no longer the owner."""
    for beat in itertools.count(1):
        if stop.wait(BEAT):
            return
        with contextlib.suppress(Exception):  # of the network: the next one may come through
            if _owner(store, place).get("owner") != own["owner"]:
                return
            _put_bytes(store, json.dumps({**own, "beat": beat}).encode(), place)


def put(path: Path) -> None:
    """Bring one file of a working copy of this process's to where it belongs; nothing for any
    other.

    Raises:
        NoiseregError: if it cannot be.
    """
    if (url := address_of(path)) and path.is_file():
        write_file(url, path.read_bytes())


def fetched(path: str | os.PathLike[str]) -> Path:
    """The file or folder at an address, in the cache folder; what is there and has not changed in
    the store is not fetched again. A path of this machine as it is.

    Raises:
        NoiseregError: if there is nothing, or it cannot be reached.
    """
    if not is_remote(path):
        return Path(path)
    url = address(path)
    folder = cache_dir() / "remote" / hashlib.sha256(f"data {url}".encode()).hexdigest()[:16]
    place = folder / posixpath.basename(url)
    with owned(folder, wait=FETCHING), said(url):
        store, root = open_store(url)
        store.invalidate_cache()
        found = store.find(root, detail=True)
        if not found:
            raise NoiseregError(f"{clean(url)}: nothing is there; expected a file or a folder")
        names = {full: full.removeprefix(root).lstrip("/") for full in found}
        record = folder / ".fetched.json"
        had = _mapping_in(record)
        now = {name: version(found[full]) for full, name in names.items()}
        if place.exists() and place.is_file() != ("" in now):  # a file in a folder's place
            had = {}
            place.unlink() if place.is_file() else shutil.rmtree(place)
        for gone in set(had) - set(now):
            (place / gone).unlink(missing_ok=True)
        wanted = {}
        for full, name in names.items():
            path = place / name if name else place
            if not path.resolve().is_relative_to(folder.resolve()):
                raise NoiseregError(f"{clean(url)} holds a file outside of it: {clean(name)}")
            if had.get(name) != now[name] or not path.is_file():
                wanted[full] = path
        kept = {name: now[name] for full, name in names.items() if full not in wanted}
        write_atomically(record, json.dumps(kept).encode())  # whatever becomes of the fetch
        _fetch(store, wanted)
        write_atomically(record, json.dumps(now).encode())
    return place


def _fetch(store: Any, wanted: dict[str, Path]) -> None:
    """Files, several at once where the store can, each whole or not at all."""
    every = list(wanted.items())
    for start in range(0, len(every), AT_ONCE):
        some = every[start : start + AT_ONCE]
        beside = [path.with_name(f".{path.name}.{os.getpid()}") for _, path in some]
        for path in {path.parent for _, path in some}:
            path.mkdir(parents=True, exist_ok=True)
        store.get([full for full, _ in some], [str(path) for path in beside])
        for (_, path), there in zip(some, beside, strict=True):
            there.replace(path)


def version(info: dict[str, Any]) -> str:
    """What differs where a stored file does: its size, and what the store tells of its content or
    its time.
    """
    told = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "created")
    return " ".join([str(info["size"]), *(str(info[key]) for key in told if key in info)])


def write_file(path: str | os.PathLike[str], data: bytes) -> None:
    """Put a file at an address, whole or not at all.

    Raises:
        NoiseregError: if it cannot be.
    """
    url = address(path)
    with said(url):
        store, target = open_store(url)
        _put_bytes(store, data, target)


def upload(folder: Path) -> None:
    """Bring the store up to a working copy of this process's; nothing for any other folder.

    Raises:
        Lost: if another machine has taken over.
        NoiseregError: if it cannot be; what the store had is still whole.
    """
    url = address_of(folder)
    if not url:
        return
    with said(url):
        store, root = open_store(url)
        own = _claims.get(folder.absolute())
        if own is not None and (now := _owner(store, f"{root}/{OWNER}")).get("owner") != own:
            raise Lost(
                f"{clean(url)} has been taken over by {now.get('host', 'another machine')}, to "
                "which this one had given no sign of life; nothing more is written there"
            )
        there = _sizes(store, root)
        here = {p.relative_to(folder).as_posix(): p for p in _files(folder)}
        # A checkpoint of ours is there where its state.json is, which has the others' SHA-256. An
        # upload that was cut off left files without one, and on a GPU the step's weights are not
        # the same a second time.
        stored = {posixpath.dirname(n) for n in there if _of_checkpoint(n) and _is_state(n)}
        ours = {
            checkpoint
            for checkpoint in stored & {posixpath.dirname(n) for n in here if _is_state(n)}
            if store.cat_file(f"{root}/{checkpoint}/{STATE}")
            == here[f"{checkpoint}/{STATE}"].read_bytes()
        }
        for checkpoint in sorted((stored - ours) & {posixpath.dirname(n) for n in here}):
            store.rm_file(f"{root}/{checkpoint}/{STATE}")
        for name in sorted(here, key=_last_the_state):
            same_size = there.get(name) == here[name].stat().st_size
            if not (posixpath.dirname(name) in ours and same_size):
                _put(store, here[name], f"{root}/{name}")
        # Last, so that a cut leaves a checkpoint too many and not one too few; and of what
        # training itself takes away alone.
        gone = {name for name in set(there) - set(here) if name.split("/")[0] in PRUNED}
        for name in sorted(gone, key=_first_the_state):
            store.rm_file(f"{root}/{name}")


def _download(store: Any, root: str, url: str, folder: Path) -> None:
    """Make the working copy what the store has. A checkpoint without its state.json is not
    there yet; a file of one is fetched again if it is not the one that its state.json has the
    SHA-256 of.
    """

    @functools.cache
    def digests(checkpoint: str) -> dict[str, Any]:
        try:
            found = json.loads(store.cat_file(f"{root}/{checkpoint}/{STATE}"))
        except ValueError:
            return {}
        told = found.get("sha256") if isinstance(found, dict) else None
        return told if isinstance(told, dict) else {}

    there = _sizes(store, root)
    whole = {posixpath.dirname(n) for n in there if posixpath.basename(n) == STATE}
    wanted = {n for n in there if not _of_checkpoint(n) or posixpath.dirname(n) in whole}
    for path in [*_files(folder), *_half_written(folder)]:
        if path.relative_to(folder).as_posix() not in wanted:
            path.unlink()
    for name in sorted(wanted, key=_last_the_state):
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise NoiseregError(f"{clean(url)} holds a file outside of it: {clean(name)}")
        data = store.cat_file(f"{root}/{name}") if _small(name) or not path.exists() else None
        if data is None and path.stat().st_size == there[name]:
            checkpoint, _, own = name.rpartition("/")
            wanted_digest = digests(checkpoint).get(own) if checkpoint in whole else None
            if wanted_digest is None or digest_of(path) == wanted_digest:
                continue
        if data is None:
            data = store.cat_file(f"{root}/{name}")
        if path.exists() and path.read_bytes() == data:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        beside.write_bytes(data)
        beside.replace(path)
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def _half_written(folder: Path) -> Iterator[Path]:
    """What downloads that were killed have left; the caller alone fetches."""
    for path in folder.rglob(".*"):
        if re.fullmatch(r"\..+\.\d+", path.name) and path.is_file():
            yield path


def _put(store: Any, path: Path, target: str) -> None:
    """One file, whole or not at all."""
    _put_bytes(store, path.read_bytes(), target)


def _put_bytes(store: Any, data: bytes, target: str) -> None:
    if not OBJECTS & set(_protocols(store)):  # there folders would be buckets
        store.makedirs(posixpath.dirname(target), exist_ok=True)
    if "file" not in _protocols(store):  # an object is there once it is whole
        store.pipe_file(target, data)
        return
    beside = f"{posixpath.dirname(target)}/.{posixpath.basename(target)}.{uuid.uuid4().hex[:8]}"
    store.pipe_file(beside, data)
    os.replace(beside, target)


def _protocols(store: Any) -> tuple[str, ...]:
    return (store.protocol,) if isinstance(store.protocol, str) else tuple(store.protocol)


def _files(folder: Path) -> Iterator[Path]:
    """The files that a store keeps: no lock, nothing half-written, nothing that can be computed
    again.
    """
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        hidden = any(part.startswith(".") for part in parts)
        kept = any(part in KEPT_HERE for part in parts[:-1])
        if path.is_file() and not path.is_symlink() and not hidden and not kept:
            yield path


def _sizes(store: Any, root: str) -> dict[str, int]:
    """By name below ``root``."""
    store.invalidate_cache()
    try:  # `exists` and `find` take any failure, of the network too, for nothing
        store.info(root)
        failing = {} if getattr(store, "async_impl", False) else {"on_error": "raise"}
        found = store.find(root, detail=True, **failing)
    except FileNotFoundError:
        found = {}
    sizes = {}
    for path, info in found.items():
        name = path.removeprefix(root).lstrip("/")
        *folders, _ = parts = name.split("/")
        hidden = any(part.startswith(".") for part in parts)
        if not hidden and not any(part in KEPT_HERE for part in folders):
            sizes[name] = int(info["size"])
    return sizes


def _of_checkpoint(name: str) -> bool:
    return name.split("/")[-3:-2] == ["checkpoints"]


def _is_state(name: str) -> bool:
    return posixpath.basename(name) == STATE


def _small(name: str) -> bool:
    return not _of_checkpoint(name) or _is_state(name)


def _last_the_state(name: str) -> tuple[int, str]:
    """What others speak of before what speaks of it."""
    last = {STATE: 1, "best.json": 2, "metrics.jsonl": 3, STATUS: 4}
    return last.get(posixpath.basename(name), 0), name


def _first_the_state(name: str) -> tuple[bool, str]:
    return posixpath.basename(name) != STATE, name


def open_store(url: str) -> tuple[Any, str]:
    """The store, and the path in it."""
    try:
        import fsspec
    except ImportError:
        raise NoiseregError(
            f"{clean(url)}: fsspec is not installed: pip install 'noisereg[remote]'"
        ) from None
    try:
        store, root = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        text = " ".join(str(error).split())
        missing = isinstance(error, ImportError)
        hint = "pip install 'noisereg[remote]'" if missing else "expected an address of fsspec's"
        raise NoiseregError(f"{clean(url)}: {text}; {hint}") from None
    return store, str(root).rstrip("/")


class _Busy(Exception):
    """Another process works in the working copy."""


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """With every lock in a working copy: of a sweep each cell has its own."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(owned(folder, wait=0.2))
        except NoiseregError:
            raise _Busy from None
        for path in [p for p in folder.rglob(f".*{LOCK[1:]}") if p != folder / LOCK]:
            lock = lock_of_children(path)
            if lock is None:
                raise _Busy
            stack.enter_context(lock)
        yield


@contextlib.contextmanager
def said(url: str) -> Iterator[None]:
    """Whatever a store raises, in a line."""
    try:
        yield
    except NoiseregError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:200] or type(error).__name__
        raise NoiseregError(f"{clean(url)} cannot be reached: {text}") from error
