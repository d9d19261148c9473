"""Training a sweep's cells in this process, several at once as one network with a further axis."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from noisereg.errors import NoiseregError
from noisereg.ownership import lock_of_children
from noisereg.plugins.registry import Registry
from noisereg.runs.build import build_parts
from noisereg.runs.reporter import Reporter
from noisereg.runs.stack import refuse_what_cannot
from noisereg.runs.stopping import Interrupted
from noisereg.runs.together import Asked, kind_of, refuse_runtime, train_together
from noisereg.sweeps.grid import Cell, Sweep
from noisereg.sweeps.resolve import Resolved
from noisereg.sweeps.training import Stopped, Tally

POLL_SECONDS = 0.1


def check_together(
    resolved: Resolved, grouped: Sequence[Sequence[Cell]], registry: Registry
) -> None:
    """Before anything is written.

    Raises:
        NoiseregError: names a cell that cannot be trained beside others, and says why.
    """
    for group in grouped:
        first = group[0]
        try:
            runtime = refuse_runtime(first.config.runtime)
            shape = resolved.shapes[first.combination]
            refuse_what_cannot([build_parts(first.config, registry, runtime, shape=shape)])
        except NoiseregError as error:
            raise NoiseregError(f"--together: cell {first.name}: {error}") from None


def groups(resolved: Resolved, size: int) -> list[list[Cell]]:
    """The cells that train together, at most ``size`` each: those that differ in their seed, their
    data (of one shape) and numbers of the optimiser and of regularizers' weights alone. Cells of
    one seed are beside each other, since they share their draws.
    """
    alike: dict[str, list[Cell]] = {}
    for cell in resolved.cells:
        key = f"{resolved.shapes[cell.combination]} {kind_of(cell.config)}"
        alike.setdefault(key, []).append(cell)
    return [
        cells[start : start + size]
        for cells in alike.values()
        for start in range(0, len(cells), size)
    ]


class CellLog(Reporter):
    """What one cell's training says, into its log, as a process of its own would."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def _write(self, line: str) -> None:
        with self.path.open("a", encoding="utf-8") as log:
            log.write(f"{line}\n")

    def fact(self, name: str, text: str) -> None:
        self._write(f"{name:<12}{text}")

    def note(self, text: str) -> None:
        self._write(f"note: {text}")

    def error(self, text: str) -> None:
        self._write(f"noisereg: error: {text}")


class _Progress(Reporter):
    """Steps of a group, said by the sweep's own reporter."""

    def __init__(self, reporter: Reporter, name: str) -> None:
        self.reporter, self.name = reporter, name

    @property
    def gone(self) -> bool:  # type: ignore[override]
        return self.reporter.gone

    def begin(self, what: str, total: int, done: int = 0) -> None:
        self.reporter.begin(f"{what} {self.name}", total, done)

    def advance(self, done: int, metrics: Mapping[str, float] | None = None) -> None:
        self.reporter.advance(done, metrics)

    def end(self) -> None:
        self.reporter.end()


class Together:
    """Trains groups of cells one after another; cells that another process trains are waited
    for.
    """

    def __init__(
        self,
        sweep: Sweep,
        grouped: Sequence[Sequence[Cell]],
        registry: Registry,
        reporter: Reporter,
    ) -> None:
        self.sweep, self.grouped = sweep, grouped
        self.registry, self.reporter = registry, reporter

    def run(self, cells: Sequence[Cell]) -> Tally:
        """
        Raises:
            Stopped: once every cell in training has saved after a signal.
        """
        tally = Tally()
        told: set[str] = set()
        names = {cell.name for cell in cells}
        waiting = [[c for c in group if c.name in names] for group in self.grouped]
        while waiting:
            moved = False
            for group in list(waiting):
                with ExitStack() as held:
                    mine: list[Cell] = []
                    for cell in list(group):
                        if self.sweep.finished(cell):
                            group.remove(cell)
                            tally.finished.append(cell)
                        elif (file := lock_of_children(self.sweep.lock_of(cell))) is not None:
                            held.enter_context(file)
                            mine.append(cell)
                        elif cell.name not in told:
                            told.add(cell.name)
                            self.reporter.note(
                                f"{cell.name} is being trained by another process; waiting for it"
                            )
                    for cell in mine:
                        group.remove(cell)
                    if mine:
                        moved = True
                        self._train(mine, tally)
                if not group:
                    waiting.remove(group)
            if waiting and not moved:
                time.sleep(POLL_SECONDS)
        return tally

    def _train(self, cells: list[Cell], tally: Tally) -> None:
        began = time.monotonic()
        asked = {
            cell.name: Asked(
                cell.config, self.sweep.path_of(cell), CellLog(self.sweep.log_of(cell))
            )
            for cell in cells
        }

        def ended(one: Asked) -> None:
            (cell,) = (c for c in cells if asked[c.name] is one)
            self._ended(cell, one.error, time.monotonic() - began, tally)

        try:
            train_together(
                list(asked.values()),
                self.registry,
                _Progress(self.reporter, f"({cells[0].name} …)"),
                ended,
            )
        except Interrupted as stopped:
            raise Stopped(stopped.signum) from None
        except NoiseregError:
            return  # each cell has been told

    def _ended(
        self, cell: Cell, error: BaseException | None, seconds: float, tally: Tally
    ) -> None:
        if error is None:
            tally.ended(self.sweep, cell, seconds, None, self.reporter)
        elif isinstance(error, NoiseregError):
            CellLog(self.sweep.log_of(cell)).error(str(error))
            tally.ended(self.sweep, cell, seconds, str(error), self.reporter)
