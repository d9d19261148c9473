"""Time of a pairing for one batch, beside the training step that it would be part of.

    python benchmarks/pairing.py [--batch 256] [--threads 1] [--repeat 5]

Distances and assignment together, as the trainer calls them, on random images and white noise (the
assignment takes longest where all distances are alike, which noise of many dimensions makes them).
The step is forward, backward and AdamW of the network that ``--denoiser auto`` takes for that
shape, of a smaller batch where it would take minutes.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from measuring import Goal, Result, arguments

SHAPES = ((2,), (1, 8, 8), (3, 32, 32), (3, 64, 64))
PAIRINGS = ("greedy", "optimal", "greedy:cost=noised", "optimal:cost=noised")
STEP_BATCH = 8
"""Of the U-Net, whose time is proportional to it."""


def median_ms(call: Callable[[], object], repeat: int) -> float:
    """In CPU time."""
    call()
    times = []
    for _ in range(repeat):
        began = time.process_time()
        call()
        times.append(1000 * (time.process_time() - began))
    return statistics.median(times)


def pairing_ms(name: str, shape: tuple[int, ...], batch: int, repeat: int) -> float:
    import torch

    import noisereg

    generator = torch.Generator().manual_seed(0)
    x0 = torch.rand(batch, *shape, generator=generator) * 2 - 1
    z = torch.randn(batch, *shape, generator=generator)
    t = torch.rand(batch, generator=generator, dtype=torch.float64)
    pairing = noisereg.build("pairing", name, shape=shape)
    return median_ms(lambda: pairing(x0, {"z": z}, z, t), repeat)


def step_ms(shape: tuple[int, ...], batch: int, repeat: int) -> float:
    """Of one training step of ``batch`` samples."""
    import torch

    import noisereg
    from noisereg.denoisers import auto_denoiser
    from noisereg.diffusion.diffusion import Diffusion
    from noisereg.runs.config import validate

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
    given = arguments(__doc__, batch=256, repeat=5)
    import torch

    torch.set_num_threads(given.threads)
    result = Result(
        "pairing",
        "Pairing",
        f"CPU milliseconds for a batch of {given.batch}, white noise, and of the training step it "
        "is for.",
    )
    rows, shares = [], []
    for shape in SHAPES:
        each = [pairing_ms(name, shape, given.batch, given.repeat) for name in PAIRINGS]
        step = step_ms(shape, given.batch, given.repeat)
        rows.append(["×".join(map(str, shape)), *(f"{ms:.1f}" for ms in (*each, step))])
        if len(shape) == 3 and shape[-1] >= 32:
            shares.append(max(each) / step)
    header = ["shape", *PAIRINGS, "training step"]
    result.tables.append({"title": "", "header": header, "rows": rows})
    result.goals.append(
        Goal(
            "a pairing of images from 32×32 within 3 % of a training step",
            f"{100 * max(shares):.1f} % at most",
            max(shares) <= 0.03,
            "the matrix of distances is a product in float64",
        )
    )
    result.write()


if __name__ == "__main__":
    main()
