"""Paths as a user gives them, made fit for use or refused before anything is done with them."""

from __future__ import annotations

import os
import re
from pathlib import Path

from noisereg.errors import NoiseregError
from noisereg.terminal import printable

MAX_NAME = 200
"""Bytes of one name: file systems take 255, and what is written beside a file has a longer one."""
MAX_PATH = 4000
"""Bytes of a whole path; Linux takes 4,096."""


def local_path(path: str | os.PathLike[str], parameter: str) -> Path:
    """A path on this machine with ``~`` expanded; ``parameter`` is what a message calls it.

    Raises:
        NoiseregError: for the address of remote storage, the home of somebody who is not there, a
        name that the system cannot hold, or one that is not UTF-8.
    """
    text = os.fspath(path)
    named = f"`{parameter}={clean(text)}`"
    check_text(text, f"`{parameter}`")
    if scheme := remote_scheme(text):
        raise NoiseregError(
            f"{named}: only runs, sweeps, data and tables may be in remote storage ({scheme}); "
            "expected a folder or file of this machine"
        )
    if not text:
        raise NoiseregError(f"`{parameter}` is empty; expected a path")
    try:
        found = Path(text).expanduser()
    except RuntimeError:
        who = text.partition("/")[0]
        raise NoiseregError(
            f"{named}: there is no home folder of {who[1:]!r}; for a folder of that name write "
            f"./{text}"
        ) from None
    long = next((part for part in found.parts if len(os.fsencode(part)) > MAX_NAME), None)
    if (long or len(os.fsencode(found)) > MAX_PATH) and not os.path.lexists(found):
        what = f"has a name of {len(os.fsencode(long)):,}" if long else "is a path of too many"
        raise NoiseregError(
            f"`{parameter}` {what} bytes; expected at most {MAX_NAME} a name and {MAX_PATH:,} a "
            "path"
        )
    return found


def remote_scheme(text: str) -> str:
    """``s3`` of ``s3://bucket/run``, also where a path has made one stroke of the two; or the
    empty string.
    """
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/+(?=[^/])", text)
    return scheme[1] if scheme and not os.path.lexists(text) else ""


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether a path is the address of a store: ``s3://…``, also with one stroke lost to Path."""
    return bool(remote_scheme(os.fspath(path)))


def address(path: str | os.PathLike[str]) -> str:
    """``s3://bucket/run`` of ``s3:/bucket/run``, which is what Path makes of it."""
    text = os.fspath(path)
    scheme = remote_scheme(text)
    rest = text[len(scheme) + 1 :].lstrip("/").rstrip("/")
    return f"{scheme}:///{rest}" if scheme in ("file", "local") else f"{scheme}://{rest}"


def check_text(text: str, where: str) -> None:
    """That a text is UTF-8 and can be handed to the system.

    Raises:
        NoiseregError: says where it stands.
    """
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise NoiseregError(
            f"{where} {clean(text)!r} is not UTF-8; expected a name in UTF-8, which is what a "
            "run's files are written in"
        )
    if "\0" in text:
        raise NoiseregError(f"{where} holds a null character; expected text")


def clean(text: str) -> str:
    """Text for a message: no backtick, and nothing that a terminal obeys."""
    return printable(text.replace("`", "'"))
