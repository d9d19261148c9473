"""``sample.eps_scale``: what ε̂ is multiplied by, measured on the run's own data where a
regularizer says how."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from noisereg import draws
from noisereg.api import (
    Context,
    EpsScale,
    Noise,
    NoiseregError,
    Process,
    Regularizer,
    TrainedPower,
)
from noisereg.data import spaced
from noisereg.diffusion.adjust import constant
from noisereg.diffusion.law import add_noise
from noisereg.draws import Stream
from noisereg.plugins.registry import Registry
from noisereg.plugins.spec import Spec
from noisereg.runs.config import data_spec

if TYPE_CHECKING:
    from noisereg.runs.build import Parts

TIMES = 64
"""At which the power of ε̂ is measured: the middles of equal shares of training's own law."""
NUMBERS = 32_768
"""Measured at each time, as far as the data reach: 64 to 2,048 samples of so many dimensions."""
BATCH = 512


def build(scale: float | Spec, parts: Parts, registry: Registry) -> EpsScale | None:
    """The function that resolved settings name; None where nothing is scaled.

    Raises:
        NoiseregError: where the regularizer cannot say, and for data that are gone.
    """
    if not isinstance(scale, Spec):
        return None if scale == 1 else constant(parts.process, scale)
    if parts.config.reg:
        terms = " + ".join(spec.name for spec in parts.config.reg)
        raise NoiseregError(
            f"eps_scale {scale.name}: it is what training with that term would make of a run "
            f"without a regularizer, and this run was trained with {terms}; give a number"
        )
    context = Context(
        shape=parts.shape,
        device=next(parts.denoiser.parameters()).device,
        process=parts.process,
        noise=parts.noise,
        task=parts.task,
    )
    term: Regularizer = registry.build("regularizer", scale.name, scale.params, context)
    return term.eps_scale(float(scale.params["weight"]), measure(parts, registry))


def check(spec: Spec, registry: Registry, process: Process, noise: Noise) -> None:
    """What :func:`build` would refuse of a regularizer, before anything is measured.

    Raises:
        NoiseregError: where the regularizer does not say how it scales ε̂.
    """
    context = Context(process=process, noise=noise)
    term: Regularizer = registry.build("regularizer", spec.name, spec.params, context)
    one = torch.ones(1, dtype=torch.float64)
    term.eps_scale(float(spec.params["weight"]), TrainedPower(process, one / 2, one, one))


def measure(parts: Parts, registry: Registry) -> TrainedPower:
    """E‖ε̂_t‖²/n of the run's network, unguided, over its training split.

    ‖ε_t‖²/n, whose mean is known, is the control variate: near t = 1, where ε̂ is almost ε, it
    takes away almost all of the draws' spread.
    """
    process, shape = parts.process, parts.shape
    device = next(parts.denoiser.parameters()).device
    dataset = parts.dataset
    if dataset is None:
        data = data_spec(parts.config.data, registry)
        dataset = registry.build("dataset", data.name, data.params, Context(device=device))
    split = dataset.split("train")
    indices = spaced(len(split), min(max(NUMBERS // math.prod(shape), 64), 2048))
    u = (torch.arange(TIMES, dtype=torch.float64) + 0.5) / TIMES
    times = process.time(u)
    predicted, true = (torch.zeros(TIMES, len(indices)).double() for _ in range(2))
    level = torch.zeros(TIMES).double()
    net = parts.objective.eval()
    with torch.inference_mode():
        for places in torch.arange(len(indices)).split(BATCH):
            batch = split.batch(indices[places])
            x0, cond = batch.x.to(device), parts.task.cond(batch)
            cond = None if cond is None else cond.to(device)
            noise = parts.noise.given(cond)
            for k, time in enumerate(times):
                t = time.to(device).expand(len(x0))
                source = torch.Generator().manual_seed(
                    draws.torch_seed(parts.config.seed, Stream.POWER, int(places[0]), k)
                )
                eps = noise.color(noise.draw_latents(len(x0), shape, source, device), t)
                x_t = add_noise(process, x0, eps, t)
                eps_hat = net.diffusion.predict(net.denoiser, x_t, t, cond).eps_hat
                predicted[k, places], true[k, places] = _power(eps_hat), _power(eps)
                level[k] += noise.mean_square(t).double().sum().cpu() / len(indices)
    together = parts.config.train.times == "batch"
    return TrainedPower(process, times, _controlled(predicted, true, level), level, together)


def _power(eps: Tensor) -> Tensor:
    """‖ε‖²/n, (B,) float64 on the CPU."""
    return eps.double().flatten(1).square().mean(1).cpu()


def _controlled(values: Tensor, control: Tensor, known: Tensor) -> Tensor:
    """The means (K,) of ``values`` (K, N), less what the draws' ``control`` is off its ``known``
    mean, by regression.
    """
    spread = control - control.mean(1, keepdim=True)
    slope = (spread * values).sum(1) / spread.square().sum(1).clamp(min=1e-300)
    return values.mean(1) - slope * (control.mean(1) - known)
