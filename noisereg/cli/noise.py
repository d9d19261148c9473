"""``noisereg noise build`` and ``noisereg noise show``."""

from __future__ import annotations

import json
import math
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from noisereg.cli.options import Json, NoPlugins, Plugins, open_registry
from noisereg.errors import NoiseregError, nearest

if TYPE_CHECKING:
    from noisereg.api import Context, Noise
    from noisereg.noises.analysis import Look
    from noisereg.plugins.registry import Registry

app = typer.Typer(
    help="Noises: make a spectrum from masks, look at any installed noise.", no_args_is_help=True
)

FORMATS = ("png", "pdf", "svg")


def parse_size(text: str) -> tuple[int, int]:
    """``64`` or ``24x40`` as (height, width).

    Raises:
        NoiseregError: for anything else.
    """
    match = re.fullmatch(r"(\d+)(?:[x×](\d+))?", text.strip())
    height, width = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if height < 1 or width < 1:
        raise NoiseregError(
            f"--size {text!r}: expected a whole number of pixels from 1, such as 64, or 24x40 "
            "(height x width)"
        )
    return height, width


def parse_times(text: str) -> list[float]:
    """``0,0.5,1``.

    Raises:
        NoiseregError: for what is no time from 0 to 1.
    """
    try:
        times = [float(part) for part in text.split(",")]
    except ValueError:
        times = []
    if not times or not all(0 <= t <= 1 for t in times):
        raise NoiseregError(
            f"--t {text!r}: expected times from 0 (data) to 1 (noise), such as 0,0.5,1"
        )
    return times


def _writable(out: Path) -> None:
    """Before the work is done, not after."""
    if out.is_dir():
        raise NoiseregError(f"--out {out} is a folder; expected a file's name")


@app.command()
def build(
    out: Annotated[Path, typer.Option(metavar="FILE", help="The spectrum file, a few KiB.")],
    size: Annotated[str, typer.Option(metavar="N|HxW", help="Pixels a side of the masks.")] = "64",
    masks: Annotated[int, typer.Option(help="How many masks the spectrum is the mean of.")] = 500,
    seed: Annotated[int, typer.Option(help="Each seed gives other masks, always the same.")] = 0,
    sigma: Annotated[
        float,
        typer.Option(help="Of void-and-cluster's kernel, in pixels; circulating textures: 1.9."),
    ] = 1.5,
    jobs: Annotated[int | None, typer.Option(help="Processes. [one a core]")] = None,
    as_json: Json = False,
) -> None:
    """Make a blue-noise spectrum: void-and-cluster masks, Gaussian by rank, averaged over all
    shifts.
    """
    height, width = parse_size(size)
    from noisereg.cli.progress import ConsoleReporter, duration
    from noisereg.noises.build import build_spectrum
    from noisereg.noises.spectrum_file import check_free, encode

    check_free(out)  # before the work is done, and again after

    reporter = ConsoleReporter()
    began = time.perf_counter()
    from noisereg.ownership import clear_leftovers, owned_file
    from noisereg.store import write_atomically

    with owned_file(out, note=reporter.note):
        clear_leftovers(out.absolute().parent, re.escape(out.name))
        reporter.begin(f"masks of {height}×{width}", masks)
        try:
            spectrum = build_spectrum(height, width, masks, seed, jobs, reporter.advance, sigma)
        finally:
            reporter.end()
        check_free(out)
        write_atomically(out, encode(spectrum))
    reporter.note(
        f"{masks:,} masks of {height}×{width} in {duration(time.perf_counter() - began)}; "
        f"use them with --noise blue:spectrum={out}"
    )
    about = {
        "file": str(out),
        "height": height,
        "width": width,
        "masks": masks,
        "seed": seed,
        "sigma": sigma,
        "method": spectrum.method,
    }
    print(json.dumps(about) if as_json else out)


MOST_NUMBERS = 2**31
"""That ``noise show`` draws: 8 GiB."""


@app.command()
def show(
    noise: Annotated[
        str, typer.Argument(metavar="SPEC", help="A noise, such as blue-tv:gamma.tau=0.2.")
    ],
    size: Annotated[
        str | None, typer.Option(metavar="N|HxW", help="Pixels a side. [32, or the data's]")
    ] = None,
    channels: Annotated[int | None, typer.Option(help="Channels. [1, or the data's]")] = None,
    t: Annotated[
        str, typer.Option(metavar="T,T,…", help="Times, 0 = data, 1 = noise.")
    ] = "0,0.5,1",
    draws: Annotated[int, typer.Option(help="Draws that the numbers are means over.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws.")] = 0,
    data: Annotated[
        str | None,
        typer.Option(metavar="SPEC|PATH", help="Data for a noise that learns from them."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FIG.png", help="A picture: .png, .pdf or .svg.")
    ] = None,
    plugin: Plugins = None,
    no_plugins: NoPlugins = False,
    as_json: Json = False,
) -> None:
    """Look at a noise: draws, power, covariance, mean square over t, pixel variance,
    anisotropy.
    """
    times = parse_times(t)
    shape: tuple[int, ...] = (1 if channels is None else channels, *parse_size(size or "32"))
    if shape[0] < 1:
        raise NoiseregError(f"--channels {channels}: expected a whole number from 1")
    if draws < 2:
        raise NoiseregError(
            f"--draws {draws}: expected at least 2, for there to be a mean and its error"
        )
    if (numbers := draws * math.prod(shape)) > MOST_NUMBERS:
        raise NoiseregError(
            f"{draws:,} draws of {'×'.join(map(str, shape))} are {numbers:,} numbers; expected at "
            f"most {MOST_NUMBERS:,}: fewer `draws`, or a smaller `size`"
        )
    if out is not None:
        _writable(out)
        kind = out.suffix.removeprefix(".").lower()
        if kind not in FORMATS:
            raise NoiseregError(
                f"--out {out}: expected a name that ends in .png, .pdf or "
                f".svg{nearest(kind, FORMATS)}"
            )
    registry = open_registry(no_plugins, plugin)
    import torch

    from noisereg.draws import Stream, latents
    from noisereg.noises.analysis import look

    built, shape = _build(registry, noise, shape, data, size is not None or channels is not None)
    drawn = latents(built, shape, seed, Stream.SAMPLE_LATENTS, range(draws), step=0)
    looks = [look(built, drawn, time) for time in times]
    over = torch.linspace(0, 1, 101, dtype=torch.float64)
    declared = built.mean_square(over).detach()
    if out is not None:
        from noisereg.noises.figure import draw
        from noisereg.store import write_atomically

        title = f"{noise} at {shape[1]}×{shape[2]}, {looks[0].draws:,} draws"
        write_atomically(
            out,
            draw(
                f"{title}\n{built.summary}" if built.summary else title,
                looks,
                over.numpy(),
                declared.numpy(),
                kind,
            ),
        )
    if as_json:
        print(
            json.dumps(
                _finite(
                    _numbers(noise, built, shape, seed, looks, over.tolist(), declared.tolist())
                )
            )
        )
    else:
        _print_table(noise, built, shape, looks)
        if out is not None:
            print(out)


def _build(
    registry: Registry, spec: str, shape: tuple[int, ...], data: str | None, sized: bool
) -> tuple[Noise, tuple[int, ...]]:
    """The noise, fitted if it learns from data, and the shape it is built for."""
    from noisereg.api import Context, Noise
    from noisereg.folders import cache_dir
    from noisereg.plugins.spec import Spec

    parsed = Spec.parse(spec)
    ctx = Context(shape=shape, cache_dir=cache_dir())
    if data is not None:
        if sized:
            raise NoiseregError(
                "--data has a size and channels of its own; leave out --size and --channels"
            )
        ctx = _with_data(registry, data, ctx)
    noise = registry.build("noise", parsed.name, parsed.params, ctx)
    if type(noise).fit is not Noise.fit:
        if ctx.batches is None:
            raise NoiseregError(
                f"{parsed.name} learns from data; give --data digits, or the data it is meant for"
            )
        noise.fit(ctx.batches("train"))
    return noise, ctx.shape


def _with_data(registry: Registry, data: str, ctx: Context) -> Context:
    from dataclasses import replace

    from noisereg.data import batches
    from noisereg.runs.config import data_spec, validate

    spec = data_spec(validate({"data": data}).data, registry)
    dataset = registry.build("dataset", spec.name, spec.params, replace(ctx, shape=()))
    if len(dataset.shape) != 3:
        raise NoiseregError(
            f"noise show looks at images; {spec.name} has points of {math.prod(dataset.shape)} "
            "numbers"
        )
    return replace(ctx, shape=tuple(dataset.shape), batches=lambda split: batches(dataset, split))


def _numbers(
    spec: str,
    noise: Noise,
    shape: tuple[int, ...],
    seed: int,
    looks: list[Look],
    times: list[float],
    declared: list[float],
) -> dict[str, Any]:
    return {
        "noise": spec,
        "summary": noise.summary,
        "shape": list(shape),
        "draws": looks[0].draws,
        "seed": seed,
        "mean_square": {"t": times, "declared": declared},
        "times": [one.numbers() for one in looks],
    }


def _finite(value: Any) -> Any:
    """NaN, which JSON has not, as null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _or_dash(value: float) -> str:
    """A number that images so small do not have is none."""
    return f"{value:.2f}" if math.isfinite(value) else "–"


def _print_table(spec: str, noise: Noise, shape: tuple[int, ...], looks: list[Look]) -> None:
    summary = f": {noise.summary}" if noise.summary else ""
    print(f"{spec}{summary} · {shape[1]}×{shape[2]} · {looks[0].draws:,} draws")
    print(
        f"{'t':>6}  {'mean square':>11}  {'measured':>15}  {'power |f|<0.1':>13}  "
        f"{'pixel variance':>14}  {'anisotropy':>10}"
    )
    for one in looks:
        measured = f"{one.measured:.4f} ± {2.58 * one.error:.4f}"
        spread = f"{one.variance.min():.2f} to {one.variance.max():.2f}"
        print(
            f"{one.t:>6g}  {one.declared:>11.4f}  {measured:>15}  {one.low_power:>13.4f}  "
            f"{spread:>14}  {_or_dash(one.anisotropy):>10}"
        )
    noisy = 100 * (2 / looks[0].draws) ** 0.5
    print(
        f"± is 99 %; power over the mean, frequency 0 counted; a pixel's variance has {noisy:.1f} "
        "% of sampling error "
        "(one sd); anisotropy is the "
        "largest over the smallest power at 0.25 to 0.5 cycles a pixel by direction"
    )
