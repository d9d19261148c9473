"""Where a plugin's code comes from: files and modules, told apart, hashed and located before
anything is executed.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.machinery
import importlib.util
import itertools
import marshal
import os
import secrets
import sys
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType, TracebackType
from typing import Any

from noisereg.errors import NoiseregError


def is_file(reference: str) -> bool:
    """Whether ``--plugin REFERENCE`` is a path; otherwise it is a module's name."""
    return reference.endswith(".py") or os.sep in reference or reference.startswith("~")


Code = tuple[str, str]
"""The SHA-256 of a file and its absolute path."""

LARGEST = 16 * 2**20
"""Bytes of a plugin file; what is larger is none."""


def received_folder_of(path: Path) -> Path | None:
    """The run or sweep that holds ``path``, if any: what comes with one is data, and nothing of it
    is executed.
    """
    for parent in path.parents:
        run = (parent / "config.yaml").exists() and any(
            (parent / name).exists() for name in ("environment.json", "status.json")
        )
        if run or ((parent / "sweep.yaml").exists() and (parent / "cells").exists()):
            return parent
    return None


def refuse_received(path: Path, said: str) -> None:
    """
    Raises:
        NoiseregError: for code that lies in a run or a sweep.
    """
    if folder := received_folder_of(path):
        raise NoiseregError(
            f"{said} lies in {folder}, a run or a sweep, and nothing in one is executed; read it, "
            "copy it elsewhere and give that path with `plugin`"
        )


@dataclass(frozen=True)
class FileSource:
    """A plugin file as it was read once: what is hashed is what is executed."""

    path: Path
    contents: bytes

    @classmethod
    def read(cls, reference: str, said: str = "") -> FileSource:
        """The file at ``reference``; ``said`` is how an error names it.

        Raises:
            NoiseregError: if there is no such Python file.
        """
        said = said or f"`plugin={reference}`"
        try:
            path = Path(reference).expanduser().resolve()
            refuse_received(path, said)
            if path.exists() and not path.is_file():  # a folder, or a FIFO that would block
                raise NoiseregError(
                    f"{said} is no file; expected a Python file or a module's name"
                )
            if path.stat().st_size > LARGEST:
                raise NoiseregError(f"{said} is too large for a Python file")
            contents = path.read_bytes()
        except (OSError, ValueError, RuntimeError) as error:  # a null byte, ~nobody
            why = error.strerror if isinstance(error, OSError) else error
            raise NoiseregError(
                f"{said}: {why}; expected a Python file or a module's name"
            ) from None
        return cls(path, contents)

    @property
    def source(self) -> str:
        return str(self.path)

    def codes(self) -> list[Code]:
        """What executing it executes."""
        return [(self.sha256, str(self.path))]

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.contents).hexdigest()

    def execute(self) -> ModuleType:
        """The file as a module. No bytecode cache is read: it could be another file's."""
        name = f"noisereg_file_{self.path.stem}_{self.sha256[:8]}"
        spec = importlib.util.spec_from_loader(name, loader=None, origin=str(self.path))
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        module.__file__ = str(self.path)
        code = compile(self.contents, str(self.path), "exec", dont_inherit=True)
        sys.modules[name] = module  # so that impl=f"{__name__}:Class" finds it
        try:
            exec(code, module.__dict__)
        except BaseException:
            del sys.modules[name]
            raise
        return module


@dataclass(frozen=True)
class ModuleSource:
    """A plugin module that is not imported yet: its name, and the files that importing it would
    execute, its parents' first and its own last.
    """

    name: str
    files: tuple[Path, ...]
    whole: bool
    """Whether every file is known; only an import could tell those of nested namespace packages
    and of what is built in."""

    @classmethod
    def find(cls, name: str, said: str = "") -> ModuleSource:
        """
        Raises:
            NoiseregError: if it lies in a run or a sweep.
        """
        files, whole = _search(name)
        for path in files:
            refuse_received(path, said or f"`plugin={name}`")
        return cls(name, tuple(files), whole)

    @property
    def source(self) -> str:
        return self.name

    @property
    def sha256(self) -> str:
        """Of its own file; empty where it has none."""
        return sha256_of(self.files[-1]) if self.files else ""

    def codes(self) -> list[Code]:
        """What importing it executes; empty where that cannot be told."""
        codes = [(sha256_of(path), str(path)) for path in self.files]
        return codes if self.whole and all(digest for digest, _ in codes) else []


def read_source(reference: str, said: str = "") -> FileSource | ModuleSource:
    """Where a plugin's code lies: nothing is executed. ``said`` is how an error names it.

    Raises:
        NoiseregError: if it is not there, or lies in a run or a sweep.
    """
    if is_file(reference):
        return FileSource.read(reference, said)
    return ModuleSource.find(reference, said)


def files_of(module: str) -> list[Path]:
    """The files that ``import module`` would execute, its parents' first and its own last, found
    without importing any.

    What only an import could tell (nested namespace packages) and what is not there ends the list.
    """
    return _search(module)[0]


def _search(module: str) -> tuple[list[Path], bool]:
    """:func:`files_of`, and whether they are all."""
    files: list[Path] = []
    path: list[str] | None = None
    located = False
    parts = module.split(".")
    for depth in range(len(parts)):
        name = ".".join(parts[: depth + 1])
        try:
            module_spec = next(_specs(name, path), None)
            path = list(module_spec.submodule_search_locations or []) if module_spec else []
        except (KeyError, ValueError):  # a namespace package asks sys.modules for its parent
            return files, False
        if module_spec is None:
            return files, False
        located = bool(module_spec.origin and module_spec.has_location)
        if located:
            files.append(Path(str(module_spec.origin)).resolve())
    return files, located


def _specs(name: str, path: list[str] | None) -> Iterator[importlib.machinery.ModuleSpec]:
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        if find and (spec := find(name, path)) is not None:
            yield spec


def sha256_of(path: Path) -> str:
    """Of a file's contents; empty where it cannot be read."""
    with contextlib.suppress(OSError):
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return ""


def holds_torch(modules: Iterable[str]) -> bool:
    """Whether one of these loaded modules has torch among its globals, so that importing it
    imports torch.
    """
    for name in modules:
        if name.partition(".")[0] in ("torch", "torchvision"):
            continue
        for value in list(
            vars(sys.modules[name]).values()
            if isinstance(sys.modules.get(name), ModuleType)
            else ()
        ):
            home = (
                value.__name__
                if isinstance(value, ModuleType)
                else getattr(value, "__module__", None)
            )
            if isinstance(home, str) and home.partition(".")[0] == "torch":
                return True
    return False


_UNKNOWN = itertools.count()
_SESSION = secrets.token_hex(8)


def code_of(implementation: Any) -> str:
    """A digest of the code of a class or function: of its module's file and of its own functions.
    Where there is no file, as in a notebook, it is another in each process and at each definition.
    """
    file = getattr(sys.modules.get(implementation.__module__), "__file__", None)
    try:
        digest = hashlib.sha256(Path(file or "").read_bytes())
    except OSError:
        return f"{_SESSION}-{next(_UNKNOWN)}"
    # Of one file a script may define the same name twice.
    for owner in getattr(implementation, "__mro__", (implementation,)):
        if owner.__module__ == implementation.__module__:
            for member in vars(owner).values() if isinstance(owner, type) else (owner,):
                for part in _parts(member, set()):
                    digest.update(part)
    return digest.hexdigest()


def _parts(member: Any, seen: set[int]) -> Iterator[bytes]:
    """What a function or an attribute of a class says: code, defaults, what it closes over; the
    same in every process.
    """
    if id(member) in seen:
        return
    seen.add(id(member))
    if isinstance(member, property):
        for accessor in (member.fget, member.fset):
            yield from _parts(accessor, seen)
        return
    function = getattr(member, "__func__", member)
    if not isinstance(code := getattr(function, "__code__", None), CodeType):
        yield _constant(member)
        return
    yield marshal.dumps(_placeless(code), 2)  # later versions depend on who holds a constant
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # of an empty one
            yield from _parts(cell.cell_contents, seen)
    yield _constant(function.__defaults__)
    yield _constant(tuple((function.__kwdefaults__ or {}).items()))


def _placeless(code: CodeType) -> CodeType:
    """Without the file's path."""
    constants = [_placeless(c) if isinstance(c, CodeType) else c for c in code.co_consts]
    return code.replace(co_filename="", co_consts=tuple(constants))


def _constant(value: Any) -> bytes:
    """Of what is no constant, whose text may have an address in it, nothing."""
    if isinstance(value, tuple):
        return b"(" + b",".join(map(_constant, value)) + b")"
    plain = value is None or isinstance(value, int | float | str | bytes)
    return repr(value).encode() if plain else b""


def cause(error: BaseException) -> str:
    """``ValueError: text (file.py, line 3)`` in one line, the place being the innermost of the
    error's own code.
    """
    text = " ".join(str(error).split())
    said = f"{type(error).__name__}: {text}" if text else type(error).__name__
    place = "" if isinstance(error, SyntaxError | NoiseregError) else _place(error.__traceback__)
    return f"{said}{place}"


def _place(trace: TracebackType | None) -> str:
    here = str(Path(__file__).parents[1])
    for frame in reversed(traceback.extract_tb(trace)):
        if not frame.filename.startswith(("<frozen", here)):
            return f" ({Path(frame.filename).name}, line {frame.lineno})"
    return ""
