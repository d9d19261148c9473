"""What a launcher's machines run: a command that begins once it holds its locks.

    python -m noisereg.sweeps.worker LOCK MEMBERS COMMAND…

Where a cell's process is no child of the sweep it cannot inherit the cell's lock, so it takes it
itself, and waits while another process trains the cell: one that outlived the worker that started
it, or one of another sweep command. MEMBERS is the lock of the sweep's definition, which is
shared. Imports no torch.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from noisereg.ownership import lock_of_children

WAIT_SECONDS = 0.5
PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Ask the kernel for a SIGTERM when the process that started this one is gone, however it
    went: the cell then saves and stops instead of training on where nobody counts it. Linux alone
    can; elsewhere nothing is done.
    """
    if not sys.platform.startswith("linux"):
        return
    import ctypes
    import signal

    parent = os.getppid()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != parent:  # gone before the kernel knew whom to watch
        os.kill(os.getpid(), signal.SIGTERM)


def main(arguments: Sequence[str]) -> None:
    """Take the locks and become the command."""
    lock, members, *command = arguments
    end_with_parent()
    kept = []  # open until the command has taken over
    for path, shared in ((Path(members), True), (Path(lock), False)):
        while (held := lock_of_children(path, shared=shared)) is None:
            time.sleep(WAIT_SECONDS)
        os.set_inheritable(held.fileno(), True)
        kept.append(held)
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
