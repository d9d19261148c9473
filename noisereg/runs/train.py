"""The training loop: one function of a configuration and a folder, the same after every
interruption.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import platform
import re
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from noisereg import __version__, draws, remote
from noisereg.api import Context, Denoiser, Noise
from noisereg.data import NotFinite, batches
from noisereg.diffusion.loss import Net, Weighted, loss
from noisereg.draws import Stream
from noisereg.errors import NoiseregError
from noisereg.ownership import clear_leftovers
from noisereg.plugins.registry import Registry
from noisereg.reading import write_yaml
from noisereg.runs import checkpoint, checkpoint_files, parentage
from noisereg.runs.best import Best
from noisereg.runs.build import Parts
from noisereg.runs.checkpoint import EMA
from noisereg.runs.checkpoint_files import name_of, run_of
from noisereg.runs.config import Config
from noisereg.runs.feed import Feed, MicroBatch
from noisereg.runs.guard import Guard
from noisereg.runs.logged import Log
from noisereg.runs.loggers import Loggers
from noisereg.runs.meter import Meter
from noisereg.runs.optimizer import learners, learning_rate, make_optimizer
from noisereg.runs.output import strip
from noisereg.runs.prepare import OWN, prepare, run_folder
from noisereg.runs.records import status_of
from noisereg.runs.reporter import Reporter
from noisereg.runs.resolve import component_records
from noisereg.runs.run import Run, shown
from noisereg.runs.runtime import Runtime
from noisereg.runs.schedule import Schedule
from noisereg.runs.stopping import Interrupted, StopRequest, Vote
from noisereg.runs.validation import PREFIX, Validation
from noisereg.store import write_atomically

USELESS = 10.0
"""So many times as wrong as an answer of 0, in mean square, a network is no start for another."""


def _varies(regularizer: Weighted) -> bool:
    """Whether its weight changes over training."""
    schedule = regularizer.schedule
    return isinstance(schedule, Schedule) and (
        bool(schedule.warmup) or schedule.kind != "constant"
    )


def fit_noise(noise: Noise, parts: Parts, runtime: Runtime) -> None:
    """A noise that learns from the data does so on rank 0; the others get its state.

    Raises:
        NoiseregError: for one that could not keep it.
    """
    if type(noise).fit is Noise.fit or parts.dataset is None:
        return
    if not isinstance(noise, nn.Module):
        name = type(noise).__name__
        raise NoiseregError(
            f"noise {parts.config.noise.name} overrides fit and is no torch.nn.Module: what it "
            f"learns reaches no checkpoint; expected class {name}(torch.nn.Module, "
            "noisereg.api.Noise)"
        )
    box: list[Any] = [None]
    if runtime.main:
        noise.fit(batches(parts.dataset, "train"))
        # On the CPU, or each rank would take it to the GPU of rank 0.
        state = noise.state_dict()
        box[0] = {name: value.cpu() for name, value in state.items()}
    if runtime.world > 1:
        torch.distributed.broadcast_object_list(box, 0)
        noise.load_state_dict(box[0])


def environment(parts: Parts, registry: Registry, runtime: Runtime, run: str) -> dict[str, Any]:
    """What the ``run`` of that identity depends on beside its configuration."""
    import numpy

    parent = parts.config.parent
    return {
        "run": run,
        "parent": None if parent is None else parent.model_dump(mode="json"),
        "noisereg": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "platform": platform.platform(),
        "device": runtime.describe(),
        "ranks": runtime.world,
        "shape": list(parts.shape),
        "data": parts.data_record,
        "components": component_records(parts.config, registry),
        "command": sys.argv,
    }


def _unused(folder: Path, name: str) -> Path:
    """The first of ``name.format(1)``, … that is not there."""
    return next(path for k in itertools.count(1) if not (path := folder / name.format(k)).exists())


def train(
    config: Config,
    out: Path | None,
    resume: bool,
    registry: Registry,
    reporter: Reporter,
    accept_data: bool = False,
) -> Run:
    """Train, or go on training, the run in ``out`` (None: a new ``runs/<date>-…``); the weights
    are those of an uninterrupted run, bit for bit on a CPU. ``accept_data`` goes on though the
    data are not those it was started on.

    Raises:
        NoiseregError: for a mistake in the configuration (nothing is written then), a folder that
        another process owns, a loss that is not finite, a disk that is full.
        Interrupted: after SIGTERM or Ctrl-C, once a checkpoint is written.
    """
    runtime = Runtime.start(config.runtime)
    if config.runtime.shard:
        from noisereg.runs import sharding

        sharding.check(config, runtime)
        runtime = dataclasses.replace(runtime, shard=True, channels_last=False)
    if not runtime.main:
        reporter = Reporter()
    with run_folder(config, out, runtime, reporter) as folder:
        parts, saved, parent = prepare(
            config, folder, resume, registry, reporter, runtime, accept_data
        )
        return Training(parts, folder, saved, parent, registry, reporter, runtime).go()


class Training:
    """One process's share of one run."""

    def __init__(
        self,
        parts: Parts,
        out: Path,
        found: checkpoint.Checkpoint | None,
        parent: checkpoint.Checkpoint | None,
        registry: Registry,
        reporter: Reporter,
        runtime: Runtime,
    ) -> None:
        self.parts, self.out, self.registry, self.reporter, self.runtime = (
            parts,
            out,
            registry,
            reporter,
            runtime,
        )
        self.config = parts.config
        self.objective = parts.objective
        self.start = self.at = found.step if found else 0
        """The step that it goes on from, and the one that it is at."""
        self.run = ""
        self.known: set[int] = set()
        """Steps whose checkpoints have been verified."""
        in_parts = runtime.shard and found is not None and found.sharded
        if found:
            if not in_parts:
                checkpoint.restore(self.objective, found.weights(ema=False))
            self.known.add(found.step)
        else:
            fit_noise(parts.noise, parts, runtime)
        if runtime.shard:
            from noisereg.runs import sharding

            sharding.check_parts(parts)
            sharding.shard(self.objective, runtime)
        self.ema = EMA(self.objective, self.config.ema.decay, self.config.ema.warmup)
        self.optimizer = make_optimizer(self.config, parts)
        if found and in_parts:
            sharding.load(found, self.objective, self.ema, self.optimizer)
        elif found:
            self.ema.load(found.weights(ema=True))
            checkpoint.restore_optimizer(self.optimizer, self.objective, found)
        elif parent:
            self.ema.load(parentage.averages(parent, self.ema.shadow, self.config))
        self.updates = self.config.parent.updates if self.config.parent else 0
        """Behind the averages before the first step."""
        self.model: nn.Module = self.objective
        if runtime.compile:
            self.objective.denoiser.compile()
        if runtime.world > 1 and not runtime.shard:
            learns = any(
                p.requires_grad
                for n, p in self.objective.named_parameters()
                if not n.startswith("denoiser.")
            )
            self.model = nn.parallel.DistributedDataParallel(
                self.objective,
                device_ids=[runtime.device] if runtime.device.type == "cuda" else None,
                find_unused_parameters=learns,
                gradient_as_bucket_view=True,
            )
        self.saved = self.start if found else -1
        self.meter = Meter()
        self.batch: MicroBatch | None = None
        """The last that was trained on."""
        self.validation = (
            Validation(parts, registry, runtime) if self.config.train.eval_every else None
        )
        name = self.config.train.keep_best
        self.best = Best(out, self.validation, name) if self.validation and name else None
        self.loggers = Loggers([], reporter)

    def go(self) -> Run:
        with (
            StopRequest() as stop,
            draws.seeded(self.config.seed, self.runtime.device),
            self.opened(),
            Guard(self.parts, self.runtime.compile) as guard,
        ):
            self._loop(stop, guard)
        return (
            Run.open(self.out, self.registry)
            if self.runtime.main
            else Run(self.out, self.config, self.parts.shape)
        )

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """All that surrounds the steps: the folder, its status, the loggers."""
        context = Context(shape=self.parts.shape)
        named = self.config.log if self.runtime.main else []
        self.loggers = Loggers(
            [self.registry.build("logger", s.name, s.params, context) for s in named],
            self.reporter,
        )
        self._announce()
        error: BaseException | None = None
        if self.runtime.main:
            self._write_folder()
        self.loggers.call("run_started", self.out, self.config.dump())
        self._status("running", self.start)
        self.reporter.begin("train", self.config.train.steps, self.start)
        try:
            self.clock, self.reported = time.monotonic(), self.start
            if self.start and self._grid_due(self.start) and self._picture(self.start) is None:
                self._grid(self.start)  # a kill came between the checkpoint and its picture
            self.objective.train()
            yield
        except BaseException as caught:
            error = caught
            self._failed(caught)
            raise
        finally:
            self.reporter.end()
            self.loggers.call("run_ended", error)
        self._status("finished", self.config.train.steps)

    def _failed(self, error: BaseException) -> None:
        """What status.json says of a run that was stopped, or could not go on."""
        stopped = isinstance(error, Interrupted | KeyboardInterrupt)
        with contextlib.suppress(NoiseregError):  # a full disk must not hide what happened
            self._status(
                "stopped" if stopped else "failed",
                max(self.saved, 0),
                "" if stopped else str(error) or type(error).__name__,
                isinstance(error, NotFinite),
            )

    def feed(self, guard: Guard) -> Feed:
        """What each step sees."""
        assert self.parts.dataset is not None
        return Feed(
            self.config,
            guard.watch_split(self.parts.dataset.split("train")),
            self.parts.shape,
            self.parts.dataset.flip,
            self.parts.task,
            self.parts.noise,
            self.parts.process,
            self.runtime,
        )

    def _loop(self, stop: StopRequest, guard: Guard) -> None:
        runtime, train = self.runtime, self.config.train
        micro_batches = self.feed(guard).run(self.start, train.steps)
        vote = Vote(
            lambda: stop.asked() or self.reporter.gone,
            runtime.largest,
            runtime.world,
            self.start,
        )
        hooks = [component.after_step for component in learners(self.parts)]
        for step in range(self.start, train.steps):
            guard.step = step
            self._step(step, micro_batches, self.meter)
            for after_step in hooks:
                after_step()
            self.ema.update(self.updates + step + 1)
            done = step + 1
            asked = vote.after(done)
            if asked or self.due(done):
                self.book(done, asked)
            if asked and done < train.steps:
                micro_batches.close()
                raise self.interrupted(stop, done)

    def interrupted(self, stop: StopRequest, done: int) -> Interrupted:
        """Why it stopped after step ``done``."""
        signum = stop.signum or (signal.SIGPIPE if self.reporter.gone else signal.SIGTERM)
        return Interrupted(signum, done, self.out)

    def due(self, done: int) -> bool:
        """Whether anything is measured or written after step ``done``."""
        return self._line_due(done) or self._grid_due(done)

    def _save_due(self, done: int) -> bool:
        train = self.config.train
        return done % train.checkpoint_every == 0 or done == train.steps

    def _line_due(self, done: int) -> bool:
        return (
            done % self.config.train.log_every == 0
            or self._save_due(done)
            or (self.validation is not None and self._eval_due(done))
        )

    def book(self, done: int, asked: bool = False) -> None:
        """Measure and write what is due after step ``done``: a line, a checkpoint, a picture. One
        that is asked to stop writes a checkpoint, and no picture before its last step.

        Raises:
            NotFinite: for a loss or weights that are not finite.
        """
        save = asked or self._save_due(done)
        if asked or self._line_due(done):
            self._check_finite(done, self.meter)
            measured = self.validation is not None and self._eval_due(done)
            numbers = self._evaluate(done) if measured else {}
            self._report(done, self.meter, numbers)
            save |= self._improved(done, numbers)
        if save:
            self._save(done)
        if self._grid_due(done) and not (asked and done < self.config.train.steps):
            self._grid(done)
            self.clock = time.monotonic()

    def _step(self, step: int, micro_batches: Iterator[MicroBatch], meter: Meter) -> None:
        """One step of the optimiser, over all its micro-batches."""
        train = self.config.train
        self.seed_torch(step)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, step) * group["scale"]
        for micro in range(train.accumulate):
            batch = self.batch = next(micro_batches)
            with self._no_sync(micro < train.accumulate - 1):
                loss, parts = self.model(batch.x0, batch.latents, batch.t, batch.cond, step)
                (loss / train.accumulate).backward()
            meter.add(parts, step)
        if train.clip is not None:
            nn.utils.clip_grad_norm_(self.objective.parameters(), train.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def seed_torch(self, step: int) -> None:
        """Dropout is a function of (seed, step, rank), so that a resumed run repeats it."""
        seed = draws.torch_seed(self.config.seed, Stream.DROPOUT, self.runtime.rank, step)
        draws.seed_torch(seed, self.runtime.device)

    def _check_finite(self, done: int, meter: Meter) -> None:
        """
        Raises:
            NotFinite: for a loss since the last line, or weights, that are not finite.
        """
        if (bad := meter.first_bad_step(self.runtime)) is not None:
            at = f"at step {bad + 1}" if bad >= 0 else "on another rank"
            raise NotFinite(self._not_finite(f"the loss is not finite {at}"))
        if self.runtime.any(not checkpoint.finite(self.objective.parameters())):
            raise NotFinite(self._not_finite(f"the weights are not finite after step {done}"))

    def _eval_due(self, step: int) -> bool:
        every = self.config.train.eval_every
        return every is not None and (step % every == 0 or step == self.config.train.steps)

    def _evaluate(self, step: int) -> dict[str, float]:
        """What ``train.eval`` measures of the averaged weights, on rank 0. What cannot be measured
        is said, and the run goes on.
        """
        assert self.validation is not None
        began = time.monotonic()
        self.reporter.end()
        numbers: dict[str, float] = {}
        try:
            with self.ema.applied():
                numbers = self.validation.measure(step, self.reporter)
        except NoiseregError as error:
            self.reporter.note(f"train.eval at step {step}: {error}; the run goes on")
        self.objective.train()
        if step < self.config.train.steps:
            self.reporter.begin("train", self.config.train.steps, step)
        self.runtime.barrier()
        self.clock += time.monotonic() - began  # no part of the images a second
        return numbers

    def _improved(self, step: int, numbers: Mapping[str, float]) -> bool:
        """Whether this step's checkpoint is the best so far, on every rank."""
        improved = self.best is not None and self.best.improved(step, numbers)
        if numbers:
            said = "  ".join(f"{k} {v:.4g}" for k, v in numbers.items())
            self.reporter.fact(f"eval {step:,}", said + "  the best so far" * improved)
        due = self.best is not None and self._eval_due(step)
        return due and self.runtime.any(improved)

    def _prune(self) -> None:
        """Record the best checkpoint, if one is kept, and remove what needs not be."""
        train, best = self.config.train, None
        if self.best is not None:
            self.best.record()
            best = self.best.step
        folder = self.out / "checkpoints"
        checkpoint_files.prune(folder, train.keep_last, train.keep_every, self.known, best)

    def _report(self, done: int, meter: Meter, numbers: Mapping[str, float]) -> None:
        """A line of metrics.jsonl, to the loggers and the screen too; with the ``numbers`` that
        were measured at this step.
        """
        now = time.monotonic()
        images = (done - self.reported) * self.config.train.batch_size
        metrics = {
            **meter.read(self.runtime),
            **self._weights(done - 1),
            "lr": learning_rate(self.config, done - 1),
            "images_per_second": images / max(now - self.clock, 1e-9),
            **{PREFIX + name: value for name, value in numbers.items()},
        }
        self.clock, self.reported = now, done
        if self.runtime.main:
            self._log(done, metrics)
            self.loggers.call("logged", done, metrics)
            self.reporter.advance(done, metrics)

    def _weights(self, step: int) -> dict[str, float]:
        """λ of each regularizer that has a schedule."""
        scheduled = [r for r in self.parts.diffusion.regularizers if _varies(r)]
        return {f"{r.name}/weight": r.at(step) for r in scheduled}

    def _no_sync(self, active: bool) -> contextlib.AbstractContextManager[Any]:
        if active and isinstance(self.model, nn.parallel.DistributedDataParallel):
            return self.model.no_sync()
        return contextlib.nullcontext()

    def _not_finite(self, what: str) -> str:
        """What happened, what is left, and what to type: a rate below the one that failed."""
        optim, runtime = self.config.optim, self.runtime
        assert optim.lr != "auto"
        own = cast(Denoiser, self.parts.denoiser).default_lr
        settings = [f"--set optim.lr={float(f'{min(optim.lr / 3, own):.1g}'):g}"]
        if self.config.train.clip is None:
            settings.append("--set train.clip=1")
        if runtime.bf16:
            settings.append("--set runtime.precision=float32")
        sound = self._sound_checkpoint()
        if sound is not None:
            kept = f"the checkpoint of step {sound} is kept"
            command = f"noisereg train --from {shown(self.out)}@{sound}"
        else:
            kept = "there is no checkpoint yet"
            if self.saved > 0:
                kept = "no checkpoint is worth going on from"
            command = f"noisereg train --config {shown(self.out / 'config.yaml')}"
        smaller = ", with a smaller regularizer weight if that fails too" * bool(self.config.reg)
        typed = " ".join([command, *settings, "--out NEW"])
        return f"{what}; {kept}. Try: {typed}{smaller}"

    def _sound_checkpoint(self) -> int | None:
        """The newest checkpoint to start another run from: its weights are finite, and on the last
        batch the network is no more than :data:`USELESS` times as wrong as one that answers 0, in
        mean square. Weights that one step has thrown far away are finite, and lead nowhere.
        """
        batch, folder = self.batch, self.out / "checkpoints"
        if batch is None:
            return None

        def nothing(x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
            return x.new_zeros(len(x), x.shape[1] * self.parts.diffusion.outputs, *x.shape[2:])

        def error(net: Net) -> float:
            with torch.no_grad():
                found = loss(
                    net,
                    batch.x0,
                    batch.latents,
                    batch.t,
                    process=self.parts.process,
                    noise=self.parts.noise.given(batch.cond),
                    cond=batch.cond,
                )
            return float(found.parts["mse"])

        for step in reversed(checkpoint_files.steps_in(folder)):
            with contextlib.suppress(NoiseregError):
                weights = checkpoint.Checkpoint.open(folder / name_of(step)).weights(ema=False)
                if checkpoint.finite(weights.values()):
                    if self.objective.sharded:  # trying it would need all ranks
                        return step
                    checkpoint.restore(self.objective, weights)
                    if error(self.objective.net) <= USELESS * error(nothing):
                        return step
        return None

    def _announce(self) -> None:
        config, runtime, reporter = self.config, self.runtime, self.reporter
        train = config.train
        for name, text in self.parts.lines.items():
            reporter.fact(name, text)
        for text in self.parts.notes:
            reporter.note(text)
        reporter.fact("run", shown(self.out))
        micro = (
            f" ({train.accumulate} × {train.batch_size // train.accumulate})"
            if train.accumulate > 1
            else ""
        )
        ahead = f"{train.steps:,} steps of {train.batch_size}{micro}"
        if self.start:
            ahead += f", going on from {self.start:,}"
        reporter.fact("", f"{runtime.describe()} · {ahead}")

    def _write_folder(self) -> None:
        """config.yaml last: a folder without one is no run, so a kill in between leaves nothing
        that looks like one.
        """
        self._mend()
        self.run = (run_of(self.out) if self.saved >= 0 else "") or secrets.token_hex(8)
        records = environment(self.parts, self.registry, self.runtime, self.run)
        clear_leftovers(self.out, "|".join(map(re.escape, OWN)))
        clear_leftovers(self.out / "checkpoints", r"\d{6,}|best\.json")
        clear_leftovers(self.out / "samples", r"\d{6,}\.(png|npz)")
        write_atomically(
            self.out / "environment.json", (json.dumps(records, indent=1) + "\n").encode()
        )
        metrics = self.out / "metrics.jsonl"
        # What was logged past the checkpoint will be logged again.
        log = Log.read(self.out)
        kept = [line for step, line in log.lines.items() if step <= self.start]
        copy = ""
        if metrics.is_file() and metrics.stat().st_size and (log.damaged or not kept):
            before = _unused(self.out, "metrics-{}.jsonl")
            shutil.copyfile(metrics, before)
            copy = f"; as it was it is kept as {before.name}"
        if wrong := log.wrong():
            self.reporter.note(f"{metrics}: {wrong}, and left out of what is written anew{copy}")
        write_atomically(metrics, "".join(f"{line}\n" for line in kept).encode())
        if self.best is not None and self.best.recall(self.start, self.registry, self.reporter):
            self._prune()
        write_atomically(self.out / "config.yaml", write_yaml(self.config.dump()).encode())

    def _mend(self) -> None:
        """Say what is wrong with status.json, which is written anew; a folder in its place, or in
        that of metrics.jsonl, is put aside.
        """
        if self.saved >= 0:
            _, wrong = status_of(self.out, self.config.train.steps)
            if wrong:
                self.reporter.note(f"{wrong}; it is written anew")
        for name in ("status.json", "metrics.jsonl"):
            path = self.out / name
            if path.is_dir():
                aside = _unused(self.out, name + ".{}")
                path.rename(aside)
                self.reporter.note(f"{path} is a folder; it is now {aside.name}")

    def _status(self, status: str, step: int, error: str = "", diverged: bool = False) -> None:
        if not self.runtime.main:
            return
        record: dict[str, Any] = {"status": status, "step": step, "steps": self.config.train.steps}
        record |= {"error": error} if error else {}
        record |= {"diverged": True} if diverged else {}
        path, data = self.out / "status.json", (json.dumps(record) + "\n").encode()
        try:
            write_atomically(path, data)
        except NoiseregError:
            # On a full disk: in the place that the file has already.
            with contextlib.suppress(OSError), path.open("r+b") as file:
                file.write(data)
                file.truncate()
                return
            raise
        try:
            remote.upload(self.out)
        except remote.Lost:
            raise
        except NoiseregError as error:
            if status == "finished":
                raise
            self.reporter.note(f"{error}; uploaded with the next checkpoint")

    def _log(self, step: int, metrics: Mapping[str, float]) -> None:
        line = json.dumps({"step": step, **{k: float(f"{v:.6g}") for k, v in metrics.items()}})
        path = self.out / "metrics.jsonl"
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise NoiseregError(
                f"cannot write {path}: {error.strerror}; the checkpoint of step "
                f"{max(self.saved, 0)} is kept, and the same command with `resume` goes on from it"
            ) from error

    def _save(self, step: int) -> None:
        if step == self.saved:
            return
        # On every rank: the others would wait for one that raised alone.
        if self.runtime.any(not checkpoint.finite(self.ema.shadow.values())):
            raise NotFinite(
                self._not_finite(f"the averaged weights are not finite after step {step}")
            )
        folder = self.out / "checkpoints"
        if self.objective.sharded:
            from noisereg.runs import sharding

            sharding.save(
                folder, step, self.objective, self.ema, self.optimizer, self.run, self.runtime
            )
        elif self.runtime.main:
            checkpoint.save(folder, step, self.objective, self.ema, self.optimizer, self.run)
        if self.runtime.main:
            self.known.add(step)
            self._prune()
            self._status("running", step)
        self.saved = step

    def _grid_due(self, step: int) -> bool:
        every = self.config.train.sample_every
        return step == self.config.train.steps or (every is not None and step % every == 0)

    def _picture(self, step: int) -> Path | None:
        """The picture of the samples of a step, if it is there."""
        path = self.out / "samples" / f"{step:06d}.png"
        return path if path.is_file() and path.stat().st_size else None

    def _grid(self, step: int) -> None:
        """samples/STEP.png (.npz beside it for points), from the averaged weights, on rank 0; with
        the others' help where each has a part of them.
        """
        main = self.runtime.main
        if main or self.objective.sharded:
            from noisereg.runs.run import draw_grid

            self.reporter.end()
            try:
                with self.ema.applied():
                    path = self.out / "samples" / f"{step:06d}.png"
                    frames = draw_grid(
                        self.parts, path if main else None, self.registry, self.reporter
                    )
                if main:
                    self.loggers.call("pictured", step, "samples", path.read_bytes())
                if main and self.config.log:
                    self.loggers.call("pictured", step, "trajectory", strip(frames))
            except NotFinite as error:
                if step == self.config.train.steps:
                    raise NotFinite(self._not_finite(str(error).partition(":")[0])) from None
                self.reporter.note(f"no picture of step {step}: {error}")
            self.objective.train()
            if step < self.config.train.steps:
                self.reporter.begin("train", self.config.train.steps, step)
        self.runtime.barrier()
