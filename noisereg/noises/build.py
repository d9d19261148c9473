"""Masks → spectrum, in parallel processes."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing.connection import wait

import numpy as np

from noisereg.errors import NoiseregError
from noisereg.noises.covariance import Array, total_power, unit_mean
from noisereg.noises.masks import SIGMA, SIGMAS, method, void_and_cluster
from noisereg.noises.spectrum_file import Spectrum
from noisereg.ranks import cores

CHUNK = 8
"""Masks a task. The partial sums are added in order, so the result does not depend on the number
of processes.
"""


LARGEST = 2**20
"""Pixels of a mask: the time it takes grows with their square."""
MOST_MASKS, MOST_JOBS = 1_000_000, 1024


def mask(height: int, width: int, seed: int, index: int, sigma: float = SIGMA) -> np.ndarray:
    """Mask ``index`` of ``seed``: (H, W) int64. Each has its own generator, so it depends on
    nothing else.
    """
    return void_and_cluster(height, width, np.random.default_rng([seed, index]), sigma)


def _chunk(height: int, width: int, seed: int, sigma: float, first: int, last: int) -> Array:
    masks = (mask(height, width, seed, i, sigma) for i in range(first, last))
    return total_power(masks, height, width)


def _end_with_parent() -> None:
    """A worker ends when the process that started it does, however that ended: a pool's workers
    would wait for work for good.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def build_spectrum(
    height: int,
    width: int,
    masks: int,
    seed: int = 0,
    jobs: int | None = None,
    progress: Callable[[int], None] | None = None,
    sigma: float = SIGMA,
) -> Spectrum:
    """The mean spectrum of ``masks`` void-and-cluster masks; ``progress`` is told how many are
    done, ``sigma`` is void-and-cluster's, in pixels.

    Raises:
        NoiseregError: for a size below 2×2 (one rank has no spectrum) or beyond :data:`LARGEST`,
        no masks, a negative seed, a sigma out of range, or no processes.
    """
    if height < 1 or width < 1 or height * width < 2:
        raise NoiseregError(
            f"masks of {height}×{width} pixels have no spectrum; expected `size=N` with N ≥ 2"
        )
    if height * width > LARGEST:
        raise NoiseregError(
            f"masks of {height}×{width} pixels take too long; expected at most {LARGEST:,} pixels "
            "(a larger noise is made from a spectrum of 64×64)"
        )
    if not SIGMAS[0] <= sigma <= SIGMAS[1]:
        raise NoiseregError(f"`sigma={sigma:g}`: expected {SIGMAS[0]:g} to {SIGMAS[1]:g} pixels")
    if masks < 1:
        raise NoiseregError(f"a spectrum needs at least one mask, not {masks}; give `masks=500`")
    if masks > MOST_MASKS:
        raise NoiseregError(
            f"`masks={masks}` take too long; expected at most {MOST_MASKS:,} (500 are enough)"
        )
    if seed < 0:
        raise NoiseregError(f"a seed is an integer from 0, not {seed}")
    if jobs is None:
        jobs = cores()
    if jobs < 1:
        raise NoiseregError(f"expected at least one process, not {jobs}; give `jobs=1`")
    if jobs > MOST_JOBS:
        raise NoiseregError(f"`jobs={jobs}`: expected at most {MOST_JOBS:,} processes")
    spans = [(first, min(first + CHUNK, masks)) for first in range(0, masks, CHUNK)]
    total = np.zeros((height, width))
    with ExitStack() as stack:
        for (_, last), part in zip(
            spans, _results(stack, (height, width, seed, sigma), spans, jobs), strict=True
        ):
            total += part
            if progress is not None:
                progress(last)
    return Spectrum(unit_mean(total), masks, seed, method(sigma))


def _results(
    stack: ExitStack,
    what: tuple[int, int, int, float],
    spans: list[tuple[int, int]],
    jobs: int,
) -> Iterator[Array]:
    if jobs == 1 or len(spans) == 1:
        return (_chunk(*what, *span) for span in spans)
    # Spawned, not forked: the caller may hold torch's threads.
    pool = stack.enter_context(
        ProcessPoolExecutor(
            min(jobs, len(spans)),
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_end_with_parent,
        )
    )
    return pool.map(functools.partial(_chunk, *what), *zip(*spans, strict=True))
