"""The conformance kit in offline mode, and what is found in a run's folder afterwards. Skipped
without wandb.
"""

import pytest

pytest.importorskip("wandb")

from noisereg_wandb import WandbParams
from noisereg_wandb.logger import WandbLogger, run_id

import noisereg
from noisereg.api import Context
from noisereg.testing import conformance

test_wandb = conformance("logger", "noisereg-wandb/wandb:mode=offline")


def test_a_run_is_recorded_offline_with_its_configuration_and_metrics(tmp_path):
    logger = WandbLogger(WandbParams(mode="offline", tags=("a", "b"), group="sweep-1"), Context())
    logger.run_started(tmp_path, {"noise": {"name": "white"}, "seed": 3})
    recorded = logger._run
    assert recorded.config["noise"] == {"name": "white"}
    assert (recorded.name, recorded.group, recorded.tags) == (tmp_path.name, "sweep-1", ("a", "b"))
    logger.logged(50, {"loss": 1.5})
    logger.logged(100, {"loss": 1.25, "isotropy": 0.1})
    logger.logged(150, {})  # wandb commits a step when the next one begins
    assert (recorded.summary["loss"], recorded.summary["isotropy"]) == (1.25, 0.1)
    logger.run_ended(None)
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    assert folder.name.endswith(run_id(tmp_path))
    assert list(folder.glob("*.wandb"))


def test_one_folder_is_one_wandb_run(tmp_path):
    assert run_id(tmp_path / "a") == run_id(tmp_path / "b" / ".." / "a")
    assert run_id(tmp_path / "a") != run_id(tmp_path / "b")


def test_training_logs_to_it(tmp_path):
    noisereg.train(
        data="digits",
        train={"steps": 2, "batch_size": 8, "log_every": 1},
        sample={"steps": 1},
        runtime={"device": "cpu"},
        log=["noisereg-wandb/wandb:mode=offline"],
        out=tmp_path / "run",
    )
    assert list((tmp_path / "run/wandb").glob("offline-run-*/*.wandb"))
    assert list((tmp_path / "run/wandb").rglob("media/images/samples*.png"))
