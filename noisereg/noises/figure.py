"""The picture of a noise: a row a time, and its mean square over t."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from noisereg.noises.analysis import MID_BAND, SECTORS, Look
from noisereg.noises.covariance import Array


def draw(
    title: str, looks: Sequence[Look], times: Array, declared: Array, format: str = "png"
) -> bytes:
    """The figure of ``looks``, with ``declared`` mean squares at ``times``, in a format that
    matplotlib writes.
    """
    rows = len(looks)
    figure = Figure(figsize=(15, 2.8 * rows + 2.8), dpi=100, layout="tight")
    grid = figure.add_gridspec(rows + 1, 5, width_ratios=[0.8, 1.2, 1.2, 1, 1.2])
    variances = np.concatenate([one.variance.ravel() for one in looks])
    shades = (min(0.9, float(variances.min())), max(1.1, float(variances.max())))
    for row, one in enumerate(looks):
        axes = [figure.add_subplot(grid[row, column]) for column in range(5)]
        _sample(axes[0], one)
        _radial(axes[1], one)
        _covariance(axes[2], one)
        _variance(axes[3], one, shades)
        _orientation(axes[4], one)
    _mean_square(figure.add_subplot(grid[rows, 1:]), looks, times, declared)
    figure.suptitle(title, fontsize=12)
    buffer = BytesIO()
    figure.savefig(buffer, format=format)
    return buffer.getvalue()


def _sample(axes: Axes, one: Look) -> None:
    axes.imshow(one.sample, cmap="gray", vmin=-2.5, vmax=2.5)
    axes.set_axis_off()
    axes.set_title(f"a draw at t = {one.t:g}", fontsize=9)


def _radial(axes: Axes, one: Look) -> None:
    radial = one.radial
    away = radial.frequency > 0  # frequency 0 may be a thousand times the rest: it is written
    axes.fill_between(
        radial.frequency[away], radial.low[away], radial.high[away],
        color="C0", alpha=0.3, linewidth=0,
        label=f"{radial.level:.0%} band",
    )  # fmt: skip
    axes.plot(radial.frequency[away], radial.power[away], color="C0", linewidth=1.2)
    axes.axhline(1, color="0.6", linewidth=0.8, linestyle=":", label="white")
    axes.set(xlim=(0, 0.72), ylim=(0, None), xlabel="|f|, cycles a pixel")
    axes.set_title(f"power by radial frequency; {radial.power[0]:.3g} at 0", fontsize=9)
    axes.legend(fontsize=7, frameon=False)


def _covariance(axes: Axes, one: Look) -> None:
    height, width = one.covariance.shape
    for name, values in (
        ("along x", one.covariance[0, : width // 2 + 1]),
        ("along y", one.covariance[: height // 2 + 1, 0]),
    ):
        axes.plot(values[:17], marker=".", linewidth=1, label=name)
    axes.axhline(0, color="0.6", linewidth=0.8, linestyle=":")
    axes.set(xlabel="lag, pixels")
    axes.set_title("covariance", fontsize=9)
    axes.legend(fontsize=7, frameon=False)


def _variance(axes: Axes, one: Look, shades: tuple[float, float]) -> None:
    image = axes.imshow(one.variance, cmap="viridis", vmin=shades[0], vmax=shades[1])
    axes.set_axis_off()
    axes.set_title(
        f"pixel variance {one.variance.min():.2f} to {one.variance.max():.2f}", fontsize=9
    )
    axes.figure.colorbar(image, ax=axes, fraction=0.046, pad=0.04)


def _orientation(axes: Axes, one: Look) -> None:
    known = np.isfinite(one.orientation)
    degrees = np.arange(SECTORS) * 180 / SECTORS
    axes.plot(degrees[known], one.orientation[known], marker=".", color="C0", linewidth=1.2)
    top = 1.2 * max(one.orientation[known], default=1.0)
    axes.set(
        xlim=(-5, 180),
        ylim=(0, top),
        xticks=[0, 45, 90, 135],
        xlabel="direction of f, degrees from x",
    )
    axes.set_title(f"power at |f| {MID_BAND[0]:g} to {MID_BAND[1]:g}", fontsize=9)


def _mean_square(axes: Axes, looks: Sequence[Look], times: Array, declared: Array) -> None:
    axes.plot(times, declared, color="0.4", linewidth=1.2, label="declared")
    axes.errorbar(
        [one.t for one in looks],
        [one.measured for one in looks],
        [2.58 * one.error for one in looks],
        fmt="o", markersize=4, color="C0", label="measured, 99 %",
    )  # fmt: skip
    values = [*declared, *(one.measured for one in looks)]
    axes.set(xlabel="t", xlim=(-0.02, 1.02), ylim=(min(values) - 0.05, max(values) + 0.05))
    axes.set_title("mean square E‖ε‖²/n over t", fontsize=9)
    axes.legend(fontsize=8, frameon=False)
