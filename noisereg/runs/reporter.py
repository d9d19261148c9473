"""What a run says while it works. The command line draws it; from Python it is silent."""

from __future__ import annotations

from collections.abc import Mapping


class Reporter:
    """Receives lines and progress; this one drops them."""

    gone: bool = False
    """Nobody can read it any more (``noisereg train 2>&1 | head``): a run saves and stops."""

    def fact(self, name: str, text: str) -> None:
        """One line of what a run is made of."""

    def note(self, text: str) -> None:
        """Something the user should know."""

    def begin(self, what: str, total: int, done: int = 0) -> None:
        """Work of ``total`` units starts, ``done`` of them behind us."""

    def advance(self, done: int, metrics: Mapping[str, float] | None = None) -> None:
        """``done`` units are behind us."""

    def end(self) -> None:
        """The work that ``begin`` announced is over, however it ended."""
