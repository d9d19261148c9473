"""How often ranks ask each other whether to stop."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from noisereg.runs import stopping
from noisereg.runs.stopping import Vote


@pytest.mark.parametrize(
    ("seconds", "at"),
    [
        (5.0, [1, 2, 3, 4, 5, 6]),  # a step longer than a second: at every one
        (0.3, [1, 4, 7, 10]),
        (0.001, [1, 11, 21, 31]),
    ],
)
def test_ranks_ask_each_other_once_a_second_or_every_ten_steps(
    monkeypatch: pytest.MonkeyPatch, seconds: float, at: list[int]
) -> None:
    clock = [0.0]
    monkeypatch.setattr(stopping.time, "monotonic", lambda: clock[0])
    asked: list[int] = []
    step = 0

    def largest(values: Sequence[float]) -> list[float]:
        asked.append(step)
        return list(values)

    vote = Vote(lambda: False, largest, 2, 0)
    for step in range(1, at[-1] + 1):
        clock[0] += seconds
        assert not vote.after(step)
    assert asked == at


def test_one_rank_that_is_asked_stops_both_at_the_same_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The slower one's pace counts, which the faster does not see by itself."""
    clock = [0.0]
    monkeypatch.setattr(stopping.time, "monotonic", lambda: clock[0])
    given: list[list[float]] = []

    def largest(values: Sequence[float]) -> list[float]:
        """Of the two, which call it one after the other: the last two that were given."""
        given.append(list(values))
        return [max(v) for v in zip(list(values), other(), strict=True)]

    def other() -> list[float]:
        return [float(told[1]), 4.0]

    told = [False, False]
    votes = [Vote(lambda k=k: told[k], largest, 2, 0) for k in range(2)]  # type: ignore[misc]
    for step in range(1, 4):
        clock[0] += 0.001
        told[1] = step == 3
        assert [vote.after(step) for vote in votes] == [step == 3] * 2
    assert len(given) == 6  # at every step, as the slower one's pace asks for


def test_a_run_of_one_rank_is_asked_after_every_step() -> None:
    def largest(values: Sequence[float]) -> list[float]:
        raise AssertionError

    asked = [False]
    vote = Vote(lambda: asked[0], largest, 1, 0)
    assert not vote.after(1)
    asked[0] = True
    assert vote.after(2)
