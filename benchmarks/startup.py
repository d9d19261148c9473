"""Start-up: CPU seconds until the first training step is done, beside the bare script.

    python benchmarks/startup.py [--rounds 2]

The bare script imports torch and diffusers' UNet2DModel, loads scikit-learn's digits and makes one
step. ``noisereg train`` is the command, on the same data with the same network, up to its first
step. One thread; every start is a new process.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from measuring import Goal, Result, Row, arguments, scratch

BARE = """
import time
import torch
from diffusers import DDPMScheduler, UNet2DModel
from sklearn.datasets import load_digits
x = torch.from_numpy(load_digits().images).float()[:16, None] / 8 - 1
net = UNet2DModel(
    sample_size=8, in_channels=1, out_channels=1, block_out_channels=(16, 32, 64, 64),
    down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    layers_per_block=1, norm_num_groups=16)
law, optimizer = DDPMScheduler(), torch.optim.AdamW(net.parameters(), 1e-4)
z, t = torch.randn_like(x), torch.randint(0, 1000, (16,))
(net(law.add_noise(x, z, t), t).sample - z).square().mean().backward()
optimizer.step()
print(time.process_time())
"""
PLUGIN = '''"""Ends the process when the first step is done, and says what it took."""
import os, time
from noisereg.api import Component, Logger, Params, hookimpl

class First(Logger):
    def __init__(self, params, ctx): ...
    def logged(self, step, metrics):
        print(time.process_time(), flush=True)
        os._exit(0)

@hookimpl
def noisereg_loggers():
    yield Component("first", First, Params, summary="ends after one step")
'''


def main() -> None:
    given = arguments(__doc__)
    result = Result(
        "startup",
        "Start-up",
        "CPU seconds of one thread until the first step is done, each start a new process; the "
        "bare script is torch, diffusers' UNet2DModel, scikit-learn's digits and one step.",
    )
    python = [sys.executable, "-P"]
    rounds = min(2, given.rounds)
    with scratch() as folder:
        (folder / "first.py").write_text(PLUGIN)
        (folder / "bare.py").write_text(BARE)
        train = [*python, "-m", "noisereg", "train", "--plugin", str(folder / "first.py")]
        train += ["--log", "first", "--batch-size", "16", "--set", "train.log_every=1"]
        modules = "import json, sys, noisereg; print(json.dumps('torch' in sys.modules))"
        commands = {
            "bare script": [*python, str(folder / "bare.py")],
            "noisereg train, U-Net": [*train, "--denoiser", "unet", "--out"],
            "noisereg train, its default for digits": [*train, "--out"],
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        for number in range(rounds + 1):
            for place, (name, command) in enumerate(commands.items()):
                out = [str(folder / f"run-{number}-{place}")] * command[-1:].count("--out")
                done = subprocess.run(
                    [*command, *out], env=environment, capture_output=True, text=True, cwd=folder
                )
                if done.returncode:
                    raise SystemExit(done.stderr)
                if number:
                    times[name].append(float(done.stdout.split()[-1]))
        torch_there = json.loads(
            subprocess.run(
                [*python, "-c", modules], env=environment, capture_output=True, text=True
            ).stdout
        )
    for name, cpu in times.items():
        result.rows.append(Row("first step", name, 1, "", 1, [], cpu))
    more = statistics.median(
        b - a for a, b in zip(*[times[name] for name in list(commands)[:2]], strict=True)
    )
    result.goals += [
        Goal(
            "`train` reaches its first step within 3 CPU seconds of the bare script",
            f"{more:+.1f} s",
            more <= 3,
        ),
        Goal(
            "`import noisereg` without torch",
            "torch is imported" * torch_there or "it is not imported",
            not torch_there,
        ),
    ]
    result.write()


if __name__ == "__main__":
    main()
