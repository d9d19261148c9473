"""A run trained with a pairing: what it samples with, from the command line to the folder and
back.
"""

import json

import pytest
import torch

from noisereg import python as noisereg
from noisereg.cli.main import run as command
from noisereg.errors import NoiseregError
from noisereg.runs.config import read_config

FAST = [
    "--steps",
    "3",
    "--batch-size",
    "16",
    "--denoiser",
    "mlp:width=16,blocks=1",
    "--set",
    "runtime.device=cpu",
]
FEW = ["--set", "sample.steps=4"]


def train(out, *arguments):
    return command(["train", *FAST, *FEW, "--out", str(out), *arguments])


@pytest.fixture(scope="module", params=["greedy", "optimal", "optimal:cost=noised"])
def paired(request, tmp_path_factory):
    out = tmp_path_factory.mktemp("paired") / "run"
    assert train(out, "--pairing", request.param, "--noise", "blue-tv", "--reg", "isotropy") == 0
    return out


def test_a_run_with_a_pairing_samples_with_eta_0_and_says_so(tmp_path, capsys):
    """DDPM samples with η = 1 otherwise."""
    assert train(tmp_path / "paired", "--pairing", "optimal") == 0
    assert (
        "η 0: the pairing gave up the independence that η > 0 rests on" in capsys.readouterr().err
    )
    assert train(tmp_path / "plain") == 0
    assert "η 0" not in capsys.readouterr().err
    assert read_config(str(tmp_path / "paired/config.yaml"))["sample"]["eta"] == 0
    assert read_config(str(tmp_path / "plain/config.yaml"))["sample"]["eta"] == 1


def test_its_samples_are_those_of_eta_0(paired):
    run = noisereg.load(paired)
    assert torch.equal(run.sample(3), run.sample(3, eta=0.0))


def test_eta_above_0_is_refused_when_it_is_trained_sampled_or_measured(paired, tmp_path, capsys):
    before = sorted(p.name for p in paired.rglob("*"))
    for arguments in (
        ["sample", str(paired), "--eta", "1"],
        ["eval", str(paired), "--eta", "0.5", "--num", "5", "--metric", "prdc:k=2"],
        [
            "train",
            *FAST,
            "--pairing",
            "greedy",
            "--set",
            "sample.eta=1",
            "--out",
            str(tmp_path / "run"),
        ],
    ):
        assert command(arguments) == 2
        (line,) = [
            line
            for line in capsys.readouterr().err.splitlines()
            if line.startswith("noisereg: error:")
        ]
        assert "rests on noise independent of the data" in line
        assert "give eta 0" in line
    assert not (tmp_path / "run").exists()
    assert [name for name in sorted(p.name for p in paired.rglob("*")) if name not in before] in (
        [],
        ["eval"],
    )


def test_stopped_and_resumed_it_is_the_uninterrupted_run(tmp_path):
    """The permutation is a function of the batch, which is a function of seed, step and index."""

    def go(name, steps, resume=False):
        return noisereg.train(
            out=tmp_path / name,
            resume=resume,
            pairing="optimal",
            denoiser="mlp:width=16,blocks=1",
            train={"steps": steps, "batch_size": 16},
            sample={"steps": 2},
            runtime={"device": "cpu"},
        )

    whole = go("whole", 4)
    go("run", 2)
    resumed = go("run", 4, resume=True)
    for name, value in whole.checkpoint().weights(ema=False).items():
        assert torch.equal(value, resumed.checkpoint().weights(ema=False)[name])


def test_pairing_makes_the_target_easier(tmp_path):
    """‖x0 − ε‖² is what pairing lowers, and it is IADB's target: so is the loss of the network
    that answers zero.
    """

    def first_loss(pairing):
        run = noisereg.train(
            out=tmp_path / pairing,
            process="iadb",
            pairing=pairing,
            denoiser="mlp:width=16,blocks=1",
            train={"steps": 1, "batch_size": 128},
            sample={"steps": 1},
            runtime={"device": "cpu"},
        )
        return json.loads((run.path / "metrics.jsonl").read_text().splitlines()[0])["mse"]

    none, greedy, optimal = (first_loss(name) for name in ("none", "greedy", "optimal"))
    assert optimal < greedy < none


def test_heun_and_deterministic_sampling_stay_available(paired):
    assert noisereg.load(paired).sample(2, solver="heun").shape == (2, 1, 8, 8)


def test_a_learned_variance_is_refused(tmp_path):
    with pytest.raises(NoiseregError, match="pairing greedy with a learned variance"):
        noisereg.train(
            out=tmp_path / "run",
            process="ddpm:variance=learned",
            pairing="greedy",
            train={"steps": 1},
        )
