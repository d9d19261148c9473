"""Starting from a pretrained diffusers U-Net (``train --init DIR``)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noisereg.errors import NoiseregError
from noisereg.plugins.spec import Spec
from noisereg.reading import read_json
from noisereg.runs.config import Config, InitRecord

if TYPE_CHECKING:
    from torch import Tensor

    from noisereg.runs.build import Parts

EXPECTED = "expected what UNet2DModel.save_pretrained or a pipeline's save_pretrained writes"


@dataclass(frozen=True)
class Pretrained:
    """A folder of a ``UNet2DModel``, or of a pipeline with one; nothing but its JSON has been
    read.
    """

    path: Path
    config: dict[str, Any]
    scheduler: dict[str, Any]
    """Of a pipeline's noise scheduler; empty where there is none."""

    @classmethod
    def open(cls, path: Path) -> Pretrained:
        """
        Raises:
            NoiseregError: for a folder that holds no such network.
        """
        path = path.expanduser()
        folder = path / "unet" if (path / "unet" / "config.json").is_file() else path
        try:
            config = read_json(folder / "config.json")
            name = config["_class_name"]
        except (NoiseregError, KeyError, TypeError):
            raise NoiseregError(
                f"`init={path}` holds no diffusers U-Net (no config.json of one); {EXPECTED}"
            ) from None
        if name != "UNet2DModel":
            raise NoiseregError(
                f"`init={path}` holds the network {name}; expected a UNet2DModel, which is told "
                "x_t, t and labels"
            )
        scheduler: dict[str, Any] = {}
        if (file := path / "scheduler" / "scheduler_config.json").is_file():
            scheduler = read_json(file)
        return cls(folder, config, scheduler)

    @property
    def architecture(self) -> dict[str, Any]:
        """``UNet2DModel``'s arguments without those that the run decides."""
        from noisereg.denoisers.diffusers_unet import OURS

        return {k: v for k, v in self.config.items() if k not in OURS and not k.startswith("_")}

    def sha256(self) -> str:
        """Of its configuration and weights."""
        digest = hashlib.sha256()
        for file in sorted([self.path / "config.json", *self.path.glob("*.safetensors")]):
            digest.update(file.name.encode())
            with file.open("rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
        return digest.hexdigest()

    def weights(self) -> dict[str, Tensor]:
        """By name; diffusers renames those of old versions. Pickled weights are not read.

        Raises:
            NoiseregError: if they are missing, damaged or pickled.
        """
        from diffusers.models.unets.unet_2d import UNet2DModel

        try:
            model = UNet2DModel.from_pretrained(
                self.path, local_files_only=True, use_safetensors=True, low_cpu_mem_usage=False
            )
        except Exception as error:  # diffusers and safetensors each have their own
            raise NoiseregError(
                f"`init={self.path}`: its weights cannot be read "
                f"({' '.join(str(error).split())[:200]}); expected "
                "diffusion_pytorch_model.safetensors beside its config.json"
            ) from None
        return model.float().state_dict()


def denoiser_of(record: InitRecord) -> Spec:
    """The denoiser that ``--denoiser auto`` is for a run that starts from a network: that
    network.
    """
    return Spec(
        name="diffusers-unet", params={"architecture": Pretrained.open(record.path).architecture}
    )


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
    of labels start at zero. Returns what the user should know, a line each.

    Raises:
        NoiseregError: for a folder that has changed since it was recorded, and for a network that
        does not fit.
    """
    record = parts.config.init
    if record is None:
        return []
    pretrained = Pretrained.open(record.path)
    digest = pretrained.sha256()
    if record.sha256 and record.sha256 != digest:
        raise NoiseregError(
            f"`init={record.path}` has changed since this configuration recorded it (its SHA-256 "
            "was "
            f"{record.sha256[:12]}… and is {digest[:12]}…); take init.sha256 out of the "
            "configuration to start from what it is"
        )
    network: Any = getattr(parts.denoiser, "unet", None)
    _check_fits(pretrained, network, parts)
    state = network.state_dict()
    weights = _fitted(pretrained, state, parts)
    network.load_state_dict(weights)
    parts.config = parts.config.model_copy(
        update={"init": record.model_copy(update={"sha256": digest})}
    )
    parts.lines["denoiser"] += f", from {record.path}"
    return _notes(pretrained, parts)


def _check_fits(found: Pretrained, network: Any, parts: Parts) -> None:
    from diffusers.models.unets.unet_2d import UNet2DModel

    from noisereg.denoisers.diffusers_unet import OURS

    name = parts.config.denoiser.name
    if not isinstance(network, UNet2DModel):
        raise NoiseregError(
            f"`init={found.path}` is a U-Net and this run's denoiser is {name}; leave `denoiser` "
            "on auto"
        )
    own = {
        k: _plain(v) for k, v in network.config.items() if k not in OURS and not k.startswith("_")
    }
    theirs = {k: _plain(v) for k, v in found.architecture.items()}
    for key in own.keys() & theirs.keys() - {"dropout", "mid_block_type"}:
        if own[key] != theirs[key]:
            raise NoiseregError(
                f"`init={found.path}` has {key} {theirs[key]} and this run's {name} has "
                f"{own[key]}; leave `denoiser` on auto "
                "to take the folder's"
            )
    channels = parts.shape[0]
    if found.config.get("in_channels", 3) != channels:
        raise NoiseregError(
            f"`init={found.path}` was trained on images of {found.config.get('in_channels', 3)} "
            "channels and these have "
            f"{channels}"
        )
    outputs = found.config.get("out_channels", 3)
    if outputs not in (channels, channels * (1 + parts.process.extra_heads)):
        raise NoiseregError(
            f"`init={found.path}` predicts {outputs} channels and this process reads {channels}"
            + (" of it; give `process=ddpm:variance=learned`" if outputs == 2 * channels else "")
        )
    embeds = found.config.get("num_class_embeds")
    if embeds and embeds not in (parts.task.classes, parts.task.classes + 1):
        raise NoiseregError(
            f"`init={found.path}` was trained on {embeds} labels, and this run has "
            f"{parts.task.classes or 'none'}; give "
            "`task=class` and data with as many"
        )


def _fitted(found: Pretrained, state: dict[str, Tensor], parts: Parts) -> dict[str, Tensor]:
    """The pretrained weights in the shapes of ``state``; what is new is zero."""
    weights = found.weights()
    fitted: dict[str, Tensor] = {}
    for name, own in state.items():
        theirs = weights.pop(name, None)
        if theirs is None and name != "class_embedding.weight":
            raise NoiseregError(
                f"`init={found.path}` has no weights called {name}; is it of another diffusers "
                "version?"
            )
        fitted[name] = own.new_zeros(own.shape)
        if theirs is None:
            continue
        grows = name in (
            "conv_out.weight",
            "conv_out.bias",
            "conv_in.weight",
            "class_embedding.weight",
        )
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
    return fitted


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _notes(found: Pretrained, parts: Parts) -> list[str]:
    from noisereg.runs.scheduler_config import scheduler_config

    keys = ("num_train_timesteps", "beta_schedule", "beta_start", "beta_end", "prediction_type")
    theirs = {k: found.scheduler[k] for k in keys if k in found.scheduler}
    own = scheduler_config(parts.process)
    if not theirs or (own and all(theirs[k] == own[k] for k in theirs)):
        return []
    target = theirs.get("prediction_type", "epsilon")
    said = f"{target} under {theirs.get('beta_schedule', 'another schedule')}"
    return [
        f"{found.path} was trained to predict {said}, and this run is "
        f"{parts.config.process.name}: {parts.process.summary}; "
        "it starts from those weights and learns the difference"
    ]
