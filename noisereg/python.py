"""noisereg from Python: what ``import noisereg`` offers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from noisereg.api import (
    Component,
    Context,
    Grid,
    Noise,
    NoiseregError,
    Pairing,
    Process,
    Regularizer,
    Solver,
    TimeInput,
)
from noisereg.diffusion import compatible, diffusion
from noisereg.diffusion.adjust import Clip
from noisereg.diffusion.loss import Net, Weighted
from noisereg.diffusion.solvers import DDIM
from noisereg.plugins.registry import Kind, registry
from noisereg.plugins.spec import Spec
from noisereg.runs.config import Config, layer, load_plugins, validate
from noisereg.runs.reporter import Reporter
from noisereg.runs.run import Run
from noisereg.runs.sampling import build_clip
from noisereg.runs.schedule import Schedule
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


class Diffusion(diffusion.Diffusion):
    """:class:`noisereg.diffusion.diffusion.Diffusion` from names, for one's own training loop.

        diffusion = Diffusion(shape=(3, 64, 64), process="iadb", noise="blue-tv")
        net = UNet2DModel(in_channels=3, out_channels=3 * diffusion.outputs)
        loss, parts = diffusion.loss(net, x0)
        images = diffusion.sample(net, 16, steps=50)

    Raises:
        NoiseregError: for an unknown name or parameter, and what does not go together.
    """

    def __init__(
        self,
        shape: Sequence[int],
        process: str | Process = "ddpm",
        noise: str | Noise = "white",
        reg: str | Sequence[str | Regularizer | Weighted] = (),
        pairing: str | Pairing | None = None,
        T: int | None = None,
        time_input: TimeInput = "unit",
        steps: int | None = None,
    ) -> None:
        """Components by spec (``"blue-tv:gamma.tau=0.1"``) or built; a built regularizer has
        weight 1 unless it is a ``Weighted``. ``steps``: of the whole loop, for weights that change
        until its end. The rest is as in the class this extends.
        """
        ctx = Context(shape=tuple(shape), dtype=torch.float32, cache_dir=cache_dir())
        made_noise: Noise = _built("noise", noise, ctx)
        ctx = dataclasses.replace(ctx, noise=made_noise)
        made_process: Process = _built("process", process, ctx)
        ctx = dataclasses.replace(ctx, process=made_process)
        super().__init__(
            shape,
            made_process,
            made_noise,
            _weighted([reg] if isinstance(reg, str) else reg, ctx, steps),
            None if pairing in (None, "none") else _built("pairing", pairing, ctx),
            T,
            time_input,
        )

    def sample(
        self,
        net: Net,
        num: int,
        *,
        steps: int = 100,
        solver: str | Solver | None = None,
        grid: str | Grid | None = None,
        clip: str | Clip | None = None,
        **options: Any,
    ) -> Tensor:
        """As in the class this extends, ``solver``, ``grid`` and ``clip`` by spec
        (``"ddim:eta=0"``, ``"edm:rho=7"``, ``"static"``) or built.
        """
        made: Solver | None = None if solver is None else _built("solver", solver, Context())
        grid = grid or compatible.default_grid(self.process, self.noise, made or DDIM())
        return super().sample(
            net,
            num,
            steps=steps,
            solver=made,
            grid=_built("grid", grid, Context()),
            clip=build_clip(Spec.parse(clip)) if isinstance(clip, str) else clip,
            **options,
        )


def _built(kind: Kind, given: Any, ctx: Context) -> Any:
    """The component that is named, or the one that is given."""
    if not isinstance(given, str):
        return given
    spec = Spec.parse(given)
    return registry().build(kind, spec.name, spec.params, ctx)


def _weighted(
    reg: Sequence[str | Regularizer | Weighted], ctx: Context, steps: int | None
) -> list[Weighted]:
    weighted: list[Weighted] = []
    for number, given in enumerate(reg):
        if isinstance(given, Weighted):
            weighted.append(given)
            continue
        if not isinstance(given, str):
            weighted.append(Weighted(type(given).__name__.lower(), 1.0, given))
            continue
        spec = Spec.parse(given)
        entry = registry().find("regularizer", spec.name)
        params: Any = registry().params(entry, spec.params)
        if params.schedule != "constant" and steps is None:
            raise NoiseregError(
                f"{entry.name}: schedule={params.schedule} falls to 0 at the loop's end; "
                "expected steps=N, the loop's length"
            )
        name = (
            entry.name
            if entry.name not in (w.name for w in weighted)
            else f"{entry.name}.{number}"
        )
        term = registry().build("regularizer", spec.name, spec.params, ctx)
        schedule = Schedule(params.schedule, params.warmup, steps or 1)
        weighted.append(Weighted(name, float(params.weight), term, schedule))
    return weighted


def register(component: Component, kind: Kind | None = None) -> None:
    """Add a component for this session; its kind is read off its class where that extends a base
    of noisereg.api.
    """
    registry().register(component, kind)


__all__ = ["Diffusion", "build", "evaluate", "load", "register", "train"]
