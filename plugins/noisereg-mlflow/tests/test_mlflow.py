"""The conformance kit against a store of files, and what is found there afterwards. Skipped
without mlflow.
"""

import pytest

pytest.importorskip("mlflow")

from mlflow.tracking import MlflowClient
from noisereg_mlflow import MlflowParams
from noisereg_mlflow.logger import TAG, MlflowLogger

import noisereg
from noisereg.api import Context
from noisereg.testing import conformance

test_mlflow = conformance("logger", "noisereg-mlflow/mlflow")


def recorded(folder, experiment="noisereg"):
    client = MlflowClient((folder / "mlruns").as_uri())
    found = client.get_experiment_by_name(experiment)
    return client, client.search_runs([found.experiment_id])


def test_a_run_is_recorded_and_goes_on_where_it_was(tmp_path):
    for step, error in ((50, RuntimeError("killed")), (100, None)):
        logger = MlflowLogger(MlflowParams(title="first"), Context())
        logger.run_started(tmp_path, {"noise": {"name": "white"}, "seed": 3})
        logger.logged(step, {"loss": 1.5, "eval/fd-pixels": 2.0})
        logger.run_ended(error)
        client, (run,) = recorded(tmp_path)
        assert run.info.status == ("FINISHED" if error is None else "FAILED")
    assert run.data.params == {"noise.name": "white", "seed": "3"}
    assert run.data.tags[TAG] == str(tmp_path)
    assert run.info.run_name == "first"
    history = client.get_metric_history(run.info.run_id, "eval/fd-pixels")
    assert [point.step for point in history] == [50, 100]


def test_training_logs_to_it(tmp_path):
    noisereg.train(
        data="digits",
        train={"steps": 2, "batch_size": 8, "log_every": 1},
        sample={"steps": 1},
        runtime={"device": "cpu"},
        log=["noisereg-mlflow/mlflow"],
        out=tmp_path / "run",
    )
    _, (run,) = recorded(tmp_path / "run")
    assert run.data.metrics["loss"] > 0
    assert list((tmp_path / "run/mlruns").rglob("samples/000002.png"))
