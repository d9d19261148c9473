"""How straight sampling's paths are: a metric of the model itself, in one file.

Used with ``noisereg eval RUN --metric path-length --steps 2,50 --plugin straightness.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from noisereg.api import Component, Context, Dataset, Field, Metric, Model, Params, hookimpl


class PathLengthParams(Params):
    num: int = Field(64, ge=1, description="of samples whose paths are measured")


class PathLength(Metric):
    """Mean over samples of Σ‖x_s − x_t‖ / ‖x_0 − x_1‖, the path's length over that of the straight
    line between its ends: 1 if it is straight (Liu et al. 2022, arXiv 2209.03003, have ∫‖v − (x_0
    − x_1)‖² dt for it)."""

    better = {"path-length": "lower"}
    needs_model = True

    def __init__(self, params: PathLengthParams, ctx: Context) -> None:
        self.num = params.num

    def of_model(self, model: Model, data: Dataset) -> dict[str, float]:
        import torch

        split = data.split("heldout")
        indices = range(min(self.num, len(split)))
        cond = model.task.cond(split.batch(torch.tensor(indices)))
        cond = None if cond is None else cond.to(model.device)
        with torch.inference_mode():
            path = [x.double().flatten(1) for x in model.trajectory(indices, cond)]
        length = torch.stack([(s - t).norm(dim=1) for t, s in pairwise(path)]).sum(0)
        return {"path-length": float((length / (path[-1] - path[0]).norm(dim=1)).mean())}


@hookimpl
def noisereg_metrics() -> Iterator[Component]:
    yield Component(
        name="path-length",
        impl=PathLength,
        params=PathLengthParams,
        summary="length of sampling's paths over that of straight lines",
        cite="Liu et al. 2022, arXiv 2209.03003",
        api=1,
    )
