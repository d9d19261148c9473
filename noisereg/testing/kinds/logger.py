"""What a logger must do."""

from __future__ import annotations

import base64
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from noisereg.api import Logger
from noisereg.errors import NoiseregError
from noisereg.runs.config import Config
from noisereg.testing.kinds.common import EXACT, untouched_generators
from noisereg.testing.kit import POINTS, NotApplicable, Subject, check, expect

METRICS = {"loss": 1.5, "mse": 1.25, "isotropy/left_out": 0.0, "eval/fd-pixels": 3.0}
PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAADElEQVR42mNgoA4AAABIAAEQRe/SAAAAAElFTkSuQmCC"
)
"""A PNG of 8×8 grey pixels."""


@contextmanager
def run_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "run").mkdir()
        yield Path(folder) / "run"


def built(subject: Subject) -> Logger:
    """
    Raises:
        NotApplicable: if what it logs to is not installed.
    """
    try:
        return subject.build(shape=POINTS)
    except NoiseregError as error:
        raise NotApplicable(str(error)) from None


@check("logger", "no number is compared: it must not raise")
def follows_a_run(subject: Subject) -> None:
    """It is told of a run from beginning to end, of a step twice, as after a resumption, of a
    picture, and of a run that failed, and raises nothing."""
    for error in (None, RuntimeError("the loss is not finite")):
        with run_folder() as out:
            logger = built(subject)
            logger.run_started(out, Config().dump())
            for step in (1, 2, 2, 3):
                logger.logged(step, METRICS)
            logger.pictured(3, "samples", PICTURE)
            logger.run_ended(error)


@check("logger", EXACT)
def ends_a_run_that_did_not_start(subject: Subject) -> None:
    """run_ended before anything was logged raises nothing: a run may fail at its first step."""
    with run_folder() as out:
        logger = built(subject)
        logger.run_started(out, Config().dump())
        logger.run_ended(KeyboardInterrupt())


@check("logger", EXACT)
def leaves_the_run_alone(subject: Subject) -> None:
    """It draws from no global generator, leaves the metrics and the configuration as they are,
    writes to no file of the run and does not change the working directory."""
    with run_folder() as out:
        for name in ("config.yaml", "metrics.jsonl", "status.json"):
            (out / name).write_text("kept")
        logger, config, metrics, here = built(subject), Config().dump(), dict(METRICS), os.getcwd()
        with untouched_generators("it"):
            logger.run_started(out, config)
            logger.logged(1, metrics)
            logger.pictured(1, "samples", PICTURE)
            logger.run_ended(None)
        expect(metrics == METRICS, "it changes the metrics that it is told")
        expect(config == Config().dump(), "it changes the configuration that it is told")
        expect(os.getcwd() == here, "it changes the working directory")
        kept: dict[str, Any] = {
            n: (out / n).read_text() for n in ("config.yaml", "metrics.jsonl", "status.json")
        }
        expect(
            set(kept.values()) == {"kept"},
            f"it writes to the run's own files: {[n for n, v in kept.items() if v != 'kept']}",
        )
