"""Time of a pairing for one batch, beside the training step that it would be part of.

    python benchmarks/pairing.py [--batch 256] [--threads 1] [--repeat 5] [--json]

Distances and assignment are timed together, as the trainer calls them, on random images and white
noise (the assignment takes longest where all distances are alike, which noise of many dimensions
makes them). The step is forward, backward and Adam of the network that ``--denoiser auto`` takes
for that shape, timed at a smaller batch where it would take minutes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch

import noisereg
from noisereg.diffusion.diffusion import Diffusion
from noisereg.runs.config import validate

SHAPES = ((2,), (1, 8, 8), (3, 32, 32), (3, 64, 64))
PAIRINGS = ("greedy", "optimal", "greedy:cost=noised", "optimal:cost=noised")
STEP_BATCH = 8
"""Of the U-Net, whose time is proportional to it."""


def median_ms(call: Callable[[], object], repeat: int) -> float:
    call()
    times = []
    for _ in range(repeat):
        began = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times)


def pairing_ms(name: str, shape: tuple[int, ...], batch: int, repeat: int) -> float:
    generator = torch.Generator().manual_seed(0)
    x0 = torch.rand(batch, *shape, generator=generator) * 2 - 1
    z = torch.randn(batch, *shape, generator=generator)
    t = torch.rand(batch, generator=generator, dtype=torch.float64)
    pairing = noisereg.build("pairing", name, shape=shape)
    return median_ms(lambda: pairing(x0, {"z": z}, z, t), repeat)


def step_ms(shape: tuple[int, ...], batch: int, repeat: int) -> float:
    """Of one training step of ``batch`` samples."""
    from noisereg.denoisers import auto_denoiser

    name = auto_denoiser(shape)
    noise = noisereg.build("noise", "white", shape=shape)
    process = noisereg.build("process", validate({}).process.name, shape=shape, noise=noise)
    network = noisereg.build("denoiser", name, shape=shape, noise=noise, process=process)
    diffusion = Diffusion(shape, process, noise)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-4)
    size = min(batch, STEP_BATCH) if name == "unet" else batch
    x0, z = torch.randn(size, *shape), torch.randn(size, *shape)
    t = torch.rand(size, dtype=torch.float64)

    def step() -> None:
        loss, _ = diffusion.loss(network, x0, latents=z, t=t)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return median_ms(step, max(1, repeat // 2)) * batch / size


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rows = []
    for shape in SHAPES:
        row: dict[str, object] = {"shape": "×".join(map(str, shape)), "batch": given.batch}
        row |= {
            name: round(pairing_ms(name, shape, given.batch, given.repeat), 2) for name in PAIRINGS
        }
        row["training step"] = round(step_ms(shape, given.batch, given.repeat), 1)
        rows.append(row)
        if not given.json:
            print(" | ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    if given.json:
        print(json.dumps({"threads": given.threads, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
