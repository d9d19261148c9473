"""Text on its way to a terminal: what came from a file may hold what a terminal obeys."""

from __future__ import annotations

import re
import sys

_OBEYED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 but tab and newline, DEL, C1: colours, titles, clipbo
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # what turns the direction of writing round
    "\ufeff\ud800-\udfff]"  # the byte-order mark, and halves of characters that cannot be printe
)


_said: set[str] = set()


def printable(text: str, json: bool = False) -> str:
    """``text`` with every character that a terminal obeys rather than shows written out:
    ``\\x1b``, or ``\\u001b`` in ``json``.

    Tabs and new lines stay; whoever prints one line joins its words first.
    """

    def written_out(found: re.Match[str]) -> str:
        code = ord(found.group())
        return f"\\x{code:02x}" if code < 0x100 and not json else f"\\u{code:04x}"

    return _OBEYED.sub(written_out, text)


def one_line(text: str) -> str:
    """:func:`printable`, on one line."""
    return printable(" ".join(text.split()))


def say_once(text: str) -> None:
    """One line on stderr, once a process."""
    if text not in _said:
        _said.add(text)
        print(one_line(f"noisereg: {text}"), file=sys.stderr)
