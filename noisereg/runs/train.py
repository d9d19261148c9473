"""The training loop: one function of a configuration and a folder, the same after every
interruption.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import platform
import re
import secrets
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from noisereg import __version__, draws
from noisereg.api import Context, Logger, Noise
from noisereg.data import NotFinite, batches
from noisereg.datasets.fingerprint import difference
from noisereg.diffusion.loss import Weighted
from noisereg.draws import Stream
from noisereg.errors import NoiseregError
from noisereg.inside import check_links
from noisereg.ownership import LOCK, clear_leftovers, owned, owned_new, vacant
from noisereg.plugins.registry import Registry
from noisereg.reading import read_yaml, write_yaml
from noisereg.runs import checkpoint, checkpoint_files, parentage
from noisereg.runs.build import Parts, build_dataset, build_parts
from noisereg.runs.checkpoint import EMA
from noisereg.runs.checkpoint_files import run_of
from noisereg.runs.config import Config, horizon, resume_difference, validate
from noisereg.runs.feed import Feed
from noisereg.runs.guard import Guard
from noisereg.runs.pretrained import continued, initialise
from noisereg.runs.records import read_environment, status_of
from noisereg.runs.reporter import Reporter
from noisereg.runs.resolve import check_revisions, component_records
from noisereg.runs.run import Run, default_out, shown
from noisereg.runs.runtime import Runtime
from noisereg.runs.schedule import Schedule
from noisereg.store import write_atomically

OWN = ("config.yaml", "environment.json", "status.json", "metrics.jsonl", "checkpoints", "samples")
"""What training writes in a run's folder."""
NO_RUN = "{} is not empty and holds no run; expected a new folder for `out`"


class Interrupted(Exception):
    """The run was asked to stop, saved, and stopped."""

    def __init__(self, signum: int, step: int, out: Path) -> None:
        super().__init__(f"stopped at step {step}")
        self.signum, self.step, self.out = signum, step, out


def learning_rate(config: Config, step: int) -> float:
    """Of optimiser step ``step`` (from 0): a linear warm-up, then the schedule, down to 0 at the
    horizon.
    """
    optim = config.optim
    assert optim.lr != "auto"  # build_parts resolved it
    return optim.lr * Schedule(optim.schedule, optim.warmup, horizon(config))(step)


def learners(parts: Parts) -> list[Any]:
    """The components beside the denoiser that may learn."""
    diffusion = parts.diffusion
    return [diffusion.noise, diffusion.process, *(r.term for r in diffusion.regularizers)]


def make_optimizer(config: Config, parts: Parts) -> torch.optim.Optimizer:
    """Adam or AdamW; a component with an ``lr`` of its own keeps its ratio to the denoiser's."""
    optim = config.optim
    assert optim.lr != "auto"
    groups: list[dict[str, Any]] = [{"params": list(parts.denoiser.parameters()), "scale": 1.0}]
    for component in learners(parts):
        if isinstance(component, nn.Module) and (
            params := [p for p in component.parameters() if p.requires_grad]
        ):
            own: float | None = component.lr  # type: ignore[assignment]
            groups.append(
                {"params": params, "scale": own / optim.lr if own else 1.0, "weight_decay": 0.0}
            )
    kind = torch.optim.AdamW if optim.name == "adamw" else torch.optim.Adam
    # One kernel for all parameters: a third of the time of the default on a CPU, where small
    # networks feel it.
    fused = all(p.device.type in ("cpu", "cuda") for p in parts.denoiser.parameters())
    return kind(
        groups, lr=optim.lr, betas=optim.betas, weight_decay=optim.weight_decay, fused=fused
    )


@dataclass
class Meter:
    """Means of the detached parts of the loss since the last line, kept on the device."""

    total: dict[str, Tensor] = field(default_factory=dict)
    count: int = 0
    bad_step: Tensor | None = None

    def add(self, parts: Mapping[str, Tensor], step: int) -> None:
        for name, value in parts.items():
            self.total[name] = self.total[name] + value if name in self.total else value.clone()
        self.count += 1
        loss = parts["loss"]
        here = torch.where(torch.isfinite(loss), torch.inf, float(step))
        self.bad_step = here if self.bad_step is None else torch.minimum(self.bad_step, here)

    def first_bad_step(self, runtime: Runtime) -> int | None:
        """The first step with a loss that is not finite, on any rank."""
        value = torch.inf if self.bad_step is None else float(self.bad_step)
        if runtime.any(value != torch.inf):
            return int(value) if value != torch.inf else -1
        return None

    def read(self, runtime: Runtime) -> dict[str, float]:
        """The means over steps and ranks; starts anew."""
        if not self.total:
            return {}
        names = list(self.total)
        values = runtime.average(torch.stack([self.total[n].double() for n in names]) / self.count)
        self.total, self.count, self.bad_step = {}, 0, None
        return dict(zip(names, values.tolist(), strict=True))


def _varies(regularizer: Weighted) -> bool:
    """Whether its weight changes over training."""
    schedule = regularizer.schedule
    return isinstance(schedule, Schedule) and (
        bool(schedule.warmup) or schedule.kind != "constant"
    )


STOPPING = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGXCPU")
"""What terminals and schedulers send before they kill."""


class StopRequest:
    """A signal of :data:`STOPPING` asks for a checkpoint; a second Ctrl-C does not wait for it."""

    def __init__(self) -> None:
        self.signum = 0
        self._old: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for name in STOPPING:
                signum = getattr(signal, name, None)  # Windows has two of them
                # nohup has a run ignore SIGHUP, and means it.
                if signum is not None and signal.getsignal(signum) != signal.SIG_IGN:
                    self._old[signum] = signal.signal(signum, self._ask)
        return self

    def _ask(self, signum: int, frame: Any) -> None:
        if self.signum and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.signum = signum

    def __exit__(self, *exc: Any) -> None:
        for signum, handler in self._old.items():
            signal.signal(signum, handler)


class Loggers:
    """The named loggers; what one raises is printed once, and the run goes on."""

    def __init__(self, loggers: list[Logger], reporter: Reporter) -> None:
        self._loggers, self._reporter = loggers, reporter
        self._told: set[int] = set()

    def call(self, method: str, *args: Any) -> None:
        for logger in self._loggers:
            try:
                getattr(logger, method)(*args)
            except (Exception, SystemExit) as error:
                if id(logger) not in self._told:
                    self._told.add(id(logger))
                    self._reporter.note(
                        f"{type(logger).__name__}.{method} failed: {error}; the run goes on "
                        "without it"
                    )


@contextlib.contextmanager
def rank_zero_first(runtime: Runtime) -> Iterator[None]:
    """Rank 0 does the block while the others wait; then they do it and find what it prepared."""
    if not runtime.main:
        runtime.barrier()
    yield
    if runtime.main:
        runtime.barrier()


def fit_noise(noise: Noise, parts: Parts, runtime: Runtime) -> None:
    """A noise that learns from the data does so on rank 0; the others get its state."""
    if type(noise).fit is Noise.fit or parts.dataset is None:
        return
    box: list[Any] = [None]
    if runtime.main:
        noise.fit(batches(parts.dataset, "train"))
        box[0] = noise.state_dict()  # type: ignore[attr-defined]
    if runtime.world > 1:
        torch.distributed.broadcast_object_list(box, 0)
        noise.load_state_dict(box[0])  # type: ignore[attr-defined]


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


def prepare(
    config: Config,
    out: Path,
    resume: bool,
    registry: Registry,
    reporter: Reporter,
    runtime: Runtime,
    accept_data: bool = False,
) -> tuple[Parts, checkpoint.Checkpoint | None, checkpoint.Checkpoint | None]:
    """Build the parts and find where to go on, and what to start from if the run is new and has a
    parent; nothing is written.

    Raises:
        NoiseregError: for a folder that holds a run (without ``resume``), another configuration or
        revision, other data (without ``accept_data``), a batch that does not divide.
    """
    train = config.train
    if train.batch_size % (train.accumulate * runtime.world):
        raise NoiseregError(
            f"train.batch_size {train.batch_size} does not divide into {train.accumulate} "
            f"micro-batches × {runtime.world} "
            f"ranks; expected a multiple of {train.accumulate * runtime.world}"
        )
    exists = (out / "config.yaml").is_file()
    if exists and not resume:
        raise NoiseregError(
            f"{out} already holds a run; give `resume` to go on with it, or another `out`"
        )
    if not exists and not vacant(out):
        raise NoiseregError(NO_RUN.format(out))
    for name in OWN:
        if (out / name).is_symlink():
            raise NoiseregError(
                f"{out / name} is a link; a run writes and prunes in its own folder alone: put "
                "what it links to in its place"
            )
    old = None
    if exists:
        old = validate(read_yaml(out / "config.yaml"))
        config = parentage.continued(continued(config, old), old)
        config = _with_old_horizon(config, old, out)
    with rank_zero_first(runtime):
        dataset = build_dataset(config, registry, runtime)
        parts = build_parts(config, registry, runtime, dataset=dataset)
    parts.data_record = dataset.fingerprint()
    found = None
    if old is not None:
        if difference := resume_difference(old, parts.config):
            raise NoiseregError(
                f"{out} was started with another configuration: {difference}; that needs another "
                f"run: noisereg train --from {shown(out)} --out NEW and the setting starts one from "
                "these weights"
            )
        recorded = read_environment(out)
        check_revisions(recorded["components"], component_records(parts.config, registry))
        _check_data(out, recorded.get("data"), parts, accept_data)
        damaged: list[str] = []
        found = checkpoint.latest(out / "checkpoints", damaged.append)
        if found is None and (progress := _progress(out, old, damaged)):
            raise NoiseregError(
                f"{out} has no whole checkpoint to go on from, and yet {progress}; restore one, or "
                f"start anew on purpose: mv {out} {out}.old, and the same command"
            )
        for text in damaged:
            reporter.note(text)
        if found is not None and found.step > parts.config.train.steps:
            raise NoiseregError(
                f"train.steps {parts.config.train.steps:,}: {out} is trained to step "
                f"{found.step:,}; expected at least that (noisereg sample and eval take an earlier "
                "one with --checkpoint)"
            )
    parent = None
    if found is None:
        parts.notes += initialise(parts)
        parent = parentage.start(parts, reporter.note)
    return parts, found, parent


def _with_old_horizon(config: Config, old: Config, out: Path) -> Config:
    """The schedules of a resumed run are those that it was started with.

    Raises:
        NoiseregError: for more steps than the schedule of the rate has.
    """
    had = old.optim.horizon
    if config.optim.horizon != "auto" or had == "auto":
        return config
    if had is not None and old.optim.schedule != "constant" and config.train.steps > had:
        raise NoiseregError(
            f"train.steps {config.train.steps:,}: under the {old.optim.schedule} schedule the rate "
            f"of {out} reaches 0 at step {had:,} (optim.horizon), and what is trained cannot be "
            "trained again at another; to go on under a new schedule: noisereg train --from "
            f"{shown(out)} --steps {config.train.steps - had} --out NEW"
        )
    return config.model_copy(update={"optim": config.optim.model_copy(update={"horizon": had})})


def _check_data(
    out: Path, recorded: dict[str, Any] | None, parts: Parts, accept_data: bool
) -> None:
    """
    Raises:
        NoiseregError: if the data are not those that the run was started on, with what changed.
    """
    before = list((recorded or {}).get("accepted", []))
    if changed := difference(recorded, parts.data_record):
        if not accept_data:
            raise NoiseregError(
                f"{out} was started on other data: {changed}; restore them, start another run, or "
                "give `accept_data` to go on with the data as they are now"
            )
        before.append(changed)
        parts.notes.append(f"the data have changed, as accepted: {changed}")
    if before:
        parts.data_record["accepted"] = before


def _progress(out: Path, config: Config, damaged: Sequence[str]) -> str:
    """What shows that a run had come to a checkpoint, in words; empty if nothing does."""
    if damaged:
        return damaged[0].partition(";")[0]
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        status = json.loads((out / "status.json").read_text(encoding="utf-8"))
        if int(status["step"]) > 0:
            return f"status.json says {status['status']} at step {status['step']:,}"
    logged = max(logged_steps(out), default=0)
    if logged > config.train.checkpoint_every:
        return (
            f"metrics.jsonl goes to step {logged:,}, with a checkpoint every "
            f"{config.train.checkpoint_every:,}"
        )
    return ""


def logged_steps(out: Path) -> dict[int, str]:
    """The whole lines of metrics.jsonl by their step; what a kill cut off is left out."""
    lines: dict[int, str] = {}
    with contextlib.suppress(OSError):
        for line in (out / "metrics.jsonl").read_text("utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                lines[int(json.loads(line)["step"])] = line
    return lines


@contextlib.contextmanager
def run_folder(
    config: Config, out: Path | None, runtime: Runtime, reporter: Reporter
) -> Iterator[Path]:
    """The absolute path of the run's folder, ``runs/<date>-…`` if ``out`` is None, owned until
    the block ends. Ranks are one owner: rank 0 holds the lock for all.

    Raises:
        NoiseregError: on every rank, if another process owns it.
    """
    box: list[Any] = [None, None]
    with contextlib.ExitStack() as held:
        if runtime.main:
            try:
                if out is None:
                    base = Path(os.path.abspath(default_out(config)))
                    box[0] = held.enter_context(owned_new(base, note=reporter.note))
                else:
                    box[0] = path = Path(os.path.abspath(out.expanduser()))
                    # Before the lock, which would leave a file in a folder that is no run's.
                    if path.exists() and not (
                        path.is_dir()
                        and (
                            vacant(path) or any((path / n).exists() for n in ("config.yaml", LOCK))
                        )
                    ):
                        raise NoiseregError(NO_RUN.format(out))
                    check_links(path)  # before the lock, which could be one
                    held.enter_context(owned(path, note=reporter.note))
            except NoiseregError as error:
                box[1] = error
        if runtime.world > 1:
            torch.distributed.broadcast_object_list(box, 0)
        if box[1] is not None:
            raise box[1]
        yield box[0]


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
    if not runtime.main:
        reporter = Reporter()
    with run_folder(config, out, runtime, reporter) as folder:
        parts, found, parent = prepare(
            config, folder, resume, registry, reporter, runtime, accept_data
        )
        return _Training(parts, folder, found, parent, registry, reporter, runtime).go()


class _Training:
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
        self.start = found.step if found else 0
        self.run = ""
        self.known: set[int] = set()
        """Steps whose checkpoints have been verified."""
        if found:
            checkpoint.restore(self.objective, found.weights(ema=False))
            self.known.add(found.step)
        else:
            fit_noise(parts.noise, parts, runtime)
        self.ema = EMA(self.objective, self.config.ema.decay, self.config.ema.warmup)
        self.optimizer = make_optimizer(self.config, parts)
        if found:
            self.ema.load(found.weights(ema=True))
            self.optimizer.load_state_dict(found.optimizer(runtime.device))
        elif parent:
            self.ema.load(parentage.averages(parent, self.ema.shadow))
        self.updates = self.config.parent.updates if self.config.parent else 0
        """Behind the averages before the first step."""
        self.model: nn.Module = self.objective
        if runtime.compile:
            self.objective.denoiser.compile()
        if runtime.world > 1:
            learns = any(
                p.requires_grad
                for n, p in self.objective.named_parameters()
                if not n.startswith("denoiser.")
            )
            self.model = nn.parallel.DistributedDataParallel(
                self.objective,
                device_ids=[runtime.device] if runtime.device.type == "cuda" else None,
                find_unused_parameters=learns,
            )
        self.saved = self.start if found else -1

    def go(self) -> Run:
        config, runtime, reporter = self.config, self.runtime, self.reporter
        steps = config.train.steps
        context = Context(shape=self.parts.shape)
        named = config.log if runtime.main else []
        loggers = Loggers(
            [self.registry.build("logger", s.name, s.params, context) for s in named], reporter
        )
        self._announce()
        step = self.start
        error: BaseException | None = None
        with StopRequest() as stop, draws.seeded(config.seed, runtime.device):
            if runtime.main:
                self._write_folder()
            loggers.call("run_started", self.out, config.dump())
            self._status("running", self.start)
            reporter.begin("train", steps, self.start)
            try:
                with Guard(self.parts, runtime.compile) as guard:
                    step = self._loop(stop, loggers, guard)
            except BaseException as caught:
                error = caught
                self._failed(caught)
                raise
            finally:
                reporter.end()
                loggers.call("run_ended", error)
            self._status("finished", step)
        return (
            Run.open(self.out, self.registry)
            if runtime.main
            else Run(self.out, config, self.parts.shape)
        )

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

    def _loop(self, stop: StopRequest, loggers: Loggers, guard: Guard) -> int:
        config, runtime = self.config, self.runtime
        train, steps = config.train, config.train.steps
        assert self.parts.dataset is not None
        feed = Feed(
            config,
            guard.watch_split(self.parts.dataset.split("train")),
            self.parts.shape,
            self.parts.dataset.flip,
            self.parts.task,
            self.parts.noise,
            self.parts.process,
            runtime,
        )
        micro_batches = feed.run(self.start, steps)
        meter = Meter()
        began, seen = time.monotonic(), self.start
        every = 1 if runtime.world == 1 else min(10, train.log_every)
        hooks = [component.after_step for component in learners(self.parts)]
        if self.start and self._grid_due(self.start) and self._picture(self.start) is None:
            self._grid(self.start)  # a kill came between the checkpoint and its picture
        self.objective.train()
        for step in range(self.start, steps):
            guard.step = step
            # Dropout is a function of (seed, step, rank), so that a resumed run repeats it.
            torch.manual_seed(draws.torch_seed(config.seed, Stream.DROPOUT, runtime.rank, step))
            rate = learning_rate(config, step)
            for group in self.optimizer.param_groups:
                group["lr"] = rate * group["scale"]
            for micro in range(train.accumulate):
                batch = next(micro_batches)
                with self._no_sync(micro < train.accumulate - 1):
                    loss, parts = self.model(batch.x0, batch.latents, batch.t, batch.cond, step)
                    (loss / train.accumulate).backward()
                meter.add(parts, step)
            if train.clip is not None:
                nn.utils.clip_grad_norm_(self.objective.parameters(), train.clip)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            for after_step in hooks:
                after_step()
            self.ema.update(self.updates + step + 1)
            done = step + 1
            due = done % train.checkpoint_every == 0 or done == steps
            asked = done % every == 0 and runtime.any(bool(stop.signum) or self.reporter.gone)
            if done % train.log_every == 0 or due or asked:
                if (bad := meter.first_bad_step(runtime)) is not None:
                    at = f"at step {bad + 1}" if bad >= 0 else "on another rank"
                    raise NotFinite(self._not_finite(f"the loss is not finite {at}"))
                if runtime.any(not checkpoint.finite(self.objective.parameters())):
                    raise NotFinite(
                        self._not_finite(f"the weights are not finite after step {done}")
                    )
                now = time.monotonic()
                speed = (done - seen) * train.batch_size / max(now - began, 1e-9)
                began, seen = now, done
                metrics = {
                    **meter.read(runtime),
                    **self._weights(step),
                    "lr": rate,
                    "images_per_second": speed,
                }
                if runtime.main:
                    self._log(done, metrics)
                    loggers.call("logged", done, metrics)
                    self.reporter.advance(done, metrics)
            if due or asked:
                self._save(done)
            if asked and done < steps:
                micro_batches.close()
                signum = stop.signum or (signal.SIGPIPE if self.reporter.gone else signal.SIGTERM)
                raise Interrupted(signum, done, self.out)
            if self._grid_due(done):
                self._grid(done)
                began = time.monotonic()
        return steps

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
        own = float(getattr(self.parts.denoiser, "default_lr", optim.lr))
        settings = [f"--set optim.lr={float(f'{min(optim.lr / 3, own):.1g}'):g}"]
        if self.config.train.clip is None:
            settings.append("--set train.clip=1")
        if runtime.bf16:
            settings.append("--set runtime.precision=float32")
        if self.saved > 0:
            kept = f"the checkpoint of step {self.saved} is kept"
            command = f"noisereg train --from {shown(self.out)}@{self.saved}"
        else:
            kept = "there is no checkpoint yet"
            command = f"noisereg train --config {shown(self.out / 'config.yaml')}"
        smaller = ", with a smaller regularizer weight if that fails too" * bool(self.config.reg)
        typed = " ".join([command, *settings, "--out NEW"])
        return f"{what}; {kept}. Try: {typed}{smaller}"

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
        clear_leftovers(self.out / "checkpoints", r"\d{6,}")
        clear_leftovers(self.out / "samples", r"\d{6,}\.(png|npz)")
        write_atomically(
            self.out / "environment.json", (json.dumps(records, indent=1) + "\n").encode()
        )
        metrics = self.out / "metrics.jsonl"
        # What was logged past the checkpoint will be logged again.
        kept = [line for step, line in logged_steps(self.out).items() if step <= self.start]
        if not kept and metrics.is_file() and metrics.stat().st_size:
            shutil.copyfile(metrics, _unused(self.out, "metrics-{}.jsonl"))
        write_atomically(metrics, "".join(f"{line}\n" for line in kept).encode())
        write_atomically(self.out / "config.yaml", write_yaml(self.config.dump()).encode())

    def _mend(self) -> None:
        """Say what is wrong with status.json and metrics.jsonl, which are written anew; a folder in
        their place is put aside.
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
        if self.runtime.main:
            folder = self.out / "checkpoints"
            if not checkpoint.finite(self.ema.shadow.values()):
                raise NotFinite(
                    self._not_finite(f"the averaged weights are not finite after step {step}")
                )
            checkpoint.save(folder, step, self.objective, self.ema, self.optimizer, self.run)
            self.known.add(step)
            train = self.config.train
            checkpoint_files.prune(folder, train.keep_last, train.keep_every, self.known)
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
        """samples/STEP.png (.npz beside it for points), from the averaged weights, on rank 0."""
        if self.runtime.main:
            from noisereg.runs.run import draw_grid

            self.reporter.end()
            try:
                with self.ema.applied():
                    path = self.out / "samples" / f"{step:06d}.png"
                    draw_grid(self.parts, path, self.registry, self.reporter)
            except NotFinite as error:
                if step == self.config.train.steps:
                    raise NotFinite(self._not_finite(str(error).partition(":")[0])) from None
                self.reporter.note(f"no picture of step {step}: {error}")
            self.objective.train()
            if step < self.config.train.steps:
                self.reporter.begin("train", self.config.train.steps, step)
        self.runtime.barrier()
