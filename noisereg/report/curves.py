"""What a row's pictures are drawn from, measured on its first run: predicted power over t,
isotropy of x_t, spectra.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from noisereg import draws
from noisereg.api import Dataset, Noise
from noisereg.data import data_hash, spaced, unit_range
from noisereg.diffusion.law import add_noise
from noisereg.draws import Stream
from noisereg.evaluation.reference import Reference, reference_condition
from noisereg.evaluation.samples import Sampling, made_by
from noisereg.metrics.power import optimum
from noisereg.runs.build import Parts
from noisereg.runs.logged import Log
from noisereg.runs.model import RunModel
from noisereg.runs.reporter import Reporter
from noisereg.runs.run import Run
from noisereg.runs.runtime import Runtime
from noisereg.store import JSON

IMAGES, POINTS = 256, 5000
"""Real samples that a curve averages over."""
TIMES = 25
VERSION = 3
"""Raised when a curve is added or measured otherwise."""
SPECTRUM_DRAWS = 256
SPECTRUM_TIMES = (0.0, 0.5, 1.0)


@dataclass(frozen=True)
class Curves:
    """Each list over t has one number a time."""

    t: list[float]
    predicted: list[float]
    """E‖ε̂‖²/n of the network on real data."""
    level: list[float]
    """E‖ε‖²/n of the noise itself."""
    optimum: list[float]
    """E‖ε̂‖²/n of the optimal denoiser for Gaussian data of the training set's covariance; empty
    where it is not known.
    """
    signal: list[float]
    """a(t)."""
    noise: list[float]
    """b(t)."""
    x0_power: float
    """E‖x0‖²/n of the data."""
    x_power: list[float]
    """E‖x_t‖²/n, measured."""
    own: dict[str, list[float]]
    """What the noise itself says of t, by name (its ``curves``)."""
    spectra: dict[str, list[list[float]]]
    """By time: [frequency, power] by radius; empty for points."""


def curves(
    sampling: Sampling, real: Reference, dataset: Dataset, runtime: Runtime, reporter: Reporter
) -> Curves:
    """The curves of one run, from its cache or measured now."""
    run = sampling.run
    key = {
        "curves": VERSION,
        "weights": sampling.sha256,
        "made by": made_by(run),
        "condition": sampling.condition,
        "reference": real.identity,
        "data": data_hash(dataset),
        "adjusted": [sampling.record()[key] for key in ("eps_scale", "clip")],
        "taken": [IMAGES, POINTS, TIMES, SPECTRUM_DRAWS, SPECTRUM_TIMES],
    }

    def measured() -> dict[str, Any]:
        model = sampling.model(runtime, reporter)
        return asdict(measure(model, run, real, dataset, sampling, runtime))

    return Curves(**sampling.store.cached("curves/curves", key, JSON, measured))


@torch.inference_mode()
def measure(
    model: RunModel,
    run: Run,
    real: Reference,
    dataset: Dataset,
    sampling: Sampling,
    runtime: Runtime,
) -> Curves:
    chosen = spaced(len(real.x), IMAGES if real.x.ndim == 4 else POINTS)
    if real.name == "fresh":
        x0 = unit_range(real.x[chosen]).to(runtime.device)
    else:  # as the network sees it, which need not be what the user sees (latents)
        split = dataset.split(real.name)
        assert real.places is not None
        x0 = split.batch(real.places[chosen]).x.to(runtime.device)
    cond: Tensor | None = None
    if sampling.condition:
        cond = reference_condition(model.task, dataset, real, chosen)
        cond = None if cond is None else cond.to(runtime.device)
    latents = draws.latents(
        model.noise,
        model.shape,
        run.config.seed,
        Stream.SAMPLE_LATENTS,
        range(len(x0)),
        0,
        runtime.device,
        run.config.draws,
    )
    times = torch.linspace(0, 1, TIMES + 1, dtype=torch.float64)[1:]
    noise = model.noise.given(cond)
    columns: dict[str, list[float]] = {
        k: [] for k in ("predicted", "level", "signal", "noise", "x_power")
    }
    for time in times:
        t = time.to(runtime.device).expand(len(x0))
        a, b = model.process.signal_scale(t), model.process.noise_scale(t)
        eps = noise.color(latents, t)
        x_t = add_noise(model.process, x0, eps, t)
        columns["predicted"].append(power(model.predict(x_t, t, cond).eps_hat))
        columns["level"].append(float(noise.mean_square(t).mean()))
        columns["signal"].append(float(a[0]))
        columns["noise"].append(float(b[0]))
        columns["x_power"].append(power(x_t))
    best = optimum(model, dataset, times)
    return Curves(
        t=times.tolist(),
        optimum=best.power if best else [],
        x0_power=power(x0),
        own=_own(model.noise, times, runtime),
        spectra=_spectra(model.parts, run, runtime),
        **columns,
    )


def _own(noise: Noise, times: Tensor, runtime: Runtime) -> dict[str, list[float]]:
    curves: dict[str, Tensor] = noise.curves(times.to(runtime.device))
    return {name: values.double().tolist() for name, values in curves.items()}


def power(x: Tensor) -> float:
    """E‖x‖²/n."""
    return float(x.flatten(1).double().square().mean())


def _spectra(parts: Parts, run: Run, runtime: Runtime) -> dict[str, list[list[float]]]:
    if len(parts.shape) != 3:
        return {}
    from noisereg.noises.analysis import periodogram, radial_power

    latents = draws.latents(
        parts.noise,
        parts.shape,
        run.config.seed,
        Stream.SAMPLE_LATENTS,
        range(SPECTRUM_DRAWS),
        0,
        runtime.device,
        run.config.draws,
    )
    spectra: dict[str, list[list[float]]] = {}
    for time in SPECTRUM_TIMES:
        t = torch.full((SPECTRUM_DRAWS,), time, dtype=torch.float64, device=runtime.device)
        radial = radial_power(periodogram(parts.noise.color(latents, t)), SPECTRUM_DRAWS)
        spectra[f"{time:g}"] = [radial.frequency.tolist(), radial.power.tolist()]
    return spectra


def training_log(run: Run, log: Log) -> dict[str, list[tuple[float, float]]]:
    """(step, value) of each column of metrics.jsonl that a picture shows: the loss, the
    regularizers, and what components log of their own state, ``component/name``.
    """
    columns: dict[str, list[tuple[float, float]]] = {}
    names = {"loss", *(spec.name.rpartition("/")[2] for spec in run.config.reg)}
    for line in log.values():
        for name, value in line.items():
            if (name in names or "/" in name) and isinstance(value, int | float):
                columns.setdefault(name, []).append((float(line["step"]), float(value)))
    return columns
