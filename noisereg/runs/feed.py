"""Micro-batches, prepared one ahead in a thread where drawing and decoding can hide behind the
network.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from noisereg import draws
from noisereg.api import Noise, Process, Split, Task
from noisereg.datasets.splits import PointSplit, ResidentSplit
from noisereg.denoisers.time import one_if_shared
from noisereg.draws import Stream
from noisereg.runs.config import Config
from noisereg.runs.runtime import Runtime
from noisereg.transfer import to_device


@dataclass(frozen=True)
class MicroBatch:
    """One rank's part of one micro-batch, on its device."""

    x0: Tensor
    cond: Tensor | None
    t: Tensor
    latents: dict[str, Tensor]


@dataclass
class Feed:
    """What each step sees, as a function of (seed, step, global index) alone."""

    config: Config
    split: Split
    shape: tuple[int, ...]
    flip: bool
    task: Task
    noise: Noise
    process: Process
    runtime: Runtime

    def __post_init__(self) -> None:
        self.order = draws.Order(self.config.seed, len(self.split))
        resident = isinstance(self.split, PointSplit | ResidentSplit)
        self.ahead = self.runtime.device.type != "cpu" or not resident
        """Whether a thread prepares the next micro-batch: of what is in memory that is only draws,
        and on a CPU the network's own threads would wait for the one that it takes a core from.
        """

    def prepare(self, step: int, micro: int, drawn: dict[Any, Any] | None = None) -> MicroBatch:
        """This rank's part of the ``micro``-th micro-batch of ``step``. ``drawn``: what runs that
        differ in their data or in numbers alone draw alike is drawn once for all of them.
        """
        drawn = {} if drawn is None else drawn
        train, seed, device = self.config.train, self.config.seed, self.runtime.device
        size = train.batch_size // train.accumulate
        share = self.runtime.share(size)
        first, last = micro * size + share.start, micro * size + share.stop
        start = step * train.batch_size
        batch = self.split.batch(self.order(start + first, start + last))
        if self.flip:
            mirrored = draws.flips(seed, step, train.batch_size)[first:last]
            mirrored = to_device(mirrored, batch.x.device)
            flipped = torch.where(mirrored.reshape(-1, 1, 1, 1), batch.x.flip(-1), batch.x)
            batch = type(batch)(flipped, batch.labels)
        key = seed, train.times
        if key not in drawn:
            t = draws.times(
                seed, step, train.batch_size, self.process, train.antithetic, train.times
            )[first:last]
            # What is one number in memory is one on the device, too.
            drawn[key] = to_device(one_if_shared(t), device).expand(len(t))
        if seed not in drawn:
            drawn[seed] = draws.latents(
                self.noise,
                self.shape,
                seed,
                Stream.TRAIN_LATENTS,
                range(first, last),
                step,
                device,
                self.config.draws,
            )
        cond = self.task.cond(batch)
        if cond is not None:
            u = draws.uniforms(seed, Stream.TASK, step, train.batch_size)[first:last]
            cond = self.task.withhold(cond, to_device(u, cond.device))
        x0 = to_device(batch.x, device)
        if self.runtime.channels_last and x0.ndim == 4:
            x0 = x0.to(memory_format=torch.channels_last)
        told = None if cond is None else to_device(cond, device)
        return MicroBatch(x0, told, drawn[key], drawn[seed])

    def run(self, start: int, stop: int) -> Generator[MicroBatch, None, None]:
        """All micro-batches of steps ``start`` to ``stop`` − 1, in order."""
        return in_order(self.prepare, start, stop, self.config.train.accumulate, self.ahead)


Made = TypeVar("Made")


def in_order(
    prepare: Callable[[int, int], Made], start: int, stop: int, accumulate: int, ahead: bool
) -> Generator[Made, None, None]:
    """``prepare(step, micro)`` of steps ``start`` to ``stop`` − 1; with ``ahead`` each is made in
    a thread while the one before it is used.
    """
    places = ((step, micro) for step in range(start, stop) for micro in range(accumulate))
    if not ahead:
        for place in places:
            yield prepare(*place)
        return
    with ThreadPoolExecutor(1) as thread:
        waiting: Future[Made] | None = None
        for place in places:
            ready, waiting = waiting, thread.submit(prepare, *place)
            if ready is not None:
                yield ready.result()
        if waiting is not None:
            yield waiting.result()
