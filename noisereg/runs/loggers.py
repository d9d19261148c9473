"""The loggers of a run, of which none can stop it."""

from __future__ import annotations

from typing import Any

from noisereg.api import Logger
from noisereg.runs.reporter import Reporter


class Loggers:
    """The named loggers; what one raises is printed once, and the run goes on."""

    def __init__(self, loggers: list[Logger], reporter: Reporter) -> None:
        self._loggers, self._reporter = loggers, reporter
        self._told: set[int] = set()

    def call(self, method: str, *args: Any) -> None:
        for logger in self._loggers:
            try:
                getattr(logger, method)(*args)
            except (Exception, SystemExit) as error:
                if id(logger) not in self._told:
                    self._told.add(id(logger))
                    self._reporter.note(
                        f"{type(logger).__name__}.{method} failed: {error}; the run goes on"
                    )
