"""The one exception a user's mistake raises, and how its text names parameters."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class NoiseregError(Exception):
    """What was wrong, what was expected and what to type instead, in one line.

    The command line prints it as ``noisereg: error: …`` and exits with 2; from Python it is an
    ordinary exception.

    A parameter stands in the text between backticks, as Python and a configuration write it:
    `eta=0`, `train.steps`. ``str`` leaves the backticks out; the command line shows what to
    type there in its place: ``--eta 0``, ``--steps``.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(message.replace("`", ""))
        self.message = message
        """The text with its backticks."""

    def __format__(self, spec: str) -> str:
        """In the text of another message the backticks stay, so that the last can be shown."""
        return format(self.message, spec)


def nearest(name: str, candidates: Iterable[str]) -> str:
    """``; did you mean 'x'?`` for the candidate most like ``name``, or the empty string."""
    if len(name) > 100:  # nothing is like it, and comparing takes the square of its length
        return ""
    by_lower = {candidate.lower(): candidate for candidate in candidates}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return f"; did you mean '{by_lower[close[0]]}'?" if close else ""
