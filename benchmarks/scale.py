"""Two ranks beside one, and the memory of what grows.

    python benchmarks/scale.py [--rounds 2]

Ranks: ``noisereg train`` of the small U-Net at 3×32×32, one thread a rank, the same batch a rank;
two gloo ranks under torchrun beside one rank alone and beside two trainings at once that share
nothing, interleaved. Where the machine does other work, wall time says nothing, and the CPU
seconds that an image takes are judged (in which what a rank waits for the other is not). Memory:
the peak of a process that does the thing at 1 ×, 10 × and 100 × the number, each in a process of
its own.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from measuring import Goal, Result, arguments, cpu_seconds, peak_mib, scratch


def cells(count: int, folder: Path) -> None:
    """The cells of a sweep, configured and written."""
    from noisereg.runs.config import validate
    from noisereg.sweeps.grid import Grid, make_cells, write

    base, grid = validate({}).dump(), Grid(noise=["white"], seeds=count)
    made = make_cells(base, grid)
    write(folder / "sweep", base, grid, made)
    assert len(made) == count


def rows(count: int, folder: Path) -> None:
    """The lines of a run's metrics.jsonl, read when it is resumed."""
    from noisereg.runs.logged import Log

    values = {"loss": 0.123456, "mse": 0.123456, "lr": 0.001, "images_per_second": 1234.56}
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(count):
            file.write(json.dumps({"step": step, **values}) + "\n")
    assert len(Log.read(folder).lines) == count


def images(count: int, folder: Path) -> None:
    """A folder of images, held in memory."""
    import numpy as np
    from PIL import Image

    import noisereg

    (folder / "images").mkdir()
    first = folder / "first.png"
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(pixels).save(first)
    for number in range(count):
        os.link(first, folder / "images" / f"{number:06d}.png")
    noisereg.build("dataset", f"folder:path={folder / 'images'}")


def samples(count: int, folder: Path) -> None:
    """Samples of a run, drawn, kept and measured by eval."""
    import noisereg

    noisereg.train(train={"steps": 1}, out=folder / "run")
    noisereg.evaluate([folder / "run"], ["fd"], num=count, steps=[2])


GROWS: dict[str, tuple[Callable[[int, Path], None], int]] = {
    "cells of a sweep": (cells, 10),
    "rows of metrics.jsonl": (rows, 2000),
    "images of 3×32×32 in a folder": (images, 200),
    "samples of 1×8×8 in eval": (samples, 100),
}


def peak_of(name: str, count: int) -> float:
    command = [sys.executable, "-P", __file__, "--contender", name, "--count", str(count)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr[-2000:]}")
    return float(done.stdout.split()[-1])


STEPS = (4, 16)
"""Of the shorter and the longer training; what one takes more than the other is of steps alone."""


ALONE, RANKS, APART = (1, 1), (2, 1), (1, 2)
"""Ranks of a training, and how many trainings there are side by side."""


def trained(
    how: tuple[int, int], folder: Path, batch: int, steps: int
) -> tuple[list[float], float]:
    """Images a second of all ranks and trainings by the lines of metrics.jsonl but the first, and
    CPU seconds of the whole.
    """
    before, (ranks, beside) = cpu_seconds(), how
    started = [start(ranks, folder / f"run{k}", batch, steps) for k in range(beside)]
    ended = [process.communicate()[1] for _, process in started]
    lines = []
    for (out, process), errors in zip(started, ended, strict=True):
        if process.returncode:
            raise SystemExit(errors[-2000:])
        lines.append([json.loads(x) for x in (out / "metrics.jsonl").read_text().splitlines()][1:])
    rates = [sum(x["images_per_second"] for x in at) for at in zip(*lines, strict=True)]
    return rates, cpu_seconds() - before


def start(ranks: int, out: Path, batch: int, steps: int) -> tuple[Path, subprocess.Popen[str]]:
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-P", "-m"]
    if ranks > 1:
        command += ["torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m"]
    command += ["noisereg", "train", "--data", str(out.parent / "images.npz"), "--out", str(out)]
    command += ["--denoiser", "unet", "--steps", str(steps), "--batch-size", str(ranks * batch)]
    command += ["--set", "train.log_every=2", "--set", "runtime.device=cpu"]
    command += ["--set", "sample.steps=1"]
    return out, subprocess.Popen(
        command,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def main() -> None:
    given = arguments(__doc__, count=0, rounds=2)
    if given.contender:
        with scratch() as folder:
            GROWS[given.contender][0](given.count, folder)
        print(peak_mib())
        return
    import numpy as np

    result = Result(
        "scale",
        "Scale",
        "Peak memory, MiB, of a process that does the thing at 1 ×, 10 × and 100 × the number, "
        "torch and all.",
    )
    table, worse = [], []
    for name, (_, unit) in GROWS.items():
        peaks = [peak_of(name, unit * times) for times in (1, 10, 100)]
        each = (peaks[2] - peaks[0]) / (99 * unit) * 1024
        table.append(
            [f"{name}: {unit:,}, × 10, × 100", *(f"{p:,.0f}" for p in peaks), f"{each:,.2f}"]
        )
        # Beyond 20 MiB, what an allocator may round up, and a quarter over proportion.
        if peaks[2] - peaks[1] > 20 + 1.25 * 10 * max(peaks[1] - peaks[0], 0):
            worse.append(name)
    result.tables.append(
        {
            "title": "Memory of what grows",
            "header": ["what", "1 ×", "10 ×", "100 ×", "KiB each"],
            "rows": table,
        }
    )
    batch = 32
    with scratch() as folder:
        pixels = np.random.default_rng(0).integers(0, 256, (512, 32, 32, 3), np.uint8)
        np.savez(folder / "images.npz", images=pixels)
        rates: dict[tuple[int, int], list[float]] = {ALONE: [], RANKS: [], APART: []}
        cpu: dict[tuple[int, int], list[float]] = {ALONE: [], RANKS: [], APART: []}
        for _ in range(given.rounds):
            for how in rates:
                _, short = trained(how, folder, batch, STEPS[0])
                lines, long = trained(how, folder, batch, STEPS[1])
                rates[how] += lines
                images = (STEPS[1] - STEPS[0]) * how[0] * how[1] * batch
                cpu[how].append((long - short) / images)
    wall = {how: statistics.median(each) for how, each in rates.items()}
    of_core = {how: statistics.median(each) for how, each in cpu.items()}
    share, by_cpu = wall[RANKS] / (2 * wall[ALONE]), of_core[ALONE] / of_core[RANKS]
    apart = wall[APART] / (2 * wall[ALONE])
    quiet = os.getloadavg()[0] < 2.5  # two ranks of its own
    result.tables.append(
        {
            "title": f"Ranks, one thread and a batch of {batch} each, {given.rounds} rounds",
            "header": ["ranks", "images a second", "of linear", "images a CPU second", "of one's"],
            "rows": [
                ["1", f"{wall[ALONE]:.1f}", "1", f"{1 / of_core[ALONE]:.1f}", "1"],
                [
                    *("2 (gloo)", f"{wall[RANKS]:.1f}", f"{share:.2f}"),
                    *(f"{1 / of_core[RANKS]:.1f}", f"{by_cpu:.2f}"),
                ],
                [
                    *("two trainings of 1, side by side", f"{wall[APART]:.1f}", f"{apart:.2f}"),
                    *(f"{1 / of_core[APART]:.1f}", f"{of_core[ALONE] / of_core[APART]:.2f}"),
                ],
            ],
        }
    )
    result.goals += [
        Goal(
            "two gloo ranks on two cores at least 0.9 of linear",
            f"{share:.2f} in wall time; {by_cpu:.2f} by CPU seconds an image"
            + ("" if quiet else ", which is judged: measured beside other work"),
            (share if quiet else by_cpu) >= 0.9,
            f"two trainings that share nothing but the machine reach {apart:.2f} of linear"
            + (
                f", and {share / apart:.2f} of that is left with gloo's all-reduce of 1.09 M "
                "gradients a step"
                if quiet
                else " beside that other work"
            ),
        ),
        Goal(
            "the memory of what grows is linear or better",
            f"more than linear: {', '.join(worse)}" if worse else "each is",
            not worse,
        ),
    ]
    result.write()


if __name__ == "__main__":
    main()
