"""From a configuration to the parts of a run, each built through the registry, and every ``auto``
resolved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from noisereg.api import Context, Dataset, Noise, NoiseregError, Pairing, Params, Process, Task
from noisereg.diffusion.sampler import check, default_grid
from noisereg.plugins.registry import Registry
from noisereg.plugins.spec import Spec
from noisereg.runs import conditions, draws
from noisereg.runs.config import Config, complete, data_spec, horizon
from noisereg.runs.draws import Stream
from noisereg.runs.objective import Objective, Weighted
from noisereg.runs.runtime import Runtime
from noisereg.runs.schedule import Schedule
from noisereg.store import cache_dir


def batches(dataset: Dataset, split: str, size: int = 500) -> Iterator[Tensor]:
    """The data of one split, once, in order."""
    part = dataset.split(split)
    for start in range(0, len(part), size):
        yield part.batch(torch.arange(start, min(start + size, len(part)))).x


@dataclass
class Parts:
    """The built components of one run and its configuration with nothing left on ``auto``."""

    config: Config
    dataset: Dataset | None
    shape: tuple[int, ...]
    task: Task
    noise: Noise
    process: Process
    objective: Objective
    pairing: Pairing | None
    decode: Callable[[Tensor], Tensor] | None = None
    """How samples become what a user sees, where it is not by [−1, 1] to uint8."""
    lines: dict[str, str] = field(default_factory=dict)
    """What each part resolved to, for the start of a run."""
    notes: list[str] = field(default_factory=list)
    data_record: dict[str, Any] = field(default_factory=dict)
    """The fingerprint of the data that the run is trained on, for environment.json."""

    @property
    def denoiser(self) -> nn.Module:
        return self.objective.denoiser


def build_dataset(config: Config, registry: Registry, runtime: Runtime) -> Dataset:
    spec = data_spec(config.data, registry)
    return registry.build("dataset", spec.name, spec.params, Context(device=runtime.device))


def assemble(
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
    from noisereg.denoisers import auto_denoiser
    from noisereg.exchange.from_diffusers import denoiser_spec as denoiser_spec_of

    config = complete(config, registry)
    lines: dict[str, str] = {}
    if shape is None:
        dataset = dataset or build_dataset(config, registry, runtime)
        shape = tuple(dataset.shape)
        lines["data"] = f"{config.data.name}: {dataset.summary}"

    def recorded(spec: Spec, built: Any) -> Spec:
        params = getattr(built, "params", None)
        return (
            Spec(name=spec.name, params=params.model_dump(mode="json"))
            if isinstance(params, Params)
            else spec
        )

    resolved: dict[str, Any] = {}
    if dataset is not None:
        decode = dataset.decode
        resolved["data"] = recorded(config.data, dataset)
    else:
        entry = registry.find("dataset", config.data.name)
        read = getattr(entry.implementation(), "decoder", Dataset.decoder)
        decode = read(
            registry.params(entry, config.data.params), Context(shape=shape, device=runtime.device)
        )

    def build(kind: Any, spec: Spec, ctx: Context) -> Any:
        return registry.build(kind, spec.name, spec.params, ctx)

    data = dataset
    ctx = Context(
        shape=shape,
        device=runtime.device,
        dtype=torch.float32,
        cache_dir=cache_dir(),
        batches=(lambda split: batches(data, split)) if data is not None else None,
    )
    task: Task = build("task", config.task, Context(**{**vars(ctx), "dataset": data}))
    resolved["task"] = recorded(config.task, task)
    noise: Noise = build("noise", config.noise, ctx)
    ctx = Context(**{**vars(ctx), "noise": noise, "task": task})
    process: Process = build("process", config.process, Context(**{**vars(ctx), "dataset": data}))
    resolved["process"] = recorded(config.process, process)
    ctx = Context(**{**vars(ctx), "process": process})

    denoiser_spec = config.denoiser
    if denoiser_spec.name == "auto":
        denoiser_spec = (
            denoiser_spec_of(config.init) if config.init else Spec(name=auto_denoiser(shape))
        )
        entry = registry.find("denoiser", denoiser_spec.name)
        params = registry.params(entry, denoiser_spec.params)
        denoiser_spec = Spec(name=entry.recorded, params=params.model_dump(mode="json"))
    torch.manual_seed(draws.torch_seed(config.seed, Stream.WEIGHTS))
    denoiser: nn.Module = build("denoiser", denoiser_spec, ctx)
    resolved["denoiser"] = recorded(denoiser_spec, denoiser)

    regularizers: list[Weighted] = []
    for number, spec in enumerate(config.reg):
        name = spec.name.rpartition("/")[2]
        if name in (r.name for r in regularizers):
            name = f"{name}.{number}"
        schedule = Schedule(spec.params["schedule"], spec.params["warmup"], horizon(config))
        term = build("regularizer", spec, ctx)
        regularizers.append(Weighted(name, float(spec.params["weight"]), term, schedule))
    pairing: Pairing | None = None
    if config.pairing.name != "none":
        if task.channels or task.classes:
            raise NoiseregError(
                f"pairing {config.pairing.name} with task {config.task.name}: paired noise "
                "depends on the image and so on "
                "its condition, but sampling draws it whatever the condition is (Cheng & Schwing "
                "2025, arXiv 2503.10636); "
                "give `pairing=none` or `task=unconditional`"
            )
        if process.trains_bound:
            raise NoiseregError(
                f"pairing {config.pairing.name} with a learned variance: it is trained by the "
                "variational bound, which rests "
                "on noise independent of the data; give `pairing=none`, or "
                "ddpm:variance=beta-tilde"
            )
        pairing = build("pairing", config.pairing, ctx)

    sampling = config.sample
    eta = sampling.eta
    if eta == "auto":
        eta = (
            0.0
            if pairing or not noise.gaussian or sampling.solver == "heun"
            else process.default_eta
        )
    if eta == 0 and process.default_eta > 0 and pairing is not None:
        lines["sampling"] = "η 0: the pairing gave up the independence that η > 0 rests on"
    grid = default_grid(noise) if sampling.grid == "auto" else sampling.grid
    check(process, noise, eta, sampling.solver, pairing is not None)
    conditions.check(task, sampling.guidance)
    resolved["sample"] = sampling.model_copy(update={"eta": eta, "grid": grid})
    if config.optim.lr == "auto":
        rate = float(getattr(denoiser, "default_lr", 1e-3))
        resolved["optim"] = config.optim.model_copy(update={"lr": rate})

    objective = Objective(
        denoiser, noise, process, regularizers, pairing, runtime.mean, runtime.bf16
    )
    objective.to(runtime.device)
    if runtime.channels_last and len(shape) == 3:
        denoiser.to(memory_format=torch.channels_last)

    count = sum(p.numel() for p in denoiser.parameters()) / 1e6
    picked = f" (auto: {'×'.join(map(str, shape[1:] if len(shape) == 3 else shape))})" * (
        config.denoiser.name == "auto" and config.init is None
    )
    lines["noise"] = f"{config.noise.name}{_summary(noise)}"
    lines["process"] = f"{config.process.name}{_summary(process)}"
    lines["regularizers"] = (
        ", ".join(f"{r.describe()}{_summary(r.term)}" for r in regularizers) or "none"
    )
    if pairing is not None:
        lines["pairing"] = f"{config.pairing.name}{_summary(pairing)}"
    if config.task.name != "unconditional":
        lines["task"] = f"{config.task.name}{_summary(task)}"
    shaped = f"{text}, " if (text := getattr(denoiser, "summary", "")) else ""
    lines["denoiser"] = f"{denoiser_spec.name}{picked}: {shaped}{count:.2f} M parameters"
    return Parts(
        config=config.model_copy(update=resolved),
        dataset=dataset,
        shape=shape,
        task=task,
        noise=noise,
        process=process,
        objective=objective,
        pairing=pairing,
        decode=decode,
        lines=lines,
        notes=[
            *(dataset.notes if dataset is not None else ()),
            *getattr(noise, "notes", ()),
            *process.notes,
        ],
    )


def _summary(component: Any) -> str:
    text = getattr(component, "summary", "")
    return f": {text}" if text else ""


def component_records(config: Config, registry: Registry) -> dict[str, dict[str, Any]]:
    """Qualified name, revision and distribution version of each component, for
    environment.json.
    """
    from noisereg.runs.config import LISTS, SECTION_KIND

    records: dict[str, dict[str, Any]] = {}
    for section, kind in SECTION_KIND.items():
        value = getattr(config, section)
        for index, spec in enumerate(value if section in LISTS else [value]):
            if spec.name in ("none", "auto"):
                continue
            entry = registry.find(kind, spec.name)
            key = f"{section}.{index}" if section in LISTS else section
            records[key] = {
                "name": entry.qualified,
                "revision": entry.component.revision,
                "version": entry.version,
            }
    return records


def check_revisions(old: dict[str, dict[str, Any]], new: dict[str, dict[str, Any]]) -> None:
    """
    Raises:
        NoiseregError: if a component's numbers have changed since the run was started.
    """
    for key, was in old.items():
        now = new.get(key)
        if now and now["revision"] != was["revision"]:
            raise NoiseregError(
                f"{was['name']} was revision {was['revision']} (version {was['version']}) when "
                "this run was started and is "
                f"now revision {now['revision']} (version {now['version']}): its numbers differ; "
                "install that version, or "
                "start a new run"
            )
