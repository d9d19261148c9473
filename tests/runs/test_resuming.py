"""What a run keeps, what it goes on from, and what it says when it cannot."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from noisereg import python as noisereg
from noisereg.cli.main import run as command
from noisereg.cli.progress import ConsoleReporter
from noisereg.data import NotFinite, to_uint8
from noisereg.errors import NoiseregError
from noisereg.plugins.spec import Spec
from noisereg.report.curves import training_log
from noisereg.runs import checkpoint_files
from noisereg.runs.checkpoint_files import steps_in, verify
from noisereg.runs.logged import Log
from noisereg.runs.optimizer import learning_rate
from noisereg.runs.output import picture
from noisereg.runs.parentage import averages
from noisereg.runs.reporter import Reporter
from noisereg.runs.run import Run
from noisereg.runs.stopping import Interrupted

SMALL: dict[str, Any] = {
    "data": "swiss-roll:n=200",
    "denoiser": "mlp:width=8,blocks=1",
    "runtime": {"device": "cpu"},
    "sample": {"steps": 2},
}


class Listener(Reporter):
    """Keeps what a run says."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


def train(out: Path, steps: int, resume: bool = False, **more: Any) -> Run:
    reporter = more.pop("reporter", None)
    settings = {"steps": steps, "batch_size": 8, "checkpoint_every": 2, "log_every": 1}
    settings |= more.pop("train", {})
    return noisereg.train(
        out=out, resume=resume, reporter=reporter, train=settings, **{**SMALL, **more}
    )


def weights(run: Run, step: int | None = None) -> dict[str, torch.Tensor]:
    return run.checkpoint(step).weights(ema=False)


def equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(tmp_path_factory.mktemp("six") / "run", 6)


@pytest.fixture
def run(six: Run, tmp_path: Path) -> Run:
    shutil.copytree(six.path, tmp_path / "run")
    return noisereg.load(tmp_path / "run")


# Checkpoints


@pytest.mark.parametrize("name", [*checkpoint_files.CONTENTS, checkpoint_files.STATE])
def test_a_file_of_another_run_or_step_is_told_from_the_right_one(
    run: Run, name: str, tmp_path: Path
) -> None:
    other = train(tmp_path / "other", 6, seed=1)
    for source in (other.path / "checkpoints/000006", run.path / "checkpoints/000004"):
        folder = tmp_path / f"copy-{source.name}" / "checkpoints/000006"
        shutil.copytree(run.path, folder.parent.parent)
        verify(folder)
        shutil.copyfile(source / name, folder / name)
        with pytest.raises(NoiseregError):
            verify(folder)


def test_a_whole_checkpoint_of_another_run_or_step_is_refused(run: Run, tmp_path: Path) -> None:
    other = train(tmp_path / "other", 6, seed=1)
    folder = run.path / "checkpoints"
    shutil.copytree(other.path / "checkpoints/000006", folder / "000006", dirs_exist_ok=True)
    with pytest.raises(NoiseregError, match="is a checkpoint of another run"):
        verify(folder / "000006")
    shutil.rmtree(folder / "000006")
    shutil.copytree(folder / "000004", folder / "000006")
    with pytest.raises(NoiseregError, match="of step 4 under another name"):
        verify(folder / "000006")


def test_damaged_checkpoints_are_not_counted_nor_kept(run: Run) -> None:
    """With the last two of three damaged, what is trained anew is not pruned in their favour."""
    folder = run.path / "checkpoints"
    train(run.path, 8, resume=True, train={"keep_last": 3})
    assert steps_in(folder) == [4, 6, 8]
    for step in (6, 8):
        (folder / f"{step:06d}/ema.safetensors").write_bytes(b"")
    listener = Listener()
    train(run.path, 10, resume=True, reporter=listener)
    assert [text.rpartition("; ")[2] for text in listener.said if "damaged" in text] == [
        "using the checkpoint of step 4"
    ] * 2
    assert steps_in(folder) == [8, 10]
    assert all(checkpoint_files.whole(folder / f"{step:06d}") for step in (8, 10))


def test_nothing_is_pruned_before_the_new_checkpoint_verifies(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.replace

    def spoil(source: Any, target: Any) -> None:
        if Path(target).name == "000008":
            (Path(source) / "optimizer.pt").write_bytes(b"lost")
        real(source, target)

    monkeypatch.setattr(os, "replace", spoil)
    with pytest.raises(NoiseregError, match="checkpoint of step 8 is not what was written"):
        train(run.path, 8, resume=True)
    assert {4, 6} <= set(steps_in(run.path / "checkpoints"))


def test_a_numbered_folder_that_is_no_checkpoint_is_left_alone(run: Run) -> None:
    photos = run.path / "checkpoints/000001"
    photos.mkdir()
    (photos / "photo.jpg").touch()
    train(run.path, 8, resume=True)
    assert (photos / "photo.jpg").exists()


def test_what_changes_after_it_was_verified_is_not_used(run: Run) -> None:
    found = run.checkpoint()
    (found.path / "model.safetensors").write_bytes(
        (run.path / "checkpoints/000004/model.safetensors").read_bytes()
    )
    with pytest.raises(NoiseregError, match="has changed since it was looked at"):
        found.weights(ema=False)


# status.json, pictures and metrics


@pytest.mark.parametrize(
    ("damage", "said", "copied"),
    [
        (b"\xe7\xff\n", "1 of its lines is damaged", True),
        (b"[1,2]\n{}\n", "2 of its lines are damaged", True),
        (b'{"step": "x"}\n', "1 of its lines is damaged", True),
        (b'{"step": 4, "lo', "its last line was cut off", False),
        (b'3\n{"step"', "1 of its lines is damaged and its last line was cut off", True),
    ],
)
def test_what_is_damaged_in_metrics_is_said_and_kept(
    run: Run, damage: bytes, said: str, copied: bool
) -> None:
    """Damage that a report and the history live through, too."""
    metrics = run.path / "metrics.jsonl"
    whole = metrics.read_bytes()
    metrics.write_bytes(whole + damage)
    assert [line["step"] for line in run.history()] == [1, 2, 3, 4, 5, 6]
    columns = training_log(run, Log.read(run.path))
    assert [step for step, _ in columns["loss"]] == [1, 2, 3, 4, 5, 6]
    listener = Listener()
    train(run.path, 6, resume=True, reporter=listener)
    assert metrics.read_bytes() == whole
    (line,) = (text for text in listener.said if "metrics.jsonl" in text)
    assert f"metrics.jsonl: {said}, and left out" in line
    assert ("kept as metrics-1.jsonl" in line) == copied
    assert (run.path / "metrics-1.jsonl").is_file() == copied
    if copied:
        assert (run.path / "metrics-1.jsonl").read_bytes() == whole + damage
    listener = Listener()
    train(run.path, 6, resume=True, reporter=listener)
    assert not any("metrics.jsonl" in text for text in listener.said)


@pytest.mark.parametrize("damage", ["empty", "cut", "folder", "gone"])
def test_a_damaged_status_is_said_and_rebuilt(run: Run, damage: str) -> None:
    status = run.path / "status.json"
    text = status.read_text()
    status.unlink()
    if damage == "folder":
        (status / "kept").mkdir(parents=True)
    elif damage != "gone":
        status.write_text("" if damage == "empty" else text[: len(text) // 2])
    assert (run.status["status"], run.status["step"]) == ("finished", 6)
    listener = Listener()
    train(run.path, 8, resume=True, reporter=listener)
    assert sum("status.json" in text and "written anew" in text for text in listener.said) == 1
    assert json.loads(status.read_text())["step"] == 8
    if damage == "folder":
        assert (run.path / "status.json.1/kept").is_dir()


def test_a_kill_between_checkpoint_and_picture_is_made_good(run: Run) -> None:
    picture_of = run.path / "samples/000006.png"
    was = picture_of.read_bytes()
    picture_of.unlink()
    train(run.path, 6, resume=True)
    assert picture_of.read_bytes() == was


def test_a_full_disk_in_the_metrics_fails_the_run_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.open

    def full(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if path.name == "metrics.jsonl" and mode == "a" and steps_in(path.parent / "checkpoints"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(NoiseregError, match=r"metrics\.jsonl: No space left on device"):
        train(tmp_path / "run", 6)
    status = json.loads((tmp_path / "run/status.json").read_text())
    assert (status["status"], status["step"]) == ("failed", 2)
    assert "No space left on device" in status["error"]


# Stopping


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGUSR1", "SIGXCPU"])
def test_what_a_scheduler_sends_saves_and_stops(name: str, tmp_path: Path) -> None:
    signum = getattr(signal, name)

    class Stopper(Reporter):
        def advance(self, done: int, metrics: Any = None) -> None:
            if done == 3:
                signal.raise_signal(signum)

    old = signal.signal(signum, signal.SIG_DFL)  # tests under nohup ignore SIGHUP
    try:
        with pytest.raises(Interrupted) as stopped:
            train(tmp_path / "run", 8, reporter=Stopper())
    finally:
        signal.signal(signum, old)
    assert (stopped.value.signum, stopped.value.step) == (signum, 4)
    status = noisereg.load(tmp_path / "run").status
    assert (status["status"], status["step"]) == ("stopped", 4)


def test_a_run_under_nohup_goes_on(tmp_path: Path) -> None:
    old = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:

        class Stopper(Reporter):
            def advance(self, done: int, metrics: Any = None) -> None:
                signal.raise_signal(signal.SIGHUP)

        assert train(tmp_path / "run", 2, reporter=Stopper()).status["status"] == "finished"
    finally:
        signal.signal(signal.SIGHUP, old)


def test_a_run_that_nobody_listens_to_any_more_saves_and_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``noisereg train 2>&1 | head -3``: the reader goes after three lines."""

    class Pipe(io.StringIO):
        lines = 0

        def write(self, text: str) -> int:
            if self.lines >= 8:
                raise BrokenPipeError(errno.EPIPE, "Broken pipe")
            self.lines += text.count("\n")
            return len(text)

    monkeypatch.setattr(sys, "stderr", Pipe())
    monkeypatch.setattr(ConsoleReporter, "PLAIN_SECONDS", 0.0)
    with pytest.raises(Interrupted) as stopped:
        train(tmp_path / "run", 50, reporter=ConsoleReporter())
    assert stopped.value.signum == signal.SIGPIPE
    found = noisereg.load(tmp_path / "run")
    assert found.status["status"] == "stopped"
    assert found.checkpoint().step == stopped.value.step


def test_a_full_disk_under_the_log_ends_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", open("/dev/full", "w"))  # noqa: SIM115
    monkeypatch.setattr(ConsoleReporter, "PLAIN_SECONDS", 0.0)
    done = train(tmp_path / "run", 2, reporter=ConsoleReporter())
    assert done.status["status"] == "finished"


# Steps and schedules


def test_fewer_steps_than_are_done_are_refused(run: Run) -> None:
    with pytest.raises(NoiseregError, match=r"train.steps 3: .* is trained to step 6"):
        train(run.path, 3, resume=True)
    assert run.status["step"] == 6


def test_the_rate_of_what_is_trained_does_not_depend_on_later_steps(tmp_path: Path) -> None:
    """Half of a cosine schedule, and the rest: the weights of the whole."""
    optim = {"schedule": "cosine", "lr": 1e-2, "horizon": 6}
    whole = train(tmp_path / "whole", 6, optim=optim)
    half = train(tmp_path / "half", 3, optim=optim)
    assert half.config.optim.horizon == 6
    optim.pop("horizon")
    assert equal(weights(train(half.path, 6, resume=True, optim=optim)), weights(whole))
    assert whole.config.optim.horizon == 6
    with pytest.raises(
        NoiseregError, match=r"reaches 0 at step 6 .*noisereg train --from .*/half --steps 3"
    ):
        train(half.path, 9, resume=True, optim=optim)
    with pytest.raises(NoiseregError, match=r"optim.horizon was 6 and is now 9.*train --from"):
        train(half.path, 9, resume=True, optim={**optim, "horizon": 9})


def test_the_horizon_is_recorded_where_something_goes_by_it(tmp_path: Path, run: Run) -> None:
    assert run.config.optim.horizon is None
    falling = train(tmp_path / "a", 2, reg=["isotropy:schedule=linear"])
    assert falling.config.optim.horizon == 2
    longer = train(tmp_path / "a", 4, resume=True, reg=["isotropy:schedule=linear"])
    assert longer.config.optim.horizon == 2
    lines = [json.loads(text) for text in (longer.path / "metrics.jsonl").read_text().splitlines()]
    assert [line["isotropy/weight"] for line in lines] == pytest.approx([0.1, 0.05, 0, 0])


def test_a_schedule_that_ends_before_training_does_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoiseregError, match=r"optim.horizon 3: .* expected at least 6"):
        train(tmp_path / "run", 6, optim={"schedule": "cosine", "horizon": 3})
    assert not (tmp_path / "run").exists()


def test_past_its_horizon_a_schedule_is_0() -> None:
    config = noisereg.Config(
        train={"steps": 20}, optim={"lr": 1.0, "schedule": "cosine", "horizon": 10}
    )
    assert learning_rate(config, 15) == pytest.approx(0)


# From another run


def test_a_new_run_starts_from_anothers_weights_and_averages(run: Run, tmp_path: Path) -> None:
    code = command(
        [
            *("train", "--from", f"{run.path}@4", "--out", str(tmp_path / "new")),
            *("--steps", "1", "--set", "optim.lr=1e-30", "--set", "ema.decay=0.9999"),
        ]
    )
    assert code == 0
    new = noisereg.load(tmp_path / "new")
    assert equal(weights(new), weights(run, 4))
    old = run.checkpoint(4)
    decay = (1 + 5) / (10 + 5)  # the fifth update of the average
    for name, value in new.checkpoint().weights().items():
        expected = torch.lerp(old.weights()[name], old.weights(False)[name], 1 - decay)
        assert torch.allclose(value, expected, rtol=1e-5, atol=1e-7), name
    assert new.config.denoiser == run.config.denoiser
    assert new.config.parent is not None
    assert (new.config.parent.step, new.config.parent.updates) == (4, 4)
    records = json.loads((new.path / "environment.json").read_text())
    assert records["parent"]["path"] == str(run.path)
    assert records["parent"]["sha256"] == old.sha256["model.safetensors"]
    assert records["run"] != json.loads((run.path / "environment.json").read_text())["run"]


def test_averages_are_inherited_where_weights_are(tmp_path: Path) -> None:
    """Of a noise that is another one, what it has learned starts anew, and its average too."""
    learning = {"data": "digits", "process": "iadb", "denoiser": "mlp:width=8,blocks=1"}
    first = train(tmp_path / "a", 4, noise="blue-tv:gamma.learn=true", **learning)
    found = first.checkpoint()
    theirs = found.weights()
    own = {name: torch.zeros_like(value) for name, value in theirs.items()}
    gamma = {name for name in own if ".gamma." in name}
    assert gamma
    same = averages(found, own, first.config)
    assert all(torch.equal(same[name], theirs[name]) for name in own)
    other = first.config.model_copy(update={"noise": Spec.parse("red-tv:gamma.learn=true")})
    made = averages(found, own, other)
    assert all(torch.equal(made[n], own[n] if n in gamma else theirs[n]) for n in own)


def test_a_run_with_a_parent_resumes_bit_for_bit_without_it(run: Run, tmp_path: Path) -> None:
    more = {"parent": str(run.path), "optim": {"lr": 1e-4}, "noise": "white"}
    straight = train(tmp_path / "straight", 4, **more)
    train(tmp_path / "halves", 2, **more)
    run.path.rename(tmp_path / "away")
    resumed = train(tmp_path / "halves", 4, resume=True, **more)
    for ema in (True, False):
        assert equal(straight.checkpoint().weights(ema), resumed.checkpoint().weights(ema))


def test_a_run_whose_parent_was_typed_relative_resumes(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.path.parent)
    for k, typed in enumerate(("run", "./run", f"../{run.path.parent.name}/run")):
        more = {"parent": typed, "noise": "white"}
        out = tmp_path / f"new{k}"
        train(out, 2, **more)
        assert train(out, 4, resume=True, **more).checkpoint().step == 4
    with pytest.raises(NoiseregError, match="started with another configuration: from was"):
        train(out, 6, resume=True, parent=str(tmp_path / "another"), noise="white")


def test_a_parent_that_does_not_fit_or_is_not_there_is_refused(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "new"
    for settings, said in (
        ({"denoiser": "mlp:width=16,blocks=1"}, r"denoiser\..* there and .* here"),
        ({"parent": f"{run.path}@5"}, "has no checkpoint of step 5; there are: 4, 6"),
        ({"parent": str(tmp_path)}, "holds no run"),
        ({"parent": {"path": str(run.path), "sha256": "0" * 64}}, "has changed since"),
    ):
        with pytest.raises(NoiseregError, match=said):
            train(out, 2, **{"parent": str(run.path), **settings})
    assert not out.exists()


# Numbers that are not finite


def test_weights_that_are_not_finite_end_a_run(tmp_path: Path) -> None:
    """The loss of the only step is finite; its update is not."""
    with pytest.raises(NoiseregError, match=r"not finite") as error:
        train(tmp_path / "run", 1, optim={"lr": 3e38}, train={"clip": None})
    assert isinstance(error.value, NotFinite)
    status = json.loads((tmp_path / "run/status.json").read_text())
    assert (status["status"], status["diverged"]) == ("failed", True)
    assert not (tmp_path / "run/samples").exists()


def test_the_advice_can_be_typed_and_its_rate_is_below_the_failing_one(
    run: Run,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After a step at 1e30 the weights are finite and useless: a fresh run is advised. Of a run
    that went well until the rate rose, its last good checkpoint.
    """
    often = {"checkpoint_every": 1, "keep_last": 3}
    new = {"optim": {"lr": 1e30}, "train": {**often, "clip": None}}
    for out, resume in (("bad", False), ("run", True)):
        with monkeypatch.context() as patch:
            if resume:
                patch.setattr("noisereg.runs.train.learning_rate", lambda config, step: 1e30)
            with pytest.raises(NotFinite) as error:
                train(tmp_path / out, 60, resume, **({"train": often} if resume else new))
        said = str(error.value)
        assert "float32" not in said
        typed = said.partition("Try: noisereg ")[2].split()
        lower = float(typed[typed.index("--set") + 1].removeprefix("optim.lr="))
        if resume:
            assert "the checkpoint of step 6 is kept" in said
            assert typed[:3] == ["train", "--from", f"{tmp_path / 'run'}@6"]
        else:
            assert lower < 1e30
            assert "no checkpoint is worth going on from" in said
            assert typed[:3] == ["train", "--config", str(tmp_path / "bad/config.yaml")]
        typed[typed.index("NEW")] = str(tmp_path / f"{out}-again")
        assert command([*typed, "--steps", "2"]) == 0
        assert noisereg.load(tmp_path / f"{out}-again").status["status"] == "finished"
    capsys.readouterr()


def test_samples_that_are_not_finite_are_no_pictures(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nan = torch.full((2, 1, 4, 4), torch.nan)
    for draw in (to_uint8, picture):
        with pytest.raises(NotFinite, match="2 of 2 samples are not finite"):
            draw(nan)
    from safetensors.torch import load_file, save_file

    folder = run.path / "checkpoints/000006"
    poisoned = {k: v * torch.nan for k, v in load_file(folder / "ema.safetensors").items()}
    save_file(poisoned, folder / "ema.safetensors")
    contents = {name: (folder / name).read_bytes() for name in checkpoint_files.CONTENTS}
    state = checkpoint_files.make_state(checkpoint_files.run_of(run.path), 6, contents)
    (folder / "state.json").write_text(json.dumps(state))
    assert command(["sample", str(run.path), "--out", str(tmp_path / "x.npz")]) == 2
    assert "the averaged weights of step 6 are not finite" in capsys.readouterr().err
    assert not (tmp_path / "x.npz").exists()


def test_a_run_killed_before_its_configuration_was_written_starts_anew(
    run: Run, tmp_path: Path
) -> None:
    """config.yaml is written last; with checkpoints beside it, it was lost and not yet to come."""
    out = tmp_path / "killed"
    out.mkdir()
    for name in (".lock", "environment.json", "metrics.jsonl", ".config.yaml.4242"):
        (out / name).touch()
    assert train(out, 2, resume=True).status["status"] == "finished"
    assert not (out / ".config.yaml.4242").exists()
    (run.path / "config.yaml").unlink()
    with pytest.raises(NoiseregError, match=r"holds no run \(no config\.yaml\)"):
        train(run.path, 8, resume=True)
    assert steps_in(run.path / "checkpoints") == [4, 6]


def test_a_rank_whose_torchrun_was_killed_saves_and_stops(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    parents = iter([7, 7, 7])
    monkeypatch.setattr("noisereg.runs.stopping.os.getppid", lambda: next(parents, 1))
    with pytest.raises(Interrupted) as stopped:
        train(tmp_path / "run", steps=50)
    assert stopped.value.signum == signal.SIGTERM
    assert stopped.value.step == 3
    assert steps_in(tmp_path / "run" / "checkpoints")[-1] == 3
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert status["status"] == "stopped"


def test_one_whose_shell_has_ended_goes_on(tmp_path, monkeypatch):
    """As under nohup: a parent that is no torchrun may go."""
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    parents = iter([7, 7, 7])
    monkeypatch.setattr("noisereg.runs.stopping.os.getppid", lambda: next(parents, 1))
    train(tmp_path / "run", steps=6)
    assert steps_in(tmp_path / "run" / "checkpoints")[-1] == 6


def test_moments_follow_the_layout_of_the_weights(tmp_path: Path) -> None:
    """A fused optimiser goes through weight and moments by memory: with moments saved channels
    last and contiguous weights, half of each step would be another weight's.
    """
    unet: dict[str, Any] = {
        "data": "digits",
        "denoiser": "unet:channels=8,16,attention=1,layers=1",
    }
    last, contiguous = ({**unet, "runtime": {"channels_last": v}} for v in (True, False))
    straight = train(tmp_path / "straight", 3, **contiguous)
    at_3 = straight.checkpoint().weights(False)
    straight = train(tmp_path / "straight", 5, resume=True, **contiguous)
    train(tmp_path / "crossed", 3, **last)
    crossed = train(tmp_path / "crossed", 5, resume=True, **contiguous)
    moved, off = (
        torch.cat([(a[name] - b[name]).flatten() for name in at_3]).norm()
        for a, b in (
            (straight.checkpoint().weights(False), at_3),
            (crossed.checkpoint().weights(False), straight.checkpoint().weights(False)),
        )
    )
    assert moved > 0
    assert off < 0.02 * moved


def test_a_noise_that_could_not_keep_what_it_learns_is_refused(tmp_path: Path) -> None:
    plugin = tmp_path / "fits.py"
    plugin.write_text(
        "from noisereg.api import Component, Noise, hookimpl\n"
        "class Fits(Noise):\n"
        "    def __init__(self, params, ctx): pass\n"
        "    def color(self, latents, t): return latents['z']\n"
        "    def fit(self, batches): self.seen = sum(len(x) for x in batches)\n"
        "@hookimpl\n"
        "def noisereg_noises(): yield Component(name='fits', impl=Fits)\n"
    )
    with pytest.raises(NoiseregError, match=r"fits overrides fit and is no torch\.nn\.Module"):
        train(tmp_path / "run", 2, noise="fits", plugins=[str(plugin)])


def test_a_run_within_another_runs_folder_is_refused(tmp_path: Path) -> None:
    """``runs rm`` and a move of the one would take the other along."""
    train(tmp_path / "run", 2)
    for inner in ("run/other", "run/checkpoints/other", "run/a/b"):
        with pytest.raises(NoiseregError, match="is within the folder of the run"):
            train(tmp_path / inner, 2)
        assert not (tmp_path / inner).exists()
    train(tmp_path / "beside", 2)
