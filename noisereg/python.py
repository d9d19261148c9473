"""noisereg from Python: what ``import noisereg`` offers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from noisereg.api import Component, Context
from noisereg.plugins.registry import Kind, registry
from noisereg.plugins.spec import Spec
from noisereg.runs.config import Config, layer, load_plugins, validate
from noisereg.runs.reporter import Reporter
from noisereg.runs.run import Run
from noisereg.store import cache_dir


def train(
    config: Config | None = None,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    accept_data: bool = False,
    reporter: Reporter | None = None,
    **sections: Any,
) -> Run:
    """Train a run and return it.

    ``sections`` are those of a configuration file (``noise="blue-tv"``,
    ``reg=["isotropy:weight=0.1"]``, ``train={"steps": 300}``, ``plugins=["./mine.py"]``), over
    ``config`` or the defaults. ``out`` is the run's folder, by default ``runs/<date>-…``;
    ``resume`` goes on with the run that is there, on the data it was started on, or, with
    ``accept_data``, on what they are now.

    Raises:
        NoiseregError: for a mistake; nothing is written then.
    """
    from noisereg.runs.train import train as engine_train

    given = sections.pop("plugins", [])
    values = layer(config.dump() if config else {}, sections)
    for section in ("reg", "log"):  # what is given by name may be one spec
        if isinstance(values.get(section), str):
            values[section] = [values[section]]
    references = [given] if isinstance(given, str) else given
    complete = validate(load_plugins(registry(), values, map(str, references)))
    return engine_train(
        complete,
        Path(out) if out else None,
        resume,
        registry(),
        reporter or Reporter(),
        accept_data,
    )


def load(path: str | Path) -> Run:
    """The run in a folder.

    Raises:
        NoiseregError: if there is none.
    """
    return Run.open(path, registry())


def evaluate(
    paths: Sequence[str | Path], metrics: Sequence[str] = ("prdc",), **options: Any
) -> list[dict[str, Any]]:
    """The rows of the ablation table of runs, sweeps and image folders, as ``noisereg eval`` makes
    it.
    """
    from noisereg.evaluation.evaluate import evaluate as run_evaluation

    return run_evaluation(paths, metrics, **options)


def build(kind: Kind, spec: str, *, shape: Sequence[int] = (), **context: Any) -> Any:
    """One component for one's own loop: ``build("noise", "blue-tv", shape=(3, 64, 64))``.

    ``context`` goes to :class:`noisereg.api.Context` (``device``, ``noise``, ``process``, …).

    Raises:
        NoiseregError: for an unknown name or parameter.
    """
    parsed = Spec.parse(spec)
    ctx = Context(
        **{"shape": tuple(shape), "dtype": torch.float32, "cache_dir": cache_dir(), **context}
    )
    return registry().build(kind, parsed.name, parsed.params, ctx)


def register(component: Component, kind: Kind | None = None) -> None:
    """Add a component for this session; its kind is read off its class where that extends a base
    of noisereg.api.
    """
    registry().register(component, kind)


__all__ = ["build", "evaluate", "load", "register", "train"]
