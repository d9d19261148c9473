"""Sampling: evaluations a second beside diffusers and Azula.

    python benchmarks/sampling.py [--threads 2] [--rounds 4] [--batch 16] [--preset small]
        [--device cpu]

Images of 3×32×32 from a U-Net (random weights), 10 evaluations of DDIM at η = 0 and at η = 1, by
diffusers' DDIMPipeline, Azula's DDIMSampler and ``Diffusion.sample``. On a GPU: ``--device cuda
--batch 256 --preset ddpm-cifar10``, judged by wall-clock.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from measuring import Goal, Result, arguments, interleaved_calls, on, packages, ratio
from training import unet

STEPS = 10
SHAPE = (3, 32, 32)
CONTENDERS = (
    "diffusers, η = 0",
    "Azula, η = 0",
    "noisereg, η = 0",
    "diffusers, η = 1",
    "Azula, η = 1",
    "noisereg, η = 1",
)


def sampler_of(name: str, net: Any, batch: int) -> Callable[[], Any]:
    """A batch of images by that library."""
    eta, device = float(name[-1]), net.device
    if name.startswith("diffusers"):
        from diffusers import DDIMPipeline, DDIMScheduler

        pipeline = DDIMPipeline(net, DDIMScheduler(clip_sample=False))
        pipeline.set_progress_bar_config(disable=True)

        def segment() -> Any:
            return pipeline(batch, eta=eta, num_inference_steps=STEPS, output_type="np")

    elif name.startswith("Azula"):
        from azula.denoise import Denoiser, DiracPosterior
        from azula.noise import VPSchedule
        from azula.sample import DDIMSampler

        class Epsilon(Denoiser):
            """x̂0 from a network that predicts ε, told 1000t − 1."""

            def __init__(self) -> None:
                super().__init__()
                self.backbone, self.schedule = net, VPSchedule()

            def forward(self, x_t: Any, t: Any, **_: Any) -> DiracPosterior:
                signal, noise = self.schedule(t)
                eps = self.backbone(x_t, 1000 * t - 1).sample
                return DiracPosterior(mean=(x_t - noise * eps) / signal)

        sampler = DDIMSampler(Epsilon().to(device), eta=eta, steps=STEPS, silent=True)

        def segment() -> Any:
            return sampler(sampler.init((batch, *SHAPE), device=device))

    else:
        import torch

        import noisereg

        diffusion = noisereg.Diffusion(shape=SHAPE, time_input="index")

        def segment() -> Any:
            with torch.inference_mode():
                return diffusion.sample(
                    lambda x, t: net(x, t).sample,
                    batch,
                    steps=STEPS,
                    solver=f"ddim:eta={eta:g}",
                    device=device,
                )

    return segment


def main() -> None:
    given = arguments(__doc__, gpu=True, batch=16, preset="small")
    import torch

    torch.set_num_threads(given.threads)
    net = unet(SHAPE[-1], preset=given.preset).eval().to(given.device)
    result = Result(
        f"sampling{on(given)}",
        "Sampling on a GPU" if on(given) else "Sampling",
        f"{given.batch} images of 3×32×32 from the U-Net (preset {given.preset}), 10 evaluations "
        "of DDIM; beside "
        f"{packages('diffusers', 'azula')}. At η = 1 each step draws as many numbers as pixels.",
    )
    found = interleaved_calls(
        {name: sampler_of(name, net, given.batch) for name in CONTENDERS}, given.rounds
    )
    result.add("3×32×32, 10 evaluations", found, given.threads, "images", given.batch)
    measure, of = ("wall", "seconds") if on(given) else ("cpu", "CPU seconds")
    for eta in "01":
        share = {
            peer: ratio(found, f"noisereg, η = {eta}", f"{peer}, η = {eta}", measure)
            for peer in ("diffusers", "Azula")
        }
        result.goals.append(
            Goal(
                f"η = {eta}: no more {of} than diffusers and Azula (within 5 %)",
                ", ".join(f"{r:.2f} of {peer}'s" for peer, r in share.items()),
                max(share.values()) <= 1.05,
                "nothing has been profiled there"
                if on(given)
                else "65 and 68 % of it (two profiles, beside other work: `OMP_NUM_THREADS=1 "
                "python docs/measure_profile.py`) are the network's convolutions, which all three "
                "call alike; no other operation takes more than a tenth",
            )
        )
    result.write()


if __name__ == "__main__":
    main()
