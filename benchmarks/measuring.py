"""How every benchmark here measures, and what it writes.

Contenders are asked in turn for one *segment* (so many steps or calls), so that what else the
machine does meets all of them alike; those that are loops, or whose memory is asked, have
processes of their own, which stay. The first segment of each
is thrown away. A row gives the median of the others and their quartiles, in wall-clock and in CPU
seconds (of all its threads and child processes); where the machine is shared, CPU seconds are what
to compare. A goal is judged on the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
_SCRATCH: list[Path] = []
"""Folders that :func:`scratch` has made."""


@dataclass(frozen=True)
class Segment:
    """What one segment took."""

    wall: float
    cpu: float


def cpu_seconds() -> float:
    """Of this process and its children, living and gone."""
    import psutil

    own = psutil.Process()
    times = [own.cpu_times()]
    for child in own.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            times.append(child.cpu_times())
    gone = times[0].children_user + times[0].children_system
    return sum(t.user + t.system for t in times) + gone


def synchronise() -> None:
    """Wait for what a GPU was asked to do: without one in use there is nothing to wait for."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def on(given: argparse.Namespace) -> str:
    """What a result measured on ``--device`` ends with in its name."""
    return "" if given.device == "cpu" else "-gpu"


class Gate:
    """In a contender's process: between two calls lies one segment."""

    def __init__(self) -> None:
        # What libraries print must not be taken for answers.
        self._answers = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)
        self._began: tuple[float, float] | None = None
        self.extra: dict[str, Any] = {}

    def __call__(self) -> None:
        """End a segment, say what it took, wait to be asked for the next; leaves the process when
        there is none."""
        synchronise()
        if self._began is not None:
            wall, cpu = self._began
            took = {"wall": time.perf_counter() - wall, "cpu": cpu_seconds() - cpu}
            self._answers.write(json.dumps(took | self.extra) + "\n")
        else:
            self._answers.write("{}\n")
        if not sys.stdin.readline():
            for folder in _SCRATCH:
                shutil.rmtree(folder, ignore_errors=True)
            os._exit(0)  # whatever loop this is in
        self._began = time.perf_counter(), cpu_seconds()

    def repeat(self, segment: Callable[[], Any]) -> None:
        """For a contender that is no loop of its own."""
        while True:
            self()
            segment()


class Contender:
    """A process that runs segments when asked."""

    def __init__(self, script: Path, name: str, threads: int, arguments: Sequence[str]) -> None:
        self.name = name
        environment = os.environ | {
            name: str(threads)
            for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        }
        command = [sys.executable, "-P", str(script), "--contender", name, *arguments]
        command += ["--threads", str(threads)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if not os.environ.get("NOISEREG_DEBUG") else None,
            text=True,
            env=environment,
        )

    def answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            error = self._process.stderr.read() if self._process.stderr else ""
            raise SystemExit(f"{self.name} failed: {error[-2000:]}")
        return json.loads(line)

    def segment(self) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return self.answer()

    def end(self) -> None:
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
        self._process.wait()


def interleaved(
    script: str, names: Sequence[str], rounds: int, threads: int, *arguments: str
) -> dict[str, list[Segment]]:
    """``rounds`` segments of each contender, in turn; every other round in the other order."""
    contenders: list[Contender] = []
    found: dict[str, list[Segment]] = {name: [] for name in names}
    try:
        for name in names:
            contenders.append(Contender(Path(script), name, threads, arguments))
            contenders[-1].answer()  # it is ready
        for number in range(rounds + 1):
            for contender in contenders if number % 2 else reversed(contenders):
                took = contender.segment()
                if number:
                    found[contender.name].append(Segment(took["wall"], took["cpu"]))
            print(".", end="", file=sys.stderr, flush=True)
    finally:
        for contender in contenders:
            contender.end()
    print(file=sys.stderr)
    return found


def interleaved_calls(
    calls: dict[str, Callable[[], Any]], rounds: int
) -> dict[str, list[Segment]]:
    """The same in this process, for what is a call and whose memory is not asked."""
    found: dict[str, list[Segment]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        synchronise()
        for name in list(calls) if number % 2 else list(reversed(calls)):
            wall, cpu = time.perf_counter(), time.process_time()
            calls[name]()
            synchronise()
            took = Segment(time.perf_counter() - wall, time.process_time() - cpu)
            if number:
                found[name].append(took)
        print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return found


@dataclass
class Row:
    """One contender's line."""

    what: str
    name: str
    threads: int
    unit: str
    amount: float
    """How many of ``unit`` a segment does."""
    wall: list[float]
    cpu: list[float]
    notes: str = ""


@dataclass
class Goal:
    """One aim, and whether it was met."""

    aim: str
    measured: str
    met: bool
    reason: str = ""
    """Why it was missed, and what was tried; printed only then."""


@dataclass
class Result:
    """What one benchmark writes."""

    name: str
    title: str
    text: str
    rows: list[Row] = field(default_factory=list)
    tables: list[dict[str, Any]] = field(default_factory=list)
    """Further tables: ``{"title", "header", "rows"}``, all text."""
    goals: list[Goal] = field(default_factory=list)

    def add(
        self,
        what: str,
        found: dict[str, list[Segment]],
        threads: int,
        unit: str,
        amount: float | dict[str, float],
    ) -> None:
        for name, segments in found.items():
            each = amount[name] if isinstance(amount, dict) else amount
            wall, cpu = [s.wall for s in segments], [s.cpu for s in segments]
            self.rows.append(Row(what, name, threads, unit, each, wall, cpu))

    def write(self) -> None:
        RESULTS.mkdir(exist_ok=True)
        record = asdict(self) | {"machine": machine(), "command": command()}
        path = RESULTS / f"{self.name}.json"
        path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", "utf-8")
        for goal in self.goals:
            print(f"{'met   ' if goal.met else 'missed'}  {goal.aim}: {goal.measured}")
        print(f"{path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")


def ratio(found: dict[str, list[Segment]], above: str, below: str, measure: str = "cpu") -> float:
    """The median over rounds of what ``above`` takes for each second of ``below``."""
    pairs = zip(found[above], found[below], strict=True)
    return statistics.median(getattr(a, measure) / getattr(b, measure) for a, b in pairs)


def machine() -> dict[str, Any]:
    import torch

    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(x.split(":")[1].strip() for x in lines if x.startswith("model name"))
    return {
        "cpu": name,
        "cores": len(os.sched_getaffinity(0)),
        "capability": torch.backends.cpu.get_cpu_capability(),
        **({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "load": round(os.getloadavg()[0], 1),
    }


def command() -> str:
    return " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])


def peak_mib() -> float:
    """The most MiB this process has had in memory since :func:`reset_peak`, or since it began."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(x for x in lines if x.startswith("VmHWM")).split()[1]) / 1024


def reset_peak() -> float:
    """Forget the peak so far; the MiB in memory now."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_mib()


def arguments(doc: str, rounds: int = 4, gpu: bool = False, **defaults: Any) -> argparse.Namespace:
    """The options that all benchmarks have, and some of one's own with their defaults; ``gpu``: it
    can be measured on one.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=rounds, help="segments of each contender")
    if gpu:
        parser.add_argument("--device", default="cpu", help="cpu, or cuda")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    for name, default in defaults.items():
        option = "--" + name.replace("_", "-")
        if isinstance(default, bool):
            parser.add_argument(option, action="store_true")
        else:
            parser.add_argument(option, type=type(default), default=default)
    parser.set_defaults(device="cpu")
    given = parser.parse_args()
    if given.device == "cpu":
        # No contender, and no process of one, is to find a GPU; torch is not imported yet.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    return given


def packages(*names: str) -> str:
    """``name version, …`` of what is compared with."""
    from importlib.metadata import version

    return ", ".join(f"{name} {version(name)}" for name in names)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder that is gone afterwards."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="noisereg-bench-") as folder:
        _SCRATCH.append(Path(folder))
        yield Path(folder)


__all__ = [
    "Contender",
    "Gate",
    "Goal",
    "Result",
    "Row",
    "Segment",
    "arguments",
    "cpu_seconds",
    "interleaved",
    "interleaved_calls",
    "machine",
    "on",
    "packages",
    "peak_mib",
    "ratio",
    "reset_peak",
    "scratch",
]
