"""What a run says of its parts before it trains."""

from __future__ import annotations

from typing import Any

from noisereg.api import Dataset, Denoiser, Task
from noisereg.diffusion import compatible
from noisereg.diffusion.diffusion import Diffusion
from noisereg.diffusion.loss import Weighted
from noisereg.runs.config import Config
from noisereg.runs.schedule import Schedule


def describe(
    asked: Config,
    config: Config,
    dataset: Dataset | None,
    task: Task,
    diffusion: Diffusion,
    denoiser: Denoiser,
) -> dict[str, str]:
    """A line a part, by its heading: what was ``asked`` for and what it resolved to."""
    lines: dict[str, str] = {}
    if dataset is not None:
        lines["data"] = f"{config.data.name}{_summary(dataset)}"
    if diffusion.pairing is not None and diffusion.process.default_eta > 0:
        lines["sampling"] = "η 0: the pairing gave up the independence that η > 0 rests on"
    lines["noise"] = f"{config.noise.name}{_summary(diffusion.noise)}"
    lines["process"] = f"{config.process.name}{_summary(diffusion.process)}"
    terms = [f"{_weight(r)}{_summary(r.term)}" for r in diffusion.regularizers]
    lines["regularizers"] = ", ".join(terms) or "none"
    if diffusion.pairing is not None:
        lines["pairing"] = f"{config.pairing.name}{_summary(diffusion.pairing)}"
    if config.task.name != "unconditional":
        lines["task"] = f"{config.task.name}{_summary(task)}"
    shape = diffusion.shape
    size = "×".join(map(str, shape[1:] if len(shape) == 3 else shape))
    picked = f" (auto: {size})" * (asked.denoiser.name == "auto" and asked.init is None)
    shaped = f"{denoiser.summary}, " if denoiser.summary else ""
    count = sum(p.numel() for p in denoiser.parameters()) / 1e6  # type: ignore[attr-defined]
    lines["denoiser"] = f"{config.denoiser.name}{picked}: {shaped}{count:.2f} M parameters"
    return lines


def notes_of(dataset: Dataset | None, diffusion: Diffusion) -> list[str]:
    """What the user should know about the data, and about this process with this noise."""
    noise, process = diffusion.noise, diffusion.process
    data = dataset.notes if dataset is not None else ()
    return [*data, *noise.notes, *process.notes, *compatible.notes(process, noise)]


def _summary(component: Any) -> str:
    return f": {component.summary}" if component.summary else ""


def _weight(regularizer: Weighted) -> str:
    text = f"{regularizer.name} × {regularizer.weight:g}"
    schedule = regularizer.schedule
    if isinstance(schedule, Schedule):
        text += f", up over {schedule.warmup:,} steps" if schedule.warmup else ""
        text += f", {schedule.kind} to 0" if schedule.kind != "constant" else ""
    return text
