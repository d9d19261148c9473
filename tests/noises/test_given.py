"""Noise that depends on the condition (plugins/single-file/edges.py): training, sampling and what
measures a run all ask the noise for the same condition.
"""

from pathlib import Path

import pytest
import torch

import noisereg
from noisereg.api import Batch, Regularizer
from noisereg.diffusion.loss import Weighted
from noisereg.errors import NoiseregError
from noisereg.metrics.likelihood import NegativeLogLikelihood
from noisereg.metrics.power import optimum
from noisereg.plugins.registry import registry, reset
from noisereg.runs.build import build_parts
from noisereg.runs.config import validate
from noisereg.runs.model import RunModel
from noisereg.runs.runtime import Runtime
from noisereg.runs.train import Training
from noisereg.testing.doubles import FewDigits

EDGES = str(Path(__file__).parents[2] / "plugins/single-file/edges.py")
SETTINGS = {
    "process": "iadb",
    "noise": "file/edges:share=0.8",
    "task": "superres:factor=2",
    "denoiser": "mlp:width=16,blocks=1",
}


@pytest.fixture(scope="module")
def model():
    reset()
    registry().load(EDGES)
    config = validate(SETTINGS)
    parts = build_parts(config, registry(), Runtime(torch.device("cpu")))
    parts.objective.eval()
    yield RunModel(parts, parts.config.sample, registry(), 0)
    reset()


@pytest.fixture
def cond(model):
    x = torch.linspace(-1, 1, 4 * 64).reshape(4, 1, 8, 8) ** 3
    x[1:, :, 2:4] *= -1
    return model.task.cond(Batch(x))


class Seen(Regularizer):
    step = None

    def __call__(self, s):
        self.step = s
        return s.eps_hat.sum() * 0


def test_the_loss_is_of_noise_under_the_condition(model, cond):
    diffusion, seen = model.parts.diffusion, Seen()
    diffusion.regularizers.append(Weighted("seen", 1.0, seen))
    z, t = torch.ones(4, 1, 8, 8), torch.full((4,), 0.5).double()
    try:
        x0 = torch.zeros_like(z)
        diffusion.loss(model.parts.denoiser, x0, latents=z, t=t, cond=cond)
    finally:
        diffusion.regularizers.pop()
    strength = model.noise.strength(cond).float()
    torch.testing.assert_close(seen.step.eps, strength * z)
    torch.testing.assert_close(seen.step.x_t, 0.5 * strength * z)
    torch.testing.assert_close(seen.step.noise.whiten(seen.step.eps, t), z)
    assert float(strength.std()) > 0.2


def test_sampling_starts_from_noise_under_the_condition(model, cond):
    with torch.inference_mode():
        start, *_ = model.trajectory(range(4), cond)
    z = model.latents(range(4), 0)["z"]
    torch.testing.assert_close(start, model.noise.strength(cond).float() * z)
    assert not torch.allclose(start, z)


def test_what_measures_a_run_uses_it_too(model, monkeypatch):
    """Each condition that the noise is given is that of a batch: once a batch at least, in the
    metrics that draw noise, and the optimum for Gaussian data, which has no condition, is left
    out."""
    asked = []
    own = type(model.noise).given

    def given(self, cond):
        asked.append(cond)
        return own(self, cond)

    data = FewDigits(model.parts.dataset)
    assert optimum(model, data, torch.tensor([0.5]).double()) is None
    monkeypatch.setattr(type(model.noise), "given", given)
    for name, params in (("isotropy", {"num": 8, "times": 3}), ("nll", {"by": "bound"})):
        metric = registry().build("metric", name, params, _context(model))
        if isinstance(metric, NegativeLogLikelihood):
            metric.params = metric.params.model_copy(update={"steps": 3, "num": 8})
        asked.clear()
        numbers = metric.of_model(model, data)
        assert all(torch.isfinite(torch.tensor(list(numbers.values()))))
        assert len(asked) > 1
        assert all(c.shape == (8, 1, 8, 8) for c in asked)


def test_what_is_said_of_a_run_that_diverged_is_found_under_the_condition(
    model, monkeypatch, tmp_path
):
    """Whether its newest checkpoint is worth going on from is asked with the noise of training."""
    told, noise = [], type(model.noise)
    own, color = Training._sound_checkpoint, noise.color

    def sound(self):
        with monkeypatch.context() as patch:

            def seen(noise, latents, t):
                told.append(noise.scale is not None)
                return color(noise, latents, t)

            patch.setattr(type(self.parts.noise), "color", seen)
            return own(self)

    monkeypatch.setattr(Training, "_sound_checkpoint", sound)
    with pytest.raises(NoiseregError, match="not finite"):
        noisereg.train(
            **SETTINGS,
            train={
                "steps": 60,
                "batch_size": 8,
                "checkpoint_every": 1,
                "log_every": 1,
                "clip": None,
            },
            optim={"lr": 1e30},
            plugins=EDGES,
            out=tmp_path / "run",
        )
    assert told
    assert all(told)


def _context(model):
    from noisereg.api import Context

    return Context(shape=model.shape, noise=model.noise, process=model.process)
