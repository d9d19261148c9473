"""Metrics while a run trains, and the best checkpoint."""

import json
import shutil

import pytest

import noisereg
from noisereg.api import Component, Metric
from noisereg.cli.main import run as command
from noisereg.errors import NoiseregError
from noisereg.evaluation.evaluate import run_evaluation
from noisereg.evaluation.options import Options
from noisereg.report.report import number_pictures
from noisereg.runs import checkpoint_files
from noisereg.runs.best import Best
from noisereg.runs.checkpoint_files import best_step, steps_in
from noisereg.runs.reporter import Reporter
from noisereg.runs.train import Training
from noisereg.runs.validation import Validation

SETTINGS = {
    "denoiser": "mlp:width=8",
    "runtime": {"device": "cpu"},
    "sample": {"steps": 2},
    # A rate at which it soon gets worse: the best step is neither the last nor among the last.
    "optim": {"lr": 1.0},
    "ema": {"decay": 0.0},
}
TRAIN = {
    "steps": 8,
    "batch_size": 16,
    "log_every": 100,
    "checkpoint_every": 4,
    "keep_last": 1,
    "eval_every": 2,
    "eval_num": 70,
    "keep_best": "fd-pixels",
}


def measured(run):
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["eval/fd-pixels"] for line in lines if "eval/fd-pixels" in line}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return noisereg.train(
        out=tmp_path_factory.mktemp("validation") / "run",
        train=TRAIN,
        **SETTINGS,
    )


def test_a_metric_is_logged_every_so_many_steps_and_its_best_checkpoint_stays(trained):
    numbers = measured(trained)
    assert list(numbers) == [2, 4, 6, 8]
    best = min(numbers, key=numbers.get)
    assert best == 2  # with keep_last=1 step 8 alone would be left
    assert steps_in(trained.path / "checkpoints") == [best, 8]
    assert trained.checkpoint("best").step == best
    assert (
        json.loads((trained.path / "checkpoints/best.json").read_text())["metric"] == "fd-pixels"
    )


def test_the_number_is_the_one_that_eval_gives_of_that_checkpoint(trained):
    rows = noisereg.evaluate(
        [trained.path], metrics=["fd"], num=70, num_reference=70, checkpoint=[2, 8]
    )
    numbers = measured(trained)
    assert [row["label"] for row in rows] == ["checkpoint=2", "checkpoint=8"]
    for row, step in zip(rows, (2, 8), strict=True):
        assert row["metrics"]["fd-pixels"]["mean"] == pytest.approx(numbers[step], rel=1e-5)


def test_eval_takes_all_checkpoints_and_the_best(trained, capsys):
    def rows(checkpoint):
        given = "--metric fd --num 70 --num-reference 70 --format json --checkpoint"
        code = command(["eval", str(trained.path), *given.split(), checkpoint])
        out, err = capsys.readouterr()
        assert code == 0, err
        return json.loads(out)["tables"][0]["rows"]

    assert [r["label"] for r in rows("all")] == ["checkpoint=2", "checkpoint=8"]
    assert [r["label"] for r in rows("best")] == ["white"]
    assert [r["label"] for r in rows("8,best")] == [
        "checkpoint=8",
        "checkpoint=best",
    ]


def test_checkpoints_are_drawn_over_training(trained):
    options = Options(num=70, checkpoint=("all",))
    (found,) = run_evaluation([trained.path], ["fd"], options, trained.registry, Reporter())
    (picture,) = number_pictures(found.table)
    assert picture.name == "checkpoints"
    (axes,) = picture.figure.axes
    assert list(axes.lines[0].get_xdata()) == [2, 8]
    assert axes.get_xlabel() == "training step"


def test_a_checkpoint_that_is_not_there_is_named(trained, tmp_path, capsys):
    assert command(["eval", str(trained.path), "--checkpoint", "3"]) == 2
    assert "has no checkpoint of step 3; there are: 2, 8" in capsys.readouterr().err
    assert command(["sample", str(trained.path), "--checkpoint", "bets"]) == 2
    assert "--checkpoint bets: expected a step, or best" in capsys.readouterr().err


def test_a_resumed_run_keeps_and_knows_its_best(trained, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def killed(self, step):
        if step == 6:
            raise Killed
        return whole(self, step)

    whole = Training._evaluate
    monkeypatch.setattr(Training, "_evaluate", killed)
    options = {**SETTINGS, "train": TRAIN}
    with pytest.raises(Killed):
        noisereg.train(out=tmp_path / "run", **options)
    monkeypatch.undo()
    (tmp_path / "run/checkpoints/best.json").unlink()  # the kill may have come before it
    run = noisereg.train(out=tmp_path / "run", resume=True, **options)
    assert measured(run) == measured(trained)
    assert best_step(run.path / "checkpoints") == best_step(trained.path / "checkpoints") == 2
    assert steps_in(run.path / "checkpoints") == [2, 8]


def test_a_kill_before_the_best_is_recorded_is_made_good(trained, tmp_path, monkeypatch):
    """At the last step, after which nothing else would record it."""

    class Killed(BaseException):
        pass

    better = {**SETTINGS, "optim": {"lr": 0.1}}  # the last step is the best
    straight = noisereg.train(out=tmp_path / "straight", train=TRAIN, **better)
    assert best_step(straight.path / "checkpoints") == 8
    write = checkpoint_files.write_best

    def killed(folder, step, *more):
        if step == 8:
            raise Killed
        write(folder, step, *more)

    monkeypatch.setattr(checkpoint_files, "write_best", killed)
    with pytest.raises(Killed):
        noisereg.train(out=tmp_path / "run", train=TRAIN, **better)
    monkeypatch.undo()
    assert steps_in(tmp_path / "run/checkpoints") == [4, 8]
    run = noisereg.train(out=tmp_path / "run", resume=True, train=TRAIN, **better)
    assert steps_in(run.path / "checkpoints") == steps_in(straight.path / "checkpoints") == [8]
    records = [json.loads((r.path / "checkpoints/best.json").read_text()) for r in (run, straight)]
    assert records[0].pop("value") == pytest.approx(records[1].pop("value"), rel=1e-5)
    assert records[0] == records[1]


def told():
    said = []

    class Told(Reporter):
        def note(self, text):
            said.append(text)

    return Told(), said


def test_numbers_that_are_measured_otherwise_are_not_compared(trained, tmp_path):
    run = shutil.copytree(trained.path, tmp_path / "run")
    reporter, said = told()
    longer = {**TRAIN, "steps": 12}
    options = {**SETTINGS, "out": run, "resume": True, "reporter": reporter}
    other = noisereg.train(train={**longer, "eval_num": 8}, **options)
    assert any("fd-pixels is measured otherwise than up to step 8" in text for text in said)
    numbers = measured(other)
    best = min((10, 12), key=numbers.get)
    record = json.loads((run / "checkpoints/best.json").read_text())
    assert (record["step"], record["since"], record["measured"]["num"]) == (best, 8, 8)
    said.clear()
    # From the run's own file, where everything is filled in, they are the same.
    again = noisereg.train(
        **{**other.config.dump(), "train": {**other.config.dump()["train"], "steps": 14}},
        out=run,
        resume=True,
        reporter=reporter,
    )
    assert not any("measured otherwise" in text for text in said)
    numbers = measured(again)
    assert best_step(run / "checkpoints") == min((10, 12, 14), key=numbers.get)


def test_an_older_number_that_is_better_does_not_count_when_it_was_measured_otherwise(
    tmp_path, monkeypatch
):
    """1 of 70 samples, then 5, 4, … of 8; and a kill before the first best was recorded is no
    reason to compare them.
    """
    values = iter([1.0, 1.1, 1.2, 1.3, 5.0, 4.0, 3.0, 2.0])
    monkeypatch.setattr(Validation, "measure", lambda *_: {"fd-pixels": next(values)})
    options = {**SETTINGS, "out": tmp_path / "run"}
    kept = {**TRAIN, "checkpoint_every": 2, "keep_every": 2}
    noisereg.train(train=kept, **options)
    fewer = {**kept, "eval_num": 8}
    (tmp_path / "run/checkpoints/best.json").unlink()
    noisereg.train(train={**fewer, "steps": 12}, resume=True, **options)
    assert best_step(tmp_path / "run/checkpoints") == 12
    noisereg.train(train={**fewer, "steps": 16}, resume=True, **options)
    assert best_step(tmp_path / "run/checkpoints") == 16


def test_of_a_number_that_is_better_higher_the_highest_is_kept_and_recalled(tmp_path, monkeypatch):
    values = iter([0.2, 0.9, 0.5, 0.4, 0.3])
    monkeypatch.setattr(Validation, "measure", lambda *_: {"recall": next(values)})
    kept = {**TRAIN, "eval": "prdc", "keep_best": "recall"}
    options = {**SETTINGS, "out": tmp_path / "run"}
    noisereg.train(train=kept, **options)
    assert best_step(tmp_path / "run/checkpoints") == 4
    (tmp_path / "run/checkpoints/best.json").unlink()
    run = noisereg.train(train={**kept, "steps": 10}, resume=True, **options)
    assert best_step(run.path / "checkpoints") == 4
    assert steps_in(run.path / "checkpoints") == [4, 10]


def test_a_best_checkpoint_that_is_damaged_is_said_and_another_sought(trained, tmp_path):
    run = shutil.copytree(trained.path, tmp_path / "run")
    file = run / "checkpoints/000002/ema.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    reporter, said = told()
    longer = {**TRAIN, "steps": 12}
    found = noisereg.train(train=longer, out=run, resume=True, reporter=reporter, **SETTINGS)
    assert any("is damaged" in s and "it was the best by fd-pixels" in s for s in said)
    numbers = measured(found)
    assert found.checkpoint("best").step == min((8, 10, 12), key=numbers.get)


def test_a_resumed_run_knows_its_best_to_the_last_digit(trained, tmp_path, monkeypatch):
    """metrics.jsonl has six digits: a value between the two would win over the rounded one."""
    run = shutil.copytree(trained.path, tmp_path / "run")
    record = json.loads((run / "checkpoints/best.json").read_text())
    seen = []

    def stop(self, *given):
        found = recall(self, *given)
        seen.append((self.step, self.value))
        return found

    recall = Best.recall
    monkeypatch.setattr(Best, "recall", stop)
    longer = {**TRAIN, "steps": TRAIN["steps"] + 1}
    noisereg.train(out=run, resume=True, **{**SETTINGS, "train": longer})
    assert seen == [(record["step"], record["value"])]


def test_measuring_changes_no_weight(trained, tmp_path):
    plain = noisereg.train(
        out=tmp_path / "run",
        train={"steps": 8, "batch_size": 16},
        **SETTINGS,
    )
    name = "model.safetensors"
    assert plain.checkpoint().sha256[name] == trained.checkpoint(8).sha256[name]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"keep_best": "fd"}, "no number of train.eval is called 'fd'; there are: fd-pixels"),
        ({"keep_best": "fd", "eval_every": None}, "keep_best needs eval_every"),
        ({"eval": "kd"}, "kd averages over subsets of 1000 samples and there are 70"),
        ({"eval": ["fd", "psrn"]}, "did you mean 'psnr'"),
        ({"eval": "psnr"}, "this run is unconditional"),
    ],
)
def test_what_cannot_be_measured_is_said_before_training(settings, said, tmp_path):
    with pytest.raises(NoiseregError, match=said):
        noisereg.train(out=tmp_path / "run", train=TRAIN | settings, **SETTINGS)
    assert not (tmp_path / "run/config.yaml").exists()


def test_a_new_run_starts_from_the_best_checkpoint_and_resumes(trained, tmp_path):
    line = ["train", "--from", f"{trained.path}@best", "--resume", "--out", str(tmp_path / "new")]
    sets = ["--set", "optim.lr=1e-30", "--set", "train.eval_every=null"]
    sets += ["--set", "train.keep_best=null"]
    for steps in ("1", "2"):  # the second time as a queue runs the same line again
        assert command([*line, *sets, "--steps", steps]) == 0
    new = noisereg.load(tmp_path / "new")
    assert new.config.parent.step == trained.checkpoint("best").step == 2
    best, weights = trained.checkpoint("best").weights(ema=False), new.checkpoint().weights(False)
    assert all((best[name] - value).abs().max() < 1e-9 for name, value in weights.items())
    with pytest.raises(NoiseregError, match=r"trained without train\.keep_best"):
        noisereg.train(out=tmp_path / "another", parent=f"{new.path}@best", **SETTINGS)


class Breaks(Metric):
    better = {"broken": "lower"}

    def __init__(self, params, ctx):
        pass

    def compute(self, samples, reference, features):
        raise ZeroDivisionError("no spread")


def test_whatever_a_metric_raises_is_said_and_the_run_goes_on(tmp_path):
    noisereg.register(Component(name="breaks", impl=Breaks))
    reporter, said = told()
    train = {**TRAIN, "eval": ["fd", "breaks"]}
    run = noisereg.train(out=tmp_path / "run", train=train, reporter=reporter, **SETTINGS)
    assert run.status["status"] == "finished"
    assert any(
        "eval at step 2: session/breaks raised ZeroDivisionError: no spread" in s for s in said
    )
    assert list(measured(run)) == [2, 4, 6, 8]  # the other metric's


def test_of_what_is_measured_the_real_samples_alone_are_remembered(tmp_path, monkeypatch):
    """Their features and statistics are taken once a run; drawn samples are let go of."""
    taken, measure = [], Validation.measure

    def seen(self, *given):
        found = measure(self, *given)
        taken.append([dict(one.space._known) for one in self._metrics])
        assert all(x is self.real for one in taken[-1] for x, _ in one.values())
        return found

    monkeypatch.setattr(Validation, "measure", seen)
    noisereg.train(out=tmp_path / "run", train={**TRAIN, "eval": ["fd", "prdc"]}, **SETTINGS)
    first, last = taken[0][0], taken[-1][0]
    assert len(first) >= 2
    assert {key: id(value) for key, (_, value) in first.items()} == {
        key: id(value) for key, (_, value) in last.items()
    }


def test_a_metric_that_fails_is_said_and_the_run_goes_on(tmp_path, monkeypatch):
    def fails(self, step, reporter):
        raise NoiseregError("no number")

    monkeypatch.setattr(Validation, "measure", fails)
    said = []

    class Reading(Reporter):
        def note(self, text):
            said.append(text)

    run = noisereg.train(out=tmp_path / "run", train=TRAIN, reporter=Reading(), **SETTINGS)
    assert run.status["status"] == "finished"
    assert said.count("train.eval at step 2: no number; the run goes on") == 1
    with pytest.raises(NoiseregError, match=r"trained without train\.keep_best"):
        run.checkpoint("best")
