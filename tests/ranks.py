"""Ranks without torchrun's start: forks of this process, which has imported torch."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any


def ranks(count: int, said: Path, work: Callable[..., int | None], *arguments: Any) -> None:
    """Call ``work`` in ``count`` processes under the variables that torchrun sets, on one thread
    each; what they print goes into the file ``said``. The call gives the exit code.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    processes = [
        multiprocessing.get_context("fork").Process(
            target=_rank, args=(rank, count, port, said, work, arguments)
        )
        for rank in range(count)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
    codes = [process.exitcode for process in processes]
    assert codes == [0] * count, said.read_text()[-3000:]


def _rank(
    rank: int,
    count: int,
    port: int,
    said: Path,
    work: Callable[..., int | None],
    arguments: tuple[Any, ...],
) -> None:
    """As noisereg/__main__.py: the interpreter's own end now and then aborts a rank."""
    with said.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
    variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    os.environ |= {name: str(value) for name, value in variables.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    code = 1
    try:
        code = work(*arguments) or 0
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
