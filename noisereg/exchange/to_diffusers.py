"""A run as a folder that diffusers loads and samples from (``noisereg export RUN --to diffusers
--out DIR``).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from noisereg.api import Noise
from noisereg.errors import NoiseregError
from noisereg.noises.time_varying import TimeVaryingNoise
from noisereg.noises.white import WhiteNoise
from noisereg.ownership import new_folder
from noisereg.processes.ddpm import DDPM
from noisereg.processes.iadb import IADB
from noisereg.runs.build import Parts
from noisereg.runs.run import Run
from noisereg.runs.scheduler_config import scheduler_config


def export(run: Run, out: Path, step: int | None = None, ema: bool = True) -> str:
    """Write the run's network and what samples from it into ``out``; returns the pipeline's name.

    DDPM with white noise becomes a ``DDPMPipeline`` (``DDIMPipeline`` where the run samples with η
    = 0) of diffusers' own classes. IADB, time-varying noise with heads, images that are padded and
    a network that is told t itself become our
    :class:`noisereg.exchange.pipeline.NoiseregPipeline`, whose file is put beside the weights.

    Raises:
        NoiseregError: for a folder that is not empty, and for a run that no such folder could
        sample as noisereg does.
    """
    from noisereg.exchange import pipeline as source
    from noisereg.exchange.pipeline import NoiseregPipeline
    from noisereg.runs.config import RuntimeConfig
    from noisereg.runs.runtime import Runtime

    with new_folder(out):
        parts = run.load(step, ema, Runtime.start(RuntimeConfig(device="cpu")))
        pipeline = pipeline_of(parts)
        ours = isinstance(pipeline, NoiseregPipeline)
        try:
            pipeline.save_pretrained(out, safe_serialization=True)
            if ours:
                shutil.copyfile(source.__file__, out / "pipeline.py")
            (out / "README.md").write_text(_readme(run, parts, pipeline, ours), encoding="utf-8")
            shutil.copyfile(run.path / "config.yaml", out / "noisereg.yaml")
        except OSError as error:
            raise NoiseregError(f"cannot write {out}: {error.strerror}") from error
    return type(pipeline).__name__


def pipeline_of(parts: Parts) -> Any:
    """The diffusers pipeline that samples as the run does; it shares the run's network.

    Raises:
        NoiseregError: where there is none, with the reason.
    """
    from diffusers.models.unets.unet_2d import UNet2DModel

    if not isinstance(getattr(parts.denoiser, "unet", None), UNet2DModel):
        raise NoiseregError(
            f"denoiser {parts.config.denoiser.name} is not one of diffusers'; only runs with "
            "`denoiser=unet` can be exported"
        )
    if parts.task.channels or parts.task.classes:
        raise NoiseregError(
            f"task {parts.config.task.name}: diffusers' pipelines of a UNet2DModel pass no "
            "condition; only unconditional runs "
            "can be exported"
        )
    if parts.decode is not None:
        raise NoiseregError(
            f"data {parts.config.data.name}: samples are decoded from latents, which diffusers' "
            "pipelines of a UNet2DModel do "
            "not do"
        )
    return _plain(parts) or _ours(parts)


def _plain(parts: Parts) -> Any:
    """One of diffusers' own pipelines, or None where it would not sample what the run does."""
    from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler

    network: Any = parts.denoiser
    config = scheduler_config(parts.process)
    same = (
        config is not None and config["num_train_timesteps"] == 1000
    )  # told the index, of a thousand
    if (
        not same
        or not isinstance(parts.noise, WhiteNoise)
        or network.time_input != "index"
        or any(network.padding)
    ):
        return None
    if parts.config.sample.eta == 0 and not parts.process.extra_heads:
        config = {k: v for k, v in config.items() if k != "variance_type"}  # type: ignore[union-attr]
        return DDIMPipeline(network.unet, DDIMScheduler(**config))
    return DDPMPipeline(network.unet, DDPMScheduler(**config))  # type: ignore[arg-type]


def _ours(parts: Parts) -> Any:
    from noisereg.exchange.pipeline import NoiseregPipeline

    network: Any = parts.denoiser
    channels, height, width = parts.shape
    left, _, top, _ = network.padding
    process: dict[str, Any]
    if isinstance(parts.process, DDPM) and not parts.process.extra_heads:
        params = parts.process.params
        process = {
            "process": "ddpm",
            "schedule": params.schedule,
            "zero_terminal_snr": bool(params.zero_terminal_snr),
            "target": parts.process.prediction,
        }
    elif isinstance(parts.process, IADB):
        process = {"process": "iadb"}
    else:
        raise NoiseregError(
            f"process {parts.config.process.name} ({parts.process.summary}) with this noise and "
            "network has no pipeline in "
            "diffusers, and ours knows ddpm with a fixed variance and iadb"
        )
    return NoiseregPipeline(
        network.unet,
        T=parts.process.T,
        time_input=network.time_input,
        channels=channels,
        height=height,
        width=width,
        left=left,
        top=top,
        **process,
        **_noise(parts.noise, parts.config.noise.name),
    )


def _noise(noise: Noise, name: str) -> dict[str, Any]:
    if isinstance(noise, WhiteNoise):
        return {}
    if not isinstance(noise, TimeVaryingNoise):
        raise NoiseregError(
            f"noise {name}: sampling starts from coloured noise, and diffusers' pipelines draw "
            "white; only white noise, and "
            "time-varying noise with transport=heads, can be exported"
        )
    if not noise.heads:
        raise NoiseregError(
            f"noise {name}:transport=whiten carries ε̂ from step to step by the noise's factor, "
            "which the exported folder does "
            "not hold; only transport=heads can be exported"
        )
    curve = noise.gamma
    given: dict[str, Any] = {"gamma": curve.params.form}
    if curve.params.form != "linear":
        s, e, tau = (float(torch.as_tensor(value).detach()) for value in curve.curve)
        given |= {"gamma_s": s, "gamma_e": e, "gamma_tau": tau}
    return given | ({"gamma_trace": float(noise.factor.trace)} if noise.normalize else {})


def _readme(run: Run, parts: Parts, pipeline: Any, ours: bool) -> str:
    name = type(pipeline).__name__
    steps = parts.config.sample.steps
    if ours:
        load = (
            "DiffusionPipeline.from_pretrained("
            "folder, custom_pipeline=folder, trust_remote_code=True)"
        )
        more = "The pipeline is this folder's pipeline.py, with deterministic steps (eta 0)."
        name = "DiffusionPipeline"
    else:
        load = f"{name}.from_pretrained(folder)"
        more = "Step counts that divide 1000 give noisereg's own steps."
    return (
        f"# {run.path.name}\n\nExported by noisereg: {parts.lines['noise']}; "
        f"{parts.lines['process']}. The run's configuration "
        f"is in noisereg.yaml.\n\n    from diffusers import {name}\n    pipe = {load}\n"
        f"    images = pipe(batch_size=4, num_inference_steps={steps}).images\n\n{more}\n"
    )
