"""``sample.eps_scale``: how ε̂ is scaled, measured on the run's own data where a regularizer says
how."""

from __future__ import annotations

import math
from collections.abc import Callable
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
from noisereg.diffusion import compatible
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


def check(
    spec: Spec, registry: Registry, process: Process, noise: Noise, shape: tuple[int, ...]
) -> None:
    """What :func:`build` would refuse of a regularizer, before anything is measured.

    Raises:
        NoiseregError: where the regularizer does not say how it scales ε̂.
    """
    context = Context(shape=shape, process=process, noise=noise)
    term: Regularizer = registry.build("regularizer", spec.name, spec.params, context)
    one = torch.ones(1, dtype=torch.float64)
    trained = TrainedPower(process, one / 2, one, one, noise=_alone(noise), shape=shape)
    term.eps_scale(float(spec.params["weight"]), trained)


def _alone(noise: Noise) -> Noise | None:
    """The noise, if it is never told of a condition."""
    return None if compatible.sees_condition(noise) else noise


def measure(parts: Parts, registry: Registry) -> TrainedPower:
    """E‖ε̂_t‖²/n of the run's network, unguided, over its training split; what else is asked of
    ε̂_t is measured alike.
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
    net = parts.objective.eval()
    batches = []
    level = torch.zeros(TIMES).double()
    with torch.no_grad():
        for places in torch.arange(len(indices)).split(BATCH):
            batch = split.batch(indices[places])
            cond = parts.task.cond(batch)
            cond = None if cond is None else cond.to(device)
            noise = parts.noise.given(cond)
            batches.append((places, batch.x.to(device), cond, noise))
            for k, time in enumerate(times):
                square = noise.mean_square(time.to(device).expand(len(places)))
                level[k] += square.double().sum().cpu() / len(indices)

    def means(of: Callable[[Tensor, int], Tensor], known: Tensor) -> Tensor:
        """(K, D), with the draws of ε_t, whose means are ``known``, as the control variate: near
        t = 1, where ε̂ is almost ε, it takes away almost all of their spread.
        """
        found = []
        for k, time in enumerate(times):
            predicted, true = [], []
            for places, x0, cond, noise in batches:
                t = time.to(device).expand(len(x0))
                source = torch.Generator().manual_seed(
                    draws.torch_seed(parts.config.seed, Stream.POWER, int(places[0]), k)
                )
                eps = noise.color(noise.draw_latents(len(x0), shape, source, device), t)
                x_t = add_noise(process, x0, eps, t)
                eps_hat = net.diffusion.predict(net.denoiser, x_t, t, cond).eps_hat
                predicted.append(of(eps_hat.double(), k).cpu())
                true.append(of(eps.double(), k).cpu())
            found.append(_controlled(torch.cat(predicted), torch.cat(true), known[k]))
        return torch.stack(found)

    with torch.inference_mode():
        power = means(lambda eps, k: eps.flatten(1).square().mean(1, keepdim=True), level[:, None])
    return TrainedPower(
        process,
        times,
        power[:, 0],
        level,
        together=parts.config.train.times == "batch",
        noise=_alone(parts.noise),
        shape=shape,
        device=device,
        means=torch.inference_mode()(means),
    )


def _controlled(values: Tensor, control: Tensor, known: Tensor) -> Tensor:
    """The means (D,) of ``values`` (N, D), which are squares, less what the draws' ``control`` is
    off its ``known`` mean, by regression.
    """
    spread = control - control.mean(0)
    slope = (spread * values).sum(0) / spread.square().sum(0).clamp(min=1e-300)
    return (values.mean(0) - slope * (control.mean(0) - known)).clamp(min=0)
