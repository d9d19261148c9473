"""Interrupted or not, a run gives the same weights; a run folder holds what it should."""

import json
import os
import shutil
import signal
from hashlib import sha256

import pytest
import torch

from noisereg import python as noisereg
from noisereg.cli.main import run as run_command
from noisereg.errors import NoiseregError
from noisereg.noises.build import build_spectrum
from noisereg.noises.spectrum_file import encode
from noisereg.plugins.spec import flatten
from noisereg.runs import checkpoint_files
from noisereg.runs.checkpoint import finite
from noisereg.runs.optimizer import learning_rate
from noisereg.runs.reporter import Reporter
from noisereg.runs.run import Run

SMALL = {
    "noise": "blue-tv",
    "reg": ["isotropy"],
    "denoiser": "mlp:width=32,dropout=0.1",
    "runtime": {"device": "cpu"},
    "sample": {"steps": 3},
}


def train(out, steps, resume=False, reporter=None, **more):
    sections = {**SMALL, **more}
    settings = {
        "steps": steps,
        "batch_size": 16,
        "checkpoint_every": 3,
        "log_every": 2,
        **sections.pop("train", {}),
    }
    return noisereg.train(out=out, resume=resume, reporter=reporter, train=settings, **sections)


def state(run, step=None):
    found = run.checkpoint(step)
    return found.weights(ema=False), found.weights(ema=True), found.optimizer(torch.device("cpu"))


def assert_bit_equal(one, two):
    for a, b in zip(one[:2], two[:2], strict=True):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[k], b[k]) for k in a)
    for key, moments in one[2]["state"].items():
        for name, value in moments.items():
            assert torch.equal(value, two[2]["state"][key][name])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return train(tmp_path_factory.mktemp("whole") / "run", 8)


@pytest.mark.parametrize("stop", [1, 3, 7])
def test_stopped_and_resumed_is_uninterrupted_bit_for_bit(whole, stop, tmp_path):
    train(tmp_path / "run", stop)
    resumed = train(tmp_path / "run", 8, resume=True)
    assert_bit_equal(state(whole), state(resumed))


def test_stopped_by_a_signal_it_saves_and_goes_on_bit_for_bit(whole, tmp_path):
    from noisereg.runs.stopping import Interrupted

    class Stopper(Reporter):
        def advance(self, done, metrics=None):
            if metrics and done == 4:
                signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted):
        train(tmp_path / "run", 8, reporter=Stopper())
    run = noisereg.load(tmp_path / "run")
    assert run.status["status"] == "stopped"
    assert run.status["step"] == 5  # asked during step 4's line, seen at the end of the next step
    assert_bit_equal(state(whole), state(train(tmp_path / "run", 8, resume=True)))
    assert run.status["status"] == "finished"


@pytest.mark.parametrize("damage", ["cut", "flip", "gone", "state"])
@pytest.mark.parametrize("name", ["model.safetensors", "ema.safetensors", "optimizer.pt"])
def test_a_damaged_checkpoint_is_passed_over_with_a_line(whole, damage, name, tmp_path):
    run = train(tmp_path / "run", 6)
    path = run.path / "checkpoints/000006" / ("state.json" if damage == "state" else name)
    data = path.read_bytes()
    if damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "gone":
        path.unlink()
    else:
        middle = len(data) // 2
        path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    said = []

    class Listener(Reporter):
        def note(self, text):
            said.append(text)

    assert run.checkpoint(reporter=Listener()).step == 3
    assert len(said) == 1
    assert said[0].endswith("; using the checkpoint of step 3")
    if damage == "flip" and name == "model.safetensors":
        assert_bit_equal(state(whole), state(train(tmp_path / "run", 8, resume=True)))


def copied(whole, tmp_path):
    shutil.copytree(whole.path, tmp_path / "run")
    return tmp_path / "run"


def damage_all(folder):
    for path in (folder / "checkpoints").glob("*/ema.safetensors"):
        path.write_bytes(b"")


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        (damage_all, r"000008: ema.safetensors is damaged"),
        (lambda f: shutil.rmtree(f / "checkpoints"), "status.json says finished at step 8"),
        (
            lambda f: (shutil.rmtree(f / "checkpoints"), (f / "status.json").unlink()),
            "metrics.jsonl goes to step 8, with a checkpoint every 3",
        ),
    ],
)
def test_a_resume_that_finds_no_checkpoint_where_there_was_one_is_refused(
    whole, lost, said, tmp_path
):
    run = copied(whole, tmp_path)
    lost(run)
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    with pytest.raises(NoiseregError, match=said) as error:
        train(run, 8, resume=True)
    anew = f"mv {run} {run}.old, and noisereg train --config {run}.old/config.yaml --out {run}"
    assert f"start anew on purpose: {anew}" in str(error.value)
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before
    with pytest.raises(NoiseregError) as error:  # sampling does not advise what is refused
        noisereg.load(run).sample(1)
    assert f"train it anew: {anew}" in str(error.value)
    assert "--resume" not in str(error.value)
    run.rename(f"{run}.old")
    copy = run_command(["train", "--config", f"{run}.old/config.yaml", "--out", str(run)])
    assert copy == 0
    assert_bit_equal(state(whole), state(noisereg.load(run)))


def test_killed_before_its_first_checkpoint_a_run_starts_again_and_keeps_what_was_logged(
    whole, tmp_path
):
    run = copied(whole, tmp_path)
    shutil.rmtree(run / "checkpoints")
    (run / "status.json").write_text('{"status": "running", "step": 0, "steps": 8}')
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text(lines[0] + lines[1] + lines[2][:9])
    assert_bit_equal(state(whole), state(train(run, 8, resume=True)))
    assert (run / "metrics-1.jsonl").read_text() == lines[0] + lines[1] + lines[2][:9]


def test_what_a_killed_process_left_is_cleared(whole, tmp_path):
    run = copied(whole, tmp_path)
    for name in (".status.json.4242", "checkpoints/.000009.4242", "samples/.000008.png.4242"):
        (run / name).touch()
    train(run, 8, resume=True)
    assert [p for p in run.rglob(".*") if p.name != ".lock"] == []


def test_a_link_in_a_run_is_not_written_through(whole, tmp_path):
    run = copied(whole, tmp_path)
    (run / "checkpoints").rename(tmp_path / "photos")
    (run / "checkpoints").symlink_to(tmp_path / "photos")
    with pytest.raises(NoiseregError, match="checkpoints is a link"):
        train(run, 9, resume=True)


def test_accumulation_and_prefetch_change_nothing_but_rounding(tmp_path):
    one = train(tmp_path / "one", 3, denoiser="mlp:width=32,dropout=0", reg=[])
    two = train(
        tmp_path / "two", 3, denoiser="mlp:width=32,dropout=0", reg=[], train={"accumulate": 4}
    )
    for name, value in state(one)[0].items():
        assert torch.allclose(value, state(two)[0][name], atol=2e-4), name


def test_seeds_are_paired_across_noises(tmp_path):
    """The same seed, another regularizer: equal initial weights, data, t and latents, so an equal
    first loss.
    """
    losses = []
    for reg in ([], ["isotropy"]):
        run = train(tmp_path / f"r{len(reg)}", 1, reg=reg)
        losses.append(json.loads((run.path / "metrics.jsonl").read_text().splitlines()[0])["mse"])
    assert losses[0] == losses[1]


def test_a_run_is_a_folder(whole):
    names = {p.name for p in whole.path.iterdir()}
    assert {
        "config.yaml",
        "environment.json",
        "status.json",
        "metrics.jsonl",
        "checkpoints",
        "samples",
    } <= names
    assert {p.name for p in (whole.path / "checkpoints").iterdir()} == {
        "000006",
        "000008",
    }  # the last two
    status = json.loads((whole.path / "status.json").read_text())
    assert status == {"status": "finished", "step": 8, "steps": 8}
    components = json.loads((whole.path / "environment.json").read_text())["components"]
    assert components["noise"]["name"] == "noisereg/blue-tv"
    assert components["noise"]["revision"] == 1
    lines = [json.loads(line) for line in (whole.path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 3, 4, 6, 8]
    assert {"loss", "mse", "mse_heads", "isotropy", "lr", "images_per_second"} <= lines[0].keys()
    assert (whole.path / "samples/000008.png").read_bytes()[:4] == b"\x89PNG"


def test_nothing_that_decides_numbers_stays_on_auto_in_a_run(whole):
    machine = ("runtime.", "data.memory")
    left = [
        k
        for k, v in flatten(whole.config.dump()).items()
        if v == "auto" and not k.startswith(machine)
    ]
    assert left == []


def test_the_configuration_repeats_the_run(whole, tmp_path):
    again = noisereg.train(whole.config, out=tmp_path / "again")
    assert_bit_equal(state(whole), state(again))


def test_keep_every_keeps_multiples(tmp_path):
    run = train(
        tmp_path / "run", 6, train={"checkpoint_every": 1, "keep_last": 1, "keep_every": 2}
    )
    assert checkpoint_files.steps_in(run.path / "checkpoints") == [2, 4, 6]


def test_a_loss_that_is_not_finite_stops_the_run_with_the_step(tmp_path):
    with pytest.raises(
        NoiseregError, match=r"not finite at step \d+; no checkpoint is worth going on from"
    ) as error:
        train(
            tmp_path / "run",
            60,
            optim={"lr": 1e30},
            train={"checkpoint_every": 1, "log_every": 1, "clip": None},
        )
    assert "optim.lr" in str(error.value)
    run = noisereg.load(tmp_path / "run")
    assert run.status["status"] == "failed"
    assert all(torch.isfinite(v).all() for v in run.checkpoint().weights(ema=False).values())


@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
def test_what_is_not_finite_is_found_wherever_it_is(bad):
    sound = [torch.randn(5, 7), torch.arange(3), torch.tensor([]), torch.randn(4)]
    assert finite(sound)
    assert finite([])
    for k in (0, 3):
        for place in (0, -1):
            broken = [v.clone() for v in sound]
            broken[k].view(-1)[place] = bad
            assert not finite(broken)
    assert not finite([torch.tensor([float("inf"), float("-inf")])])


def test_large_numbers_whose_sum_is_not_are_finite():
    assert finite([torch.full((9,), 3e38)])
    assert finite([torch.full((9,), 6e4, dtype=torch.float16), torch.ones(2)])


def test_another_configuration_is_not_resumed_and_nothing_is_written(whole, tmp_path):
    before = {p: p.stat().st_mtime_ns for p in whole.path.rglob("*")}
    assert whole.path / ".lock" in before
    with pytest.raises(NoiseregError, match=r"reg\.0\.weight was 0.1 and is now 0.3"):
        train(whole.path, 9, resume=True, reg=["isotropy:weight=0.3"])
    with pytest.raises(NoiseregError, match="already holds a run"):
        train(whole.path, 9)
    assert before == {p: p.stat().st_mtime_ns for p in whole.path.rglob("*")}


def test_another_revision_of_a_component_is_not_resumed(whole, tmp_path):
    shutil.copytree(whole.path, tmp_path / "run")
    path = tmp_path / "run/environment.json"
    path.write_text(path.read_text().replace('"revision": 1', '"revision": 99'))
    with pytest.raises(NoiseregError, match="revision 99"):
        train(tmp_path / "run", 9, resume=True)


def test_another_revision_of_a_component_is_said_where_it_samples(whole, tmp_path):
    shutil.copytree(whole.path, tmp_path / "run")
    path = tmp_path / "run/environment.json"
    path.write_text(path.read_text().replace('"revision": 1', '"revision": 99'))
    said = []

    class Told(Reporter):
        def note(self, text):
            said.append(text)

    Run.open(tmp_path / "run", whole.registry).load(reporter=Told())
    expected = "was trained with revision 99 of noisereg/blue-tv and is sampled with 1"
    assert any(expected in text for text in said)
    assert not any("noisereg/isotropy" in text or "noisereg/digits" in text for text in said)
    said.clear()
    whole.load(reporter=Told())
    assert not said


def spectrum(seed, path):
    path.write_bytes(encode(build_spectrum(8, 8, 8, seed, 1)))


def test_a_spectrum_that_is_another_file_now_is_neither_resumed_nor_sampled(tmp_path):
    mine, out = tmp_path / "mine.npz", tmp_path / "run"
    spectrum(0, mine)
    run = train(out, 2, noise=f"blue:spectrum={mine}")
    recorded = json.loads((out / "environment.json").read_text())["components"]
    assert recorded["noise"]["files"] == {"spectrum": sha256(mine.read_bytes()).hexdigest()}
    assert all("files" not in record for key, record in recorded.items() if key != "noise")
    run.load()
    spectrum(1, mine)
    with pytest.raises(NoiseregError, match="blue: the content of spectrum is not what this run"):
        run.load()
    with pytest.raises(NoiseregError, match="put the old one back, or start a new run"):
        train(out, 3, resume=True, noise=f"blue:spectrum={mine}")
    spectrum(0, mine)
    train(out, 3, resume=True, noise=f"blue:spectrum={mine}").load()


def test_no_space_left_keeps_the_checkpoint_before_and_leaves_nothing_half_written(
    tmp_path, monkeypatch
):
    real = os.fsync
    calls = []

    def full(fd):
        calls.append(fd)
        if (tmp_path / "run/checkpoints/000003").exists() and len(
            list((tmp_path / "run/checkpoints").iterdir())
        ) > 1:
            raise OSError(28, "No space left on device")
        return real(fd)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(NoiseregError, match="No space left on device"):
        train(tmp_path / "run", 8)
    assert [p.name for p in (tmp_path / "run/checkpoints").iterdir()] == ["000003"]
    monkeypatch.setattr(os, "fsync", real)
    assert noisereg.load(tmp_path / "run").checkpoint().step == 3


def test_learning_rate_warms_up_and_follows_its_schedule():
    config = noisereg.Config(
        train={"steps": 110}, optim={"lr": 1.0, "warmup": 10, "schedule": "cosine"}
    )
    assert [learning_rate(config, s) for s in (0, 9, 10)] == pytest.approx([0.1, 1.0, 1.0])
    assert learning_rate(config, 60) == pytest.approx(0.5)
    assert learning_rate(config, 109) < 1e-3


def test_ema_with_warmup_forgets_the_first_weights():
    """After n updates towards a constant 1 from 0, with decay min(d, (1+k)/(10+k))."""
    from noisereg.runs.checkpoint import EMA

    weights = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(weights.weight)
    ema = EMA(weights, 0.5, warmup=True)
    torch.nn.init.ones_(weights.weight)
    left = 1.0
    for k in range(1, 13):
        ema.update(k)
        left *= min(0.5, (1 + k) / (10 + k))
    assert ema.shadow["weight"].item() == pytest.approx(1 - left, rel=1e-6)


@pytest.mark.parametrize(
    "bad", [{"train": {"batch_size": 9, "accumulate": 2}}, {"noise": "blue", "data": "swiss-roll"}]
)
def test_a_mistake_writes_nothing(bad, tmp_path):
    with pytest.raises(NoiseregError):
        noisereg.train(out=tmp_path / "run", **bad)
    assert not (tmp_path / "run").exists()
