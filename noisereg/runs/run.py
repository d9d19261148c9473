"""A run is a folder: its configuration, its checkpoints, and what can be drawn from them."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from noisereg import draws, remote
from noisereg.api import Context, Task
from noisereg.data import NotFinite, as_output
from noisereg.datasets.fingerprint import difference
from noisereg.diffusion import arguments
from noisereg.diffusion.diffusion import Diffusion
from noisereg.draws import Stream
from noisereg.errors import NoiseregError
from noisereg.inside import check_contents
from noisereg.memory import Peak, free_device_memory, free_host_memory
from noisereg.plugins.registry import Registry
from noisereg.plugins.spec import Spec
from noisereg.runs import checkpoint, checkpoint_files, conditions, sampling
from noisereg.runs.build import Parts, build_parts, decoder_of
from noisereg.runs.config import Config, RuntimeConfig, check_components, read_complete
from noisereg.runs.logged import anew, progress
from noisereg.runs.model import RunModel
from noisereg.runs.output import STRIP, STRIPS, check_num, npz_bytes, picture
from noisereg.runs.records import read_environment, status_of
from noisereg.runs.reporter import Reporter
from noisereg.runs.resolve import (
    SAMPLING,
    check_contents_of,
    component_records,
    revised,
)
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
    """A path as a user would type it: without the current folder, where it is below that; the
    address that a working copy stands for.
    """
    if url := remote.address_of(path):
        return url
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
    latents: Mapping[str, Tensor] | None = None,
    keep: Sequence[int] | None = None,
) -> Tensor:
    """Samples ``indices``, (len(indices), *shape) in the network's range; with ``keep`` what they
    were after so many steps, (len(keep), len(indices), *shape).

    Draws are bit-equal however the indices are cut into batches, which is as memory has room for
    (:func:`at_once`). ``done`` samples of the
    reporter's work are behind us. ``latents``, each (len(indices), …), replace those of the start.
    """
    steps = len(model.times()) - 1
    drawn: list[Tensor] = []
    model.parts.objective.eval()
    size = at_once(model, indices, cond)
    for start in range(0, len(indices), size):
        some = indices[start : start + size]
        some_cond = None if cond is None else cond[start : start + len(some)].to(model.device)
        own = {
            name: z[start : start + len(some)].to(model.device)
            for name, z in (latents or {}).items()
        }
        frames: dict[int, Tensor] = {}
        # What FSDP gathers here it uses again in training, where no inference tensor may be.
        gathers = model.parts.objective.sharded
        with torch.no_grad() if gathers else torch.inference_mode():
            for k, x in enumerate(model.trajectory(some, some_cond, own or None)):
                if k in (keep if keep is not None else (steps,)):
                    frames[k] = x
                if reporter:
                    reporter.advance(done + start + len(some) * k // steps)
        # outside of inference mode, so that what is returned is an ordinary tensor
        drawn.append(torch.stack([frames[k].clone() for k in keep or (steps,)]))
    whole = torch.cat(drawn, 1)
    return whole[0] if keep is None else whole


TRIED = 4
"""Samples of which the memory is measured first."""
ROOM = 0.5
"""The share of the free memory that samples on their way may take."""


def at_once(model: RunModel, indices: Sequence[int], cond: Tensor | None = None) -> int:
    """How many samples to draw at once: ``sample.batch_size``, or fewer, at least one, where the
    free memory has no room for as many. What they take is measured on the first two steps of a
    few.

    n take at most n/m of what m < n take: in proportion, or less by what is taken however many
    they are. So where not all have room, those that have are measured too.
    """
    most, count = min(model.settings.batch_size, len(indices)), TRIED
    if most <= count or model.parts.objective.sharded:  # whose ranks must all cut alike
        return max(most, 1)
    cuda = model.device.type == "cuda"
    room = ROOM * (free_device_memory(model.device) if cuda else free_host_memory())
    while True:
        some_cond = None if cond is None else cond[:count].to(model.device)
        with torch.inference_mode(), Peak() as peak:
            for _ in itertools.islice(model.trajectory(indices[:count], some_cond), 3):
                pass
        size = min(most, int(room * count / peak.most))
        if size == most or size < 2 * count:
            return max(size, 1)
        count = size


def draw_grid(parts: Parts, path: Path | None, registry: Registry, reporter: Reporter) -> Tensor:
    """The picture of a training run's samples, with the run's own sampling settings, written where
    there is a ``path``; how the first of them came about, (times, N, …), for loggers.
    """
    model = RunModel(parts, parts.config.sample, registry, parts.config.seed)
    count = GRID if len(parts.shape) == 3 else 2000
    assert parts.dataset is not None
    cond = conditions.heldout(parts.task, parts.dataset, count).of(range(count))
    reporter.begin("sample", count)
    keep = kept_steps(len(model.times()) - 1, STRIP if len(parts.shape) == 3 else STRIP // 2)
    try:
        drawn = draw(model, range(count), cond, reporter, keep=keep)
        x = as_output(drawn[-1], parts.decode)
    finally:
        reporter.end()
    if path is not None and x.ndim == 2:
        write_atomically(path.with_suffix(".npz"), npz_bytes(x))
    if path is not None:  # last: where it is, all is
        write_atomically(path, picture(x))
    some = STRIPS if x.ndim == 4 else count
    return torch.stack([as_output(frame[:some], parts.decode) for frame in drawn])


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
        check_contents(path)
        config = read_complete(path / "config.yaml")
        shape = tuple(read_environment(path)["shape"])
        for record in config.plugins:
            registry.load_recorded(record.source, record.sha256, str(path / "config.yaml"))
        check_components(config, registry, str(path / "config.yaml"))
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

    def revised(self) -> list[str]:
        """A line of each component that draws its samples and has another revision than it was
        trained with.

        Raises:
            NoiseregError: if a file of one is another than it was trained with.
        """
        assert self.registry is not None
        recorded = read_environment(self.path).get("components", {})
        records = component_records(self.config, self.registry, SAMPLING)
        check_contents_of(recorded, records)
        return [
            f"{shown(self.path)} was trained with revision {was['revision']} of {was['name']} "
            f"and is sampled with {now['revision']}, whose numbers differ"
            for was, now in revised(recorded, records)
            if records.get("data") is not now  # which have their fingerprint
        ]

    def other_data(self, fingerprint: Mapping[str, Any]) -> str:
        """What tells data with this fingerprint from those that it was trained on; empty where
        nothing does.
        """
        return difference(read_environment(self.path).get("data"), fingerprint)

    @property
    def draws_images(self) -> bool:
        """Whether its samples are images of 8 bits: not points, nor latents without a decoder."""
        assert self.registry is not None
        runtime = Runtime.start(RuntimeConfig(device="cpu"))
        decode = decoder_of(self.config, self.registry, None, self.shape, runtime)
        if decode is None:
            return len(self.shape) == 3
        return decode(torch.zeros(1, *self.shape)).dtype == torch.uint8

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
        if isinstance(step, bool) or not isinstance(step, Integral | None):
            raise NoiseregError(f"`checkpoint={step!r}`: expected a step, or best")
        if step is not None:
            step = int(step)
            if step not in checkpoint_files.steps_in(folder):
                have = ", ".join(map(str, checkpoint_files.steps_in(folder))) or "none"
                raise NoiseregError(
                    f"{self.path} has no checkpoint of step {step}; there are: {have}"
                )
            return checkpoint.Checkpoint.open(folder / checkpoint_files.name_of(step))
        newest = checkpoint.latest(folder, (reporter or Reporter()).note)
        if newest is None:
            if reached := progress(self.path, self.config):
                raise NoiseregError(
                    f"{self.path} has no whole checkpoint, and yet {reached}; restore one, or "
                    f"train it anew: {anew(self.path)}"
                )
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
        touched. A component of another revision than the run was trained with is noted.

        Raises:
            NoiseregError: for no such checkpoint, weights that are not finite, and a file of a
                component that is another than the run was trained with.
        """
        assert self.registry is not None
        runtime = runtime or Runtime.start(RuntimeConfig(device="auto"))
        chosen = self.checkpoint(step, reporter)
        parts = build_parts(self.config, self.registry, runtime, shape=self.shape)
        for text in self.revised():
            (reporter or Reporter()).note(text)
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
        eps_scale: float | str | None = None,
        clip: str | None = None,
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
        arguments.check_seed(seed)
        for name, spec in (("solver", solver), ("grid", grid), ("clip", clip)):
            if not isinstance(spec, str | None):
                raise NoiseregError(
                    f"`{name}` is a {type(spec).__name__}; expected its name, or "
                    "name:key=value,key=value (Diffusion.sample takes objects)"
                )
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
                eps_scale=eps_scale,
                clip=clip,
                batch_size=batch_size,
            ),
            self.registry,
            parts.diffusion,
            parts.task,
            parts.images,
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
        eps_scale: float | str | None = None,
        clip: str | None = None,
        labels: Sequence[int | str] | None = None,
        inputs: str | Path | None = None,
        many: bool = False,
        latents: Tensor | Mapping[str, Tensor] | None = None,
        trajectory: bool | int = False,
        reporter: Reporter | None = None,
    ) -> Tensor:
        """``num`` samples: uint8 images (num, C, H, W), float32 points (num, D) or latents (num,
        C, h, w), on the CPU.

        Sample i has the i-th of ``labels`` (numbers, or names of classes; left out: all in turn),
        or is made of the i-th image in the folder or .zip ``inputs``, which wrap around. What is
        left out is as the run's configuration says. Under torchrun each rank draws its part, and
        all get the whole. More than a million are drawn with ``many`` alone.

        ``latents``, as ``run.latents(num)`` gives them (num, …), are what sampling starts from in
        place of its own. ``trajectory`` gives what the samples are on their way, from noise to
        data: at every step, (steps + 1, num, …), or at so many times evenly spaced over them.

        Raises:
            NoiseregError: for a setting that would sample wrongly, and for a condition that the
            run cannot take, or lacks.
        """
        reporter = reporter or Reporter()
        if num is not None:
            arguments.check_count("num", num)
        runtime = Runtime.start(self.config.runtime.model_copy(update={"device": "auto"}))
        model = self.model(
            steps=steps,
            eta=eta,
            solver=solver,
            grid=grid,
            guidance=guidance,
            eps_scale=eps_scale,
            clip=clip,
            seed=seed,
            checkpoint=checkpoint,
            ema=ema,
            runtime=runtime,
            reporter=reporter,
        )
        for note in sampling.notes(model.settings, model.noise):
            reporter.note(note)
        told = conditions.given(model.task, labels, inputs, self.class_names)
        start = None if latents is None else _checked_latents(model, latents, num)
        if num is None:
            num = model.settings.num if inputs is None else len(told)
            num = num if start is None else len(next(iter(start.values())))
        check_num(num, self.shape, many)
        keep = kept_steps(len(model.times()) - 1, trajectory) if trajectory else None
        share = runtime.share(num)
        if start is not None:
            start = {name: z[share.start : share.stop] for name, z in start.items()}
        reporter.begin("sample", len(share))
        own: Tensor | None = None
        try:
            if len(share):
                drawn = draw(model, share, told.of(share), reporter, latents=start, keep=keep)
                frames = drawn[None] if keep is None else drawn
                own = torch.stack([as_output(x, model.parts.decode) for x in frames])
        finally:
            reporter.end()
        if runtime.world == 1:
            gathered: list[Any] = [own]
        else:
            gathered = [None] * runtime.world
            torch.distributed.all_gather_object(gathered, own)
        whole = torch.cat([part for part in gathered if part is not None], 1)
        return whole[0] if keep is None else whole

    def latents(self, num: int, seed: int = 0) -> dict[str, Tensor]:
        """The latents that :meth:`sample` starts from, by name, each (num, …) on the CPU: equal
        for runs whose noises take the same ones.
        """
        arguments.check_count("num", num)
        arguments.check_seed(seed)
        noise, place = self.load().noise, self.config.draws
        return draws.latents(
            noise, self.shape, seed, Stream.SAMPLE_LATENTS, range(num), 0, place=place
        )


def kept_steps(steps: int, trajectory: bool | int) -> list[int]:
    """Which of 0 … ``steps`` a trajectory shows: all, or so many, evenly spaced.

    Raises:
        NoiseregError: for fewer than 2.
    """
    if trajectory is True or trajectory > steps:
        return list(range(steps + 1))
    if trajectory < 2:
        raise NoiseregError(f"`trajectory={trajectory}`: expected at least 2 times")
    return [round(k * steps / (trajectory - 1)) for k in range(trajectory)]


def _checked_latents(
    model: RunModel, latents: Tensor | Mapping[str, Tensor], num: int | None
) -> dict[str, Tensor]:
    """
    Raises:
        NoiseregError: for latents of other names, shapes or numbers than the noise takes.
    """
    for z in latents.values() if isinstance(latents, Mapping) else [latents]:
        arguments.check_tensor("latents", z)
    named = dict(model.noise.named(latents, model.shape))
    expected = model.noise.latents(model.shape)
    counts = {len(z) for z in named.values()}
    fits = set(named) == set(expected) and len(counts) == 1 and counts <= {num or max(counts)}
    if not fits or any(tuple(named[n].shape[1:]) != size for n, size in expected.items()):
        wanted = ", ".join(
            f"{name} ({num or 'num'}, {', '.join(map(str, size))})"
            for name, size in expected.items()
        )
        got = ", ".join(f"{name} {tuple(z.shape)}" for name, z in named.items())
        raise NoiseregError(f"`latents`: expected {wanted}, not {got}")
    return {name: z.float() for name, z in named.items()}
