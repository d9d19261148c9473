"""What a step grid must do (docs/theory.md, §5)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from noisereg.api import Grid, Process
from noisereg.testing.kinds.common import EXACT, try_bounds, untouched_generators
from noisereg.testing.kit import Subject, check, expect

SHAPE = (1, 8, 8)
PROCESSES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("iadb", {}),
    ("ddpm", {}),
    ("ddpm", {"zero_terminal_snr": True}),
    ("ddpm", {"schedule": "cosine"}),
)


def processes(subject: Subject) -> list[Process]:
    noise = subject.registry.build("noise", "white", {}, subject.context(shape=SHAPE))
    context = subject.context(shape=SHAPE, noise=noise)
    return [subject.registry.build("process", name, given, context) for name, given in PROCESSES]


def check_grid(times: Tensor, where: str) -> None:
    expect(times.dtype == torch.float64, f"{where} gives {times.dtype}; expected float64")
    expect(times.ndim == 1 and len(times) >= 2, f"{where} gives {tuple(times.shape)}")
    expect(
        float(times[0]) == 1 and float(times[-1]) == 0,
        f"{where} runs from {float(times[0]):g} to {float(times[-1]):g}; expected 1 to 0",
    )
    rising = times[1:][times[1:] >= times[:-1]]
    expect(not len(rising), f"{where} does not fall at t = {rising[:1].tolist()}")


@check("grid", EXACT)
def falls_from_1_to_0(subject: Subject) -> None:
    """times(process, steps) falls strictly from 1 to 0, in float64, under every built-in process,
    and has steps + 1 of them unless its times are given."""
    grid: Grid = subject.build()
    lengths = []
    for process in processes(subject):
        for steps in (1, 2, 3, 50, 1000):
            times = grid.times(process, steps)
            check_grid(times, f"times({type(process).__name__}, {steps})")
            lengths.append((steps, len(times) - 1))
    given = len({found for _, found in lengths}) == 1
    wrong = [(steps, found) for steps, found in lengths if found != steps]
    expect(
        given or not wrong,
        f"asked for {wrong[0][0] if wrong else 0} steps it gives {wrong[0][1] if wrong else 0}",
    )


@check("grid", EXACT)
def is_the_same_every_time(subject: Subject) -> None:
    """The same process and number of steps give the same times, drawn from no generator."""
    grid: Grid = subject.build()
    (process, *_) = processes(subject)
    with untouched_generators("times"):
        one, two = grid.times(process, 20), grid.times(process, 20)
    expect(torch.equal(one, two), "asked twice, it gives other times")


@check("grid", EXACT)
def works_at_its_declared_bounds(subject: Subject) -> None:
    """With each numeric parameter at each of its inclusive bounds it gives a grid, or refuses with
    a reason."""

    def attempt(changed: dict[str, Any]) -> None:
        grid: Grid = subject.build(changed)
        for process in processes(subject):
            check_grid(grid.times(process, 20), "times")

    try_bounds(subject, attempt)
