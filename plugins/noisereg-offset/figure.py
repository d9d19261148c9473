"""Draws figure.png: ``python figure.py``."""

from pathlib import Path

import matplotlib
import torch
from PIL import Image

import noisereg

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SPECS = ("white", "offset:strength=0.3", "pyramid:discount=0.5", "pyramid")


def main() -> None:
    shape, t = (1, 48, 48), torch.ones(2, dtype=torch.float64)
    z = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    figure, axes = plt.subplots(2, 4, figsize=(5.2, 2.8), constrained_layout=True)
    for column, spec in enumerate(SPECS):
        eps = noisereg.build("noise", spec, shape=shape).color({"z": z}, t)
        for row in range(2):
            axes[row, column].imshow(
                eps[row, 0], cmap="gray", vmin=-2.5, vmax=2.5, interpolation="nearest"
            )
            axes[row, column].axis("off")
        axes[0, column].set_title(spec, fontsize=7)
    path = Path(__file__).with_name("figure.png")
    figure.savefig(path, dpi=72)
    Image.open(path).convert("L").quantize(16).save(
        path, optimize=True
    )  # grey pictures: a quarter of the size


if __name__ == "__main__":
    main()
