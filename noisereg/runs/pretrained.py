"""Starting from a pretrained U-Net: a folder of diffusers', or a run (``train --init DIR``)."""

from __future__ import annotations

import functools
import hashlib
import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noisereg.api import Context
from noisereg.errors import NoiseregError
from noisereg.inside import check_contents
from noisereg.plugins.registry import registry
from noisereg.plugins.spec import Spec
from noisereg.reading import check_ordinary, read_json
from noisereg.remote import local_or_copy
from noisereg.runs.config import Config, InitRecord, read_complete
from noisereg.runs.records import read_environment

if TYPE_CHECKING:
    from torch import Tensor

    from noisereg.api import Process
    from noisereg.runs.build import Parts
    from noisereg.runs.checkpoint import Checkpoint

EXPECTED = "expected what UNet2DModel.save_pretrained or a pipeline's save_pretrained writes"
PREFIX = "denoiser.unet."
"""Of the network's weights among a run's."""


@dataclass(frozen=True)
class Blocks:
    """What a network's output channels are: the target, then heads of the process and of the
    noise.
    """

    process: int
    noise: int

    @property
    def total(self) -> int:
        return 1 + self.process + self.noise


@dataclass(frozen=True)
class Trained:
    """What a network of noisereg's was trained for."""

    noise: Spec
    process: Spec
    shape: tuple[int, ...]

    @functools.cached_property
    def built(self) -> Process:
        """The process, without its noise: what its output means."""
        params, ctx = self.process.params, Context(shape=self.shape)
        return registry().build("process", self.process.name, params, ctx)

    def same_process(self, other: Process) -> bool:
        """Whether the target of one network is that of both."""
        import torch

        own = self.built
        t = torch.arange(1, 101, dtype=torch.float64) / 100
        x0, eps = torch.ones(100, 1).double(), 2 * torch.ones(100, 1).double()
        pairs = (
            (own.signal_scale(t), other.signal_scale(t)),
            (own.noise_scale(t), other.noise_scale(t)),
            (own.target(x0, eps, t), other.target(x0, eps, t)),
        )
        return all(torch.allclose(mine, theirs, rtol=0, atol=1e-6) for mine, theirs in pairs)


class Pretrained(ABC):
    """A network to start from."""

    path: Path
    channels: int
    """Of the images that it was trained on."""
    inputs: int
    """Channels with those of a condition."""
    outputs: int
    labels: int
    """Rows of its embedding of labels; 0: none."""
    denoiser: Spec
    """The component that is this network."""
    scheduler: dict[str, Any]
    """Of a pipeline's scheduler; empty where there is none."""
    trained: Trained | None = None

    def blocks(self, wanted: Blocks) -> Blocks | None:
        """What its output is; None where that is not known. ``wanted`` is the run's."""
        count = self.outputs // self.channels
        if self.outputs % self.channels:
            return None
        if self.trained:
            own = self.trained.built.extra_heads
            return Blocks(own, count - 1 - own) if count > own else None
        learned = self.scheduler.get("variance_type") == "learned_range"
        if count == 1 or (count == 2 and learned) or count == 1 + wanted.process:
            return Blocks(count - 1, 0)
        return None

    @abstractmethod
    def sha256(self) -> str:
        """Of its configuration and weights."""

    @abstractmethod
    def weights(self) -> dict[str, Tensor]:
        """By the names that diffusers gives them.

        Raises:
            NoiseregError: if they are missing or damaged.
        """

    @abstractmethod
    def check_same(self, parts: Parts) -> None:
        """That the run's network is of the same architecture.

        Raises:
            NoiseregError: names what differs.
        """


class PretrainedFolder(Pretrained):
    """A folder of a ``UNet2DModel``, or of a pipeline with one; nothing but its JSON has been
    read.
    """

    def __init__(self, path: Path) -> None:
        """
        Raises:
            NoiseregError: for a folder that holds no such network, and for a scheduler of ours
            that does not say what it was trained for.
        """
        path = path.expanduser()
        folder = path / "unet" if (path / "unet" / "config.json").is_file() else path
        try:
            config = read_json(folder / "config.json")
            name = config["_class_name"]
        except (NoiseregError, KeyError, TypeError):
            raise NoiseregError(
                f"`init={path}` holds no diffusers U-Net (no config.json of one) and no run; "
                f"{EXPECTED}, or the folder of a run"
            ) from None
        if name != "UNet2DModel":
            raise NoiseregError(
                f"`init={path}` holds the network {name}; expected a UNet2DModel, which is told "
                "x_t, t and labels"
            )
        self.path, self.config = folder, config
        self.channels = self.inputs = config.get("in_channels", 3)
        self.outputs = config.get("out_channels", 3)
        self.labels = config.get("num_class_embeds") or 0
        self.scheduler = {}
        if (file := path / "scheduler" / "scheduler_config.json").is_file():
            self.scheduler = read_json(file)
        sizes = (self.inputs, self.outputs, self.labels)
        if not all(type(size) is int for size in sizes) or not isinstance(self.scheduler, dict):
            raise NoiseregError(f"`init={path}`: its config.json is damaged; {EXPECTED}")
        self.time_input = ""
        """What it was told about time; empty where that is not known."""
        if self.scheduler.get("_class_name") == "NoiseScheduler":
            try:
                noise, process = (
                    Spec.model_validate(self.scheduler[key]) for key in ("noise", "process")
                )
                self.trained = Trained(noise, process, tuple(self.scheduler["shape"]))
                self.time_input = self.scheduler["time_input"]
            except (KeyError, TypeError, ValueError):
                raise NoiseregError(
                    f"{file} does not say for which noise and process the network was trained; "
                    "expected what noisereg export writes"
                ) from None
        told = {"time_input": self.time_input} if self.time_input else {}
        self.denoiser = Spec(
            name="diffusers-unet", params={"architecture": self.architecture, **told}
        )

    @property
    def architecture(self) -> dict[str, Any]:
        """``UNet2DModel``'s arguments without those that the run decides."""
        from noisereg.denoisers.diffusers_unet import OURS

        return {k: v for k, v in self.config.items() if k not in OURS and not k.startswith("_")}

    def sha256(self) -> str:
        digest = hashlib.sha256()
        for file in sorted([self.path / "config.json", *self.path.glob("*.safetensors")]):
            digest.update(file.name.encode())
            check_ordinary(file)
            with file.open("rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
        return digest.hexdigest()

    def weights(self) -> dict[str, Tensor]:
        """diffusers renames those of old versions. Pickled ones are not read."""
        from diffusers.models.unets.unet_2d import UNet2DModel

        try:
            model, read = UNet2DModel.from_pretrained(
                self.path,
                local_files_only=True,
                use_safetensors=True,
                low_cpu_mem_usage=False,
                output_loading_info=True,
            )
        except Exception as error:  # diffusers and safetensors each have their own
            raise NoiseregError(
                f"`init={self.path}`: its weights cannot be read "
                f"({' '.join(str(error).split())[:200]}); expected "
                "diffusion_pytorch_model.safetensors beside its config.json"
            ) from None
        for what, known in (("has no", "missing_keys"), ("has an unknown", "unexpected_keys")):
            if names := sorted(read[known]):  # diffusers fills the first with whatever is there
                raise NoiseregError(
                    f"`init={self.path}`: its weights file {what} {names[0]}"
                    f"{f' and {len(names) - 1} more' * (len(names) > 1)}; expected the weights of "
                    "its config.json"
                )
        return model.float().state_dict()

    def check_same(self, parts: Parts) -> None:
        from noisereg.denoisers.diffusers_unet import OURS

        network: Any = parts.denoiser
        name = parts.config.denoiser.name
        own = {
            k: _plain(v)
            for k, v in network.unet.config.items()
            if k not in OURS and not k.startswith("_")
        }
        theirs = {k: _plain(v) for k, v in self.architecture.items()}
        if self.time_input:
            own["time_input"], theirs["time_input"] = network.time_input, self.time_input
        for key in own.keys() & theirs.keys() - {"dropout", "mid_block_type"}:
            if own[key] != theirs[key]:
                raise NoiseregError(
                    f"`init={self.path}` has {key} {theirs[key]} and this run's {name} has "
                    f"{own[key]}; leave `denoiser` on auto "
                    "to take the folder's"
                )


class PretrainedRun(Pretrained):
    """A run with a U-Net: the averaged weights of its newest whole checkpoint."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            NoiseregError: for a run that has no checkpoint, or another network.
        """
        from noisereg.runs import checkpoint

        self.path = path.expanduser()
        check_contents(self.path)
        run = read_complete(self.path / "config.yaml")
        shape = tuple(read_environment(self.path)["shape"])
        self.trained = Trained(run.noise, run.process, shape)
        self.denoiser, self.scheduler = run.denoiser, {}
        found = checkpoint.latest(self.path / "checkpoints", lambda _: None)
        if found is None:
            raise NoiseregError(f"`init={path}` is a run without a whole checkpoint; train it on")
        self.checkpoint: Checkpoint = found
        weights = self.weights()
        if "conv_out.weight" not in weights:
            raise NoiseregError(
                f"`init={path}` is a run whose denoiser is {run.denoiser.name}, which cannot be "
                "given new parts; expected one with a U-Net, or `parent`, which takes all of a run"
            )
        self.channels = shape[0]
        self.inputs = weights["conv_in.weight"].shape[1]
        self.outputs = len(weights["conv_out.weight"])
        self.labels = len(weights.get("class_embedding.weight", ()))

    def sha256(self) -> str:
        spec = json.dumps(self.denoiser.model_dump(mode="json"), sort_keys=True)
        digests = self.checkpoint.digest(ema=True)
        return hashlib.sha256(f"{spec} {digests}".encode()).hexdigest()

    def weights(self) -> dict[str, Tensor]:
        found = self.checkpoint.weights(ema=True)
        return {k.removeprefix(PREFIX): v for k, v in found.items() if k.startswith(PREFIX)}

    def check_same(self, parts: Parts) -> None:
        own, theirs = parts.config.denoiser, self.denoiser
        for key in sorted({*own.params, *theirs.params, "name"} - {"dropout", "preset"}):
            mine, yours = (
                spec.name if key == "name" else spec.params.get(key) for spec in (own, theirs)
            )
            if _plain(mine) != _plain(yours):
                raise NoiseregError(
                    f"`init={self.path}` has {key} {yours} and this run's {own.name} has {mine}; "
                    "leave `denoiser` on auto to take the run's"
                )


def open_pretrained(path: Path) -> Pretrained:
    """The network in a folder, or at an address.

    Raises:
        NoiseregError: for a folder that holds none.
    """
    folder = local_or_copy(path.expanduser())
    is_run = (folder / "config.yaml").is_file()
    return PretrainedRun(folder) if is_run else PretrainedFolder(folder)


def denoiser_of(record: InitRecord) -> Spec:
    """The denoiser that ``--denoiser auto`` is for a run that starts from a network: that
    network.
    """
    return open_pretrained(record.path).denoiser


def continued(config: Config, old: Config) -> Config:
    """A resumed run's configuration with what it was started from, so that the folder is not
    needed again.
    """
    if config.init is None or old.init is None or config.init.path != old.init.path:
        return config
    update: dict[str, Any] = {"init": old.init} if not config.init.sha256 else {}
    if config.denoiser.name == "auto":
        update["denoiser"] = old.denoiser
    return config.model_copy(update=update)


def initialise(parts: Parts) -> list[str]:
    """Put the weights that ``parts.config.init`` names into the run's denoiser and record their
    hash in its configuration.

    Where the run's network is larger it starts as the pretrained one: new output channels (a
    noise's heads, a learned variance), new input channels (an image condition) and the embedding
    of labels start at zero. What this run has no use for is left out. Returns what the user should
    know, a line each.

    Raises:
        NoiseregError: for a folder that has changed since it was recorded, and for a network that
        does not fit.
    """
    record = parts.config.init
    if record is None:
        return []
    pretrained = open_pretrained(record.path)
    digest = pretrained.sha256()
    if record.sha256 and record.sha256 != digest:
        raise NoiseregError(
            f"`init={record.path}` has changed since this configuration recorded it (its SHA-256 "
            "was "
            f"{record.sha256[:12]}… and is {digest[:12]}…); take init.sha256 out of the "
            "configuration to start from what it is"
        )
    network: Any = getattr(parts.denoiser, "unet", None)
    blocks = _check_fits(pretrained, network, parts)
    weights, notes = _fitted(pretrained, network.state_dict(), blocks, parts)
    network.load_state_dict(weights)
    parts.config = parts.config.model_copy(
        update={"init": record.model_copy(update={"sha256": digest})}
    )
    parts.lines["denoiser"] += f", from {record.path}"
    return [*notes, *_notes(pretrained, parts)]


def _check_fits(found: Pretrained, network: Any, parts: Parts) -> Blocks:
    """What the output of the pretrained network is."""
    from diffusers.models.unets.unet_2d import UNet2DModel

    if not isinstance(network, UNet2DModel):
        raise NoiseregError(
            f"`init={found.path}` is a U-Net and this run's denoiser is "
            f"{parts.config.denoiser.name}; leave `denoiser` on auto"
        )
    found.check_same(parts)
    channels = parts.shape[0]
    if found.channels != channels:
        raise NoiseregError(
            f"`init={found.path}` was trained on images of {found.channels} "
            "channels and these have "
            f"{channels}"
        )
    blocks = found.blocks(_wanted(parts))
    if blocks is None or blocks.noise < 0:
        raise NoiseregError(
            f"`init={found.path}` predicts {found.outputs} channels and this process reads "
            f"{channels}"
            + (
                " of it; give `process=ddpm:variance=learned`"
                if found.outputs == 2 * channels
                else ""
            )
        )
    # The last label of one of our runs is that of no class.
    fewest = parts.task.classes + isinstance(found, PretrainedRun)
    if found.labels and not fewest <= found.labels <= parts.task.classes + 1:
        raise NoiseregError(
            f"`init={found.path}` was trained on {found.labels} labels, and this run has "
            f"{parts.task.classes or 'none'}; give "
            "`task=class` and data with as many"
        )
    return blocks


def _wanted(parts: Parts) -> Blocks:
    return Blocks(parts.process.extra_heads, parts.noise.extra_heads)


def _taken(found: Pretrained, blocks: Blocks, parts: Parts) -> tuple[list[int], list[str]]:
    """Which blocks of the pretrained output begin this run's, and, in words, what of it is left
    out: by the run's blocks, −1 for one that starts at zero.
    """
    wanted, trained = _wanted(parts), found.trained
    takes_process = wanted.process == blocks.process and (
        trained is None or trained.process.name == parts.config.process.name
    )
    takes_noise = wanted.noise == blocks.noise and (
        trained is not None and trained.noise.name == parts.config.noise.name
    )
    places = [0]
    places += [1 + k if takes_process else -1 for k in range(wanted.process)]
    places += [1 + blocks.process + k if takes_noise else -1 for k in range(wanted.noise)]
    left = []
    if blocks.process and not takes_process:
        left.append("the heads of its process (a learned variance)")
    if blocks.noise and not takes_noise:
        left.append(f"the heads of its noise {trained.noise.name if trained else ''}".rstrip())
    return places, left


def _fitted(
    found: Pretrained, state: dict[str, Tensor], blocks: Blocks, parts: Parts
) -> tuple[dict[str, Tensor], list[str]]:
    """The pretrained weights in the shapes of ``state``, what is new at zero; and what is left
    out, a line.
    """
    import torch

    weights, channels = found.weights(), parts.shape[0]
    places, left = _taken(found, blocks, parts)
    for name in ("conv_out.weight", "conv_out.bias"):
        if name in weights:
            theirs = weights[name].reshape(blocks.total, channels, *weights[name].shape[1:])
            new = torch.zeros_like(theirs[:1])
            chosen = [new if k < 0 else theirs[k : k + 1] for k in places]
            weights[name] = torch.cat(chosen).flatten(0, 1)
    own_inputs = state["conv_in.weight"].shape[1]
    if "conv_in.weight" in weights and found.inputs != own_inputs:
        weights["conv_in.weight"] = weights["conv_in.weight"][:, :channels]
        if found.inputs > channels:
            left.append("the input channels of its condition")
    fitted: dict[str, Tensor] = {}
    for name, own in state.items():
        fitted[name] = own.new_zeros(own.shape)
        if name not in weights:
            if name == "class_embedding.weight":
                continue
            raise NoiseregError(
                f"`init={found.path}` has no weights called {name}; is it of another diffusers "
                "version?"
            )
        theirs = weights.pop(name)
        grows = name in ("conv_in.weight", "class_embedding.weight")
        if theirs.shape != own.shape and not grows:
            raise NoiseregError(
                f"`init={found.path}`: {name} is {tuple(theirs.shape)} and this run's is "
                f"{tuple(own.shape)}"
            )
        fitted[name][tuple(slice(size) for size in theirs.shape)] = theirs
    if weights:
        raise NoiseregError(
            f"`init={found.path}`: this run's network has no {next(iter(weights))}"
        )
    return fitted, [f"of {found.path} are left out: {', '.join(left)}"] if left else []


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _notes(found: Pretrained, parts: Parts) -> list[str]:
    from noisereg.runs.scheduler_config import scheduler_config

    config = parts.config
    own = f"this run is {config.process.name}: {parts.process.summary}"
    if trained := found.trained:
        if trained.same_process(parts.process) and trained.noise.name == config.noise.name:
            return []
        said = f"for {trained.process.name} and {trained.noise.name} noise"
        own += f", {config.noise.name} noise"
    else:
        keys = {"num_train_timesteps", "beta_schedule", "beta_start", "beta_end"}
        theirs = {k: v for k, v in found.scheduler.items() if k in {*keys, "prediction_type"}}
        mine = scheduler_config(parts.process)
        if not theirs or (mine and all(theirs[k] == mine[k] for k in theirs)):
            return []
        target = theirs.get("prediction_type", "epsilon")
        said = f"to predict {target} under {theirs.get('beta_schedule', 'another schedule')}"
    return [
        f"{found.path} was trained {said}, and {own}; "
        "it starts from those weights and learns the difference"
    ]
