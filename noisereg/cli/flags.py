"""Parameters in a message as the flags of the command that runs.

Below the command line a message names a parameter as Python and a configuration do, between
backticks (``noisereg.errors``). What a user types for it here is looked up in the options of the
command that runs, so that there is no list beside them to keep.
"""

from __future__ import annotations

import re
from typing import Any

_MARKED = re.compile(r"`(?:([A-Za-z_][\w.]*)(?:=([^`]*))?|([^`]*))`")
_SECTIONS = {"train": ("train",), "sweep": ("train",), "sample": ("sample",), "eval": ("sample",)}
"""The configuration's sections whose keys are flags of a command's own."""

_running: Any = None


def run_as(command: Any) -> None:
    """From now on messages name the options of ``command`` (click's object; None: no command)."""
    global _running
    _running = command


def flagged(text: str) -> str:
    """``text`` with what stands between backticks as the running command's flags; where it has
    none for it, as it is.
    """
    table = flags_of(_running)

    def shown(found: re.Match[str]) -> str:
        name, value, other = found.groups()
        if name is None:
            return str(other)
        section, _, key = name.partition(".")
        known = table.get(name)
        if known is None and section in _SECTIONS.get(getattr(_running, "name", ""), ()):
            known = table.get(key)
        if known is not None:
            flag, takes_value = known
            return flag if value is None or not takes_value else f"{flag} {value}"
        if key and "set" in table:
            return f"--set {name}" if value is None else f"--set {name}={value}"
        return name if value is None else f"{name}={value}"

    return _MARKED.sub(shown, text).replace("`", "")


def flags_of(command: Any) -> dict[str, tuple[str, bool]]:
    """For each parameter of a command, by its name in Python: the flag, and whether a value
    follows it.
    """
    table: dict[str, tuple[str, bool]] = {}
    for option in getattr(command, "params", ()):
        flag = next((text for text in option.opts if text.startswith("--")), None)
        if flag is None:
            continue
        own = flag[2:].replace("-", "_")
        shown = (flag, not getattr(option, "is_flag", False))
        # From Python what may be repeated is a list with a name in the plural: metrics, labels.
        for name in {own, option.name.rstrip("_"), *({f"{own}s"} if option.multiple else ())}:
            table[name] = shown
    return table
