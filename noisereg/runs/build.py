"""From a configuration to the parts of a run, each built through the registry."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from noisereg import draws
from noisereg.api import (
    Context,
    Dataset,
    Noise,
    Pairing,
    Process,
    Regularizer,
    Task,
)
from noisereg.data import batches
from noisereg.diffusion import compatible
from noisereg.diffusion.diffusion import Diffusion
from noisereg.diffusion.loss import Weighted
from noisereg.draws import Stream
from noisereg.errors import NoiseregError
from noisereg.folders import cache_dir
from noisereg.plugins.registry import Registry
from noisereg.plugins.spec import Spec
from noisereg.runs.config import Config, complete, data_spec, horizon
from noisereg.runs.describe import describe, notes_of
from noisereg.runs.objective import Objective
from noisereg.runs.resolve import choose_denoiser, resolve
from noisereg.runs.runtime import Runtime
from noisereg.runs.schedule import Schedule


@dataclass
class Parts:
    """The built components of one run and its configuration with nothing left on ``auto``."""

    config: Config
    dataset: Dataset | None
    shape: tuple[int, ...]
    task: Task
    objective: Objective
    decode: Callable[[Tensor], Tensor] | None = None
    """How samples become what a user sees, where it is not by [−1, 1] to uint8."""
    lines: dict[str, str] = field(default_factory=dict)
    """What each part resolved to, for the start of a run."""
    notes: list[str] = field(default_factory=list)
    data_record: dict[str, Any] = field(default_factory=dict)
    """The fingerprint of the data that the run is trained on, for environment.json."""

    @property
    def images(self) -> bool:
        """Whether samples are images in [−1, 1], and not points or latents."""
        return self.decode is None and len(self.shape) == 3

    @property
    def denoiser(self) -> nn.Module:
        return self.objective.denoiser

    @property
    def diffusion(self) -> Diffusion:
        return self.objective.diffusion

    @property
    def noise(self) -> Noise:
        return self.diffusion.noise

    @property
    def process(self) -> Process:
        return self.diffusion.process

    @property
    def pairing(self) -> Pairing | None:
        return self.diffusion.pairing


def build_dataset(config: Config, registry: Registry, runtime: Runtime) -> Dataset:
    spec = data_spec(config.data, registry)
    return registry.build("dataset", spec.name, spec.params, Context(device=runtime.device))


def build_parts(
    config: Config,
    registry: Registry,
    runtime: Runtime,
    shape: tuple[int, ...] | None = None,
    dataset: Dataset | None = None,
) -> Parts:
    """Build everything a run needs. With ``shape`` (a finished run's) the data set is not touched.

    Raises:
        NoiseregError: for anything unknown, out of range, or that does not go together, before
            training starts.
    """
    asked = config = complete(config, registry)
    if shape is None:
        dataset = dataset or build_dataset(config, registry, runtime)
        if not isinstance(found := getattr(dataset, "shape", None), tuple | list | torch.Size):
            raise NoiseregError(
                f"the data set {config.data.name} says {found!r:.60} of the shape of its samples; "
                "expected shape = (C, H, W), or (D,) for points"
            )
        shape = tuple(found)
    context = _context(shape, dataset, runtime)
    task: Task = _build(registry, "task", config.task, context, dataset=dataset)
    context = dataclasses.replace(context, task=task)
    noise: Noise = _build(registry, "noise", config.noise, context)
    context = dataclasses.replace(context, noise=noise)
    process: Process = _build(registry, "process", config.process, context, dataset=dataset)
    context = dataclasses.replace(context, process=process)
    spec = choose_denoiser(config, registry, shape)
    with draws.seeded(draws.torch_seed(config.seed, Stream.WEIGHTS), runtime.device):
        denoiser: Any = _build(registry, "denoiser", spec, context)
        terms = [_build(registry, "regularizer", reg, context) for reg in config.reg]
        pairing = _build_pairing(config, registry, context)
    diffusion = Diffusion(shape, process, noise, _weighted(config, terms), pairing)
    objective = Objective(denoiser, diffusion, runtime.bf16)
    # A network that is to be sharded may not fit on the device.
    (objective.diffusion if runtime.shard else objective).to(runtime.device)
    if runtime.channels_last and len(shape) == 3:
        objective.denoiser.to(memory_format=torch.channels_last)
    decode = decoder_of(config, registry, dataset, shape, runtime)
    images = decode is None and len(shape) == 3
    config = resolve(config, registry, dataset, task, diffusion, spec, denoiser, images)
    return Parts(
        config=config,
        dataset=dataset,
        shape=shape,
        task=task,
        objective=objective,
        decode=decode,
        lines=describe(asked, config, dataset, task, diffusion, denoiser),
        notes=notes_of(dataset, diffusion),
    )


def _build(registry: Registry, kind: Any, spec: Spec, context: Context, **more: Any) -> Any:
    return registry.build(kind, spec.name, spec.params, dataclasses.replace(context, **more))


def _context(shape: tuple[int, ...], dataset: Dataset | None, runtime: Runtime) -> Context:
    return Context(
        shape=shape,
        device=runtime.device,
        dtype=torch.float32,
        cache_dir=cache_dir(),
        batches=(lambda split: batches(dataset, split)) if dataset is not None else None,
    )


def _weighted(config: Config, terms: list[Regularizer]) -> list[Weighted]:
    """The regularizers under distinct names, with their weights over training."""
    weighted: list[Weighted] = []
    for number, (spec, term) in enumerate(zip(config.reg, terms, strict=True)):
        name = spec.name.rpartition("/")[2]
        if name in (w.name for w in weighted):
            name = f"{name}.{number}"
        schedule = Schedule(spec.params["schedule"], spec.params["warmup"], horizon(config))
        weighted.append(Weighted(name, float(spec.params["weight"]), term, schedule))
    return weighted


def _build_pairing(config: Config, registry: Registry, context: Context) -> Pairing | None:
    if config.pairing.name == "none":
        return None
    assert context.task is not None
    assert context.process is not None
    compatible.check_pairing(
        context.process, context.task, config.pairing.name, f"task {config.task.name}"
    )
    return _build(registry, "pairing", config.pairing, context)


def decoder_of(
    config: Config,
    registry: Registry,
    dataset: Dataset | None,
    shape: tuple[int, ...],
    runtime: Runtime,
) -> Callable[[Tensor], Tensor] | None:
    """How samples become what a user sees; from the data's parameters alone where it is absent."""
    if dataset is not None:
        return dataset.decode
    entry = registry.find("dataset", config.data.name)
    read = getattr(entry.implementation(), "decoder", Dataset.decoder)  # a function has none
    params = registry.params(entry, config.data.params)
    return read(params, Context(shape=shape, device=runtime.device))
