"""The report's pictures. Each function takes numbers and gives a matplotlib figure; none touches a
run.
"""

from __future__ import annotations

import contextlib
import io
import math
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#010203"
"""Of text and axes; an SVG's is replaced with ``currentColor``, so that it follows the page into
dark mode.
"""
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6BB1", "#999933")
"""Okabe and Ito's, which the colour-blind tell apart, but for those that are lost on white or on
black.
"""
STYLES = ("-", "--", ":", "-.")


@contextlib.contextmanager
def style(salt: str) -> Iterator[None]:
    """``salt`` keeps the ids of several inline SVGs apart."""
    import matplotlib

    settings: dict[Any, Any] = {
        "font.family": "sans-serif",
        "font.size": 10,
        "svg.fonttype": "none",
        "pdf.fonttype": 42,  # TrueType: what journals ask for
        "svg.hashsalt": salt,
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "savefig.facecolor": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "legend.fontsize": 9,
        "lines.linewidth": 1.6,
        "text.parse_math": False,
    }
    settings |= dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK
    )
    with matplotlib.rc_context(settings):
        yield


def line_style(index: int) -> dict[str, Any]:
    return {
        "color": COLORS[index % len(COLORS)],
        "linestyle": STYLES[index // len(COLORS) % len(STYLES)],
    }


def svg(figure: Figure, salt: str) -> str:
    """An ``<svg>`` element to be put into a page: its ink is the page's, its width the column's,
    within what can be read.
    """
    natural = figure.get_size_inches()[0] * 96
    buffer = io.StringIO()
    with style(salt):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    size = f'style="max-width: {1.15 * natural:.0f}px; min-width: {min(natural, 0.5 * natural + 130):.0f}px"'
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', rf"\1 {size}", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    # ids such as figure_1 repeat from one picture to the next; none of them is referred to, clip
    # paths are salted
    text = re.sub(
        r' id="(?:figure|axes|patch|line2d|text|legend|matplotlib\.axis|xtick|ytick|\w*Collection)_\d+"',
        "",
        text,
    )
    return text.replace(INK, "currentColor")


def pdf(figure: Figure, salt: str) -> bytes:
    """For a paper: text stays text, and the same figure is the same file."""
    buffer = io.BytesIO()
    with style(salt):
        figure.savefig(buffer, format="pdf", metadata={"CreationDate": None})
    return buffer.getvalue()


def png(figure: Figure, salt: str) -> bytes:
    buffer = io.BytesIO()
    with style(salt):
        figure.savefig(buffer, format="png", dpi=150, facecolor="white")
    return buffer.getvalue()


def _panels(
    count: int, salt: str, width: float = 4.2, height: float = 3.2, columns: int = 3
) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    columns = 2 if count == 4 else min(columns, count)
    rows = -(-count // columns)
    with style(salt):
        figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
        axes = [figure.add_subplot(rows, columns, k + 1) for k in range(count)]
    return figure, axes


def _plain_log(axis: Any, values: Sequence[float] | None = None) -> None:
    """Ticks as plain numbers, at ``values`` where they are given; matplotlib's are formulas. Of
    values whose numbers would touch the first has its own.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(
        FixedLocator(sorted(set(values))) if values else LogLocator(subs=(1, 2, 5))
    )
    apart = _apart(sorted({v for v in values if v > 0} or {1.0})) if values else None
    axis.set_major_formatter(
        FuncFormatter(lambda x, _: f"{x:g}" if apart is None or f"{x:g}" in apart else "")
    )
    axis.set_minor_formatter(NullFormatter())


LETTER, LINE = 0.075, 0.17
"""Inches that a letter of a legend is wide, and a line of one high."""
PANEL = 2.4
"""Inches that a panel's axis is wide, or a little more."""


def _apart(values: Sequence[float]) -> set[str]:
    """Of numbers in ascending order those that do not touch the one before on a log axis."""
    shown: list[tuple[float, str]] = []
    span = math.log(values[-1] / values[0]) or 1.0
    for value in values:
        at, text = PANEL * math.log(value / values[0]) / span, f"{value:g}"
        if not shown or at - shown[-1][0] > LETTER * (len(text) + len(shown[-1][1])) / 2:
            shown.append((at, text))
    return {text for _, text in shown}


def _legend(figure: Figure, salt: str) -> None:
    """One legend of all panels' lines, below them: in two columns where both fit, long names on
    several lines, and the picture higher by what it takes beyond a few lines.
    """
    with style(salt):
        found: dict[str, Any] = {}
        for ax in figure.axes:
            for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
                found.setdefault(label, handle)
        if not found:
            return
        width, height = figure.get_size_inches()
        longest = LETTER * max(map(len, found)) + 0.6
        columns = 2 if 2 * longest <= width and len(found) > 1 else 1
        fits = int((width / columns - 0.6) / LETTER)
        names = [textwrap.fill(label, fits) for label in found]
        lines = -(-sum(name.count("\n") + 1 for name in names) // columns)
        figure.set_size_inches(width, height + LINE * max(0, lines - 3))
        figure.legend(list(found.values()), names, loc="outside lower left", ncols=columns)


Line = Sequence[tuple[float, float]]
"""(x, y) of one seed."""


def _over_seeds(ax: Axes, lines: Sequence[Line], label: str, **how: Any) -> None:
    """The mean of some seeds' lines, with a band from the least to the greatest, where all have
    the x; the longest alone where they share none.
    """
    by_x = [dict(line) for line in lines]
    shared = sorted(set.intersection(*map(set, by_x)))
    if not shared:
        by_x = [max(by_x, key=len)]
        shared = sorted(by_x[0])
    y = np.array([[one[x] for x in shared] for one in by_x])
    # One point is no line.
    ax.plot(shared, y.mean(0), label=label, marker="o" if len(shared) == 1 else "", **how)
    if len(by_x) > 1:
        ax.fill_between(shared, y.min(0), y.max(0), color=how["color"], alpha=0.22, linewidth=0)


def training(rows: Mapping[str, Sequence[Mapping[str, Line]]], salt: str = "training") -> Figure:
    """Loss and regularizers over training steps: by row's label, a mapping for each seed: by
    column, (step, value).
    """
    names = list(dict.fromkeys(name for seeds in rows.values() for one in seeds for name in one))
    figure, axes = _panels(len(names), salt)
    with style(salt):
        for ax, name in zip(axes, names, strict=True):
            values: list[float] = []
            for k, (label, seeds) in enumerate(rows.items()):
                if lines := [one[name] for one in seeds if one.get(name)]:
                    _over_seeds(ax, lines, label, **line_style(k))
                    values += [v for line in lines for _, v in line]
            # No logarithm has a place for 0 or less.
            if values and min(values) > 0 and max(values) > 5 * min(values):
                ax.set_yscale("log")
                _plain_log(ax.yaxis)
            ax.set(title=name, xlabel="step")
    _legend(figure, salt)
    return figure


def predicted_power(
    rows: Mapping[str, Sequence[Mapping[str, Sequence[float]]]], salt: str = "power"
) -> Figure:
    """E‖ε̂‖²/n over t, solid, against its level E‖ε‖²/n, dashed, and the optimum of Gaussian data,
    dotted: by row's label, for each seed ``t``, ``predicted``, ``level`` and ``optimum`` (which
    may be empty)."""
    figure, (ax,) = _panels(1, salt, width=6.4, height=3.8)
    shown: list[float] = []
    with style(salt):
        for k, (label, seeds) in enumerate(rows.items()):
            color = COLORS[k % len(COLORS)]
            lines = [list(zip(one["t"], one["predicted"], strict=True)) for one in seeds]
            _over_seeds(ax, lines, label, color=color)
            first = seeds[0]
            ax.plot(first["t"], first["level"], color=color, linestyle="--", linewidth=1)
            if first["optimum"]:
                ax.plot(first["t"], first["optimum"], color=color, linestyle=":", linewidth=1.2)
            shown += [*first["level"], *(v for one in seeds for v in one["predicted"])]
        ax.set(xlabel="t", ylabel="E‖ε̂‖²/n", ylim=(0, 1.1 * float(np.quantile(shown, 0.98))))
    _legend(figure, salt)
    return figure


def own_curves(
    rows: Mapping[str, Sequence[tuple[Sequence[float], Mapping[str, Sequence[float]]]]],
    salt: str = "curves",
) -> Figure:
    """What noises say of themselves over t: by row's label, for each seed t and the curves by
    name; a row's first is solid, its others dashed, dotted and dash-dotted.
    """
    figure, (ax,) = _panels(1, salt, width=6.4, height=3.8)
    with style(salt):
        for k, (label, seeds) in enumerate(rows.items()):
            for j, name in enumerate(seeds[0][1]):
                lines = [list(zip(t, own[name], strict=True)) for t, own in seeds if name in own]
                _over_seeds(
                    ax,
                    lines,
                    label if j == 0 else "",
                    color=COLORS[k % len(COLORS)],
                    linestyle=STYLES[j % len(STYLES)],
                )
        names = dict.fromkeys(name for seeds in rows.values() for name in seeds[0][1])
        ax.set(xlabel="t", ylabel=", ".join(names))
    _legend(figure, salt)
    return figure


def isotropy(rows: Mapping[str, Mapping[str, Sequence[float]]], salt: str = "isotropy") -> Figure:
    """E‖x_t‖²/n over t (Iso-Diffusion, Figure 2): ``t`` and ``x_power`` by label of process and
    noise.
    """
    figure, (ax,) = _panels(1, salt, width=6.4, height=3.8)
    with style(salt):
        for k, (label, row) in enumerate(rows.items()):
            ax.plot(row["t"], row["x_power"], label=label, **line_style(k))
        ax.axhline(1, color=INK, linewidth=0.8, linestyle=":")
        ax.set(xlabel="t", ylabel="E‖x_t‖²/n", ylim=(0, None))
    _legend(figure, salt)
    return figure


def _part(name: str, low: float, high: float) -> Any:
    """A colour map without the end that is lost on black."""
    import matplotlib
    from matplotlib.colors import ListedColormap

    return ListedColormap(matplotlib.colormaps[name](np.linspace(low, high, 256)))


PAD = 0.15
"""Of the data's extent, around it."""


def _window(ax: Axes, low: np.ndarray, high: np.ndarray) -> None:
    pad = PAD * (high - low)
    ax.set(xlim=(low[0] - pad[0], high[0] + pad[0]), ylim=(low[1] - pad[1], high[1] + pad[1]))
    ax.set_aspect("equal", adjustable="box")


def _outside(points: np.ndarray, low: np.ndarray, high: np.ndarray) -> str:
    """How many points the window does not show, as part of a title; empty for none."""
    pad = PAD * (high - low)
    count = int(((points < low - pad) | (points > high + pad)).any(1).sum())
    return f" · {count:,} of {len(points):,} outside" if count else ""


def manifold(
    real: np.ndarray,
    radii: np.ndarray,
    generated: Sequence[tuple[str, np.ndarray, np.ndarray]],
    salt: str = "manifold",
) -> Figure:
    """Iso-Diffusion's Figures 4 to 6: true points (N, 2) by the radius of their k-th neighbour,
    and by row's label generated points (M, 2) by how many true points' neighbourhoods hold
    them."""
    figure, axes = _panels(1 + len(generated), salt, width=3.8, height=3.6)
    low, high = real.min(0), real.max(0)
    most = max((int(np.quantile(spans, 0.99)) for _, _, spans in generated), default=1)
    with style(salt):
        size = max(0.5, min(6.0, 20000 / len(real)))
        marks: dict[str, Any] = {"s": size, "linewidths": 0, "rasterized": True}
        first = axes[0].scatter(
            real[:, 0],
            real[:, 1],
            c=radii,
            cmap=_part("viridis_r", 0, 0.85),
            vmax=float(np.quantile(radii, 0.98)),
            **marks,
        )
        axes[0].set_title("true: k-NN radius")
        figure.colorbar(first, ax=axes[0], shrink=0.8)
        for ax, (label, points, spans) in zip(axes[1:], generated, strict=True):
            drawn = ax.scatter(
                points[:, 0],
                points[:, 1],
                c=spans,
                cmap=_part("turbo", 0.1, 0.95),
                vmin=0,
                vmax=max(most, 1),
                **marks,
            )
            ax.set_title(textwrap.fill(label + _outside(points, low, high), 40), fontsize=9)
        if generated:
            figure.colorbar(drawn, ax=axes[1:], shrink=0.8, label="manifold span")
        for ax in axes:
            _window(ax, low, high)
    return figure


def numbers_over(
    axis: str,
    names: Sequence[tuple[str, str]],
    lines: Mapping[str, Sequence[tuple[float, Mapping[str, tuple[float, float | None]]]]],
    levels: Mapping[str, Mapping[str, float]] | None = None,
    log: bool = True,
    salt: str = "over",
) -> Figure:
    """A panel for each number over ``axis`` (a regularizer's weight, sampling steps): by line's
    label, the points (x, {name: (mean, half width or None)}); ``levels`` are horizontal lines by
    label, the baseline's."""
    figure, axes = _panels(len(names), salt)
    with style(salt):
        for ax, (name, title) in zip(axes, names, strict=True):
            for k, (label, points) in enumerate(lines.items()):
                found = [
                    (x, *numbers[name])
                    for x, numbers in sorted(points, key=lambda p: p[0])
                    if name in numbers
                ]
                if not found:
                    continue
                x, mean, half = zip(*found, strict=True)
                error = [h or 0 for h in half] if any(half) else None
                ax.errorbar(
                    x,
                    mean,
                    yerr=error,
                    label=label,
                    marker="o",
                    markersize=4,
                    capsize=3,
                    **line_style(k),
                )
            for label, level in (levels or {}).items():
                if name in level:
                    ax.axhline(level[name], color=INK, linewidth=0.9, linestyle=":", label=label)
            if log:
                ax.set_xscale("log")
                _plain_log(ax.xaxis, [x for points in lines.values() for x, _ in points])
            ax.set(title=title, xlabel=axis)
    _legend(figure, salt)
    return figure


def differences(
    labels: Sequence[str],
    names: Sequence[tuple[str, str]],
    lines: Mapping[str, Mapping[str, Mapping[str, tuple[float, float | None]]]],
    salt: str = "differences",
) -> Figure:
    """A panel for each number, a row for each label: by line (a number of steps), by label, {name:
    (mean, half width or None)}; 0 is marked."""
    figure, axes = _panels(
        len(names), salt, width=3.2, height=1.2 + 0.1 * len(labels) * (1 + len(lines)), columns=5
    )
    offsets = np.linspace(-0.25, 0.25, len(lines)) if len(lines) > 1 else [0.0]
    with style(salt):
        for ax, (name, title) in zip(axes, names, strict=True):
            first = ax.get_subplotspec().is_first_col()  # type: ignore[union-attr]
            ax.axvline(0, color=INK, linewidth=0.9, linestyle=":")
            for k, (line, rows) in enumerate(lines.items()):
                points = [
                    (i + offsets[k], *rows[x][name])
                    for i, x in enumerate(labels)
                    if name in rows.get(x, {})
                ]
                if points:
                    y, mean, half = zip(*points, strict=True)
                    error = [h or 0 for h in half]
                    color = line_style(k)["color"]
                    ax.errorbar(
                        mean,
                        y,
                        xerr=error,
                        label=line or None,
                        color=color,
                        fmt="o",
                        markersize=4,
                        capsize=2,
                    )
            ax.set_ylim(len(labels) - 0.5, -0.5)
            ax.set_yticks(range(len(labels)), labels if first else [""] * len(labels))
            ax.set(title=title)
    _legend(figure, salt)
    return figure


def spectra(
    rows: Mapping[str, Mapping[str, Sequence[Sequence[float]]]], salt: str = "spectra"
) -> Figure:
    """Radial power of each noise, a panel a time: by label, by time, [frequency, power]."""
    times = list(dict.fromkeys(time for row in rows.values() for time in row))
    figure, axes = _panels(len(times), salt)
    with style(salt):
        for ax, time in zip(axes, times, strict=True):
            for k, (label, row) in enumerate(rows.items()):
                if time in row:
                    ax.plot(*row[time], label=label, **line_style(k))
            ax.set(title=f"t = {time}", xlabel="cycles a pixel", ylabel="power", ylim=(0, None))
    _legend(figure, salt)
    return figure


def scatter(points: np.ndarray, low: np.ndarray, high: np.ndarray, salt: str) -> Figure:
    """Generated points (N, 2) on the data's own window."""
    figure, (ax,) = _panels(1, salt, width=3.2, height=3.2)
    with style(salt):
        ax.scatter(points[:, 0], points[:, 1], s=2, linewidths=0, color=COLORS[0], rasterized=True)
        _window(ax, low, high)
        if beyond := _outside(points, low, high):
            ax.set_title(beyond.removeprefix(" · "), fontsize=9)
    return figure
