"""A run's network as metrics and the sampler see it."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from noisereg import draws
from noisereg.api import EpsScale, Noise, Prediction, Process, Task
from noisereg.diffusion.adjust import Clip, adjusted
from noisereg.draws import Stream
from noisereg.plugins.registry import Registry
from noisereg.plugins.spec import Spec
from noisereg.runs import rescaling, sampling
from noisereg.runs.build import Parts
from noisereg.runs.config import SampleConfig


@dataclass(frozen=True)
class RunModel:
    """The :class:`noisereg.api.Model` of a run's parts, its weights as they are, under resolved
    sampling ``settings``.
    """

    parts: Parts
    settings: SampleConfig
    registry: Registry
    seed: int

    @property
    def process(self) -> Process:
        return self.parts.process

    @property
    def noise(self) -> Noise:
        return self.parts.noise

    @property
    def task(self) -> Task:
        return self.parts.task

    @property
    def shape(self) -> tuple[int, ...]:
        return self.parts.shape

    @property
    def device(self) -> torch.device:
        return next(self.parts.denoiser.parameters()).device

    @property
    def paired(self) -> bool:
        return self.parts.pairing is not None

    @property
    def sampling(self) -> Mapping[str, Any]:
        s = self.settings
        return {
            "steps": s.steps,
            "eta": s.eta,
            "solver": s.solver.label(),
            "grid": s.grid.label(),
            "guidance": s.guidance,
            "eps_scale": sampling.scale_label(s.eps_scale),
            "clip": s.clip.label(),
            "seed": self.seed,
        }

    @functools.cached_property
    def eps_scale(self) -> EpsScale | None:
        """How ε̂ is scaled; measured on the run's own data where a regularizer says."""
        return rescaling.build(self.settings.eps_scale, self.parts, self.registry)

    @functools.cached_property
    def clip(self) -> Clip | None:
        return sampling.build_clip(self.settings.clip)

    def predict(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Prediction:
        """As sampling takes it, ε̂ scaled and x̂0 clipped; but under ``cond`` as it is, unguided,
        and in float32 whatever the run samples in.
        """

        def raw(x: Tensor, t: Tensor) -> Prediction:
            return self.parts.diffusion.predict(self.parts.denoiser, x, t, cond)

        return adjusted(raw, self.process, self.eps_scale, self.clip)(x, t)

    def latents(self, indices: Sequence[int], step: int) -> dict[str, Tensor]:
        return draws.latents(
            self.noise,
            self.shape,
            self.seed,
            Stream.SAMPLE_LATENTS,
            indices,
            step,
            self.device,
            self.parts.config.draws,
        )

    def times(self, steps: int | None = None, grid: str | None = None) -> Tensor:
        settings = self.settings
        if grid is not None:
            settings = settings.model_copy(update={"grid": Spec.parse(grid)})
        built = sampling.build_grid(settings, self.registry)
        return built.times(self.process, steps or settings.steps)

    def trajectory(
        self,
        indices: Sequence[int],
        cond: Tensor | None = None,
        start: Mapping[str, Tensor] | None = None,
    ) -> Iterator[Tensor]:
        """``start`` replaces the latents of step 0."""

        def source(step: int) -> Mapping[str, Tensor]:
            return start if start is not None and step == 0 else self.latents(indices, step)

        guidance = self.settings.guidance
        null = None if cond is None or guidance == 1 else self.task.null(cond)
        return self.parts.diffusion.trajectory(
            self.parts.objective.net,
            source,
            self.times(),
            sampling.build_solver(self.settings, self.registry),
            cond,
            guidance,
            null,
            eps_scale=self.eps_scale,
            clip=self.clip,
        )
