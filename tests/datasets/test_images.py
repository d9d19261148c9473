"""How images are shared out among threads."""

from __future__ import annotations

import threading
import time

import pytest

from noisereg.datasets import images
from noisereg.datasets.images import TIMED, Decoders
from noisereg.errors import NoiseregError


@pytest.fixture
def decoders():
    with Decoders() as found:
        found.threads = 2
        yield found


class Work:
    """A position and its square, after a while; in which threads."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds  # asleep, as one waits for a disk
        self.threads: set[str] = set()

    def __call__(self, position: int) -> tuple[int, int]:
        time.sleep(self.seconds)
        self.threads.add(threading.current_thread().name)
        return position, position**2


@pytest.mark.parametrize("seconds", [0, 0.002])
@pytest.mark.parametrize("count", [0, 1, 2, 3, TIMED, TIMED + 1, 100])
def test_work_is_done_once_each_and_in_order(decoders, seconds, count):
    for _ in range(3):
        positions = list(range(count, 0, -1))
        assert list(decoders.each(Work(seconds), positions)) == [(k, k**2) for k in positions]


def test_what_is_quick_stays_in_one_thread_and_what_is_slow_does_not(decoders):
    quick, slow = Work(0), Work(0.002)
    list(decoders.each(quick, range(100)))
    assert quick.threads == {threading.current_thread().name}
    list(decoders.each(slow, range(100)))
    assert any(name.startswith("decode") for name in slow.threads)


def test_far_images_are_not_waited_for_one_after_another(decoders):
    far = Work(0.02)
    results = decoders.each(far, range(100))
    assert [next(results)[0] for _ in range(4)] == [0, 1, 2, 3]
    assert any(name.startswith("decode") for name in far.threads)


def test_what_takes_work_is_shared_out_too(decoders):
    def dear(position: int) -> str:
        began = time.thread_time()
        while time.thread_time() - began < 1e-3:
            pass
        return threading.current_thread().name

    assert any(name.startswith("decode") for name in decoders.each(dear, range(100)))


def test_many_images_are_looked_at_again(decoders, monkeypatch):
    """Some thousands of cheap ones decide nothing for what follows them."""
    monkeypatch.setattr(images, "STRETCH", 50)
    slow, names = Work(0.002), []
    for position, _ in decoders.each(lambda k: (Work(0) if k < 50 else slow)(k), range(100)):
        names.append(position)
    assert names == list(range(100))
    assert any(name.startswith("decode") for name in slow.threads)


def test_it_is_found_out_anew_when_files_have_come_to_be_cached(decoders):
    list(decoders.each(Work(0.002), range(100)))
    assert decoders.shared
    list(decoders.each(Work(0), range(100)))
    assert not decoders.shared


@pytest.mark.parametrize("seconds", [0, 0.002])
@pytest.mark.parametrize("bad", [0, TIMED - 1, TIMED, TIMED + 1, 99])
def test_an_image_that_cannot_be_read_is_told(decoders, seconds, bad):
    work = Work(seconds)

    def some(position: int) -> tuple[int, int]:
        if position == bad:
            raise NoiseregError(f"{bad}.png cannot be read")
        return work(position)

    with pytest.raises(NoiseregError, match=f"^{bad}.png cannot"):
        list(decoders.each(some, range(100)))
