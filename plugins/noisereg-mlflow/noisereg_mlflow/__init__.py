"""MLflow as a logger. Importing this imports neither torch nor mlflow."""

from collections.abc import Iterator

from noisereg.api import Component, Field, Params, hookimpl


class MlflowParams(Params):
    experiment: str = Field("noisereg", min_length=1, description="of MLflow; made if new")
    uri: str | None = Field(
        None,
        description="of the tracking server, or file:FOLDER; none: as MLFLOW_TRACKING_URI says, "
        "else RUN/mlruns",
    )
    title: str | None = Field(None, description="of the run; none: the name of its folder")


@hookimpl
def noisereg_loggers() -> Iterator[Component]:
    yield Component(
        name="mlflow",
        impl="noisereg_mlflow.logger:MlflowLogger",
        params=MlflowParams,
        summary="MLflow, a server or files in RUN/mlruns",
        cite="https://mlflow.org",
        api=1,
    )
