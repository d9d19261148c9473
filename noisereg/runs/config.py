"""The configuration of a run: sections, YAML, overrides and their precedence.

default < config file < flags < ``--set``. A component flag replaces the whole component, ``reg``
the whole list; ``--set noise.gamma.tau=0.2`` changes one key of the result.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.resources
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)

from noisereg.datasets import is_path, path_spec, split_path
from noisereg.errors import NoiseregError, nearest
from noisereg.paths import address, is_remote
from noisereg.plugins.registry import (
    FILE,
    KINDS,
    MODULE,
    SESSION,
    Kind,
    Plugin,
    Registry,
    canonical,
)
from noisereg.plugins.spec import Spec, flatten, set_dotted
from noisereg.plugins.validation import field_names, validation_message
from noisereg.reading import parse_yaml, read_yaml

SECTION_KIND: dict[str, Kind] = {
    "data": "dataset",
    "noise": "noise",
    "reg": "regularizer",
    "pairing": "pairing",
    "process": "process",
    "denoiser": "denoiser",
    "task": "task",
    "log": "logger",
}
"""The sections that hold components; ``reg`` and ``log`` hold lists."""
LISTS = ("reg", "log")
NESTED_KIND: dict[str, Kind] = {
    "sample.solver": "solver",
    "sample.grid": "grid",
    "sample.eps_scale": "regularizer",
    "train.eval": "metric",
    "train.eval_features": "features",
}
"""The settings within other sections that are components; ``sample.clip`` is none, and written as
one."""
WORDS: dict[Kind, str] = {"pairing": "none", "denoiser": "auto", "grid": "auto"}
"""What stands for a component and is none."""
COMPONENTS = frozenset([*SECTION_KIND, *NESTED_KIND, "sample.clip"])


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth(cls, value: Any, info: ValidationInfo) -> Any:
        """For Python true is 1."""
        annotation = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and annotation in (int, float, int | None, float | None):
            raise ValueError("expected a number")
        return value

    @field_validator("*", mode="after")
    @classmethod
    def _fits(cls, value: Any) -> Any:
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise ValueError("expected a whole number of at most 64 bits")
        return value


class PluginRecord(Section):
    """A plugin given by ``--plugin``; it is loaded again only if its SHA-256 is still this and the
    user is known to have run it.
    """

    source: str
    sha256: str = ""

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        return {"source": value} if isinstance(value, str) else value


def _written(path: Path) -> str:
    """An address with both its strokes."""
    return address(path) if is_remote(path) else str(path)


class InitRecord(Section):
    """The pretrained network a run starts from; a later run of the same configuration finds it
    unchanged, or not at all.
    """

    path: Path = Field(
        description="folder of a diffusers UNet2DModel, of a pipeline with one, or of a run; or "
        "its address"
    )
    sha256: str = Field("", description="of its configuration and weights; empty: as they are")

    @field_serializer("path")
    def _whole(self, path: Path) -> str:
        return _written(path)

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str | Path) else value


class ParentRecord(Section):
    """The run whose weights a run starts from (``train --from RUN[@STEP|@best]``)."""

    path: Path = Field(description="folder of the run, or its address")
    step: Annotated[int, Field(ge=0)] | Literal["best"] | None = Field(
        None,
        description="of its checkpoint; best: that which train.keep_best kept; null: the newest",
    )
    sha256: str = Field("", description="of its weights; empty: as they are")
    updates: int = Field(
        0, ge=0, description="optimiser steps behind the averaged weights it starts with"
    )

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        if not isinstance(value, str | Path):
            return value
        path, at, step = str(value).rpartition("@")
        if at and step == "best":
            return {"path": path, "step": step}
        return {"path": path, "step": int(step)} if at and step.isdecimal() else {"path": value}

    @field_serializer("path")
    def _whole(self, path: Path) -> str:
        return _written(path)


class TrainConfig(Section):
    steps: int = Field(4000, ge=1, description="optimiser steps")
    batch_size: int = Field(
        128, ge=1, description="global: over all ranks and accumulated micro-batches"
    )
    accumulate: int = Field(1, ge=1, description="micro-batches a step")
    clip: float | None = Field(1.0, gt=0, description="largest gradient norm; null for none")
    times: Literal["sample", "batch"] = Field(
        "sample",
        description="each sample's own t, or one for the whole batch of a step, over all ranks, "
        "as in Iso-Diffusion's first code",
    )
    antithetic: bool = Field(False, description="draw t in pairs (k, T − k + 1), as BNDM does")
    log_every: int = Field(50, ge=1, description="steps between lines of metrics.jsonl")
    checkpoint_every: int = Field(1000, ge=1, description="steps between checkpoints")
    keep_last: int = Field(2, ge=1, description="how many of the latest checkpoints stay")
    keep_every: int | None = Field(
        None, ge=1, description="checkpoints at multiples of this stay too"
    )
    sample_every: int | None = Field(
        None, ge=1, description="steps between sample grids; null: at the end only"
    )
    eval_every: int | None = Field(
        None, ge=1, description="steps between measurements of `train.eval`; null: none"
    )
    eval: list[Spec] = Field(
        [Spec(name="fd")], min_length=1, description="metrics measured while training"
    )
    eval_features: Spec = Field(Spec(name="pixels"), description="the space they measure in")
    eval_num: int = Field(
        256, ge=2, description="samples measured, always of the same latents, and real ones"
    )
    eval_steps: int | None = Field(
        None, ge=1, le=100_000, description="their sampling steps; null: sample.steps"
    )
    eval_reference: Literal["train", "heldout"] = Field(
        "train", description="where the real ones are taken from, evenly spaced"
    )
    keep_best: str | None = Field(
        None,
        description="a number of `train.eval` (fd-pixels): the checkpoint of its best value stays",
    )

    @field_validator("eval", mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        """One spec is a list of one."""
        return [value] if isinstance(value, str | Mapping) else value

    @model_validator(mode="after")
    def _best_is_measured(self) -> TrainConfig:
        if self.keep_best is not None and self.eval_every is None:
            raise ValueError("keep_best needs eval_every, the steps between measurements")
        return self

    @model_validator(mode="after")
    def _divides(self) -> TrainConfig:
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size {self.batch_size} must be a multiple of accumulate {self.accumulate}"
            )
        if self.antithetic and self.batch_size // self.accumulate % 2:
            raise ValueError("antithetic draws t in pairs: batch_size / accumulate must be even")
        if self.antithetic and self.times == "batch":
            raise ValueError("antithetic draws t in pairs, times=batch one for all: give one")
        return self


Beta = Annotated[float, Field(ge=0, lt=1)]


class OptimConfig(Section):
    name: Literal["adamw", "adam"] = Field("adamw", description="the optimiser")
    lr: Literal["auto"] | float = Field(
        "auto", description="learning rate; auto is the denoiser's own"
    )
    betas: tuple[Beta, Beta] = Field((0.9, 0.999), description="of its moving averages")
    weight_decay: float = Field(0.0, ge=0, description="of the denoiser's weights")
    warmup: int = Field(0, ge=0, description="steps over which the rate rises linearly from 0")
    schedule: Literal["constant", "cosine", "linear"] = Field(
        "constant", description="of the rate after the warm-up, to 0 at the horizon"
    )
    horizon: Literal["auto"] | int | None = Field(
        "auto",
        description="the step at which the schedules of the rate and of regularizers' weights "
        "reach 0; auto: train.steps when the run is started, null where none has one",
    )

    @field_validator("horizon")
    @classmethod
    def _ahead(cls, value: Any) -> Any:
        if isinstance(value, int) and value < 1:
            raise ValueError("expected a number of steps from 1, or auto")
        return value

    @field_validator("lr")
    @classmethod
    def _positive(cls, value: Any) -> Any:
        if value != "auto" and not 0 < value < float("inf"):
            raise ValueError("expected a learning rate above 0, or auto")
        return value


class EmaConfig(Section):
    decay: float = Field(
        0.998, ge=0, lt=1, description="of the averaged weights; 0 keeps the weights themselves"
    )
    warmup: bool = Field(True, description="decay min(decay, (1 + step)/(10 + step))")


class SampleConfig(Section):
    num: int = Field(64, ge=1, description="how many samples `noisereg sample` draws")
    steps: int = Field(100, ge=1, le=100_000, description="sampling steps")
    eta: Literal["auto"] | float = Field(
        "auto", description="0: DDIM and IADB; 1: DDPM; auto: the process's"
    )
    solver: Spec = Field(Spec(name="ddim"), description="ddim, heun, dpmpp-2m or a plugin's")
    grid: Spec = Field(
        Spec(name="auto"),
        description="of the steps; auto is uniform in t, and uniform in log(a/b) for static "
        "coloured noise",
    )
    guidance: float = Field(
        1.0,
        ge=0,
        allow_inf_nan=False,
        description="classifier-free guidance: unconditional + guidance·(conditional − "
        "unconditional); 1 is off",
    )
    eps_scale: float | Spec = Field(
        1.0,
        description="a factor of ε̂; or a regularizer, isotropy:weight=0.1: as training with it "
        "too would scale ε̂, measured on the run's own data",
    )
    clip: Spec = Field(
        Spec(name="none"),
        description="of x̂0, for images: none, static (to [−1, 1]), or "
        "dynamic:percentile=0.995 (Imagen's thresholding)",
    )
    batch_size: int = Field(
        500,
        ge=1,
        description="samples at once, or fewer where memory has no room for them; it changes "
        "nothing but memory and speed",
    )

    @field_validator("eps_scale", mode="before")
    @classmethod
    def _factor_or_term(cls, value: Any) -> Any:
        """A number as text is a factor, and no component of that name."""
        with contextlib.suppress(TypeError, ValueError):
            value = float(value)
        if isinstance(value, float) and not 0 < value < float("inf"):
            raise ValueError("expected a factor above 0, such as 1.02, or a regularizer")
        return value if isinstance(value, float | Spec) else Spec.model_validate(value)

    @field_validator("eta")
    @classmethod
    def _in_range(cls, value: Any) -> Any:
        if value != "auto" and not 0 <= value <= 1:
            raise ValueError("expected 0 ≤ eta ≤ 1, or auto")
        return value


class RuntimeConfig(Section):
    device: str = Field("auto", description="auto, cpu, cuda or cuda:1")
    precision: Literal["auto", "float32", "bf16"] = Field(
        "auto",
        description="of the network; auto: bf16 on CUDA. torch's float32 on CUDA is TF32 in "
        "convolutions",
    )
    compile: bool = Field(False, description="torch.compile the denoiser")
    shard: bool = Field(
        False,
        description="FSDP2: each rank holds a part of the weights, their averages and the "
        "optimiser's state",
    )
    channels_last: Literal["auto"] | bool = Field(
        "auto", description="memory format of images; auto: on CUDA"
    )


class Config(Section):
    """A complete run. Component sections hold specs; validate their parameters with
    :func:`complete`.
    """

    seed: int = Field(
        0, ge=0, lt=2**63, description="of weights, data order, t, latents and dropout"
    )
    draws: Literal["host", "device"] = Field(
        "host",
        description="where the latents of training and sampling are drawn: on the CPU, or where "
        "the network is, which gives other numbers, on every device the same to rounding",
    )
    plugins: list[PluginRecord] = []
    data: Spec = Spec(name="digits")
    noise: Spec = Spec(name="white")
    reg: list[Spec] = []
    pairing: Spec = Spec(name="none")
    process: Spec = Spec(name="ddpm")
    denoiser: Spec = Spec(name="auto")
    init: InitRecord | None = None
    parent: ParentRecord | None = None
    task: Spec = Spec(name="unconditional")
    train: TrainConfig = TrainConfig()
    optim: OptimConfig = OptimConfig()
    ema: EmaConfig = EmaConfig()
    sample: SampleConfig = SampleConfig()
    log: list[Spec] = []
    runtime: RuntimeConfig = RuntimeConfig()

    @field_validator("data", mode="before")
    @classmethod
    def _path(cls, value: Any) -> Any:
        return (
            path_spec(*split_path(value)) if isinstance(value, str) and is_path(value) else value
        )

    @field_validator(*LISTS, mode="before")
    @classmethod
    def _none(cls, value: Any) -> Any:
        """``none`` is an empty list; one spec is a list of one."""
        if value is None:
            return []
        values = value if isinstance(value, list) else [value]
        return [v for v in values if v != "none" and v != {"name": "none"}]

    def dump(self) -> dict[str, Any]:
        """Plain data, as config.yaml holds it."""
        return self.model_dump(mode="json")


def validate(values: Mapping[str, Any], origin: str = "") -> Config:
    """
    Args:
        origin: the file that the values come from, where errors are to name it.

    Raises:
        NoiseregError: one line that names the key, what was expected and the nearest key there is.
    """
    try:
        return Config.model_validate(dict(values))
    except ValidationError as error:
        said = validation_message(error, Config, "")
        raise NoiseregError(f"{origin}: {said}" if origin else said) from None


# YAML


def config_folder() -> Path:
    """Where ``--config NAME`` looks: the repository's ``configs/``, which the wheel holds as part
    of the package.
    """
    return Path(str(importlib.resources.files("noisereg"))) / "configs"


def config_names() -> list[str]:
    folder = config_folder()
    return sorted(str(p.relative_to(folder).with_suffix("")) for p in folder.rglob("*.yaml"))


def read_config(reference: str) -> dict[str, Any]:
    """The mapping in a file, or in the shipped configuration of that name.

    Raises:
        NoiseregError: if there is neither.
    """
    path = Path(reference).expanduser()
    for candidate in (path, config_folder() / f"{reference}.yaml"):
        if candidate.is_file():
            return read_yaml(candidate)
    names = config_names()
    raise NoiseregError(
        f"`config={reference}`: no such file, and no shipped configuration of that "
        f"name{nearest(reference, names)} "
        f"(there are: {', '.join(names)})"
    )


def read_run(reference: str) -> dict[str, Any]:
    """:func:`read_config` of a file that is one run.

    Raises:
        NoiseregError: also if it holds a sweep.
    """
    values = read_config(reference)
    if "sweep" in values:
        raise NoiseregError(
            f"`config={reference}` is a sweep, not one run; type noisereg sweep --config "
            f"{reference} --out SWEEP "
            "(--dry-run lists its cells, --cell K trains one)"
        )
    return values


def read_complete(file: Path) -> Config:
    """The configuration that a run or a sweep wrote, which holds every section: a file that was
    cut between two lines would else be read as one with defaults.

    Raises:
        NoiseregError: if it cannot be read, or lacks a section.
    """
    values = read_yaml(file)
    if missing := [section for section in Config.model_fields if section not in values]:
        raise NoiseregError(
            f"{file} has no {', '.join(missing)}: it was cut, or written by hand; expected every "
            "section, as a run writes them: put it back from a copy"
        )
    return validate(values, str(file))


# Overrides


def layer(base: Mapping[str, Any], *layers: Mapping[str, Any], within: str = "") -> dict[str, Any]:
    """Later mappings over earlier ones: components and lists are replaced whole, other sections
    key by key. ``within``: the dotted key that these are the values of.
    """
    result = copy.deepcopy(dict(base))
    for values in layers:
        for key, value in values.items():
            dotted = f"{within}{key}"
            if (
                dotted not in COMPONENTS
                and isinstance(value, Mapping)
                and isinstance(result.get(key), Mapping)
            ):
                result[key] = layer(result[key], value, within=f"{dotted}.")
            else:
                result[key] = copy.deepcopy(value)
    return result


NUMBER_LIKE = re.compile(r"[+-]?\.?\d[\w.:+-]*")
"""A number, a date, a time, or a name that begins as one."""


def apply_set(values: dict[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """``--set KEY=VALUE``, each changing one key; the value is read as YAML, and the numbers
    of components' parameters as text, which their models convert.

    Raises:
        NoiseregError: for an assignment without ``=``, or into something that is not there.
    """
    result = validate(values).dump()
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise NoiseregError(
                f"`set={assignment}`: expected KEY=VALUE, such as train.batch_size=64"
            )
        section, _, rest = key.partition(".")
        value: Any
        if section in SECTION_KIND and rest and NUMBER_LIKE.fullmatch(text.strip()):
            # As a spec's parameters are: its model knows a number from a folder called 007.
            value = text.strip()
        else:
            value = parse_yaml(f"value: {text}", f"`set={assignment}`").get("value")
        if section not in Config.model_fields:
            ends = [name for name in field_names(Config) if name.rpartition(".")[2] == key]
            hint = f"; did you mean {' or '.join(map(repr, ends))}?" if ends else ""
            raise NoiseregError(
                f"`set={key}`: no such section{hint or nearest(section, Config.model_fields)}"
            )
        if section == "plugins":
            raise NoiseregError(f"--set {key}: a plugin is given by --plugin FILE|MODULE")
        if not rest:
            # In its full form, into which a later assignment may reach.
            result[section] = validate({section: value}).dump()[section]
        elif section in LISTS:
            index, _, rest = rest.partition(".")
            places = [str(k) for k in range(len(result[section]))]
            if index not in places or not rest:
                raise NoiseregError(
                    f"`set={key}`: {section} is a list of {len(result[section])}; expected "
                    f"{section}.0.KEY=VALUE"
                )
            set_dotted(result[section][int(index)], rest, value)
        else:
            set_dotted(result, key, value)
    return result


# Components


def load_plugins(
    registry: Registry,
    values: Mapping[str, Any],
    references: Iterable[str] = (),
    origin: str = "the configuration",
) -> dict[str, Any]:
    """Load the plugins that the user gives by ``references`` and those that a configuration, which
    anybody may have written, lists: of the latter only what the user has run before. Returns
    ``values`` with the record of all of them. ``origin`` is how errors name the configuration.

    Raises:
        NoiseregError: if one cannot be had.
    """
    plugins = [registry.load(reference) for reference in references]
    left_out = []
    for record in validate({"plugins": values.get("plugins", [])}).plugins:
        plugin = registry.load_recorded(record.source, record.sha256, origin)
        if plugin is None:
            left_out.append(record.model_dump())
        else:
            plugins.append(plugin)
    if not plugins and not left_out:
        return dict(values)
    return {**values, "plugins": records(plugins) + left_out}


def records(plugins: Iterable[Plugin]) -> list[dict[str, Any]]:
    """Each file and module once, as config.yaml holds it; what is installed needs no record."""
    given = dict.fromkeys(
        (p.source, p.sha256) for p in plugins if p.distribution in (FILE, MODULE)
    )
    return [{"source": source, "sha256": sha256} for source, sha256 in given]


def data_spec(spec: Spec, registry: Registry) -> Spec:
    """The data set that ``--data`` means: the component of that name, else what lies at that
    place.

    Raises:
        NoiseregError: if there is neither.
    """
    name = spec.name
    distribution, slash, short = name.rpartition("/")
    qualified = f"{canonical(distribution)}/{short}" if slash else ""
    entries = registry.entries("dataset")
    if any(name in (e.name, e.qualified) or e.qualified == qualified for e in entries):
        return spec
    place = Path(name)
    if place.is_dir() or (place.is_file() and is_path(name)):
        return Spec.model_validate(path_spec(name, spec.params))
    there = "is a file that no data set reads" if place.exists() else "is not there"
    packages = {FILE, MODULE, SESSION, *(plugin.distribution for plugin in registry.plugins)}
    if slash and distribution not in packages and canonical(distribution) not in packages:
        raise NoiseregError(
            f"`data={name}`: {name} {there}, and no data set is called so; expected a folder or "
            "a .zip of images, an .npy or .npz, or a data set (noisereg plugins list --kind "
            "dataset)"
        )
    if not slash and not nearest(name, [e.name for e in entries]):
        broken = [p for p in registry.plugins if p.status == "broken"]
        if not any(name in (p.name, p.distribution) for p in broken):
            raise NoiseregError(
                f"no data set is called {name!r}, and a folder {name} {there} "
                "(noisereg plugins list --kind dataset)"
            )
    return spec  # the registry knows what to say


def check_components(config: Config, registry: Registry, origin: str) -> None:
    """
    Raises:
        NoiseregError: names the file ``origin``, for a component or a parameter that is none.
    """
    try:
        complete(config, registry)
    except NoiseregError as error:
        raise NoiseregError(f"{origin}: {error}") from None


def complete(config: Config, registry: Registry) -> Config:
    """The configuration with every component's parameters validated and filled in, and its name as
    a run records it.

    ``auto`` and ``none`` stay as they are. The plugin files and modules that the components come
    from are added to ``plugins``, so that a later command finds them however they were given here.

    Raises:
        NoiseregError: for an unknown component or parameter, or a value out of range.
    """

    def fill(kind: Kind, spec: Spec) -> Spec:
        if spec.name == "none" or (spec.name == "auto" and kind in ("denoiser", "grid")):
            if kind not in ("pairing", "denoiser", "grid"):
                raise NoiseregError(f"{kind} cannot be 'none'")
            if spec.params:
                raise NoiseregError(
                    f"{spec.name} takes no parameters; name the {kind} to give it some"
                )
            return spec
        if kind == "dataset":
            spec = data_spec(spec, registry)
        if kind == "noise" and "+" in spec.name:
            raise NoiseregError(
                f"noise {spec.name}: a run has one noise, for sampling needs to know how it moves "
                "between two times, which a sum does not say; write it as a plugin (noisereg "
                "plugins new NAME --kind noise), or compare the two with noisereg sweep"
            )
        entry = registry.find(kind, spec.name)
        used.append(registry.plugin_of(entry))
        return Spec(
            name=entry.recorded, params=registry.params(entry, spec.params).model_dump(mode="json")
        )

    used: list[Plugin] = []
    filled: dict[str, Any] = {}
    for section, kind in SECTION_KIND.items():
        value = getattr(config, section)
        filled[section] = (
            [fill(kind, spec) for spec in value] if section in LISTS else fill(kind, value)
        )
    filled["sample"] = config.sample.model_copy(
        update={
            "solver": fill("solver", config.sample.solver),
            "grid": fill("grid", config.sample.grid),
            "eps_scale": _filled_scale(config.sample.eps_scale, fill),
        }
    )
    for spec in config.train.eval:  # whether they are measured now or later
        registry.params(registry.find("metric", spec.name), spec.params)
    if config.train.eval_every is not None:
        filled["train"] = config.train.model_copy(
            update={
                "eval": [fill("metric", spec) for spec in config.train.eval],
                "eval_features": fill("features", config.train.eval_features),
            }
        )
    known = {record.source for record in config.plugins}
    filled["plugins"] = [
        *config.plugins,
        *(PluginRecord(**r) for r in records(used) if r["source"] not in known),
    ]
    filled["optim"] = _with_horizon(config, filled["reg"])
    return config.model_copy(update=filled)


def _filled_scale(scale: float | Spec, fill: Callable[[Kind, Spec], Spec]) -> float | Spec:
    return fill("regularizer", scale) if isinstance(scale, Spec) else scale


def _with_horizon(config: Config, regularizers: list[Spec]) -> OptimConfig:
    optim, steps = config.optim, config.train.steps
    if optim.horizon == "auto":
        found = resolved_horizon(optim.schedule, regularizers, steps)
        optim = optim.model_copy(update={"horizon": found})
    if optim.schedule != "constant" and isinstance(optim.horizon, int) and optim.horizon < steps:
        raise NoiseregError(
            f"optim.horizon {optim.horizon}: under the {optim.schedule} schedule the rate would "
            "be "
            f"0 from there to train.steps {steps}; expected at least {steps}, or fewer steps"
        )
    return optim


def resolved_horizon(schedule: str, regularizers: Sequence[Spec], steps: int) -> int | None:
    """What ``optim.horizon=auto`` is: the last step, or None where nothing is scheduled."""
    kinds = [schedule, *(spec.params.get("schedule", "constant") for spec in regularizers)]
    return steps if any(kind != "constant" for kind in kinds) else None


def horizon(config: Config) -> int:
    """The step at which schedules reach 0."""
    value = config.optim.horizon
    return value if isinstance(value, int) else config.train.steps


MAY_DIFFER = (
    "train.steps",
    "train.log_every",
    "train.checkpoint_every",
    "train.keep_last",
    "train.keep_every",
    "train.sample_every",
    "train.eval",
    "train.eval_every",
    "train.eval_features",
    "train.eval_num",
    "train.eval_steps",
    "train.eval_reference",
    "train.keep_best",
    "sample",
    "log",
    "runtime",
    "plugins",
    "data.root",
    "data.path",
    "data.decoder",
    "data.download",
    "data.memory",
)
"""What a resumed run may change: steps, logging, checkpointing, runtime, sampling and data
paths.
"""


def resume_difference(old: Config, new: Config) -> str | None:
    """The first key in which a resumed run differs where it may not, with both values; None if
    there is none.
    """
    was, now = flatten(old.dump()), flatten(new.dump())
    for key in sorted(was.keys() | now.keys()):
        free = any(key == k or key.startswith(f"{k}.") for k in MAY_DIFFER)
        if not free and was.get(key) != now.get(key):
            # Another component has other parameters: what was typed is its name.
            section = key.partition(".")[0]
            if section in SECTION_KIND:
                before, after = (_names(getattr(one, section)) for one in (old, new))
                if before != after:
                    return f"{section} was {before} and is now {after}"
            if key == "parent.path":
                key_now = now.get(key) or "nothing"
                return f"`from` was {was.get(key) or 'nothing'} and is now {key_now}"
            return f"{key} was {was.get(key)!r} and is now {now.get(key)!r}"
    return None


def _names(section: Spec | Sequence[Spec]) -> str:
    """``isotropy + row-means`` of a section of the configuration."""
    specs = [section] if isinstance(section, Spec) else section
    return " + ".join(spec.name for spec in specs) or "none"


def _point(schema: Any, old: str, new: str) -> None:
    """Turn a part's references from one definition to another."""
    if isinstance(schema, dict):
        if schema.get("$ref") == old:
            schema["$ref"] = new
        schema = list(schema.values())
    for inner in schema if isinstance(schema, list) else ():
        _point(inner, old, new)


def json_schema(registry: Registry) -> dict[str, Any]:
    """JSON Schema of a configuration file, with every installed component's parameters, for
    editors.
    """
    schema = Config.model_json_schema(mode="validation")
    definitions = schema.setdefault("$defs", {})
    described = {*SECTION_KIND.values(), *NESTED_KIND.values()}
    for kind in [kind for kind in KINDS if kind in described]:
        options: list[dict[str, Any]] = [
            {"type": "string", "description": f"a {kind}: name or name:key=value,…"}
        ]
        for entry in registry.entries(kind):
            component = entry.component.params.model_json_schema(
                ref_template=f"#/$defs/{kind}.{{model}}"
            )
            for name, nested in component.pop("$defs", {}).items():
                definitions[f"{kind}.{name}"] = nested
            component["properties"] = {
                "name": {"const": entry.recorded},
                **component.get("properties", {}),
            }
            component["required"] = ["name", *component.get("required", [])]
            component["title"], component["description"] = entry.recorded, entry.component.summary
            options.append(component)
        if kind in WORDS:
            word = {"name": {"const": WORDS[kind]}}
            options.append({"type": "object", "properties": word, "required": ["name"]})
        definitions[kind] = {"anyOf": options}
    for section, kind in SECTION_KIND.items():
        reference: dict[str, Any] = {"$ref": f"#/$defs/{kind}"}
        if section in LISTS:
            reference = {"anyOf": [{"type": "array", "items": reference}, reference]}
        schema["properties"][section] = reference
    for key, kind in NESTED_KIND.items():
        section, name = key.split(".")
        owner = definitions[schema["properties"][section]["$ref"].rpartition("/")[2]]
        part = owner["properties"][name]
        _point(part, "#/$defs/Spec", f"#/$defs/{kind}")
        if part.get("type") == "array":  # one alone may be given, too
            owner["properties"][name] = {"anyOf": [part, part["items"]]}
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return schema
