"""Time and memory of a batch of coloured noise, and its share of a training step.

    python benchmarks/noise.py [--threads 2] [--device cpu|cuda] [--repeat 7] [--step]
    [--step-batch 2]

Each row runs in a process of its own, so that the peak memory is its own. ``dense Cholesky`` is
the plain product with all of L; ``cholesky`` is ours, which skips the zeros above the diagonal.
``--step`` also times one training step (forward, backward, Adam) of the DDPM U-Net at 3×64×64 and
states what share the noise has of it at the same batch size.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BATCHES = ((128, 3, 64, 64), (32, 3, 128, 128))
ROWS = (
    "torch.randn",
    "spectral",
    "cholesky",
    "dense Cholesky",
    "whiten spectral",
    "whiten cholesky",
)


def reset_peak(device: str) -> float:
    """Forget the peak so far; the MiB in use now."""
    if device == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 2**20
    Path("/proc/self/clear_refs").write_text("5")
    return peak_mib(device)


def peak_mib(device: str) -> float:
    """The most MiB in use since :func:`reset_peak`."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() / 2**20
    (line,) = (
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )
    return int(line.split()[1]) / 1024


def fastest_ms(call: Callable[[], Any], repeat: int, device: str) -> float:
    import torch

    call()
    times = []
    for _ in range(repeat):
        began = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - began))
    return min(times)


def row(
    name: str, shape: tuple[int, ...], threads: int, device: str, repeat: int
) -> dict[str, float]:
    """One row, in this process."""
    import torch

    torch.set_num_threads(threads)
    batch = shape[0]
    z = torch.randn(shape, device=device)
    t = torch.rand(batch, dtype=torch.float64, device=device)
    side = shape[-1] if "spectral" in name else min(shape[-1], 64)
    numbers = {"torch.randn": 0}.get(
        name, side * (side // 2 + 1) if "spectral" in name else side**4
    )
    call = prepared(name, z, t)
    call()
    before = reset_peak(device)
    ms = fastest_ms(call, repeat, device)
    return {"ms": ms, "factor": numbers * 4 / 2**20, "transient": peak_mib(device) - before}


def prepared(name: str, z: Any, t: Any) -> Callable[[], Any]:
    """What a row times, with everything built that is built once."""
    import torch

    import noisereg

    sample = z.shape[1:]
    if name == "torch.randn":
        return lambda: torch.randn(z.shape, device=z.device)
    if name == "dense Cholesky":
        side = min(sample[-1], 64)
        lower = noisereg.build("noise", "blue", shape=(1, side, side)).factor.root(z)
        tiles = z.unfold(2, side, side).unfold(3, side, side).reshape(-1, side * side)
        return lambda: tiles @ lower.T
    factor = name.split()[-1]
    if name.startswith("whiten"):
        mixture = noisereg.build("noise", f"blue-tv:factor={factor}", shape=sample)
        return lambda: mixture.whiten(z, t)
    noise = noisereg.build("noise", f"blue:factor={factor}", shape=sample)
    return lambda: noise.color({"z": z}, t)


def training_step(batch: int, threads: int, device: str, repeat: int) -> dict[str, float]:
    """One step of the DDPM U-Net (35.7 M parameters) at 3×64×64, and the noise alone, at one batch
    size.
    """
    import torch

    import noisereg
    from noisereg.api import Context
    from noisereg.denoisers import UNetParams
    from noisereg.denoisers.unet import UNet

    torch.set_num_threads(threads)
    shape = (3, 64, 64)
    white = noisereg.build("noise", "white", shape=shape)
    ddpm = noisereg.build("process", "ddpm", shape=shape, noise=white)
    task = noisereg.build("task", "unconditional", shape=shape)
    net = UNet(
        UNetParams(preset="ddpm-cifar10"),
        Context(shape=shape, process=ddpm, noise=white, task=task),
    ).to(device)
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-4)
    x, t = (
        torch.randn(batch, *shape, device=device),
        torch.rand(batch, dtype=torch.float64, device=device),
    )

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            loss = (net(x, t) - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    result = {"step": fastest_ms(step, max(2, repeat // 5), device)}
    for factor in ("spectral", "cholesky"):
        noise = noisereg.build("noise", f"blue-tv:factor={factor}", shape=shape)
        result[factor] = fastest_ms(
            lambda n=noise: (n.color({"z": x}, t), n.basis({"z": x})), repeat, device
        )
    return result


def fresh(arguments: list[str]) -> dict[str, float]:
    """The JSON that this script prints with ``arguments``, in a process of its own."""
    out = subprocess.run(
        [sys.executable, __file__, *arguments], check=True, capture_output=True, text=True
    ).stdout
    return json.loads(out.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--step", action="store_true")
    parser.add_argument("--step-batch", type=int, default=2)
    parser.add_argument("--row", nargs="*", help=argparse.SUPPRESS)
    given = parser.parse_args()
    common = [
        "--threads",
        str(given.threads),
        "--device",
        given.device,
        "--repeat",
        str(given.repeat),
    ]
    common += ["--step-batch", str(given.step_batch)]
    if given.row == ["step"]:
        print(
            json.dumps(training_step(given.step_batch, given.threads, given.device, given.repeat))
        )
        return
    if given.row:
        name, *shape = given.row
        print(
            json.dumps(
                row(name, tuple(map(int, shape)), given.threads, given.device, given.repeat)
            )
        )
        return
    print(f"{given.device}, {given.threads} threads, float32, fastest of {given.repeat}\n")
    print("| batch | noise | ms | factor, MiB | transient, MiB |\n|---|---|---:|---:|---:|")
    for shape in BATCHES:
        for name in ROWS:
            got = fresh([*common, "--row", name, *map(str, shape)])
            size = "×".join(map(str, shape))
            print(
                f"| {size} | {name} | {got['ms']:.1f} | {got['factor']:.2f} | "
                f"{got['transient']:.0f} |",
                flush=True,
            )
    if given.step:
        got = fresh([*common, "--row", "step"])
        print(
            f"\nDDPM U-Net, {given.step_batch}×3×64×64: a step takes {got['step']:,.0f} ms; "
            "blue-tv (ε and its head):"
        )
        for factor in ("spectral", "cholesky"):
            print(
                f"- {factor}: {got[factor]:.1f} ms, {100 * got[factor] / got['step']:.2f} % of "
                "the step"
            )


if __name__ == "__main__":
    main()
