"""Draws figure.png, the ratio of signal to noise by frequency on digits: ``python figure.py``."""

from pathlib import Path

import matplotlib
import numpy as np
import torch
from noisereg_equal_snr.noise import signal_to_noise

import noisereg
from noisereg.data import batches

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def main() -> None:
    data = noisereg.build("dataset", "digits")
    x = torch.cat(list(batches(data, "train")))
    noise = noisereg.build("noise", "equal-snr", shape=data.shape)
    noise.fit(batches(data, "train"))
    radius = torch.hypot(torch.fft.fftfreq(8)[:, None], torch.fft.fftfreq(8)[None]).flatten()
    figure, axes = plt.subplots(figsize=(4.4, 2.9), constrained_layout=True)
    for name, power, mark in (
        ("white", torch.ones_like(noise.power), "o"),
        ("equal-snr", noise.power, "x"),
    ):
        ratio = signal_to_noise(x, power)[0].flatten()
        axes.semilogy(radius, ratio, mark, label=name, markersize=4)
    axes.set_xlabel("frequency (cycles a pixel)")
    axes.set_ylabel("signal / noise at a = b")
    axes.set_yticks(10.0 ** np.arange(-3, 1))
    axes.legend()
    figure.savefig(Path(__file__).with_name("figure.png"), dpi=90)


if __name__ == "__main__":
    main()
