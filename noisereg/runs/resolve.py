"""A configuration with nothing left on ``auto``, as config.yaml records it."""

from __future__ import annotations

from typing import Any

from noisereg.api import Dataset, Denoiser, NoiseregError, Params, Task
from noisereg.denoisers import auto_denoiser
from noisereg.diffusion.diffusion import Diffusion
from noisereg.plugins.registry import Registry
from noisereg.plugins.spec import Spec
from noisereg.runs import sampling
from noisereg.runs.config import LISTS, SECTION_KIND, Config
from noisereg.runs.pretrained import denoiser_of


def choose_denoiser(config: Config, registry: Registry, shape: tuple[int, ...]) -> Spec:
    """The denoiser of a configuration: the one named, that of ``init``, or one that fits
    ``shape``, its parameters filled in.
    """
    if config.denoiser.name != "auto":
        return config.denoiser
    spec = denoiser_of(config.init) if config.init else Spec(name=auto_denoiser(shape))
    entry = registry.find("denoiser", spec.name)
    params = registry.params(entry, spec.params).model_dump(mode="json")
    return Spec(name=entry.recorded, params=params)


def resolve(
    config: Config,
    registry: Registry,
    dataset: Dataset | None,
    task: Task,
    diffusion: Diffusion,
    denoiser_spec: Spec,
    denoiser: Denoiser,
    images: bool = True,
) -> Config:
    """``config`` with what the built components resolved, and the sampling that goes with them.

    Raises:
        NoiseregError: for sampling settings that would sample wrongly.
    """
    resolved: dict[str, Any] = {
        "task": _recorded(config.task, task),
        "process": _recorded(config.process, diffusion.process),
        "denoiser": _recorded(denoiser_spec, denoiser),
    }
    if dataset is not None:
        resolved["data"] = _recorded(config.data, dataset)
    resolved["sample"] = sampling.resolve(
        config.sample,
        registry,
        diffusion.process,
        diffusion.noise,
        task,
        diffusion.shape,
        diffusion.pairing is not None,
        images,
    )
    if config.optim.lr == "auto":
        rate = float(denoiser.default_lr)
        resolved["optim"] = config.optim.model_copy(update={"lr": rate})
    return config.model_copy(update=resolved)


def _recorded(spec: Spec, built: Any) -> Spec:
    """The spec with the parameters that the built component resolved."""
    if not isinstance(built.params, Params):
        return spec
    return Spec(name=spec.name, params=built.params.model_dump(mode="json"))


def component_records(config: Config, registry: Registry) -> dict[str, dict[str, Any]]:
    """Qualified name, revision and distribution version of each component, for
    environment.json.
    """
    named: dict[str, tuple[Any, Spec]] = {}
    for section, kind in SECTION_KIND.items():
        value = getattr(config, section)
        for index, spec in enumerate(value if section in LISTS else [value]):
            named[f"{section}.{index}" if section in LISTS else section] = (kind, spec)
    records: dict[str, dict[str, Any]] = {}
    for key, (kind, spec) in named.items():
        if spec.name not in ("none", "auto"):
            entry = registry.find(kind, spec.name)
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
                f"this run was started and is now revision {now['revision']} (version "
                f"{now['version']}): its numbers differ; install that version, or start a new run"
            )
