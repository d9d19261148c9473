"""A run is a folder: its configuration, its checkpoints, and what can be drawn from them."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from noisereg.api import Context, Task
from noisereg.data import NotFinite, as_output
from noisereg.diffusion.diffusion import Diffusion
from noisereg.errors import NoiseregError
from noisereg.inside import check_links
from noisereg.plugins.registry import Registry
from noisereg.plugins.spec import Spec
from noisereg.runs import checkpoint, checkpoint_files, conditions, sampling
from noisereg.runs.build import Parts, build_parts
from noisereg.runs.config import Config, RuntimeConfig, read_complete
from noisereg.runs.model import RunModel
from noisereg.runs.output import check_num, picture
from noisereg.runs.records import read_environment, status_of
from noisereg.runs.reporter import Reporter
from noisereg.runs.runtime import Runtime
from noisereg.store import write_atomically

GRID = 16
"""Samples in the pictures that training makes."""


def default_out(config: Config) -> Path:
    """``runs/<date>-<noise>-<reg>-<data>-s<seed>``."""

    def short(spec: Spec) -> str:
        return spec.name.rpartition("/")[2]

    reg = "+".join(short(s) for s in config.reg) or "none"
    today = datetime.date.today().isoformat()
    name = f"{today}-{short(config.noise)}-{reg}-{short(config.data)}-s{config.seed}"
    return Path("runs") / name


def shown(path: Path) -> str:
    """A path as a user would type it: without the current folder, where it is below that."""
    try:
        return str(path.relative_to(Path.cwd())) if path.is_absolute() else str(path)
    except (ValueError, OSError):
        return str(path)


def draw(
    model: RunModel,
    indices: Sequence[int],
    cond: Tensor | None = None,
    reporter: Reporter | None = None,
    done: int = 0,
) -> Tensor:
    """Samples ``indices``, (len(indices), *shape) in the network's range.

    Draws are bit-equal however the indices are cut into batches. ``done`` samples of the
    reporter's work are behind us.
    """
    settings = model.settings
    steps = len(model.times()) - 1
    drawn: list[Tensor] = []
    model.parts.objective.eval()
    for start in range(0, len(indices), settings.batch_size):
        some = indices[start : start + settings.batch_size]
        some_cond = None if cond is None else cond[start : start + len(some)].to(model.device)
        with torch.inference_mode():
            for k, x in enumerate(model.trajectory(some, some_cond)):  # noqa: B007
                if reporter:
                    reporter.advance(done + start + len(some) * k // steps)
        drawn.append(x.clone())
    return torch.cat(drawn)


def draw_grid(parts: Parts, path: Path, registry: Registry, reporter: Reporter) -> None:
    """The picture of a training run's samples, with the run's own sampling settings."""
    model = RunModel(parts, parts.config.sample, registry, parts.config.seed)
    count = GRID if len(parts.shape) == 3 else 2000
    assert parts.dataset is not None
    cond = conditions.heldout(parts.task, parts.dataset, count).of(range(count))
    reporter.begin("sample", count)
    try:
        x = as_output(
            draw(model, range(count), cond, reporter),
            parts.decode,
        )
    finally:
        reporter.end()
    write_atomically(path, picture(x))
    if x.ndim == 2:
        from noisereg.runs.output import npz_bytes

        write_atomically(path.with_suffix(".npz"), npz_bytes(x))


@dataclass
class Run:
    """A trained, or training, run on disk."""

    path: Path
    config: Config
    shape: tuple[int, ...]
    registry: Registry | None = None

    @classmethod
    def open(cls, path: str | Path, registry: Registry) -> Run:
        """
        Raises:
            NoiseregError: if the folder holds no run, a link in it leads out of it, or a plugin
            that it records is gone, has changed or was never run by this user.
        """
        path = Path(path).expanduser()
        if not (path / "config.yaml").exists():
            kind = "is not there" if not path.exists() else "holds no run (no config.yaml)"
            raise NoiseregError(f"{path} {kind}; expected the folder that noisereg train printed")
        check_links(path)
        config = read_complete(path / "config.yaml")
        shape = tuple(read_environment(path)["shape"])
        for record in config.plugins:
            registry.load_recorded(record.source, record.sha256, str(path / "config.yaml"))
        return cls(path, config, shape, registry)

    @property
    def task(self) -> Task:
        """What the run is conditioned on; the data set is not touched."""
        assert self.registry is not None
        return self.registry.build(
            "task", self.config.task.name, self.config.task.params, Context(shape=self.shape)
        )

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the labels are called, as the run recorded it; empty where they have no names."""
        names = read_environment(self.path).get("data", {}).get("classes")
        return tuple(names) if isinstance(names, list) else ()

    @property
    def status(self) -> dict[str, Any]:
        """How far it is; where status.json is damaged, as its checkpoints show."""
        return status_of(self.path, self.config.train.steps)[0].model_dump()

    def checkpoint(
        self, step: int | str | None = None, reporter: Reporter | None = None
    ) -> checkpoint.Checkpoint:
        """The newest whole checkpoint, or that of ``step``, or the ``best`` that training kept.

        Raises:
            NoiseregError: if there is none.
        """
        folder = self.path / "checkpoints"
        if isinstance(step, str):
            step = self.checkpoint_step(step)
        if step is not None:
            if step not in checkpoint_files.steps_in(folder):
                have = ", ".join(map(str, checkpoint_files.steps_in(folder))) or "none"
                raise NoiseregError(
                    f"{self.path} has no checkpoint of step {step}; there are: {have}"
                )
            return checkpoint.Checkpoint.open(folder / f"{step:06d}")
        newest = checkpoint.latest(folder, (reporter or Reporter()).note)
        if newest is None:
            raise NoiseregError(
                f"{self.path} has no whole checkpoint; go on training it: noisereg train --resume "
                f"--out {self.path}"
            )
        return newest

    def checkpoint_step(self, text: str) -> int:
        """The step that ``300`` or ``best`` names.

        Raises:
            NoiseregError: for other text, and where no best is kept.
        """
        if text == "best":
            return checkpoint_files.best_step(self.path / "checkpoints")
        if not text.isdecimal():
            raise NoiseregError(f"`checkpoint={text}`: expected a step, or best")
        return int(text)

    def load(
        self,
        step: int | str | None = None,
        ema: bool = True,
        runtime: Runtime | None = None,
        reporter: Reporter | None = None,
    ) -> Parts:
        """The run's parts with the weights of a checkpoint, ready to sample; the data set is not
        touched.
        """
        assert self.registry is not None
        runtime = runtime or Runtime.start(RuntimeConfig(device="auto"))
        chosen = self.checkpoint(step, reporter)
        parts = build_parts(self.config, self.registry, runtime, shape=self.shape)
        weights = chosen.weights(ema)
        if not checkpoint.finite(weights.values()):
            others = [
                str(s) for s in checkpoint_files.steps_in(chosen.path.parent) if s != chosen.step
            ]
            raise NotFinite(
                f"{shown(self.path)}: the {'averaged ' * ema}weights of step {chosen.step} are "
                "not finite, so nothing can be drawn from them; "
                + (
                    f"give `checkpoint={others[-1]}`"
                    if others
                    else "train it again at a lower rate"
                )
            )
        checkpoint.restore(parts.objective, weights)
        parts.objective.eval()
        return parts

    def model(
        self,
        *,
        steps: int | None = None,
        eta: float | None = None,
        solver: str | None = None,
        grid: str | None = None,
        guidance: float | None = None,
        batch_size: int | None = None,
        seed: int = 0,
        checkpoint: int | str | None = None,
        ema: bool = True,
        runtime: Runtime | None = None,
        reporter: Reporter | None = None,
    ) -> RunModel:
        """The run's network under its own sampling settings with some replaced.

        Raises:
            NoiseregError: for a value out of range or a combination that would sample wrongly.
        """
        assert self.registry is not None
        parts = self.load(checkpoint, ema, runtime, reporter)
        settings = sampling.resolve(
            sampling.override(
                parts.config.sample,
                self.registry,
                steps=steps,
                eta=eta,
                solver=solver,
                grid=grid,
                guidance=guidance,
                batch_size=batch_size,
            ),
            self.registry,
            parts.process,
            parts.noise,
            parts.task,
            parts.pairing is not None,
        )
        return RunModel(parts, settings, self.registry, seed)

    @property
    def diffusion(self) -> Diffusion:
        """The run's process, noise and terms, for one's own loop."""
        return self.load().diffusion

    @property
    def net(self) -> nn.Module:
        """The run's network with its newest averaged weights, (x_t, t, cond) → tensor."""
        return self.load().denoiser

    def sample(
        self,
        num: int | None = None,
        *,
        steps: int | None = None,
        eta: float | None = None,
        solver: str | None = None,
        grid: str | None = None,
        seed: int = 0,
        checkpoint: int | str | None = None,
        ema: bool = True,
        guidance: float | None = None,
        labels: Sequence[int | str] | None = None,
        inputs: str | Path | None = None,
        many: bool = False,
        reporter: Reporter | None = None,
    ) -> Tensor:
        """``num`` samples: uint8 images (num, C, H, W), float32 points (num, D) or latents (num,
        C, h, w), on the CPU.

        Sample i has the i-th of ``labels`` (numbers, or names of classes; left out: all in turn),
        or is made of the i-th image of the folder ``inputs``, which wrap around. What is left out
        is as the run's configuration says. Under torchrun each rank draws its part, and all get
        the whole. More than a million are drawn with ``many`` alone.

        Raises:
            NoiseregError: for a setting that would sample wrongly, and for a condition that the
            run cannot take, or lacks.
        """
        reporter = reporter or Reporter()
        runtime = Runtime.start(self.config.runtime.model_copy(update={"device": "auto"}))
        model = self.model(
            steps=steps,
            eta=eta,
            solver=solver,
            grid=grid,
            guidance=guidance,
            seed=seed,
            checkpoint=checkpoint,
            ema=ema,
            runtime=runtime,
            reporter=reporter,
        )
        told = conditions.given(model.task, labels, inputs, self.class_names)
        if num is None:
            num = model.settings.num if inputs is None else len(told)
        check_num(num, self.shape, many)
        share = runtime.share(num)
        reporter.begin("sample", len(share))
        try:
            drawn = draw(model, share, told.of(share), reporter) if len(share) else None
            own = None if drawn is None else as_output(drawn, model.parts.decode)
        finally:
            reporter.end()
        if runtime.world == 1:
            assert own is not None
            return own
        gathered: list[Any] = [None] * runtime.world
        torch.distributed.all_gather_object(gathered, own)
        return torch.cat([part for part in gathered if part is not None])
