"""Every check of a metric, a feature space, a task and a logger, and those that all kinds share,
catches a wrong one.
"""

import os
import statistics

import pytest
import torch
from kit_tools import assert_caught, assert_complete, failures, outcome

from noisereg.api import (
    Component,
    Features,
    Field,
    Logger,
    Metric,
    Noise,
    NoiseregError,
    Params,
    Task,
)
from noisereg.plugins.registry import Registry
from noisereg.plugins.spec import Spec
from noisereg.testing import Subject, checks, run

# Metrics


class RightMetric(Metric):
    """The distance of the means."""

    better = {"shift": "lower"}

    def __init__(self, params, ctx):
        pass

    def compute(self, samples, reference, features):
        if len(samples) < 2:
            raise NoiseregError(f"shift needs at least 2 samples, not {len(samples)}")
        one, two = (features(x).double().mean(0) for x in (samples, reference))
        return {"shift": float((one - two).norm())}


class Tensors(RightMetric):
    def compute(self, samples, reference, features):
        return {"shift": torch.tensor(super().compute(samples, reference, features)["shift"])}


class Unnamed(RightMetric):
    better = {}


class WrongWay(RightMetric):
    better = {"shift": "higher"}


class Constant(RightMetric):
    def compute(self, samples, reference, features):
        return {"shift": 0.0}


class Subsamples(RightMetric):
    def compute(self, samples, reference, features):
        some = torch.randperm(len(samples))[:50]
        return super().compute(samples[some], reference, features)


class Shuffles(RightMetric):
    def compute(self, samples, reference, features):
        reference.flatten()[0] = 0
        return super().compute(samples, reference, features)


class FirstHalf(RightMetric):
    def compute(self, samples, reference, features):
        return super().compute(samples[: len(samples) // 2 + 1], reference, features)


class OneIsTooFew(RightMetric):
    def compute(self, samples, reference, features):
        return {"shift": statistics.variance(samples.flatten(1).double().mean(1).tolist())}


class OfRuns(Metric):
    """The mean power of what the network gives for a sample at t = ½."""

    better = {"power": "lower"}
    needs_model = True

    def __init__(self, params, ctx):
        pass

    def of_model(self, model, data):
        x = data.split("heldout").batch(torch.arange(4)).x
        out = model.predict(x, torch.full((4,), 0.5, dtype=torch.float64)).eps_hat
        return {"power": float(out.detach().square().mean())}


class Dreams(OfRuns):
    def of_model(self, model, data):
        return {"power": float(torch.rand(()))}


class Forgets(OfRuns):
    better = {}


METRICS = {
    "gives_named_numbers": [
        (Tensors, "expected float"),
        (Unnamed, "better does not say of shift"),
    ],
    "knows_bad_samples": [
        (WrongWay, "'higher' is said to be better"),
        (Constant, "no number tells"),
    ],
    "depends_on_its_input_alone": [
        (Subsamples, "global generator of torch"),
        (Shuffles, "changes reference in place"),
    ],
    "order_does_not_matter": [(FirstHalf, "in another order")],
    "too_few_samples_are_refused": [(OneIsTooFew, "expected a ")],
    "measures_a_model_the_same_twice": [
        (Dreams, "global generator of torch"),
        (Forgets, "better does not say of power"),
    ],
}

# Feature spaces


class RightFeatures(Features):
    identity = "means of rows"

    def __init__(self, params, ctx):
        pass

    def __call__(self, x):
        return x.flatten(1).float()


class ImagesBack(RightFeatures):
    def __call__(self, x):
        return x.float()


class Centred(RightFeatures):
    def __call__(self, x):
        return super().__call__(x) - super().__call__(x).mean(0)


class Projected(RightFeatures):
    def __call__(self, x):
        flat = super().__call__(x)
        return flat @ torch.randn(flat.shape[1], 4)


class Nameless(RightFeatures):
    identity = ""


FEATURES = {
    "one_row_a_sample": [(ImagesBack, "expected (N, D)")],
    "samples_do_not_see_each_other": [(Centred, "differ from those in a batch")],
    "depends_on_its_input_alone": [(Projected, "global generator of torch")],
    "names_itself": [(Nameless, "identity is empty")],
}

# Tasks


class RightTask(Task):
    """Labels, of which some are withheld."""

    guidable = True

    def __init__(self, params, ctx):
        self.classes = ctx.dataset.classes

    def cond(self, batch):
        return batch.labels

    def withhold(self, cond, u):
        return torch.where(u < 0.1, self.classes, cond)

    def null(self, cond):
        return torch.full_like(cond, self.classes)


class LabelsAsFloats(RightTask):
    def cond(self, batch):
        return batch.labels.float()


class Undeclared(RightTask):
    def __init__(self, params, ctx):
        self.classes = 0


class RandomLabels(RightTask):
    def cond(self, batch):
        return torch.randint(0, self.classes, batch.labels.shape)


class WithholdsByChance(RightTask):
    def withhold(self, cond, u):
        return torch.where(torch.rand(len(cond)) < 0.1, self.classes, cond)


class NeverWithholds(RightTask):
    withhold = Task.withhold


TASKS = {
    "condition_is_as_declared": [
        (LabelsAsFloats, "torch.float32"),
        (Undeclared, "neither channels nor classes"),
    ],
    "condition_depends_on_the_batch_alone": [(RandomLabels, "global generator of torch")],
    "withholding_follows_its_numbers": [
        (WithholdsByChance, "global generator of torch"),
        (NeverWithholds, "does not withhold every condition"),
    ],
}

# Loggers


class RightLogger(Logger):
    def __init__(self, params, ctx):
        self.file = None

    def run_started(self, out, config):
        self.file = (out / "mine.log").open("a")

    def logged(self, step, metrics):
        self.file.write(f"{step} {dict(metrics)}\n")

    def run_ended(self, error):
        self.file.close()


class StepsOnlyForward(RightLogger):
    last = 0

    def logged(self, step, metrics):
        assert step > self.last, "steps must grow"
        self.last = step


class NeedsAStep(RightLogger):
    step = None

    def logged(self, step, metrics):
        self.step = step

    def run_ended(self, error):
        assert self.step is not None, "nothing was logged"


class Overwrites(RightLogger):
    def run_started(self, out, config):
        super().run_started(out, config)
        (out / "metrics.jsonl").write_text("")


class Moves(RightLogger):
    def run_started(self, out, config):
        super().run_started(out, config)
        os.chdir(out.parent)


class Pops(RightLogger):
    def logged(self, step, metrics):
        metrics.pop("loss")


LOGGERS = {
    "follows_a_run": [(StepsOnlyForward, "steps must grow")],
    "ends_a_run_that_did_not_start": [(NeedsAStep, "nothing was logged")],
    "leaves_the_run_alone": [
        (Overwrites, "metrics.jsonl"),
        (Moves, "working directory"),
        (Pops, "changes the metrics"),
    ],
}

KITS = {
    "metric": (RightMetric, METRICS),
    "features": (RightFeatures, FEATURES),
    "task": (RightTask, TASKS),
    "logger": (RightLogger, LOGGERS),
}


@pytest.mark.parametrize("kind", KITS)
def test_a_right_one_passes_every_check(kind):
    assert failures(kind, KITS[kind][0]) == {}


def test_a_right_metric_of_runs_passes_and_the_checks_of_samples_do_not_apply_to_it():
    assert failures("metric", OfRuns) == {}
    assert outcome("metric", "measures_a_model_the_same_twice", OfRuns).status == "passed"
    assert outcome("metric", "knows_bad_samples", OfRuns).status == "not applicable"


@pytest.mark.parametrize(
    ("kind", "name", "case"),
    [
        (kind, name, k)
        for kind, (_, wrong) in KITS.items()
        for name, cases in wrong.items()
        for k in range(len(cases))
    ],
)
def test_the_check_catches_a_wrong_one(kind, name, case, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert_caught(kind, name, *KITS[kind][1][name][case])


@pytest.mark.parametrize("kind", KITS)
def test_every_check_has_a_wrong_one(kind):
    assert_complete(kind, KITS[kind][1])


# What all kinds share


class Plain(Noise):
    def __init__(self, params, ctx):
        pass


class Undescribed(Params):
    strength: float = 1.0


class Lossy(Params):
    """Comes back from a file as something else."""

    strength: float = Field(1.0, description="is changed when it is read", gt=0)

    def model_post_init(self, context):
        object.__setattr__(self, "strength", self.strength / 3)


def described(**fields):
    """The check's outcome for a component with these fields."""
    known = Registry()
    values = {"name": "it", "impl": Plain, "summary": "for a test", **fields}
    known.register(Component(**values), "noise")
    (check,) = [c for c in checks("noise") if c.name == "describes_itself"]
    return run(check, Subject("noise", Spec(name="it"), known)).message


def test_a_descriptor_that_says_too_little_is_caught():
    assert described() == ""
    assert "has no summary" in described(summary="")
    assert "several lines" in described(summary="one\ntwo")
    assert "no description of the parameters strength" in described(params=Undescribed)
    assert "they count from 1" in described(revision=0)
    assert "its class is a metric" in described(impl=RightMetric)


def test_parameters_that_do_not_survive_a_file_are_caught():
    assert_caught("noise", "parameters_survive_a_file", Plain, "comes back as", params=Lossy)
    assert outcome("noise", "parameters_survive_a_file", Plain).status == "passed"
