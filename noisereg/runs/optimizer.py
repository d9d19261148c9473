"""The optimiser of a run and its learning rate."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from noisereg.runs.build import Parts
from noisereg.runs.config import Config, horizon
from noisereg.runs.schedule import Schedule


def learning_rate(config: Config, step: int) -> float:
    """Of optimiser step ``step`` (from 0): a linear warm-up, then the schedule, down to 0 at the
    horizon.
    """
    optim = config.optim
    assert optim.lr != "auto"  # build_parts resolved it
    return optim.lr * Schedule(optim.schedule, optim.warmup, horizon(config))(step)


def learners(parts: Parts) -> list[Any]:
    """The components beside the denoiser that may learn."""
    diffusion = parts.diffusion
    return [diffusion.noise, diffusion.process, *(r.term for r in diffusion.regularizers)]


def make_optimizer(config: Config, parts: Parts) -> torch.optim.Optimizer:
    """Adam or AdamW; a component with an ``lr`` of its own keeps its ratio to the denoiser's."""
    optim = config.optim
    assert optim.lr != "auto"
    groups: list[dict[str, Any]] = [{"params": list(parts.denoiser.parameters()), "scale": 1.0}]
    for component in learners(parts):
        if isinstance(component, nn.Module) and (
            params := [p for p in component.parameters() if p.requires_grad]
        ):
            own: float | None = component.lr  # type: ignore[assignment]
            groups.append(
                {"params": params, "scale": own / optim.lr if own else 1.0, "weight_decay": 0.0}
            )
    kind = _eager(torch.optim.AdamW if optim.name == "adamw" else torch.optim.Adam)
    # One kernel for all parameters: a third of the time of the default on a CPU, where small
    # networks feel it.
    fused = all(p.device.type in ("cpu", "cuda") for p in parts.denoiser.parameters())
    return kind(
        groups, lr=optim.lr, betas=optim.betas, weight_decay=optim.weight_decay, fused=fused
    )


def _eager(kind: type[torch.optim.Adam]) -> type[torch.optim.Adam]:
    """``kind`` without the wrappers that hide its methods from torch.compile's tracer, which is
    not let into them here (``runtime.compile`` compiles the network alone): the wrappers import
    it, which takes as long as importing torch.
    """
    names = ("add_param_group", "step", "zero_grad", "state_dict", "load_state_dict")
    # What is wrapped last also turns gradients off in `step`.
    plain = {name: torch.no_grad()(inspect.unwrap(getattr(kind, name))) for name in names}
    return type(kind.__name__, (kind,), plain)
