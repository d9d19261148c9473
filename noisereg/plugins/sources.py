"""Where a plugin's code comes from: files and modules, told apart, hashed and located before
anything is executed.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.machinery
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType

from noisereg.errors import NoiseregError


def is_file(reference: str) -> bool:
    """Whether ``--plugin REFERENCE`` is a path; otherwise it is a module's name."""
    return reference.endswith(".py") or os.sep in reference or reference.startswith("~")


def run_folder_of(path: Path) -> Path | None:
    """The run that holds ``path``, if any: what came with a run is data, and nothing of it is
    executed.
    """
    for parent in path.parents:
        if (parent / "config.yaml").is_file() and (parent / "environment.json").is_file():
            return parent
    return None


def refuse_run_folders(path: Path, reference: str) -> None:
    """
    Raises:
        NoiseregError: for code that lies in a run folder.
    """
    if folder := run_folder_of(path):
        raise NoiseregError(
            f"`plugin={reference}` lies in the run folder {folder}, and nothing in one is "
            "executed; "
            "read it, copy it elsewhere and give that path"
        )


@dataclass(frozen=True)
class FileSource:
    """A plugin file as it was read once: what is hashed is what is executed."""

    path: Path
    contents: bytes

    @classmethod
    def read(cls, reference: str) -> FileSource:
        """
        Raises:
            NoiseregError: if there is no such Python file.
        """
        path = Path(reference).expanduser().resolve()
        refuse_run_folders(path, reference)
        try:
            contents = path.read_bytes()
        except OSError as error:
            raise NoiseregError(
                f"`plugin={reference}`: {error.strerror}; expected a Python file or a module's "
                "name"
            ) from None
        return cls(path, contents)

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


def files_of(module: str) -> list[Path]:
    """The files that ``import module`` would execute, its parents' first and its own last, found
    without importing any.

    What only an import could tell (namespace packages) and what is not there ends the list.
    """
    files: list[Path] = []
    path: list[str] | None = None
    parts = module.split(".")
    for depth in range(len(parts)):
        name = ".".join(parts[: depth + 1])
        try:
            found = next(_specs(name, path), None)
            path = list(found.submodule_search_locations or []) if found else []
        except KeyError:  # a namespace package asks sys.modules for its parent
            return files
        if found is None:
            return files
        if found.origin and found.has_location:
            files.append(Path(found.origin).resolve())
    return files


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
