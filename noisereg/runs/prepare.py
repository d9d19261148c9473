"""Before a run trains: its folder, its parts, and where to go on."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from noisereg import remote
from noisereg.datasets.fingerprint import difference
from noisereg.errors import NoiseregError
from noisereg.inside import check_contents
from noisereg.ownership import LOCK, owned, owned_new, vacant
from noisereg.plugins.registry import Registry
from noisereg.runs import checkpoint, parentage
from noisereg.runs.build import Parts, build_dataset, build_parts
from noisereg.runs.config import Config, read_complete, resume_difference
from noisereg.runs.logged import anew, progress
from noisereg.runs.pretrained import continued, initialise
from noisereg.runs.records import read_environment
from noisereg.runs.reporter import Reporter
from noisereg.runs.resolve import check_contents_of, check_revisions, component_records
from noisereg.runs.run import default_out, shown
from noisereg.runs.runtime import Runtime

OWN = ("config.yaml", "environment.json", "status.json", "metrics.jsonl", "checkpoints", "samples")
"""What training writes in a run's folder."""


def no_run(out: Path) -> str:
    """Why a run can neither go on nor begin in what is there."""
    if out.is_file():
        return f"{out} is a file; expected a new folder for `out`"
    if (out / "sweep.yaml").is_file():
        return (
            f"{out} is a sweep, whose own command goes on with it (noisereg sweep … --out {out}); "
            "expected a new folder for `out`, or one of its cells"
        )
    return f"{out} is not empty and holds no run (no config.yaml); expected a new folder for `out`"


@contextlib.contextmanager
def rank_zero_first(runtime: Runtime) -> Iterator[None]:
    """Rank 0 does the block while the others wait; then they do it and find what it prepared."""
    if not runtime.main:
        runtime.barrier()
    yield
    if runtime.main:
        runtime.barrier()


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
                        raise NoiseregError(no_run(out))
                    check_contents(path)  # before the lock, which could be one
                    held.enter_context(owned(path, note=reporter.note))
                    held.enter_context(remote.claimed(path, reporter.note))
            except NoiseregError as error:
                box[1] = error
        if runtime.world > 1:
            torch.distributed.broadcast_object_list(box, 0)
        if box[1] is not None:
            raise box[1]
        yield box[0]


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
    if not exists and not _begun(out):
        raise NoiseregError(no_run(out))
    if not exists and (within := _run_above(out)):
        raise NoiseregError(
            f"{out} is within the folder of the run {shown(within)}, and would be moved and "
            "removed with it; expected a folder of its own"
        )
    for name in OWN:
        if (out / name).is_symlink():
            raise NoiseregError(
                f"{out / name} is a link; a run writes and prunes in its own folder alone: put "
                "what it links to in its place"
            )
    old = None
    if exists:
        old = read_complete(out / "config.yaml")
        config = parentage.continued(continued(config, old), old)
        config = _with_old_horizon(config, old, out)
    with rank_zero_first(runtime):
        dataset = build_dataset(config, registry, runtime)
        parts = build_parts(config, registry, runtime, dataset=dataset)
    parts.data_record = dataset.fingerprint()
    saved = None
    if old is not None:
        if accept_data:
            old = _with_renamed_classes(old, parts.config)
        if difference := resume_difference(old, parts.config):
            raise NoiseregError(
                f"{out} was started with another configuration: {difference}; that needs another "
                f"run: noisereg train --from {shown(out)} --out NEW and the setting starts one "
                "from "
                "these weights"
            )
        recorded = read_environment(out)
        records = component_records(parts.config, registry)
        check_revisions(recorded["components"], records)
        check_contents_of(recorded["components"], records)
        _check_data(out, recorded.get("data"), parts, accept_data)
        damaged: list[str] = []
        saved = checkpoint.latest(out / "checkpoints", damaged.append)
        if saved is None and (reached := progress(out, old, damaged)):
            raise NoiseregError(
                f"{out} has no whole checkpoint to go on from, and yet {reached}; restore one, or "
                f"start anew on purpose: {anew(out)}"
            )
        for text in damaged:
            reporter.note(text)
        if saved is not None and saved.step > parts.config.train.steps:
            raise NoiseregError(
                f"train.steps {parts.config.train.steps:,}: {out} is trained to step "
                f"{saved.step:,}; expected at least that (noisereg sample and eval take an "
                "earlier "
                "one with --checkpoint)"
            )
    parent = None
    if saved is None:
        parts.notes += check_range(parts) + initialise(parts)
        parent = parentage.start(parts, reporter.note)
    return parts, saved, parent


def _run_above(out: Path) -> Path | None:
    """The run in whose folder ``out`` is."""
    holds = ("config.yaml", "environment.json")
    above = out.absolute().parents
    return next((p for p in above if all((p / name).is_file() for name in holds)), None)


LOUD = 4.0
"""A root mean square of points or latents beyond which the noise, of variance 1, hides little."""


def check_range(parts: Parts) -> list[str]:
    """A note if points or latents are much larger than the noise; by the first few samples.

    Raises:
        NoiseregError: for images out of [−1, 1], which a data set that is somebody's can give.
    """
    if parts.dataset is None or parts.dataset.levels:  # which lie from −1 to 1
        return []
    split = parts.dataset.split("train")
    if not len(split):
        raise NoiseregError(f"data set {parts.config.data.name} has no training samples")
    x = split.batch(torch.arange(min(64, len(split)))).x
    if parts.images:
        low, high = float(x.min()), float(x.max())
        if low < -1.001 or high > 1.001:  # a resized image may be a rounding beyond
            raise NoiseregError(
                f"data set {parts.config.data.name} gives images in [{low:.4g}, {high:.4g}]; "
                "expected [-1, 1], as x / 127.5 - 1 of 0 … 255 is (what is no picture needs a "
                "decode of its own, as latents have)"
            )
        return []
    size = float(x.double().square().mean().sqrt())
    if size <= LOUD:
        return []
    return [
        f"the data have a root mean square of {size:.3g}, and the noise has 1: it hides little of "
        "them at most times; expected about 1, so divide them by their standard deviation"
    ]


def _begun(out: Path) -> bool:
    """Whether a folder is empty, or holds what a run leaves that was killed before its config.yaml
    was written.
    """
    first = "|".join(map(re.escape, ("environment.json", "metrics.jsonl")))
    own = rf"{re.escape(LOCK)}|{first}|\.({first}|config\.yaml)\.\d+"
    return all(re.fullmatch(own, entry.name) for entry in out.iterdir())


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
            f"train.steps {config.train.steps:,}: under the {old.optim.schedule} schedule the "
            "rate "
            f"of {out} reaches 0 at step {had:,} (optim.horizon), and what is trained cannot be "
            "trained again at another; to go on under a new schedule: noisereg train --from "
            f"{shown(out)} --steps {config.train.steps - had} --out NEW"
        )
    return config.model_copy(update={"optim": config.optim.model_copy(update={"horizon": had})})


def _with_renamed_classes(old: Config, new: Config) -> Config:
    """``old`` with the names that ``new`` gives the classes, where they are as many: the labels
    stay what they were.
    """
    had, has = (config.data.params.get("classes") for config in (old, new))
    if isinstance(had, list | tuple) and isinstance(has, list | tuple) and len(had) == len(has):
        data = old.data.model_copy(update={"params": {**old.data.params, "classes": has}})
        return old.model_copy(update={"data": data})
    return old


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
