"""Pictures of runs beyond a grid of samples: from noise to data, between two latents, beside the
nearest training images, and the same latents in several runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from noisereg.api import Context
from noisereg.data import read_split
from noisereg.errors import NoiseregError
from noisereg.metrics.memorisation import is_copy, nearest
from noisereg.plugins.spec import Spec
from noisereg.runs.output import (
    ANIMATED,
    ANIMATIONS,
    STRIP,
    STRIPS,
    animation,
    between,
    labelled,
    npz_bytes,
    picture,
    strip,
)
from noisereg.runs.reporter import Reporter
from noisereg.runs.run import GRID, Run, shown
from noisereg.runs.sampling import build_solver, override

Kind = Literal["", "trajectory", "interpolation", "nearest"]
NEIGHBOURS = 3
"""Training images beside each sample."""


@dataclass(frozen=True)
class View:
    """One picture."""

    data: bytes
    num: int
    """Samples in it, of each run."""
    memorised: float | None = None
    """Of ``nearest``: the share of the samples that are copies of a training image."""


def draw(
    runs: Sequence[Run],
    kind: Kind,
    num: int | None = None,
    ending: str = ".png",
    between: int | None = None,
    **options: Any,
) -> View:
    """A picture of one run, or of several below one another, each from the same latents;
    ``options`` are those of :meth:`noisereg.runs.run.Run.sample`.

    Raises:
        NoiseregError: for what has no such picture.
    """
    views = [_one(run, kind, num, ending, between or STRIPS, options) for run in runs]
    if len(runs) == 1:
        return views[0]
    names = [shown(run.path) for run in runs]
    rows = [(name, view.data) for name, view in zip(names, views, strict=True)]
    shares = [view.memorised for view in views if view.memorised is not None]
    return View(labelled(rows), views[0].num, shares[0] if len(shares) == 1 else None)


def _one(
    run: Run, kind: Kind, num: int | None, ending: str, columns: int, options: dict[str, Any]
) -> View:
    if kind == "trajectory":
        moving = ending in ANIMATIONS
        num = num or (GRID if moving or len(run.shape) != 3 else STRIPS)
        num = 2000 if len(run.shape) != 3 and num == GRID else num
        times: int | bool = ANIMATED if moving else STRIP if len(run.shape) == 3 else STRIP // 2
        times = True if ending == ".npz" else times
        frames = run.sample(num, trajectory=times, **options)
        if ending == ".npz":
            return View(npz_bytes(frames.flatten(0, 1), frames.shape[:2]), num)
        return View(animation(frames, ending) if moving else strip(frames), num)
    if kind == "interpolation":
        return _interpolated(run, num or STRIPS, columns, options)
    if kind == "nearest":
        return _beside_nearest(run, num or GRID, options)
    samples = run.sample(num or GRID, **options)
    return View(picture(samples, columns=STRIPS if samples.ndim == 4 else None), len(samples))


def interpolated(run: Run, rows: int, columns: int, **options: Any) -> Tensor:
    """(rows·columns, …): each row from the latents of one sample to those of the next, at η 0
    unless ``eta`` is given: fresh noise is another on each.

    Raises:
        NoiseregError: for a solver that adds fresh noise and has no η.
    """
    latents = {
        name: between(z, columns)
        for name, z in run.latents(2 * rows, options.get("seed", 0)).items()
    }
    if options.get("eta") is None:
        assert run.registry is not None
        solver = options.get("solver")
        if solver is None or "eta" not in Spec.parse(solver).params:
            options["eta"] = 0.0
        settings = override(run.config.sample, run.registry, eta=options.get("eta"), solver=solver)
        if settings.eta == 0 and not build_solver(settings, run.registry).deterministic:
            raise NoiseregError(
                f"`interpolate`: solver {settings.solver.name} adds fresh noise, another on each "
                "sample; give solver ddim"
            )
    return run.sample(latents=latents, **options)


def _interpolated(run: Run, rows: int, columns: int, options: dict[str, Any]) -> View:
    samples = interpolated(run, rows, columns, **options)
    if samples.ndim != 4:
        raise NoiseregError("`interpolate`: points between two latents have no pictures in a row")
    return View(picture(samples, columns), len(samples))


def _beside_nearest(run: Run, num: int, options: dict[str, Any]) -> View:
    assert run.registry is not None
    if len(run.shape) != 3:
        raise NoiseregError(
            "`nearest`: points have no pictures; noisereg eval --metric memorisation has the "
            "number"
        )
    data = run.config.data
    dataset = run.registry.build("dataset", data.name, data.params, Context())
    if changed := run.other_data(dataset.fingerprint()):
        told = options.get("reporter") or Reporter()
        told.note(f"the data are not those that the run was trained on: {changed}")
    train = read_split(dataset, "train", most=None)
    samples = run.sample(num, **options)
    image, share = beside_nearest(samples, train)
    return View(image, num, share)


def beside_nearest(samples: Tensor, train: Tensor) -> tuple[bytes, float]:
    """A row for each two of the samples (N, C, H, W), each with its nearest training images after
    it; and the share of the samples that are copies.
    """
    distances, places = nearest(samples.flatten(1), train.flatten(1), NEIGHBOURS)
    rows = torch.cat([samples[:, None], train[places]], 1)
    columns = 2 * (1 + NEIGHBOURS) if len(rows) > 1 else 1 + NEIGHBOURS
    return picture(rows.flatten(0, 1), columns), float(is_copy(distances).double().mean())
