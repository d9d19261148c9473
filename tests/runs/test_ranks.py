"""Two gloo ranks on one machine: the same gradients, weights and samples as one rank with the
whole batch.
"""

import itertools
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from ranks import ranks
from safetensors.torch import load_file
from torch.nn.parallel import DistributedDataParallel

from noisereg import python as noisereg
from noisereg.cli.main import run
from noisereg.diffusion.diffusion import Diffusion
from noisereg.diffusion.loss import Weighted
from noisereg.errors import NoiseregError
from noisereg.runs.checkpoint_files import steps_in
from noisereg.runs.config import RuntimeConfig
from noisereg.runs.objective import Objective
from noisereg.runs.runtime import Runtime, leave_group, pick_device
from noisereg.runs.train import Training

VARIANTS = [
    f"isotropy:weight=1,mean={mean},level={level},space={space},bins=3"
    for mean, level, space in itertools.product(
        ["batch", "sample", "timestep-bin", "sample-plain", "timestep-bin-plain"],
        ["noise", "one"],
        ["plain", "whitened"],
    )
]


def gradients(runtime, variant):
    torch.manual_seed(0)
    shape, size = (1, 8, 8), 12
    noise = noisereg.build("noise", "blue-tv:factor=spectral", shape=shape)
    process = noisereg.build("process", "ddpm", shape=shape, noise=noise)
    network = torch.nn.Conv2d(1, 2, 3, padding=1).double()
    denoiser = torch.nn.Sequential(network)
    denoiser.forward = lambda x, t, cond: network(x) * (1 + t.reshape(-1, 1, 1, 1))
    term = noisereg.build("regularizer", variant, shape=shape, noise=noise, process=process)
    diffusion = Diffusion(shape, process, noise, [Weighted("isotropy", 1.0, term)])
    objective = Objective(denoiser, diffusion)
    model = DistributedDataParallel(objective) if runtime.world > 1 else objective
    x0, z = torch.randn(size, *shape).double(), torch.randn(size, *shape).double()
    t = torch.rand(size).double()
    own = slice(runtime.share(size).start, runtime.share(size).stop)
    loss, _ = model(x0[own], {"z": z[own]}, t[own], None, 0)
    loss.backward()
    return torch.cat([p.grad.flatten() for p in objective.parameters()])


def all_gradients(path):
    runtime = Runtime.start(RuntimeConfig(device="cpu"))
    result = {v: gradients(runtime, v) for v in VARIANTS}
    if runtime.main:
        torch.save(result, path)
    leave_group(wait=True)


def test_isotropys_gradients_equal_one_ranks_for_every_option(tmp_path):
    ranks(2, tmp_path / "said", all_gradients, tmp_path / "two.pt")
    all_gradients(tmp_path / "one.pt")
    one, two = torch.load(tmp_path / "one.pt"), torch.load(tmp_path / "two.pt")
    for variant in VARIANTS:
        assert one[variant].abs().max() > 1e-3
        assert torch.allclose(one[variant], two[variant], rtol=1e-9, atol=1e-12), variant


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same short training on one rank and on two, of all that can learn, measured on the way,
    and 21 samples of it by two.
    """
    folder = tmp_path_factory.mktemp("ranks")
    common = ["train", "--noise", "blue-tv:gamma.learn=true", "--process", "ddpm:variance=learned"]
    common += ["--reg", "isotropy", "--steps", "4", "--batch-size", "16"]
    common += ["--set", "train.eval_every=2", "--set", "train.eval_num=33"]
    common += ["--set", "train.keep_best=fd-pixels"]
    common += [
        "--denoiser",
        "mlp:dropout=0",
        "--set",
        "runtime.device=cpu",
        "--set",
        "sample.steps=4",
    ]
    ranks(2, folder / "said", run, [*common, "--out", str(folder / "two")])
    assert run([*common, "--out", str(folder / "one")]) == 0
    drawing = [
        "sample",
        str(folder / "one"),
        "--num",
        "21",
        "--steps",
        "5",
        "--out",
        str(folder / "two.npz"),
    ]
    ranks(2, folder / "said", run, drawing)
    return folder


def test_two_ranks_train_the_weights_of_one(runs):
    """Not bit for bit: sums are taken in another order, and Adam divides small gradients by their
    own size.
    """
    one = load_file(runs / "one/checkpoints/000004/model.safetensors")
    two = load_file(runs / "two/checkpoints/000004/model.safetensors")
    assert one.keys() == two.keys()
    for name in one:
        assert torch.allclose(one[name], two[name], atol=2e-4), name
    lines = [
        json.loads((runs / who / "metrics.jsonl").read_text().splitlines()[-1])
        for who in ("one", "two")
    ]
    assert lines[0]["loss"] == pytest.approx(lines[1]["loss"], rel=1e-4)
    assert lines[0]["isotropy"] == pytest.approx(lines[1]["isotropy"], rel=1e-3)
    assert json.loads((runs / "two/environment.json").read_text())["ranks"] == 2


def test_two_ranks_measure_while_training_what_one_does(runs):
    measured = {}
    for who in ("one", "two"):
        lines = [json.loads(x) for x in (runs / who / "metrics.jsonl").read_text().splitlines()]
        measured[who] = {line["step"]: line for line in lines if "eval/fd-pixels" in line}
    assert measured["one"].keys() == measured["two"].keys() == {2, 4}
    for step in (2, 4):
        one, two = (measured[who][step]["eval/fd-pixels"] for who in ("one", "two"))
        # Samples of weights that are 2e-4 apart, rounded to 256 values.
        assert one == pytest.approx(two, rel=0.02)
    best = [(runs / who / "checkpoints" / "best.json").read_text() for who in ("one", "two")]
    assert json.loads(best[0])["step"] == json.loads(best[1])["step"]


def test_a_signal_stops_all_ranks_at_one_step_with_a_checkpoint(tmp_path):
    """torchrun hands SIGTERM on to its ranks; they agree on the step, save, and the run can be
    resumed.
    """
    out = tmp_path / "run"
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"),
        "-m",
        "noisereg",
        "train",
        "--resume",
        "--out",
        str(out),
        "--steps",
        "100000",
    ]
    command += [
        "--batch-size",
        "16",
        "--denoiser",
        "mlp:width=32",
        "--set",
        "train.checkpoint_every=50",
    ]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    deadline = time.monotonic() + 120
    while (
        not steps_in(out / "checkpoints")
        and process.poll() is None
        and time.monotonic() < deadline
    ):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    status = json.loads((out / "status.json").read_text())
    assert status["status"] == "stopped", said[-3000:]
    assert status["step"] == steps_in(out / "checkpoints")[-1]
    assert f"stopped at step {status['step']}" in said


def averages_of_one_rank_break(out):
    """0 where this rank was told that the averages are not finite."""
    save = Training._save

    def broken(self, step):
        if self.runtime.rank == 1:
            next(iter(self.ema.shadow.values())).fill_(float("nan"))
        save(self, step)

    Training._save = broken
    config = {
        "data": "digits",
        "denoiser": "mlp:width=8,blocks=1",
        "train": {"steps": 4, "batch_size": 8, "checkpoint_every": 2},
        "runtime": {"device": "cpu"},
    }
    try:
        noisereg.train(**config, out=out)
    except NoiseregError as error:
        return 0 if "averaged weights are not finite after step 2" in str(error) else 1
    return 1


def test_averages_that_one_rank_alone_has_wrong_stop_all(tmp_path):
    """And not one, for which the others would wait; what is wrong is not saved."""
    ranks(2, tmp_path / "said", averages_of_one_rank_break, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "status.json").read_text())["status"] == "failed"
    assert steps_in(tmp_path / "run" / "checkpoints") == []


def test_two_ranks_draw_the_samples_of_one(runs):
    from noisereg.runs.run import draw

    two = np.load(runs / "two.npz")["samples"]
    loaded = noisereg.load(runs / "one")
    whole = draw(loaded.model(steps=5), range(21))
    for size in (1, 7):
        cut = draw(loaded.model(steps=5, batch_size=size), range(21))
        assert (cut - whole).abs().max() <= 1e-3
    assert two.shape == (21, 8, 8, 1)
    assert two.dtype == np.uint8
    own = loaded.sample(21, steps=5).permute(0, 2, 3, 1).numpy()
    assert np.abs(two.astype(int) - own.astype(int)).max() <= 1


def test_one_gpu_is_not_for_several_ranks(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert pick_device("cuda:1") == torch.device("cuda", 1)
    for name, value in {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "RANK": 0, "LOCAL_RANK": 0,
                        "MASTER_ADDR": "localhost", "MASTER_PORT": 29500}.items():  # fmt: skip
        monkeypatch.setenv(name, str(value))
    assert pick_device("cuda", 1) == torch.device("cuda", 1)
    with pytest.raises(NoiseregError, match="cuda:0 is one GPU, and 2 ranks would share it"):
        pick_device("cuda:0")
