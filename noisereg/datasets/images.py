"""Images: decoded once and held as uint8, or decoded for each batch; one class for every source of
them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from noisereg.api import Batch, Context, Split
from noisereg.data import unit_range
from noisereg.datasets import ImageParams
from noisereg.datasets.decoding import heard, reading, to_pixels
from noisereg.datasets.splits import ResidentSplit, TwoSplits
from noisereg.errors import NoiseregError
from noisereg.memory import free_host_memory, held_on
from noisereg.ranks import cores, place
from noisereg.transfer import to_device

HOST_SHARE = 0.5
"""How much of the host's free memory data may take."""
BLOCK = 64
"""The most images that are handed to a thread at once."""
TIMED, STRETCH = 16, 4096
"""How many images, of how many, tell what each of them takes."""
DEAR, FAR = 400e-6, 1e-3
"""Seconds of work, or of waiting for a disk or a store, an image, from which they are shared out.
On two cores, of 32 to 256 pixels, PNG and JPEG, two threads took 1.7 × one thread's time at 130 µs
of work, as long at 250, 0.6 to 0.9 × from 400 to 700 and 0.6 × above.
"""
T = TypeVar("T")


class Source(Protocol):
    """Images and labels by index; a torchvision data set is one. Called from several threads."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Image.Image, int | None]: ...


class ImageSplit:
    """The images of a source at some indices, decoded."""

    def __init__(
        self,
        source: Source,
        indices: Sequence[int] | np.ndarray,
        size: int | None,
        channels: int,
        name: Callable[[int], str],
    ) -> None:
        self.source = source
        self.indices = indices
        self.size = size
        self.channels = channels
        self.name = name

    def __len__(self) -> int:
        return len(self.indices)

    def decode(self, position: int) -> tuple[np.ndarray, int]:
        """Pixels (C, H, W) and label (−1: none) of the image at ``position``.

        Raises:
            NoiseregError: names the image if it cannot be read.
        """
        index = int(self.indices[position])
        with reading(self.name(index)):
            image, label = self.source[index]
            with image:
                pixels = to_pixels(image, self.size, self.channels)
        return pixels, -1 if label is None else int(label)


class Decoders(ThreadPoolExecutor):
    """Threads that open and decode images, where that is faster than one: Pillow lets go of the
    interpreter's lock within the decoder alone, and what is done to a small image around that
    takes longer where it is handed from thread to thread.
    """

    def __init__(self) -> None:
        self.threads = max(1, min(16, cores() // place().local_world))
        self.stretches = 0
        self.shared = False
        """Whether images are shared out."""
        super().__init__(self.threads, thread_name_prefix="decode")

    def each(self, work: Callable[[int], T], positions: Sequence[int]) -> Iterator[T]:
        """``work`` of each position, in their order.

        The first few of a stretch (a batch, or some thousands of a whole data set) are done in the
        calling thread and timed, which decides for the others: of the 1st, 2nd, 4th, 8th, …
        stretch, since files may differ, and take longer while they are in no cache.
        """
        for start in range(0, len(positions), STRETCH):
            yield from self._stretch(work, positions[start : start + STRETCH])

    def _stretch(self, work: Callable[[int], T], positions: Sequence[int]) -> Iterator[T]:
        self.stretches += 1
        worked: list[float] = []
        waited: list[float] = []
        if self.stretches & (self.stretches - 1) == 0:
            # Far images are not waited for one by one.
            while len(worked) < min(TIMED, len(positions)) and sum(waited[2:]) < TIMED * FAR:
                wall, own = time.perf_counter(), time.thread_time()
                done = work(positions[len(worked)])
                worked.append(time.thread_time() - own)
                waited.append(time.perf_counter() - wall - worked[-1])
                yield done
            # The very first take libraries' loading, too.
            self.shared = self.threads > 1 and (
                _mean(worked[2:]) > DEAR or _mean(waited[2:]) > FAR
            )
        rest = positions[len(worked) :]
        if not self.shared:
            yield from map(work, rest)
            return
        for block in self.map(lambda some: list(map(work, some)), self._blocks(rest)):
            yield from block

    def _blocks(self, positions: Sequence[int]) -> list[Sequence[int]]:
        """What to hand to a thread at once, since handing it one small image takes as long as
        decoding it: four blocks a thread or more, so that none waits long for the last.
        """
        size = max(1, min(BLOCK, len(positions) // (4 * self.threads)))
        return [positions[start : start + size] for start in range(0, len(positions), size)]


def _mean(seconds: Sequence[float]) -> float:
    return sum(seconds) / max(1, len(seconds))


class StreamedSplit:
    """Images decoded for each batch."""

    def __init__(
        self, part: ImageSplit, labelled: bool, decoders: Decoders, device: torch.device | str
    ) -> None:
        self.part = part
        self.labelled = labelled
        self.decoders = decoders
        self.device = torch.device(device)
        self.said: set[str] = set()

    def __len__(self) -> int:
        return len(self.part)

    def batch(self, indices: Tensor) -> Batch:
        with heard(self._say_once):
            decoded = self.decoders.each(self.part.decode, indices.tolist())
            pixels, labels = zip(*decoded, strict=True)
        x = unit_range(to_device(torch.from_numpy(np.stack(pixels)), self.device))
        return Batch(x, to_device(torch.tensor(labels), self.device) if self.labelled else None)

    def _say_once(self, warning: str) -> None:
        if warning not in self.said:
            self.said.add(warning)
            print(f"noisereg: note: {warning}", file=sys.stderr)


def some_of(warnings: Sequence[str]) -> tuple[str, ...]:
    """The first few different warnings, and how many more there are."""
    different, most = list(dict.fromkeys(warnings)), 3
    more = len(different) - most
    also = (f"{more:,} more images have warnings like these",) if more > 0 else ()
    return (*different[:most], *also)


class ImageDataset(TwoSplits):
    """Base of the image data sets: a subclass finds the images, this class decodes, holds and
    splits them.
    """

    params: ImageParams
    levels = 256

    def __init__(self, params: ImageParams, ctx: Context) -> None:
        self.params = params
        self.flip = params.flip
        self.warnings: list[str] = []
        self.device = torch.device(ctx.device)

    def hold(self, train: ImageSplit, heldout: ImageSplit, height: int, width: int) -> None:
        """Set shape, splits, summary, and a note of what the image library warned of.

        Raises:
            NoiseregError: with ``memory=resident``, for more than there is room for.
        """
        self.shape = (train.channels, height, width)
        labelled = self.classes > 0
        where, place = self._place((len(train) + len(heldout)) * train.channels * height * width)
        decoders = Decoders()
        splits: list[Split] = []
        for part in (train, heldout):
            if where is None:
                splits.append(StreamedSplit(part, labelled, decoders, self.device))
            else:
                pixels, labels = self._decode(part, decoders)
                splits.append(
                    ResidentSplit(
                        pixels.to(where), labels.to(where) if labelled else None, self.device
                    )
                )
        self.train, self.heldout = splits
        if where is not None:
            decoders.shutdown()
        self.notes += some_of(self.warnings)
        size = "×".join(map(str, self.shape))
        self.summary = f"{len(train):,} images of {size} ({len(heldout):,} held out), {place}"

    def _decode(self, part: ImageSplit, decoders: Decoders) -> tuple[Tensor, Tensor]:
        pixels = torch.empty((len(part), *self.shape), dtype=torch.uint8)
        labels = np.empty(len(part), dtype=np.int64)
        view = pixels.numpy()

        def fill(position: int) -> None:
            view[position], labels[position] = part.decode(position)

        with heard(self.warnings.append):
            for _ in decoders.each(fill, range(len(part))):
                pass
        return pixels, torch.from_numpy(labels)

    def _place(self, needed: int) -> tuple[torch.device | None, str]:
        """Where ``needed`` bytes of pixels are held (None: nowhere, they are streamed), and how
        the summary says it.
        """
        memory = self.params.memory
        if memory == "stream":
            return None, "streamed"
        room = int(free_host_memory() * HOST_SHARE)
        if needed <= room:
            where = held_on(needed, self.device)
            if self.device.type != "cuda":
                return where, "in memory"
            return where, "in GPU memory" if where.type == "cuda" else "in host memory"
        if memory == "resident":
            raise NoiseregError(
                f"memory=resident: the images take {needed / 2**30:.1f} GiB and there is room for "
                f"{room / 2**30:.1f} GiB; make size smaller or type memory=auto, which streams "
                "them"
            )
        return None, "streamed (more than fits in memory)"
