"""How a run is asked to stop, and says that it did."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


class Interrupted(Exception):
    """The run was asked to stop, saved, and stopped."""

    def __init__(self, signum: int, step: int, out: Path) -> None:
        super().__init__(f"stopped at step {step}")
        self.signum, self.step, self.out = signum, step, out


STOPPING = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
"""What terminals and schedulers send before they kill."""


class StopRequest:
    """A signal of :data:`STOPPING` asks for a checkpoint; a second Ctrl-C does not wait for it,
    and a third ends the process at once, as a kill does: a thread that does not return is not
    waited for. A rank whose torchrun was killed is asked, too: it would hold the run's folder and
    the ranks' port against the one that goes on.
    """

    def __init__(self) -> None:
        self.signum = 0
        self._torchrun = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None
        self._old: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for name in STOPPING:
                signum = getattr(signal, name, None)  # Windows has two of them
                # nohup has a run ignore SIGHUP, and means it.
                if signum is not None and signal.getsignal(signum) != signal.SIG_IGN:
                    self._old[signum] = signal.signal(signum, self._ask)
        return self

    def asked(self) -> bool:
        """Whether to save and stop."""
        if not self.signum and self._torchrun not in (None, os.getppid()):
            self.signum = signal.SIGTERM
        return bool(self.signum)

    def _ask(self, signum: int, frame: Any) -> None:
        if self.signum and signum == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            raise KeyboardInterrupt
        self.signum = signum

    def __exit__(self, *exc: Any) -> None:
        for signum, handler in self._old.items():
            signal.signal(signum, handler)


APART = 10
"""Steps between two times that ranks ask each other, at most."""


class Vote:
    """Whether any rank was asked to stop. The ranks ask each other once a second or every
    :data:`APART` steps, whichever comes first, and at every step where one takes longer: torchrun
    kills them 30 s after it was told to stop.
    """

    def __init__(
        self,
        asked: Callable[[], bool],
        largest: Callable[[Sequence[float]], list[float]],
        ranks: int,
        start: int,
    ) -> None:
        """``largest``: of each value over all ranks. ``start``: the steps that are done."""
        self.asked, self.largest, self.ranks = asked, largest, ranks
        self.last, self.next, self.since = start, start + 1, time.monotonic()

    def after(self, done: int) -> bool:
        """The same on all ranks, which all call it after each step."""
        if self.ranks == 1:
            return self.asked()
        if done < self.next:
            return False
        now = time.monotonic()
        pace = (now - self.since) / (done - self.last)
        asked, pace = self.largest([float(self.asked()), pace])
        self.last, self.since = done, now
        self.next = done + min(APART, max(1, int(1 / max(pace, 1e-6))))
        return bool(asked)
