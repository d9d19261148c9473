"""Every random number of a run, from a counter.

Philox (Salmon et al. 2011) maps (key, counter) to numbers without a state: the key is (seed,
stream), the counter's high words are (index, step). (Latents that are drawn on the device have a
law of their own: :mod:`noisereg.philox`.) So what sample ``index`` gets at ``step``
depends on nothing else: not on the batch it is in, the number of ranks, the device, or whether the
run was interrupted; and no two of them ever share a number.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from noisereg import philox

if TYPE_CHECKING:
    from noisereg.api import Noise, Process


Place = Literal["host", "device"]
"""Where latents are drawn: on the CPU, by numpy's Philox 4×64 and its normals, or where the
network is, by :mod:`noisereg.philox`. Each is a law of its own: a run keeps to one.
"""


class Stream(IntEnum):
    """What is drawn; streams of one seed are independent."""

    TRAIN_LATENTS = 0
    TIMES = 1
    ORDER = 2
    FLIPS = 3
    WEIGHTS = 4
    DROPOUT = 5
    SAMPLE_LATENTS = 6
    FRESH_DATA = 7
    TASK = 8
    BOUND = 9
    DEQUANTISATION = 10
    PROBES = 11
    POWER = 12


def generator(seed: int, stream: Stream, index: int = 0, step: int = 0) -> np.random.Generator:
    """The numbers of ``(seed, stream, index, step)``."""
    return np.random.Generator(
        np.random.Philox(key=[seed, int(stream)], counter=[0, 0, index, step])
    )


@contextlib.contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """torch's global generators start from ``seed`` in the block, and are the caller's after
    it.
    """
    cuda = torch.device(device).type == "cuda"
    with torch.random.fork_rng([torch.device(device)] if cuda else []):
        seed_torch(seed, device)
        yield


def seed_torch(seed: int, device: torch.device | str) -> None:
    """Start torch's global generators, of the CPU and of ``device``, from ``seed``."""
    # Without a GPU in use torch.manual_seed writes down the call's stack for when there is one,
    # which takes as long as drawing a batch of small images.
    if torch.device(device).type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def torch_seed(seed: int, stream: Stream, index: int = 0, step: int = 0) -> int:
    """A seed for torch's global generator: initial weights, dropout."""
    return int(generator(seed, stream, index, step).integers(2**63))


def latents(
    noise: Noise,
    shape: tuple[int, ...],
    seed: int,
    stream: Stream,
    indices: Sequence[int],
    step: int,
    device: torch.device | str = "cpu",
    place: Place = "host",
) -> dict[str, Tensor]:
    """The noise's latents for samples ``indices``, each (B, …) float32 on ``device``. Whatever the
    device is, they are the same: drawn on the CPU, or where they are used, by another law
    (:data:`Place`), and then equal to rounding.
    """
    shapes = noise.latents(shape)
    if place == "device":
        sizes = [math.prod(s) for s in shapes.values()]
        z = philox.normals(seed, int(stream), indices, step, sum(sizes), device)
        parts = z.split(sizes, 1)
        return {
            name: part.reshape(len(indices), *s)
            for (name, s), part in zip(shapes.items(), parts, strict=True)
        }
    # Memory that a GPU reads by itself: the copy waits for nothing.
    pinned = torch.device(device).type == "cuda"
    made = {name: torch.empty(len(indices), *s, pin_memory=pinned) for name, s in shapes.items()}
    drawn = {name: values.numpy() for name, values in made.items()}
    source = generator(seed, stream, 0, step)
    state = source.bit_generator.state
    for row, index in enumerate(indices):
        # What generator(seed, stream, index, step) starts from, at a tenth of its price.
        state["state"]["counter"][2] = index
        source.bit_generator.state = state
        for name in shapes:
            source.standard_normal(out=drawn[name][row], dtype=np.float32)
    return {name: values.to(device, non_blocking=True) for name, values in made.items()}


def times(
    seed: int,
    step: int,
    size: int,
    process: Process,
    antithetic: bool = False,
    law: Literal["sample", "batch"] = "sample",
) -> Tensor:
    """Training times of a whole batch, (size,) float64, by the process's own law.

    It is given u = (k − 1 + v)/T, k uniform on 1 … T and v on (0, 1), so that its default is k/T.
    ``antithetic``: neighbours are (u, 1 − u), as in BNDM's training, so that each pair covers both
    ends. ``law="batch"``: one time for the whole batch, that of its first sample.
    """
    T = process.T
    source = generator(seed, Stream.TIMES, step=step)
    count = 1 if law == "batch" else size // 2 if antithetic else size
    k = source.integers(1, T + 1, size=count)
    v = 0.5 + (source.random(count) - 0.5) * (
        1 - 2.0**-20
    )  # so that rounding cannot leave k's cell
    u = (k - 1 + v) / T
    if antithetic:
        u = np.stack([u, 1 - u], axis=1).reshape(-1)
    t = process.time(torch.from_numpy(u))
    return t.expand(size) if law == "batch" else t


class Order:
    """Which data a step sees: a new permutation each epoch, batches running on across its end."""

    def __init__(self, seed: int, length: int) -> None:
        self.seed = seed
        self.length = length
        self._epochs: dict[int, np.ndarray] = {}

    def _epoch(self, epoch: int) -> np.ndarray:
        if epoch not in self._epochs:
            self._epochs = {e: p for e, p in self._epochs.items() if e >= epoch - 1}
            self._epochs[epoch] = generator(self.seed, Stream.ORDER, step=epoch).permutation(
                self.length
            )
        return self._epochs[epoch]

    def __call__(self, start: int, stop: int) -> Tensor:
        """Indices, (stop − start,) int64, of the ``start``-th to ``stop``-th sample seen since the
        run began.
        """
        parts: list[np.ndarray] = []
        while start < stop:
            epoch, offset = divmod(start, self.length)
            part = self._epoch(epoch)[offset : offset + stop - start]
            parts.append(part)
            start += len(part)
        return torch.from_numpy(np.concatenate(parts))


def uniforms(seed: int, stream: Stream, step: int, size: int) -> Tensor:
    """One number in [0, 1) for each sample of a whole batch, (size,) float64."""
    return torch.from_numpy(generator(seed, stream, step=step).random(size))


def flips(seed: int, step: int, size: int) -> Tensor:
    """Which images of a whole batch are mirrored, (size,) bool."""
    return torch.from_numpy(generator(seed, Stream.FLIPS, step=step).random(size) < 0.5)


def double(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same latents in float64."""
    return {name: v.double() for name, v in values.items()}
