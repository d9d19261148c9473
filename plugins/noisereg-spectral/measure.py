"""The table of README.md: ``python measure.py OUT [--reg NAME:… --plugin FILE]``; about a minute a
run on one core.
"""

import argparse
from pathlib import Path

import torch

import noisereg
from noisereg import draws
from noisereg.data import batches
from noisereg.diffusion.diffusion import Diffusion
from noisereg.diffusion.loss import Weighted
from noisereg.draws import Stream
from noisereg.plugins.registry import registry
from noisereg.plugins.spec import Spec
from noisereg.runs.build import build_dataset
from noisereg.runs.run import Run
from noisereg.runs.runtime import Runtime

SAMPLES, DRAWS, SEED = 1600, 5, 99


def value_of(run: Run, name: str) -> tuple[float, float]:
    """The term's value and the mean squared error under the averaged weights, over the same
    images, times and noises.
    """
    parts = run.load()
    term = noisereg.build(
        "regularizer", name, shape=parts.shape, noise=parts.noise, process=parts.process
    )
    diffusion = Diffusion(parts.shape, parts.process, parts.noise, [Weighted("term", 0.0, term)])
    data = build_dataset(parts.config, registry(), Runtime.start(parts.config.runtime))
    x0 = torch.cat(list(batches(data, "train")))[:SAMPLES]
    found = torch.zeros(2)
    for step in range(DRAWS):
        t = draws.times(SEED, step, SAMPLES, parts.process)
        z = draws.latents(
            parts.noise, parts.shape, SEED, Stream.SAMPLE_LATENTS, range(SAMPLES), step
        )
        with torch.no_grad():
            _, measured = diffusion.loss(parts.denoiser, x0, latents=z, t=t)
        found += torch.stack([measured["term"], measured["mse"]]) / DRAWS
    return float(found[0]), float(found[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--reg", default="noisereg-spectral/spectral:weight=0.1")
    parser.add_argument("--plugin")
    parser.add_argument("--steps", type=int, default=1000)
    given = parser.parse_args()
    if given.plugin:
        registry().load(given.plugin)
    for seed in range(3):
        for reg in ([], [given.reg]):
            name = f"{'with' if reg else 'without'}-s{seed}"
            run = noisereg.train(
                process="iadb",
                reg=reg,
                seed=seed,
                train={"steps": given.steps},
                sample={"steps": 2},
                out=given.out / name,
            )
            term, error = value_of(run, Spec.parse(given.reg).name)
            print(f"{name:<12} term {term:.4f}  mse {error:.4f}", flush=True)


if __name__ == "__main__":
    main()
