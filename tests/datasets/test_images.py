"""How images are shared out among threads; time is what each piece of work says it takes."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from noisereg.datasets import images
from noisereg.datasets.images import DEAR, FAR, TIMED, Decoders
from noisereg.errors import NoiseregError


class Clock:
    """In place of the module ``time``."""

    def __init__(self) -> None:
        self.wall = self.own = 0.0

    def perf_counter(self) -> float:
        return self.wall

    def thread_time(self) -> float:
        return self.own

    def pass_(self, working: float, waiting: float) -> None:
        self.own += working
        self.wall += working + waiting


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(images, "time", clock)
    return clock


@pytest.fixture
def decoders():
    with Decoders() as found:
        found.threads = 2
        yield found


QUICK, DEAR_ONES, FAR_ONES = (DEAR / 2, FAR / 2), (2 * DEAR, 0.0), (0.0, 2 * FAR)
"""Seconds of work and of waiting."""


class Work:
    """Of a position itself, in so long; in which threads."""

    def __init__(self, clock: Clock, takes: Callable[[int], tuple[float, float]]) -> None:
        self.clock = clock
        self.takes = takes
        self.alone: list[int] = []
        self.shared: list[int] = []

    def __call__(self, position: int) -> int:
        self.clock.pass_(*self.takes(position))
        shared = threading.current_thread().name.startswith("decode")
        (self.shared if shared else self.alone).append(position)
        return position


@pytest.mark.parametrize("takes", [QUICK, DEAR_ONES, FAR_ONES])
@pytest.mark.parametrize("count", [0, 1, 2, 3, TIMED, TIMED + 1, 100])
def test_work_is_done_once_each_and_in_order(decoders, clock, takes, count):
    for _ in range(3):
        work = Work(clock, lambda _: takes)
        positions = list(range(count, 0, -1))
        assert list(decoders.each(work, positions)) == positions
        assert sorted(work.alone + work.shared) == sorted(positions)


def test_what_is_quick_stays_in_one_thread(decoders, clock):
    work = Work(clock, lambda _: QUICK)
    list(decoders.each(work, range(100)))
    assert work.alone == list(range(100))


@pytest.mark.parametrize("takes", [DEAR_ONES, FAR_ONES])
def test_what_takes_long_is_shared_out_but_for_what_is_timed(decoders, clock, takes):
    work = Work(clock, lambda _: takes)
    list(decoders.each(work, range(100)))
    assert work.alone == list(range(len(work.alone)))
    assert 2 < len(work.alone) <= TIMED
    assert sorted(work.shared) == list(range(len(work.alone), 100))


def test_with_one_thread_nothing_is_shared_out(decoders, clock):
    decoders.threads = 1
    work = Work(clock, lambda _: DEAR_ONES)
    list(decoders.each(work, range(100)))
    assert work.shared == []


def test_the_first_two_take_libraries_loading_too(decoders, clock):
    work = Work(clock, lambda k: (1.0, 1.0) if k < 2 else QUICK)
    list(decoders.each(work, range(100)))
    assert work.shared == []


def test_far_images_are_not_waited_for_one_after_another(decoders, clock):
    work = Work(clock, lambda _: (0.0, 1.0))
    list(decoders.each(work, range(100)))
    assert work.alone == [0, 1, 2]


def test_it_is_found_out_anew_in_the_second_fourth_eighth_stretch(decoders, clock):
    timed = []
    for call in range(1, 17):
        work = Work(clock, lambda _: FAR_ONES)
        list(decoders.each(work, range(100)))
        timed += [call] * bool(work.alone)
    assert timed == [1, 2, 4, 8, 16]
    for _ in range(17, 33):
        work = Work(clock, lambda _: QUICK)
        list(decoders.each(work, range(100)))
    assert work.shared == []  # they have come to be cached


def test_many_images_are_looked_at_again(decoders, clock, monkeypatch):
    """Some thousands of quick ones decide nothing for what follows them."""
    monkeypatch.setattr(images, "STRETCH", 50)
    work = Work(clock, lambda k: QUICK if k < 50 else DEAR_ONES)
    assert list(decoders.each(work, range(100))) == list(range(100))
    assert sorted(work.shared) == list(range(50 + TIMED, 100))


@pytest.mark.parametrize("takes", [QUICK, DEAR_ONES])
@pytest.mark.parametrize("bad", [0, TIMED - 1, TIMED, TIMED + 1, 99])
def test_an_image_that_cannot_be_read_is_told(decoders, clock, takes, bad):
    work = Work(clock, lambda _: takes)

    def some(position: int) -> int:
        if position == bad:
            raise NoiseregError(f"{bad}.png cannot be read")
        return work(position)

    with pytest.raises(NoiseregError, match=f"^{bad}.png cannot"):
        list(decoders.each(some, range(100)))
