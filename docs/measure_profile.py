"""Where the time of a training step and of an evaluation goes: docs/benchmarks.md, its goals.

    OMP_NUM_THREADS=1 python docs/measure_profile.py [--rounds 2]

The small U-Net at 3×32×32: steps of 32 images with ε, white noise, clipping and Adam; and 16
samples by DDIM. Shares of torch.profiler's own time of each operation.
"""

from __future__ import annotations

import argparse

import torch
from torch.profiler import ProfilerActivity, profile

import noisereg
from noisereg.python import Diffusion

SHAPE = (3, 32, 32)
CONVOLUTIONS = ("aten::mkldnn_convolution", "aten::convolution_backward")


def said(name: str, profiled: profile) -> None:
    events = profiled.key_averages()
    whole = sum(event.self_cpu_time_total for event in events)
    shares = {event.key: event.self_cpu_time_total / whole for event in events}
    together = sum(shares.get(key, 0.0) for key in CONVOLUTIONS)
    print(f"{name}: convolutions {together:.0%}")
    for key, share in sorted(shares.items(), key=lambda item: -item[1])[:12]:
        print(f"  {share:6.1%}  {key}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2, help="steps of each that are measured")
    rounds = parser.parse_args().rounds
    net = noisereg.build("denoiser", "unet", shape=SHAPE)
    diffusion = Diffusion(SHAPE, "ddpm", "white")
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, fused=True)
    images = torch.rand(32, *SHAPE) * 2 - 1

    def step() -> None:
        loss, _ = diffusion.loss(net, images)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    step()
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(rounds):
            step()
    said("a training step", profiled)
    diffusion.sample(net, 16, steps=1)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        diffusion.sample(net, 16, steps=rounds)
    said("sampling", profiled)


if __name__ == "__main__":
    main()
