"""What a file may make noisereg import: the one place that decides.

A plugin that the user names (``--plugin``, ``NOISEREG_PLUGINS``, ``plugins=`` from Python) is the
user's word. A plugin that a *file* names, be it a run's config.yaml, a sweep's or any other, may
have been written by anybody, and so may the hash that stands beside it. Such a plugin is imported
only if the user has run exactly that code before, from that place, or has said ``noisereg plugins
trust FILE``. What the user has run is kept in a text file in the user's own configuration folder,
a line each: ``SHA-256  path``.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import sys
from pathlib import Path

from noisereg.errors import NoiseregError
from noisereg.folders import config_dir, not_the_users
from noisereg.plugins.sources import Code, FileSource, ModuleSource
from noisereg.terminal import say_once

VARIABLE = "NOISEREG_TRUSTED"
"""How a sweep passes on to its cells what its user has named on the command line, where the file
cannot be written."""
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")

Source = FileSource | ModuleSource

_unwritten: set[Code] = set()
"""What could not be written into the store."""


def store() -> Path:
    """The file that holds what the user trusts."""
    return config_dir() / "trusted-plugins.txt"


def trusted() -> set[Code]:
    """What the user has run or named: the lines of the store, and of the variable.

    A store that others may write is not believed; one line on stderr says so.
    """
    path = store()
    text = os.environ.get(VARIABLE, "")
    fault = not_the_users(path.parent) or not_the_users(path, group=True)
    if fault:
        say_once(f"{path} is not believed: {fault}; no plugin that a file names is loaded by it")
    else:
        with contextlib.suppress(OSError):
            text += "\n" + path.read_text(encoding="utf-8", errors="surrogateescape")
    lines = (_LINE.fullmatch(line) for line in text.split("\n"))
    return _unwritten | {(m.group(1), m.group(2)) for m in lines if m}


def is_trusted(source: Source) -> bool:
    """Whether every file that importing ``source`` would execute is one that the user has run,
    where it lies. What has no file cannot be known again.
    """
    codes = source.codes()
    return bool(codes) and trusted().issuperset(codes)


def remember(source: Source) -> Path:
    """Trust ``source`` from now on; the file that says so.

    Where that cannot be written, it holds for this process and the cells that it starts.
    """
    path = store()
    known = trusted()
    new = [code for code in source.codes() if code not in known]
    if new:
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            with open(handle, "ab", buffering=0) as file:
                # One write, begun on a new line: two processes at once do not mix theirs, and a
                # line cut short by a full disk spoils no other.
                lines = "".join(f"\n{digest}  {place}" for digest, place in new)
                file.write(f"{lines}\n".encode("utf-8", "surrogateescape"))
        except OSError as error:
            say_once(
                f"{path} cannot be written ({error.strerror}): later commands will ask for "
                "its plugins again"
            )
        _unwritten.update(set(new) - trusted())
    return path


def passed_on() -> dict[str, str]:
    """For the environment of a child process: what this process could not write down."""
    if not _unwritten:
        return {}
    return {VARIABLE: "\n".join(f"{digest}  {place}" for digest, place in sorted(_unwritten))}


def interpreter() -> list[str]:
    """The Python of a child process. It imports nothing from the working directory, which may be a
    folder that somebody sent, unless noisereg itself lies there.
    """
    own = Path(__file__).parents[2]
    return [sys.executable] if own == Path.cwd() else [sys.executable, "-P"]


def own_copy(name: str, sha256: str) -> FileSource | None:
    """The user's own file of that name and these contents, where the user ran it, if it is still
    there.
    """
    for digest, place in sorted(trusted()):
        if digest == sha256 and Path(place).name == name:
            try:
                copy = FileSource.read(place)
            except NoiseregError:
                continue
            if copy.sha256 == sha256:
                return copy
    return None


def refusal(source: Source, origin: str) -> NoiseregError:
    """For code that ``origin`` names and the user has never run: what it is, and what to type."""
    named = shlex.quote(source.source)
    return NoiseregError(
        f"{origin} names the plugin {named} (SHA-256 {source.sha256 or 'unknown'}), which would "
        "be executed and which you have not run before: read it, then give "
        f"`plugin={named}`, or type noisereg plugins trust {named}"
    )
