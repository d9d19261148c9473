"""Several runs of one architecture trained in one process, each in a folder of its own, as
:func:`noisereg.runs.train.train` would train them one after another.
"""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from noisereg import draws
from noisereg.errors import NoiseregError
from noisereg.plugins.registry import Registry
from noisereg.runs.config import Config, RuntimeConfig
from noisereg.runs.feed import in_order
from noisereg.runs.guard import Guard
from noisereg.runs.prepare import prepare, run_folder
from noisereg.runs.reporter import Reporter
from noisereg.runs.runtime import Runtime
from noisereg.runs.stack import Feeds, Stack, refuse_what_cannot
from noisereg.runs.stopping import StopRequest
from noisereg.runs.train import Training

OWN_NUMBERS = (
    "seed",
    "data",
    "sample",
    "log",
    "ema",
    "train.steps",
    "optim.lr",
    "optim.betas",
    "optim.weight_decay",
    "optim.warmup",
    "optim.schedule",
    "optim.horizon",
)
"""Keys in which runs that train together may differ; regularizers' weights and their schedules are
the others.
"""
OF_WEIGHT = ("weight", "warmup", "schedule")


def kind_of(config: Config) -> str:
    """Equal for runs that may train together: what is left of a resolved configuration without
    the numbers in which they may differ.
    """
    values = copy.deepcopy(config.dump())
    for key in OWN_NUMBERS:
        section, _, name = key.partition(".")
        if name:
            values[section].pop(name)
        else:
            values.pop(section)
    for regularizer in values["reg"]:
        for name in OF_WEIGHT:
            regularizer.pop(name, None)
    return json.dumps(values, sort_keys=True)


def refuse_runtime(config: RuntimeConfig) -> Runtime:
    """The runtime that all runs of a process share.

    Raises:
        NoiseregError: for ranks, and a compiled network.
    """
    runtime = Runtime.start(config)
    if runtime.world > 1:
        raise NoiseregError(
            f"runs train together in one process, not on {runtime.world} ranks; expected no "
            "torchrun, or no `together`"
        )
    if runtime.compile:
        raise NoiseregError(
            "runs that train together share one forward pass, which runtime.compile does not "
            "reach; expected runtime.compile=false, or no `together`"
        )
    if config.shard:
        raise NoiseregError(
            "runs that train together are on one device, and runtime.shard splits one run over "
            "several; expected one of them"
        )
    return runtime


@dataclass(eq=False)
class Asked:
    """One of the runs to train, or to go on with, and how it ended."""

    config: Config
    out: Path
    reporter: Reporter = field(default_factory=Reporter)
    error: BaseException | None = None
    """Why it has not come to its end; None if it has."""
    training: Training | None = None
    held: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def end(self, error: BaseException | None = None) -> None:
        """Leave the folder, with what stopped it in its status."""
        self.error, self.training = error, None
        kind = None if error is None else type(error)
        trace = None if error is None else error.__traceback__
        try:
            self.held.__exit__(kind, error, trace)
        except BaseException as raised:
            if raised is not error:
                self.error = raised


def train_together(
    asked: Sequence[Asked],
    registry: Registry,
    reporter: Reporter,
    ended: Callable[[Asked], None] = lambda one: None,
) -> None:
    """Train runs of one :func:`kind_of`; a run that is there goes on. One that fails by itself, as
    by a loss that is not finite, ends alone; ``ended`` is told of each that has ended.

    Each run's numbers are those of its own training up to rounding: sums are taken in another
    order, over the same draws.

    Raises:
        NoiseregError: for runs that cannot be trained together; nothing is written then.
        Interrupted: after SIGTERM or Ctrl-C, once each has written a checkpoint.
    """
    runtime = refuse_runtime(asked[0].config.runtime)
    for one in asked:
        try:
            folder = one.held.enter_context(run_folder(one.config, one.out, runtime, one.reporter))
            parts, found, parent = prepare(
                one.config, folder, True, registry, one.reporter, runtime
            )
            one.training = Training(parts, folder, found, parent, registry, one.reporter, runtime)
        except NoiseregError as error:
            one.end(error)
            ended(one)
    try:
        with StopRequest() as stop, draws.seeded(0, runtime.device):
            _run(asked, stop, reporter, ended)
    except BaseException as error:
        for one in (one for one in asked if one.training):
            one.end(error)
            ended(one)
        raise


def _run(
    asked: Sequence[Asked],
    stop: StopRequest,
    reporter: Reporter,
    ended: Callable[[Asked], None],
) -> None:
    waiting = [one for one in asked if one.training is not None]
    refuse_what_cannot([_of(one).parts for one in waiting])
    if not waiting:
        return
    # All of them, at whatever step they are, and before anything is written.
    stack = Stack([_of(one) for one in waiting])
    _check(stack)
    stack.close()
    vectorised = stack.batch.vectorised
    guards: dict[int, Guard] = {}
    feeds: dict[int, Any] = {}
    for one in waiting:
        one.held.enter_context(_of(one).opened())
        guards[id(one.training)] = guard = Guard(_of(one).parts, stacked=True)
        one.held.enter_context(guard)
        feeds[id(one.training)] = _of(one).feed(guard)
    while left := [one for one in waiting if one.training is not None]:
        at = min(_of(one).at for one in left)
        now = [one for one in left if _of(one).at == at]
        stack = Stack([_of(one) for one in now], vectorised)
        by_training = {id(one.training): one for one in now}
        joined = [_of(one).at for one in left if _of(one).at > at]
        until = min([*joined, *(cell.config.train.steps for cell in stack.cells)])
        source = Feeds([feeds[id(cell)] for cell in stack.cells])
        accumulate = stack.parts.config.train.accumulate
        micro_batches = in_order(source.prepare, at, until, accumulate, source.ahead)
        reporter.begin(f"train {stack.count} together", until, at)
        over: list[tuple[Asked, BaseException | None]] = []
        asked_to_stop = False
        for step in range(at, until):
            for cell in stack.cells:
                guards[id(cell)].step = step
            stack.take_step(step, [next(micro_batches) for _ in range(accumulate)])
            done = step + 1
            asked_to_stop = bool(stop.signum) or reporter.gone
            if asked_to_stop or any(cell.due(done) for cell in stack.cells):
                stack.hand_out()
                reporter.advance(done)
                for cell in stack.cells:
                    cell.at = done
                    try:
                        if asked_to_stop or cell.due(done):
                            cell.book(done, asked_to_stop)
                    except NoiseregError as error:
                        over.append((by_training[id(cell)], error))
                if over or asked_to_stop:
                    break
        micro_batches.close()
        reporter.end()
        for cell in stack.cells:
            cell.at = stack.step
        stack.hand_out()
        stack.close()
        for one in now:
            if _of(one).at == one.config.train.steps and all(
                one is not other for other, _ in over
            ):
                over.append((one, None))
        for one, why in over:
            one.end(why)
            ended(one)
        if asked_to_stop:
            still = [one for one in waiting if one.training is not None]
            if still:
                raise _of(still[0]).interrupted(stop, stack.step)


def _of(one: Asked) -> Training:
    assert one.training is not None
    return one.training


def _check(stack: Stack) -> None:
    """See :meth:`Stack.check`, for the samples of the step that comes next for the first."""
    with contextlib.ExitStack() as held:
        feeds = []
        for cell in stack.cells:
            guard = Guard(cell.parts, stacked=True)
            feeds.append(cell.feed(guard))
            held.callback(guard.__exit__)
        stack.check(Feeds(feeds).each(stack.step, 0))
