"""The one exception a user's mistake raises."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class NoiseregError(Exception):
    """What was wrong, what was expected and what to type instead, in one line.

    The command line prints it as ``noisereg: error: …`` and exits with 2; from Python it is an
    ordinary exception.
    """


def nearest(name: str, candidates: Iterable[str]) -> str:
    """``; did you mean 'x'?`` for the candidate most like ``name``, or the empty string."""
    close = difflib.get_close_matches(name, list(candidates), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""
