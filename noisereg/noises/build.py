"""Masks → spectrum, in parallel processes."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack

import numpy as np

from noisereg.errors import NoiseregError
from noisereg.noises.covariance import Array, total_power, unit_mean
from noisereg.noises.masks import METHOD, void_and_cluster
from noisereg.noises.spectrum_file import Spectrum

CHUNK = 8
"""Masks a task. The partial sums are added in order, so the result does not depend on the number
of processes.
"""


def mask(height: int, width: int, seed: int, index: int) -> np.ndarray:
    """Mask ``index`` of ``seed``: (H, W) int64. Each has its own generator, so it depends on
    nothing else.
    """
    return void_and_cluster(height, width, np.random.default_rng([seed, index]))


def _chunk(height: int, width: int, seed: int, first: int, last: int) -> Array:
    return total_power((mask(height, width, seed, i) for i in range(first, last)), height, width)


def build_spectrum(
    height: int,
    width: int,
    masks: int,
    seed: int = 0,
    jobs: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Spectrum:
    """The mean spectrum of ``masks`` void-and-cluster masks; ``progress`` is told how many are
    done.

    Raises:
        NoiseregError: for a size below 2×2 (one rank has no spectrum), no masks, a negative seed,
        or no processes.
    """
    if height < 1 or width < 1 or height * width < 2:
        raise NoiseregError(
            f"masks of {height}×{width} pixels have no spectrum; expected `size=N` with N ≥ 2"
        )
    if masks < 1:
        raise NoiseregError(f"a spectrum needs at least one mask, not {masks}; give `masks=500`")
    if seed < 0:
        raise NoiseregError(f"a seed is an integer from 0, not {seed}")
    if jobs is None:
        jobs = (
            len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count() or 1
        )
    if jobs < 1:
        raise NoiseregError(f"expected at least one process, not {jobs}; give `jobs=1`")
    spans = [(first, min(first + CHUNK, masks)) for first in range(0, masks, CHUNK)]
    total = np.zeros((height, width))
    with ExitStack() as stack:
        for (_, last), part in zip(
            spans, _results(stack, height, width, seed, spans, jobs), strict=True
        ):
            total += part
            if progress is not None:
                progress(last)
    return Spectrum(unit_mean(total), masks, seed, METHOD)


def _results(
    stack: ExitStack, height: int, width: int, seed: int, spans: list[tuple[int, int]], jobs: int
) -> Iterator[Array]:
    if jobs == 1 or len(spans) == 1:
        return (_chunk(height, width, seed, *span) for span in spans)
    # Spawned, not forked: the caller may hold torch's threads.
    pool = stack.enter_context(
        ProcessPoolExecutor(min(jobs, len(spans)), mp_context=multiprocessing.get_context("spawn"))
    )
    firsts, lasts = zip(*spans, strict=True)
    k = len(spans)
    return pool.map(_chunk, [height] * k, [width] * k, [seed] * k, firsts, lasts)
