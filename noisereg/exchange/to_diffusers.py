"""A run as a folder that diffusers loads and samples from (``noisereg export RUN --to diffusers
--out DIR``).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError

from noisereg.errors import NoiseregError
from noisereg.noises.white import WhiteNoise
from noisereg.ownership import LOCK, new_folder
from noisereg.plugins.registry import registry
from noisereg.plugins.spec import Spec
from noisereg.runs.build import Parts
from noisereg.runs.run import Run
from noisereg.runs.sampling import build_solver, solver_params
from noisereg.runs.scheduler_config import scheduler_config


def export(run: Run, out: Path, step: int | None = None, ema: bool = True) -> str:
    """Write the run's network and what samples from it into ``out``; returns the pipeline's name.

    DDPM with white noise becomes a ``DDPMPipeline`` (``DDIMPipeline`` where the run samples with η
    = 0) of diffusers' own classes; the rest a ``DDPMPipeline`` with our
    :class:`noisereg.exchange.scheduler.NoiseScheduler`, or our
    :class:`noisereg.exchange.pipeline.NoiseregPipeline` where images are padded, the network's
    input is scaled or a step evaluates it twice.

    Raises:
        NoiseregError: for a folder that is not empty, and for a run that no such folder could
        sample as noisereg does.
    """
    from noisereg.runs.config import RuntimeConfig
    from noisereg.runs.runtime import Runtime

    with new_folder(out):
        parts = run.load(step, ema, Runtime.start(RuntimeConfig(device="cpu")))
        pipeline = pipeline_of(parts)
        try:
            pipeline.save_pretrained(out, safe_serialization=True)
            (out / "README.md").write_text(_readme(run, parts, pipeline), encoding="utf-8")
            shutil.copyfile(run.path / "config.yaml", out / "noisereg.yaml")
        except BaseException as error:  # an interruption, too: half of it would stand in the way
            for made in out.iterdir():
                if made.name != LOCK:
                    shutil.rmtree(made) if made.is_dir() else made.unlink()
            if not isinstance(error, OSError | SafetensorError):
                raise
            raise NoiseregError(
                f"cannot write {out}: {getattr(error, 'strerror', None) or str(error)[:200]}"
            ) from error
    return type(pipeline).__name__


def pipeline_of(parts: Parts) -> Any:
    """The diffusers pipeline that samples as the run does; it shares the run's network.

    Raises:
        NoiseregError: where there is none, with the reason.
    """
    from diffusers.models.unets.unet_2d import UNet2DModel

    config = parts.config
    if not isinstance(getattr(parts.denoiser, "unet", None), UNet2DModel):
        raise NoiseregError(
            f"denoiser {config.denoiser.name} is not one of diffusers'; only runs with "
            "`denoiser=unet` can be exported"
        )
    if parts.task.channels or parts.task.classes:
        raise NoiseregError(
            f"task {config.task.name}: diffusers' pipelines of a UNet2DModel pass no "
            "condition; only unconditional runs "
            "can be exported"
        )
    if parts.decode is not None:
        raise NoiseregError(
            f"data {config.data.name}: samples are decoded from latents, which diffusers' "
            "pipelines of a UNet2DModel do "
            "not do"
        )
    if isinstance(config.sample.eps_scale, Spec):
        raise NoiseregError(
            f"sample.eps_scale {config.sample.eps_scale.label()}: how ε̂ is scaled is measured "
            "on the run's own data, which an exported folder has not; only runs with a number "
            "there can be exported"
        )
    return _plain(parts) or _scheduled(parts)


def _plain(parts: Parts) -> Any:
    """One of diffusers' own pipelines, or None where it would not sample what the run does."""
    from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler

    network, sample = cast(Any, parts.denoiser), parts.config.sample
    config = scheduler_config(parts.process)
    if (
        config is None
        or config["num_train_timesteps"] != 1000  # told the index, of a thousand
        or 1000 % sample.steps  # else its times are rounded
        or not isinstance(parts.noise, WhiteNoise)
        or network.time_input != "index"
        or any(network.padding)
        or (sample.solver.name, sample.grid.name) != ("ddim", "uniform")
        or (sample.eps_scale, sample.clip.name) != (1, "none")
    ):
        return None
    if sample.eta == 0 and not parts.process.extra_heads:
        config = {k: v for k, v in config.items() if k != "variance_type"}
        return DDIMPipeline(network.unet, DDIMScheduler(**config))
    # On the step to 0 we add no noise, as diffusers does whose variance is the posterior's. With
    # another it adds none in as many steps as there are indices, and in fewer it does.
    if sample.eta == 1 and config["variance_type"] == "fixed_small":
        return DDPMPipeline(network.unet, DDPMScheduler(**config))
    return None


def _scheduled(parts: Parts) -> Any:
    """A pipeline around our scheduler, with what the run's noise and process have learnt."""
    from diffusers import DDPMPipeline

    from noisereg.exchange.pipeline import NoiseregPipeline
    from noisereg.exchange.scheduler import NoiseScheduler

    network: Any = parts.denoiser
    settings = parts.config.sample
    solver = build_solver(settings, registry())
    scheduler = NoiseScheduler(
        parts.shape,
        noise=parts.config.noise.model_dump(mode="json"),
        process=parts.config.process.model_dump(mode="json"),
        solver={
            "name": settings.solver.name,
            "params": solver_params(settings, registry()),
        },
        grid=settings.grid.model_dump(mode="json"),
        time_input=network.time_input,
        eps_scale=settings.eps_scale,
        clip=settings.clip.model_dump(mode="json"),
    )
    learnt = parts.diffusion.state_dict()
    scheduler.diffusion.load_state_dict(
        {name: learnt[name] for name in scheduler.diffusion.state_dict()}
    )
    scaled = parts.process.input_scale(torch.full((1,), 0.5, dtype=torch.float64)) is not None
    ours = scaled or any(network.padding) or solver.evaluations != 1
    return (NoiseregPipeline if ours else DDPMPipeline)(network.unet, scheduler)


def _readme(run: Run, parts: Parts, pipeline: Any) -> str:
    name = type(pipeline).__name__
    steps, own = parts.config.sample.steps, type(pipeline).__module__
    given = type(pipeline.scheduler).__module__.startswith("noisereg")
    lines = [f"from diffusers import {name}"]
    more = "Step counts that divide 1000 give noisereg's own steps."
    if own.startswith("noisereg"):
        lines = [f"from {own} import {name}"]
    elif given:
        lines.append("import noisereg.exchange.scheduler  # diffusers then finds it")
    if given:
        more = "It needs noisereg installed (pip install noisereg), and samples as the run does."
        if plugins := parts.config.plugins:
            named = ", ".join(
                f"{Path(p.source).name} (SHA-256 {p.sha256[:12]}…)" if p.sha256 else p.source
                for p in plugins
            )
            more += (
                f" It also needs the plugins {named}: name their paths, with commas between them, "
                "in the environment variable NOISEREG_PLUGINS before Python starts."
            )
    lines += [
        f"pipe = {name}.from_pretrained(folder)",
        f"images = pipe(batch_size=4, num_inference_steps={steps}).images",
    ]
    code = "".join(f"    {line}\n" for line in lines)
    return (
        f"# {run.path.name}\n\nExported by noisereg: {parts.lines['noise']}; "
        f"{parts.lines['process']}. The run's configuration "
        f"is in noisereg.yaml.\n\n{code}\n{more}\n"
    )
