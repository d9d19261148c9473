"""FSDP2 on two gloo ranks of a CPU: what DDP trains, from checkpoints of which each rank writes a
part, and which any number of ranks reads.
"""

import errno
import json
import os
import shutil
import sys

import numpy as np
import pytest
import torch
from ranks import ranks
from safetensors import safe_open
from torch.distributed.checkpoint import HuggingFaceStorageWriter

from noisereg import python as noisereg
from noisereg.cli.main import run as command
from noisereg.errors import NoiseregError
from noisereg.plugins.registry import registry
from noisereg.runs import checkpoint_files, sharding
from noisereg.runs.build import build_parts
from noisereg.runs.checkpoint import OPTIMIZER_OF, Checkpoint
from noisereg.runs.config import RuntimeConfig, validate
from noisereg.runs.runtime import Runtime
from noisereg.runs.together import refuse_runtime

pytestmark = pytest.mark.timeout(1800)  # ten trainings for one fixture, on a busy machine too

COMMON = [
    *("train", "--noise", "blue-tv", "--reg", "isotropy", "--batch-size", "24"),
    *("--set", "train.accumulate=2", "--set", "train.log_every=1"),
    *("--set", "train.checkpoint_every=3", "--set", "train.keep_last=9"),
    *("--set", "runtime.device=cpu", "--set", "sample.steps=3", "--set", "ema.decay=0.5"),
]
MLP = ["--denoiser", "mlp:width=16,blocks=2,dropout=0.1", "--set", "train.clip=0.3"]
UNET = ["--denoiser", "unet:channels=8,16,attention=1,layers=1"]
SHARD = ["--set", "runtime.shard=true"]


def on_a_full_disk(line, first):
    """Rank ``first`` and those after it have no space left."""
    if int(os.environ["RANK"]) >= first:

        def write(*given):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        HuggingFaceStorageWriter.write_data = write
    print("CODE", command(line), file=sys.stderr)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """By name: on two ranks by DDP (``ddp``, ``unet-ddp``) and sharded (``straight``, ``unet``);
    and, from the third step of ``straight``, on two ranks again, on three, and on one that is not
    sharded; on two from the third of ``ddp``.
    """
    folder = tmp_path_factory.mktemp("sharding")

    def line(name, *more, steps=6, network=MLP):
        given = [*COMMON, *network, "--steps", str(steps), *more]
        return [*given, "--resume", "--out", str(folder / name)]

    ranks(2, folder / "said", command, line("ddp"))
    ranks(2, folder / "said", command, line("straight", *SHARD))
    ranks(2, folder / "said", command, line("unet-ddp", network=UNET, steps=3))
    ranks(2, folder / "said", command, line("unet", *SHARD, network=UNET, steps=3))
    for name in ("again", "on-three", "on-one", "full", "from-ddp"):
        shutil.copytree(folder / ("ddp" if name == "from-ddp" else "straight"), folder / name)
        shutil.rmtree(folder / name / "checkpoints" / "000006")
    ranks(2, folder / "said", command, line("again", *SHARD))
    ranks(2, folder / "said", command, line("from-ddp", *SHARD))
    ranks(2, folder / "full.txt", on_a_full_disk, line("full", *SHARD), 1)
    ranks(3, folder / "said", command, line("on-three", *SHARD))
    assert command(line("on-one", "--set", "runtime.shard=false")) == 0
    return folder


def checkpoint_of(path, step=6):
    return Checkpoint.open(path / f"checkpoints/{step:06d}")


def state_of(path, step=6):
    """All numbers of a checkpoint: weights, averages, and the optimiser's by their order."""
    found = checkpoint_of(path, step)
    state = {f"model {k}": v for k, v in found.weights(ema=False).items()}
    state |= {f"ema {k}": v for k, v in found.weights(ema=True).items()}
    if found.sharded:
        for name, value in found.parts(lambda n: n.startswith(OPTIMIZER_OF)).items():
            key, _, of = name.removeprefix(OPTIMIZER_OF).partition(".")
            state[f"optimizer {of} {key}"] = value
    else:
        names = list(found.weights(ema=False))
        trained = noisereg.load(path).load()
        names = [name for name, _ in trained.objective.named_parameters()]
        for index, values in found.optimizer(torch.device("cpu"))["state"].items():
            state |= {f"optimizer {names[index]} {key}": v for key, v in values.items()}
    return state


def lines_of(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def difference(a, b):
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def test_the_losses_and_all_the_state_are_those_of_ddp(runs):
    """Up to the order of sums, and what Adam makes of that where a gradient is about 0: it divides
    each by its own size.
    """
    for ddp, sharded, step, within in (
        ("ddp", "straight", 6, 1e-6),
        ("unet-ddp", "unet", 3, 2e-4),
    ):
        for one, two in zip(lines_of(runs / ddp), lines_of(runs / sharded), strict=True):
            for name in ("loss", "mse", "isotropy"):
                assert two[name] == pytest.approx(one[name], rel=1e-5), (name, one)
        one, two = (state_of(runs / name, step) for name in (ddp, sharded))
        moments = {name for name in one if name.startswith("optimizer")}
        assert moments
        for names, most in ((moments, 1e-6), (one.keys() - moments, within)):
            assert difference({n: one[n] for n in names}, {n: two[n] for n in names}) < most


def test_each_rank_has_half_of_the_weights_averages_and_state(runs):
    path = checkpoint_of(runs / "straight").path
    assert sorted(p.name for p in path.iterdir()) == [
        "shard-00001-model-00001-of-00001.safetensors",
        "shard-00002-model-00001-of-00001.safetensors",
        "state.json",
    ]
    held = []
    for file in sorted(path.glob("shard-*")):
        with safe_open(file, framework="pt") as tensors:
            sizes = {name: tensors.get_tensor(name).numel() for name in tensors.keys()}  # noqa: SIM118
        held.append(
            [
                sum(n for name, n in sizes.items() if name.startswith(kind))
                for kind in ("model.", "ema.", "optimizer.exp_avg.", "optimizer.exp_avg_sq.")
            ]
        )
    for one, other in zip(*held, strict=True):
        assert 0.4 < one / (one + other) < 0.6


def test_resumed_it_ends_as_the_run_that_went_straight_on(runs):
    straight, again = state_of(runs / "straight"), state_of(runs / "again")
    assert straight.keys() == again.keys()
    assert all(torch.equal(straight[name], again[name]) for name in straight)


@pytest.mark.parametrize("name", ["from-ddp", "on-three", "on-one"])
def test_any_number_of_ranks_goes_on_from_any_checkpoint(runs, name):
    """Dropout is drawn by each rank for its own part of the batch, so with another number of ranks
    the second half is another; what is read is not."""
    if name == "from-ddp":
        assert difference(state_of(runs / "ddp"), state_of(runs / name)) < 2e-5
    before, after = state_of(runs / name, 3), state_of(runs / name)
    if name != "from-ddp":
        straight = state_of(runs / "straight", 3)
        assert all(torch.equal(before[n], straight[n]) for n in straight)
    steps = [value for key, value in after.items() if key.endswith(" step")]
    assert steps
    assert all(float(step) == 6 for step in steps)
    moved = difference(
        {k: v for k, v in before.items() if k.startswith("model")},
        {k: v for k, v in after.items() if k.startswith("model")},
    )
    assert 0 < moved < 0.02
    assert checkpoint_of(runs / name).sharded is (name != "on-one")
    assert lines_of(runs / name)[-1]["loss"] < 1.2 * lines_of(runs / name)[2]["loss"]


def test_one_process_samples_evaluates_exports_and_starts_from_it(runs, tmp_path, capsys):
    sharded, ddp = (noisereg.load(runs / name) for name in ("unet", "unet-ddp"))
    drawn = [each.sample(8, steps=4).int() for each in (sharded, ddp)]
    assert (drawn[0] - drawn[1]).abs().max() <= 1
    (row,) = noisereg.evaluate([runs / "unet"], metrics=["fd"], num=32)
    assert all(np.isfinite(each["mean"]) for each in row["metrics"].values())
    assert command(["export", str(runs / "unet"), "--out", str(tmp_path / "exported")]) == 0
    out = tmp_path / "next"
    more = [
        "--from",
        str(runs / "unet"),
        "--steps",
        "1",
        "--out",
        str(out),
        "--set",
        "runtime.device=cpu",
    ]
    assert command(["train", *more, "--set", "runtime.shard=false", "--batch-size", "8"]) == 0
    assert not checkpoint_of(out, 1).sharded


@pytest.mark.parametrize("number", [1, 2])
def test_a_part_that_was_changed_or_is_missing_is_damage(runs, tmp_path, number):
    shutil.copytree(runs / "straight", tmp_path / "run")
    path = tmp_path / "run/checkpoints/000006"
    part = path / f"shard-{number:05d}-model-00001-of-00001.safetensors"
    data = bytearray(part.read_bytes())
    assert checkpoint_files.whole(path)
    data[-1] ^= 1
    part.write_bytes(data)
    assert f"{part.name} is damaged" in checkpoint_files.damage(path)
    said = []
    latest = checkpoint_files.latest(path.parent, said.append)
    assert latest.step == 3
    assert "using the checkpoint of step 3" in said[0]
    part.unlink()
    assert "cannot be read" in checkpoint_files.damage(path)
    state = json.loads((path / "state.json").read_text())
    del state["sha256"][part.name]
    (path / "state.json").write_text(json.dumps(state))
    assert "state.json is damaged" in checkpoint_files.damage(path)
    checkpoint_files.remove(path)
    assert not path.exists()


def test_what_one_rank_cannot_write_is_an_error_on_all_and_leaves_the_last_checkpoint(runs):
    said = (runs / "full.txt").read_text()
    assert [line for line in said.splitlines() if line.startswith("CODE")] == ["CODE 2"] * 2
    assert f"cannot write the checkpoint of step 6: {os.strerror(errno.ENOSPC)}" in said
    left = sorted(p.name for p in (runs / "full/checkpoints").iterdir())
    assert left == ["000003"]
    assert json.loads((runs / "full/status.json").read_text())["status"] == "failed"


REFUSED = {
    "runtime.compile": ({"runtime": {"compile": True}}, "not been tested with runtime.compile"),
    "runtime.channels_last": ({"runtime": {"channels_last": True}}, "contiguous weights"),
    "train.eval_every": ({"train": {"eval_every": 5}}, "leave it out, and measure the checkp"),
}


@pytest.mark.parametrize("given", REFUSED)
def test_what_it_cannot_be_combined_with_is_refused(given):
    values, said = REFUSED[given]
    two = Runtime(torch.device("cpu"), world=2)
    with pytest.raises(NoiseregError, match=said):
        sharding.check(validate(values), two)
    sharding.check(validate({}), two)


def test_one_rank_is_told_to_use_torchrun_and_nothing_is_written(tmp_path, capsys):
    out = tmp_path / "run"
    assert command([*COMMON, *MLP, *SHARD, "--steps", "3", "--out", str(out)]) == 2
    assert (
        "shares the network out over ranks, and there is one; expected several"
        in capsys.readouterr().err
    )
    assert not out.exists()


def test_cells_that_train_together_are_not_sharded():
    with pytest.raises(NoiseregError, match=r"runtime\.shard splits one run over several"):
        refuse_runtime(RuntimeConfig(shard=True))


def test_what_learns_beside_the_denoiser_and_batch_norms_are_refused():
    runtime = Runtime.start(RuntimeConfig(device="cpu"))

    def parts(**values):
        return build_parts(validate({"denoiser": MLP[1], **values}), registry(), runtime)

    sharding.check_parts(parts())
    with pytest.raises(NoiseregError, match=r"splits the denoiser alone, and .* learns too"):
        sharding.check_parts(parts(noise="blue-tv:gamma.learn=true"))
    with_norm = parts()
    with_norm.denoiser.add_module("extra", torch.nn.BatchNorm1d(3))
    with pytest.raises(NoiseregError, match="extra is a batch norm"):
        sharding.check_parts(with_norm)
