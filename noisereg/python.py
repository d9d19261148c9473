"""noisereg from Python: what ``import noisereg`` offers."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

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
from noisereg.diffusion.arguments import check_count
from noisereg.diffusion.diffusion import checked_shape
from noisereg.diffusion.loss import Net, Weighted
from noisereg.diffusion.solvers import DDIM
from noisereg.errors import nearest
from noisereg.folders import cache_dir
from noisereg.plugins.registry import BASES, Kind, check_kind, registry
from noisereg.plugins.spec import Spec
from noisereg.remote import local_or_copy
from noisereg.runs import run as runs
from noisereg.runs.config import Config, layer, load_plugins, validate
from noisereg.runs.given import named, register_denoiser
from noisereg.runs.logged import Log
from noisereg.runs.reporter import Calling, Reporter, usual_reporter
from noisereg.runs.sampling import build_clip
from noisereg.runs.schedule import Schedule
from noisereg.runs.stopping import Interrupted
from noisereg.tables.formats import layout, notes_of
from noisereg.tables.table import Table


def train(
    config: Config | None = None,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    accept_data: bool = False,
    reporter: Reporter | None = None,
    callback: Callable[[int, Mapping[str, float]], Any] | None = None,
    **sections: Any,
) -> Run:
    """Train a run and return it; in a notebook with a bar of progress.

    ``sections`` are those of a configuration file (``noise="blue-tv"``,
    ``reg=["isotropy:weight=0.1"]``, ``train={"steps": 300}``, ``plugins=["./mine.py"]``), over
    ``config`` or the defaults. ``out`` is the run's folder, by default ``runs/<date>-…``;
    ``resume`` goes on with the run that is there, on the data it was started on, or, with
    ``accept_data``, on what they are now.

    ``data`` may be a tensor (N, C, H, W) or (N, D), a pair of it and labels, or a torch
    ``Dataset``; ``denoiser`` an ``nn.Module``, called with (x_t, t in [0, 1]), with a copy of
    whose weights the run begins (:mod:`noisereg.runs.given`).

    ``callback`` is called with the step and the metrics at every line of metrics.jsonl; what it
    returns that is true asks the run to save and stop, to be resumed.

    Raises:
        NoiseregError: for a mistake; nothing is written then.
    """
    from noisereg.runs.train import train as engine_train

    if callback is not None and not callable(callback):
        raise NoiseregError(
            f"callback is a {type(callback).__name__}; expected a function of a step and its "
            "metrics"
        )
    _check_place("out", out)
    complete = validate(_layered(config, sections, "train"))
    told = reporter or usual_reporter()
    calling = Calling(told, callback) if callback else None
    place = local_or_copy(out) if out else None
    try:
        run = engine_train(complete, place, resume, registry(), calling or told, accept_data)
    except Interrupted as stopped:
        if calling is None or not calling.asked:
            raise
        return load(stopped.out)
    return Run(run.path, run.config, run.shape, run.registry)


def sweep(
    config: Config | None = None,
    *,
    out: str | Path,
    noise: Sequence[str] = (),
    reg: Sequence[str] = (),
    pairing: Sequence[str] = (),
    process: Sequence[str] = (),
    axes: Mapping[str, Sequence[Any]] | None = None,
    seeds: int = 1,
    jobs: int | None = None,
    launcher: str | None = None,
    reporter: Reporter | None = None,
    **sections: Any,
) -> Path:
    """Train the grid noise × reg × pairing × process × axes × seeds, as ``noisereg sweep`` does,
    and return its folder, which :func:`evaluate` makes a table of. The same call goes on with what
    was interrupted.

    The cells are trained in this process, one after another, with what was registered in it; with
    ``jobs`` above 1 in processes of their own, and with a ``launcher`` (``"ray:address=auto"``)
    where that trains them.

    Raises:
        NoiseregError: for a mistake (nothing is written then), and for cells that failed, once all
            others are trained.
    """
    from noisereg.inside import check_contents
    from noisereg.ownership import owned
    from noisereg.runs.config import RuntimeConfig
    from noisereg.runs.runtime import Runtime
    from noisereg.runs.train import train as engine_train
    from noisereg.sweeps.grid import check_continues, make_cells, read_grid, taking_part
    from noisereg.sweeps.resolve import resolve
    from noisereg.sweeps.training import SweepTraining, check_place

    _check_place("out", out)
    if jobs is not None:
        check_count("jobs", jobs)
    base = _layered(config, sections, "sweep")
    told, folder = reporter or usual_reporter(), local_or_copy(out)
    given = {"noise": noise, "reg": reg, "pairing": pairing, "process": process}
    chosen = {k: [v] if isinstance(v, str) else list(v) for k, v in given.items() if v}
    varied = {
        k: list(v) if isinstance(v, Sequence) and not isinstance(v, str) else [v]
        for k, v in (axes or {}).items()
    }
    grid = read_grid({**chosen, "axes": varied, "seeds": seeds})
    validate(base)
    runtime = Runtime.start(RuntimeConfig(**base.get("runtime", {})))
    resolved = resolve(make_cells(base, grid), registry(), runtime)
    for note in resolved.notes:
        told.note(note)
    check_contents(folder)
    failed: dict[str, str] = {}
    with contextlib.ExitStack() as held:
        spec = Spec.parse(launcher or "local")
        engine = registry().build("launcher", spec.name, spec.params, Context())
        check_place(folder, engine, spec.name)
        elsewhere = launcher is not None or (jobs or 1) > 1
        if elsewhere:
            engine.open(folder.absolute(), jobs or engine.jobs)
            held.callback(engine.close)
        with owned(folder, note=told.note):
            check_continues(folder, resolved.cells)
            written, lock = held.enter_context(taking_part(folder, base, grid, resolved.cells))
        if elsewhere:
            training = SweepTraining(written, engine, told, [], lock, jobs or engine.jobs)
            failed = training.run(written.cells).failed
        else:
            told.begin("sweep", len(written.cells))
            for k, cell in enumerate(written.cells):
                try:
                    if not written.finished(cell):
                        place = written.path_of(cell)
                        engine_train(cell.config, place, True, registry(), Reporter())
                except NoiseregError as error:
                    failed[cell.name] = str(error)
                told.advance(k + 1)
            told.end()
    if failed:
        name, reason = next(iter(failed.items()))
        raise NoiseregError(
            f"{len(failed)} of {len(written.cells)} cells failed; {name}: {reason}"
        )
    return folder


def _layered(config: Config | None, sections: dict[str, Any], call: str) -> dict[str, Any]:
    """The sections given by name over ``config``, their plugins loaded.

    Raises:
        NoiseregError: for what is no configuration, and a plugin that cannot be loaded.
    """
    if not isinstance(config, Config | None):
        raise NoiseregError(
            f"config is a {type(config).__name__}; expected a Config, such as load(RUN).config, "
            f"or its sections by name: {call}(**config)"
        )
    given = sections.pop("plugins", [])
    values = layer(config.dump() if config else {}, named(sections, registry()))
    for section in ("reg", "log"):  # what is given by name may be one spec
        if isinstance(one := values.get(section), str):
            values[section] = [one]
        elif isinstance(one, tuple):
            values[section] = list(one)
    references = [given] if isinstance(given, str | Path) else given
    return load_plugins(registry(), values, map(str, references))


def _check_place(name: str, given: Any) -> None:
    """
    Raises:
        NoiseregError: for what is neither a path, an address nor None.
    """
    if given is not None and not isinstance(given, str | Path):
        raise NoiseregError(f"`{name}={given!r}` is a {type(given).__name__}; expected a folder")


class Run(runs.Run):
    """A trained, or training, run: what :func:`train` and :func:`load` give. A notebook shows it
    by its last picture of samples.
    """

    @property
    def diffusion(self) -> Diffusion:
        """The run's process, noise and terms, for one's own loop."""
        own = super().diffusion
        return Diffusion(
            own.shape,
            own.process,
            own.noise,
            own.regularizers,
            own.pairing,
            own.T,
            own.time_input,
        )

    def history(self) -> list[dict[str, float]]:
        """The lines of metrics.jsonl, one mapping a step: ``pandas.DataFrame(run.history())``."""
        return Log.read(self.path).values()

    def export(
        self,
        out: str | Path,
        to: str = "diffusers",
        checkpoint: int | str | None = None,
        ema: bool = True,
    ) -> Path:
        """Write the run as a folder that diffusers' pipelines load and sample from.

        Raises:
            NoiseregError: for another format, a folder that is not new, and a run that diffusers
                cannot sample.
        """
        from noisereg.exchange.to_diffusers import export

        if to != "diffusers":
            raise NoiseregError(f"`to={to}`: expected diffusers")
        step = self.checkpoint_step(checkpoint) if isinstance(checkpoint, str) else checkpoint
        export(self, Path(out).expanduser(), step, ema)
        return Path(out)

    def evaluate(self, metrics: Sequence[str] = ("prdc",), **options: Any) -> Rows:
        """:func:`evaluate` of this run alone."""
        return evaluate([self.path], metrics, **options)

    def _picture(self) -> Path | None:
        found = sorted((self.path / "samples").glob("[0-9]*.png"))
        return found[-1] if found else None

    def _repr_png_(self) -> bytes | None:
        path = self._picture()
        return None if path is None else path.read_bytes()

    def _repr_html_(self) -> str:
        status = self.status
        parts = [self.config.noise, *self.config.reg, self.config.process, self.config.data]
        last = (self.history() or [{}])[-1]
        numbers = {k: v for k, v in last.items() if k == "loss" or k.startswith("eval/")}
        lines = [
            f"<b>{escape(runs.shown(self.path))}</b>",
            escape(" · ".join(spec.name for spec in parts)),
            f"{status['status']} at step {status['step']:,} of {self.config.train.steps:,}"
            + "".join(f" · {escape(k)} {v:.4g}" for k, v in numbers.items()),
        ]
        if png := self._repr_png_():
            data = base64.b64encode(png).decode()
            lines.append(f'<img alt="samples" src="data:image/png;base64,{data}">')
        return "<br>".join(lines)


class Rows(list[dict[str, Any]]):
    """The rows of one or several tables; a notebook shows the tables."""

    def __init__(self, tables: Sequence[Table]) -> None:
        super().__init__(row for table in tables for row in table.as_rows())
        self.tables = list(tables)

    def _repr_html_(self) -> str:
        return "".join(_table_html(table) for table in self.tables)


def _table_html(table: Table) -> str:
    shape = layout(table)
    head = "".join(f"<th>{escape(h)}</th>" for h in ["", *shape.headers])
    body = []
    for line in shape.lines:
        if line.heading:
            span = len(shape.headers) + 1
            body.append(f'<tr><th colspan="{span}">{escape(line.heading)}</th></tr>')
        cells = "".join(
            f"<td>{escape(cell.value)}{f' ({escape(cell.change)})' if cell.change else ''}</td>"
            for cell in line.cells
        )
        body.append(f'<tr><th style="text-align:left">{escape(line.label)}</th>{cells}</tr>')
    notes = "".join(f"<li>{escape(note)}</li>" for note in notes_of(table))
    caption = escape(" · ".join(table.head))
    return (
        f'<table><caption style="text-align:left">{caption}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table><ul>{notes}</ul>"
    )


def load(path: str | Path, denoiser: nn.Module | None = None) -> Run:
    """The run in a folder, or at an address (``s3://bucket/run``), of which a copy is made;
    ``denoiser`` is the network that a run of another session was given.

    Raises:
        NoiseregError: if there is none.
    """
    if not isinstance(path, str | Path):
        raise NoiseregError(f"load() of {type(path).__name__}; expected a run's folder or address")
    if not isinstance(denoiser, nn.Module | None):
        raise NoiseregError(f"denoiser is a {type(denoiser).__name__}; expected an nn.Module")
    if denoiser is not None:
        register_denoiser(denoiser, registry())
    opened = Run.open(local_or_copy(path), registry())
    assert isinstance(opened, Run)
    return opened


def evaluate(
    paths: Sequence[str | Path | Run], metrics: Sequence[str] = ("prdc",), **options: Any
) -> Rows:
    """The rows of the ablation table of runs, sweeps and image folders, one or several, as
    ``noisereg eval`` makes it, those of several tables one after another.

    Raises:
        NoiseregError: for a mistake, in one line.
    """
    from noisereg.evaluation.evaluate import run_evaluation
    from noisereg.evaluation.options import Options
    from noisereg.tables.effects import effects

    given = Options.of(options)
    several = [paths] if isinstance(paths, str | Path | runs.Run) else list(paths)
    given_paths = [one.path if isinstance(one, runs.Run) else one for one in several]
    for path in given_paths:
        _check_place("paths", path)
    places = [local_or_copy(path) for path in given_paths]
    names = [metrics] if isinstance(metrics, str) or not isinstance(metrics, Iterable) else metrics
    names = list(names)
    if not all(isinstance(name, str) for name in names):
        raise NoiseregError(f"`metrics={metrics!r}`: expected names, such as prdc or fd")
    found = run_evaluation(places, names, given, registry(), usual_reporter())
    tables = [each.table for each in found]
    return Rows([effects(t, given.effects) for t in tables] if given.effects else tables)


def build(kind: Kind, spec: str, *, shape: Sequence[int] = (), **context: Any) -> Any:
    """One component for one's own loop: ``build("noise", "blue-tv", shape=(3, 64, 64))``.

    ``context`` goes to :class:`noisereg.api.Context` (``device``, ``noise``, ``process``, …).

    Raises:
        NoiseregError: for an unknown kind, name, parameter or part of the context.
    """
    check_kind(kind)
    known = [field.name for field in dataclasses.fields(Context)]
    if unknown := next((name for name in context if name not in known), None):
        raise NoiseregError(f"build() has no argument {unknown!r}{nearest(unknown, known)}")
    parsed = Spec.parse(spec)
    sizes = () if isinstance(shape, Sequence) and not len(shape) else checked_shape(shape)
    given = {"shape": sizes, "dtype": torch.float32, "cache_dir": cache_dir(), **context}
    ctx = Context(**given)
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
        shape = checked_shape(shape)
        ctx = Context(shape=shape, dtype=torch.float32, cache_dir=cache_dir())
        made_noise: Noise = _built("noise", noise, ctx)
        ctx = dataclasses.replace(ctx, noise=made_noise)
        made_process: Process = _built("process", process, ctx)
        ctx = dataclasses.replace(ctx, process=made_process)
        several = reg is None or (isinstance(reg, Sequence) and not isinstance(reg, str))
        terms: list[Any] = list(reg or ()) if several else [reg]
        if terms == ["none"]:  # as on the command line
            terms = []
        super().__init__(
            shape,
            made_process,
            made_noise,
            _weighted(terms, ctx, steps),
            None if pairing in (None, "none") else _built("pairing", pairing, ctx),
            T,
            time_input,
        )

    def sample(
        self,
        net: Net,
        num: int,
        *,
        steps: int | None = None,
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
    if isinstance(given, str):
        spec = Spec.parse(given)
        return registry().build(kind, spec.name, spec.params, ctx)
    if not isinstance(given, BASES[kind]):
        raise NoiseregError(
            f"the {kind} is {type(given).__name__}; expected a spec, such as "
            f"{registry().entries(kind)[0].name!r}, or a {BASES[kind].__name__}"
        )
    return given


def _weighted(
    reg: Sequence[str | Regularizer | Weighted], ctx: Context, steps: int | None
) -> list[Weighted]:
    weighted: list[Weighted] = []

    def free(name: str) -> str:
        """Each has a column of its own among the parts of the loss."""
        return name if name not in (w.name for w in weighted) else f"{name}.{len(weighted)}"

    for given in reg:
        if isinstance(given, Weighted):
            weighted.append(dataclasses.replace(given, name=free(given.name)))
            continue
        if not isinstance(given, str):
            term = _built("regularizer", given, ctx)
            weighted.append(Weighted(free(type(term).__name__.lower()), 1.0, term))
            continue
        spec = Spec.parse(given)
        entry = registry().find("regularizer", spec.name)
        params: Any = registry().params(entry, spec.params)
        if params.schedule != "constant" and steps is None:
            raise NoiseregError(
                f"{entry.name}: schedule={params.schedule} falls to 0 at the loop's end; "
                "expected steps=N, the loop's length"
            )
        term = registry().build("regularizer", spec.name, spec.params, ctx)
        schedule = Schedule(params.schedule, params.warmup, steps or 1)
        weighted.append(Weighted(free(entry.name), float(params.weight), term, schedule))
    return weighted


def register(component: Component, kind: Kind | None = None) -> None:
    """Add a component for this session; its kind is read off its class where that extends a base
    of noisereg.api.

    Raises:
        NoiseregError: for what is no component, if the kind cannot be told, and for a built-in's
            name.
    """
    if not isinstance(component, Component):
        raise NoiseregError(
            f"{type(component).__name__} is no component; expected "
            "noisereg.api.Component(name=…, impl=…)"
        )
    registry().register(component, kind)


__all__ = ["Diffusion", "Rows", "Run", "build", "evaluate", "load", "register", "sweep", "train"]
