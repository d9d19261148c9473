"""From pure noise to samples, by any solver."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise

from torch import Tensor

from noisereg.api import (
    Noise,
    NoiseregError,
    Prediction,
    Process,
    SampleStep,
    Solver,
    per_sample,
)

Predict = Callable[[Tensor, Tensor], Prediction]
"""(x_t (B, *shape), t (B,)) → Prediction."""
Source = Callable[[int], Mapping[str, Tensor]]
"""The latents of step k: 0 for the start, k for the fresh noise of the k-th step."""


def trajectory(
    predict: Predict,
    process: Process,
    noise: Noise,
    source: Source,
    times: Tensor,
    solver: Solver,
    start: Tensor | None = None,
) -> Iterator[Tensor]:
    """x at each of ``times`` (steps + 1,), first to last: (B, *shape) in the dtype and on the
    device of the latents.

    ``start`` replaces the first x, b(1)·ε_1, which is right where no signal is left at t = 1.
    """
    latents = source(0)
    batch = next(iter(latents.values()))
    # Nothing below asks a device for a number, which would wait for all that it has been given.
    to_data = float(times[-1]) == 0.0
    nodes = [time.expand(len(batch)) for time in times.to(batch.device)]
    x = start
    if x is None:
        eps = noise.color(latents, nodes[0])
        x = per_sample(process.noise_scale(nodes[0]), eps) * eps
    yield x
    history: list[tuple[Tensor, Prediction]] = []

    def fresh(k: int, s: Tensor) -> Tensor:
        if solver.deterministic:
            raise NoiseregError(
                f"{type(solver).__name__} says that it is deterministic, and asks for fresh "
                "noise; expected deterministic = False, by which a noise can refuse it"
            )
        return noise.color(source(k), s)

    for k, (t, s) in enumerate(pairwise(nodes)):
        here = predict(x, t)
        x = solver.step(
            SampleStep(
                x_t=x,
                t=t,
                s=s,
                here=here,
                history=tuple(history),
                process=process,
                noise=noise,
                predict=predict,
                fresh=functools.partial(fresh, k + 1, s),
                last=k == len(nodes) - 2 and to_data,
            )
        )
        if not isinstance(x, Tensor):
            raise NoiseregError(
                f"{type(solver).__name__}.step gave {x!r:.60}; expected x at s, "
                f"{tuple(batch.shape)}"
            )
        history = [*history, (t, here)][-solver.memory :] if solver.memory else []
        yield x
