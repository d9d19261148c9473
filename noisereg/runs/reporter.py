"""What a run says while it works. The command line draws it, and a notebook; from other Python it
is silent.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any


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


class NotebookReporter(Reporter):
    """A bar of tqdm's, as the front end can show it, with the loss and the numbers measured;
    notes as lines.
    """

    def __init__(self) -> None:
        self._bar: Any = None

    def note(self, text: str) -> None:
        print(f"note: {text.replace('`', '')}")

    def begin(self, what: str, total: int, done: int = 0) -> None:
        from tqdm.auto import tqdm

        self.end()
        self._bar = tqdm(total=total, initial=done, desc=what, leave=what == "train")

    def advance(self, done: int, metrics: Mapping[str, float] | None = None) -> None:
        if self._bar is None:
            return
        if metrics:
            shown = {k.removeprefix("eval/"): v for k, v in metrics.items() if _told(k)}
            self._bar.set_postfix({k: f"{v:.3g}" for k, v in shown.items()}, refresh=False)
        self._bar.update(done - self._bar.n)

    def end(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _told(name: str) -> bool:
    return name == "loss" or name.startswith("eval/")


class Calling(Reporter):
    """Another reporter, and a function that is called with (step, metrics) at every line of
    metrics.jsonl; what it returns that is true asks the run to save and stop.
    """

    def __init__(
        self, inner: Reporter, callback: Callable[[int, Mapping[str, float]], Any]
    ) -> None:
        self._inner, self._callback = inner, callback
        self.asked = False

    @property
    def gone(self) -> bool:  # type: ignore[override]
        return self.asked or self._inner.gone

    def fact(self, name: str, text: str) -> None:
        self._inner.fact(name, text)

    def note(self, text: str) -> None:
        self._inner.note(text)

    def begin(self, what: str, total: int, done: int = 0) -> None:
        self._inner.begin(what, total, done)

    def advance(self, done: int, metrics: Mapping[str, float] | None = None) -> None:
        self._inner.advance(done, metrics)
        if metrics and self._callback(done, metrics):
            self.asked = True

    def end(self) -> None:
        self._inner.end()


def usual_reporter() -> Reporter:
    """In a notebook one that is seen, elsewhere one that is silent."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return NotebookReporter() if type(shell).__name__ == "ZMQInteractiveShell" else Reporter()
