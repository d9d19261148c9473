"""Class labels and classifier-free guidance."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy import stats

from noisereg import draws
from noisereg import python as noisereg
from noisereg.api import Batch, Context
from noisereg.diffusion.diffusion import Diffusion
from noisereg.draws import Stream
from noisereg.errors import NoiseregError
from noisereg.plugins.registry import registry
from noisereg.runs.build import build_parts
from noisereg.runs.config import RuntimeConfig
from noisereg.runs.feed import Feed
from noisereg.runs.runtime import Runtime
from noisereg.tasks import ClassParams
from noisereg.tasks.class_label import ClassLabel

SMALL = {
    "task": "class",
    "denoiser": "mlp:width=32",
    "runtime": {"device": "cpu"},
    "sample": {"steps": 3},
}


def train(out, steps, resume=False, **more):
    sections = {**SMALL, **more}
    settings = {"steps": steps, "batch_size": 16, "log_every": 2, **sections.pop("train", {})}
    return noisereg.train(out=out, resume=resume, train=settings, **sections)


def task(dropout, classes=10):
    return ClassLabel(ClassParams(dropout=dropout, classes=classes), Context(shape=(1, 8, 8)))


def test_the_share_of_labels_withheld_is_the_dropout():
    """Within a two-sided 99.9 % binomial bound; what is not withheld is untouched."""
    labels = torch.arange(20_000) % 10
    u = draws.uniforms(0, Stream.TASK, 0, len(labels))
    seen = task(0.1).withhold(labels, u)
    gone = int((seen == 10).sum())
    low, high = stats.binom.interval(0.999, len(labels), 0.1)
    assert low <= gone <= high
    assert torch.equal(seen[seen != 10], labels[seen != 10])
    assert (task(0.1).null(labels) == 10).all()


def feed(ranks, rank, accumulate):
    config = noisereg.Config(
        **{**SMALL, "task": "class:dropout=0.5"},
        train={"batch_size": 24, "accumulate": accumulate},
    )
    runtime = dataclasses.replace(
        Runtime.start(RuntimeConfig(device="cpu")), rank=rank, world=ranks
    )
    parts = build_parts(config, registry(), runtime)
    return Feed(
        parts.config,
        parts.dataset.split("train"),
        parts.shape,
        False,
        parts.task,
        parts.noise,
        parts.process,
        runtime,
    )


def test_what_is_withheld_depends_on_seed_step_and_global_index_alone():
    one = feed(1, 0, 1)
    whole = [one.prepare(step, 0).cond for step in (0, 5)]
    assert not torch.equal(whole[0] == 10, whole[1] == 10)
    for ranks, accumulate in ((2, 1), (1, 3), (2, 2)):
        parts = [feed(ranks, rank, accumulate) for rank in range(ranks)]
        again = torch.cat(
            [parts[r].prepare(5, micro).cond for micro in range(accumulate) for r in range(ranks)]
        )
        assert torch.equal(whole[1], again)


def test_stopped_and_resumed_a_conditional_run_is_uninterrupted_bit_for_bit(tmp_path):
    whole = train(tmp_path / "whole", 5, noise="blue-tv")
    train(tmp_path / "run", 2, noise="blue-tv")
    resumed = train(tmp_path / "run", 5, noise="blue-tv", resume=True)
    for name, value in whole.checkpoint().weights(ema=False).items():
        assert torch.equal(value, resumed.checkpoint().weights(ema=False)[name])


@pytest.mark.parametrize("process", ["ddpm", "ddpm:target=v", "ddpm:variance=learned", "iadb"])
def test_guidance_is_linear_in_both_predictions_and_in_the_heads(process):
    """u + w(c − u) of x̂0, ε̂ and ĥ; w = 1 is the condition alone, w = 0 the network without it."""
    noise_name = "white" if "learned" in process else "blue-tv"
    shape = (1, 8, 8)
    noise = noisereg.build("noise", noise_name, shape=shape)
    made = noisereg.build("process", process, shape=shape, noise=noise)
    generator = torch.Generator().manual_seed(0)
    blocks = 1 + made.extra_heads + noise.extra_heads
    answers = torch.randn(11, blocks, 8, 8, generator=generator, dtype=torch.float64)
    x, t = (
        torch.randn(4, *shape, generator=generator, dtype=torch.float64),
        torch.full((4,), 0.3, dtype=torch.float64),
    )
    labels = torch.tensor([3, 1, 4, 1])
    null = torch.full_like(labels, 10)

    diffusion = Diffusion(shape, made, noise)

    def denoiser(x, t, cond):
        return answers[cond] * x

    def predict(*arguments):
        return diffusion.predict(denoiser, x, t, *arguments)

    told, untold = predict(labels), predict(null)
    for weight in (0.0, 1.0, 2.5):
        both = predict(labels, weight, null)
        for name in ("x0_hat", "eps_hat", "heads"):
            c, u = getattr(told, name), getattr(untold, name)
            if c is not None:
                assert torch.allclose(
                    getattr(both, name), u + weight * (c - u), rtol=1e-10, atol=1e-12
                ), name
        if made.extra_heads:
            assert torch.equal(both.own, told.own)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    settings = {"steps": 250, "batch_size": 128}
    sections = {
        "process": "iadb",
        "denoiser": "mlp:width=96,blocks=2",
        "sample": {"steps": 15},
        "optim": {"lr": 2e-3},
    }
    return train(tmp_path_factory.mktemp("class") / "run", 250, train=settings, **sections)


def accuracy(images, labels):
    """By the nearest mean of the training images (90 % of real digits)."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    means = (
        np.stack([digits.images[digits.target == k].mean(0) for k in range(10)]).reshape(10, -1)
        * 255
        / 16
    )
    distances = ((images.double().numpy().reshape(len(images), 1, -1) - means) ** 2).sum(-1)
    return float((distances.argmin(1) == np.asarray(labels)).mean())


def test_labels_decide_what_is_drawn_and_guidance_does_so_more(trained):
    """Under a wrong or ignored label a tenth would be right: 99.9 % of such draws of 200 give
    under 0.18.
    """
    labels = [i % 10 for i in range(200)]
    plain, guided = (accuracy(trained.sample(200, guidance=w), labels) for w in (1.0, 3.0))
    assert plain > stats.binom.isf(0.001, 200, 0.1) / 200
    assert guided > plain


def test_labels_go_in_turn_or_as_given_and_guidance_zero_forgets_them(trained):
    turn = trained.sample(12)
    assert torch.equal(turn, trained.sample(12, labels=list(range(10))))
    assert torch.equal(turn[3:4], trained.sample(4, labels=[5, 6, 7, 3])[3:4])
    assert not torch.equal(turn, trained.sample(12, labels=[7]))
    assert torch.equal(
        trained.sample(3, labels=[1], guidance=0), trained.sample(3, labels=[7], guidance=0)
    )


def test_a_run_knows_its_classes_without_its_data(trained):
    assert trained.config.task.params == {"dropout": 0.1, "classes": 10}
    assert trained.load().dataset is None


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"data": "swiss-roll"}, "class needs labels and this data set has none"),
        ({"task": "class:classes=7"}, "the data set has 10 classes"),
        ({"pairing": "greedy"}, "pairing greedy with task class"),
        ({"task": "class:dropout=0", "sample": {"guidance": 2}}, "withheld no labels in training"),
        (
            {"task": "unconditional", "sample": {"guidance": 2}},
            "no unconditional network to guide away from",
        ),
    ],
)
def test_what_cannot_work_is_refused_in_one_line_and_nothing_is_written(sections, said, tmp_path):
    with pytest.raises(NoiseregError, match=said) as error:
        train(tmp_path / "run", 1, **{**SMALL, **sections})
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"labels": [10]}, "label=10: this run's labels are 0 to 9"),
        ({"labels": [-1]}, "label=-1"),
        ({"inputs": "."}, "input: this run makes its samples of no images"),
        ({"guidance": -1.0}, "guidance"),
    ],
)
def test_a_condition_the_run_cannot_take_is_refused(trained, given, said):
    with pytest.raises(NoiseregError, match=said):
        trained.sample(2, **given)


def test_data_whose_batches_have_no_labels_are_refused():
    with pytest.raises(NoiseregError, match="needs labels"):
        task(0.1).cond(Batch(torch.zeros(2, 1, 8, 8)))


@pytest.mark.parametrize(
    "labels", [3, "3", ["3"], np.array([3]), torch.tensor([3]), [np.int32(3)], (3,)]
)
def test_a_label_is_a_number_of_any_kind(trained, labels):
    assert torch.equal(trained.sample(2, labels=labels), trained.sample(2, labels=[3]))
