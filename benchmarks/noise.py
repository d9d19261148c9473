"""A batch of noise: draws by counter, both factors, the plain product; their share of a step.

    python benchmarks/noise.py [--threads 2] [--rounds 4] [--device cpu]

128×3×64×64 in float32. ``dense L`` is the plain product with all of L, as BNDM's code makes it;
``cholesky`` is ours, which skips the zeros above the diagonal. The step is forward, backward and
AdamW of the small U-Net and of DDPM's (35.7 M parameters) at 3×64×64.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from measuring import Goal, Result, arguments, interleaved_calls, on

SHAPE, BATCH = (3, 64, 64), 128
ROWS = (
    "torch.randn",
    "draws by counter",
    "draws=device",
    "spectral",
    "cholesky",
    "dense L",
    "whiten spectral",
    "whiten cholesky",
)
STEPS = {"step, small U-Net": 8, "step, DDPM's U-Net": 2}
"""Batches of the steps that are timed."""
DEFAULT = "default noise beside DDPM's U-Net"


def prepared(name: str, z: Any, t: Any) -> Callable[[], Any]:
    """What a row times, with everything built that is built once."""
    import torch

    import noisereg
    from noisereg import draws

    def noise(spec: str) -> Any:
        built: Any = noisereg.build("noise", spec, shape=SHAPE)
        return built.to(z.device) if isinstance(built, torch.nn.Module) else built

    if name == "torch.randn":
        return lambda: torch.randn(z.shape, device=z.device)
    if name.startswith("draws"):
        white, stream = noise("white"), draws.Stream.TRAIN_LATENTS
        place = "device" if name == "draws=device" else "host"
        return lambda: draws.latents(white, SHAPE, 0, stream, range(len(z)), 1, z.device, place)
    if name == "dense L":
        lower = noise("blue").factor.root(z)
        return lambda: z.reshape(-1, 64 * 64) @ lower.T
    if name in STEPS:
        return step(name, z[: STEPS[name]], t[: STEPS[name]])
    if name == DEFAULT:  # ε and its head, as a step asks for them
        some, times = z[: STEPS["step, DDPM's U-Net"]], t[: STEPS["step, DDPM's U-Net"]]
        mixture = noise("blue-tv")
        return lambda: mixture.color_and_basis({"z": some}, times)
    factor = name.split()[-1]
    if name.startswith("whiten"):
        mixture = noise(f"blue-tv:factor={factor}")
        return lambda: mixture.whiten(z, t)
    coloured = noise(f"blue:factor={factor}")
    return lambda: coloured.color({"z": z}, t)


def step(name: str, x: Any, t: Any) -> Callable[[], None]:
    import torch

    import noisereg
    from noisereg.api import Context
    from noisereg.denoisers import UNetParams
    from noisereg.denoisers.unet import UNet

    white = noisereg.build("noise", "white", shape=SHAPE)
    context = Context(
        shape=SHAPE,
        process=noisereg.build("process", "ddpm", shape=SHAPE, noise=white),
        noise=white,
        task=noisereg.build("task", "unconditional", shape=SHAPE),
    )
    net = UNet(UNetParams(preset="small" if "small" in name else "ddpm-cifar10"), context)
    net = net.to(x.device)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-4, fused=True)

    def one() -> None:
        (net(x, t) - x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return one


def main() -> None:
    given = arguments(__doc__, gpu=True)
    import torch

    torch.set_num_threads(given.threads)
    names = (*ROWS, DEFAULT, *STEPS)
    z = torch.randn(BATCH, *SHAPE, device=given.device)
    t = torch.rand(BATCH, dtype=torch.float64, device=given.device)
    calls = {name: prepared(name, z, t) for name in names}
    found = interleaved_calls(
        {
            name: (call if name in STEPS else lambda call=call: [call() for _ in range(5)])
            for name, call in calls.items()
        },
        given.rounds,
    )
    result = Result(
        f"noise{on(given)}",
        "Noise on a GPU" if on(given) else "Noise",
        "128×3×64×64 in float32; a step's batch is 8 (small) and 2 (DDPM's). *dense L* is the "
        "plain product that BNDM's code makes.",
    )
    amounts = {n: float(STEPS.get(n, 5 * (2 if n == DEFAULT else BATCH))) for n in names}
    result.add("3×64×64", found, given.threads, "images", amounts)
    measure = "wall" if on(given) else "cpu"
    each = {
        n: statistics.median(getattr(s, measure) for s in found[n]) / amounts[n] for n in names
    }
    share = each[DEFAULT] / each["step, DDPM's U-Net"]
    drawn = each["draws by counter"] / each["step, small U-Net"]
    coloured = (each["cholesky"] + each["draws by counter"]) / each["step, small U-Net"]
    result.goals += [
        Goal(
            "the default factor within 2 % of a U-Net's step at 64²",
            f"{100 * share:.2f} % of DDPM's U-Net's (35.7 M parameters), ε and its head, batch 2",
            share <= 0.02,
            "" if on(given) else "at so small a batch most of it is reading L",
        ),
        Goal(
            "draws and default noise within 3 % of the small U-Net's step at 64²",
            f"{100 * coloured:.2f} %, of which the draws {100 * drawn:.2f} %",
            coloured <= 0.03,
            ""
            if on(given)
            else "the network is the smallest that is offered; `factor=spectral` takes a fifth of "
            "that",
        ),
    ]
    result.write()


if __name__ == "__main__":
    main()
