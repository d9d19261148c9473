"""What a run measures, to MLflow."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from noisereg.api import Context, Logger, NoiseregError
from noisereg_mlflow import MlflowParams

TAG = "noisereg.run"
"""Holds the run's folder, so that a run that is resumed goes on with its curves."""
LONGEST = 500
"""Characters of a parameter's value: what the oldest stores take."""


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys of nested mappings."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


class MlflowLogger(Logger):
    """One MLflow run a run folder, with its configuration as parameters; marked as failed if
    training failed.

    Raises:
        NoiseregError: if mlflow is not installed.
    """

    def __init__(self, params: MlflowParams, ctx: Context) -> None:
        try:
            from mlflow.tracking import MlflowClient
        except ImportError:
            raise NoiseregError(
                "`log=mlflow` needs the package mlflow: pip install mlflow-skinny"
            ) from None
        self.params = params
        self._new_client = MlflowClient
        self._client: Any = None
        self._run = ""

    def run_started(self, out: Path, config: dict[str, Any]) -> None:
        folder = out.resolve()
        uri = self.params.uri or os.environ.get("MLFLOW_TRACKING_URI")
        uri = uri or (folder / "mlruns").as_uri()
        if uri.startswith("file:"):  # newer versions want to be told that files are meant
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        self._client = self._new_client(uri)
        found = self._client.get_experiment_by_name(self.params.experiment)
        experiment = (
            found.experiment_id
            if found is not None
            else self._client.create_experiment(self.params.experiment)
        )
        same = self._client.search_runs([experiment], f"tags.`{TAG}` = '{folder}'", max_results=1)
        if same:
            self._run = same[0].info.run_id
            self._client.update_run(self._run, status="RUNNING")
            return
        title = self.params.title or folder.name
        made = self._client.create_run(experiment, run_name=title, tags={TAG: str(folder)})
        self._run = made.info.run_id
        for name, value in flat(config).items():
            self._client.log_param(self._run, name, str(value)[:LONGEST])

    def logged(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._client.log_metric(self._run, name, value, step=step)

    def pictured(self, step: int, name: str, picture: bytes) -> None:
        from PIL import Image

        image = Image.open(io.BytesIO(picture))
        self._client.log_image(self._run, image, artifact_file=f"{name}/{step:06d}.png")

    def run_ended(self, error: BaseException | None) -> None:
        if self._run:
            self._client.set_terminated(self._run, "FINISHED" if error is None else "FAILED")
