"""How a run is sampled: its settings, what replaces them, and the solver and grid they name."""

from __future__ import annotations

from typing import Any

from noisereg.api import Context, Grid, Noise, NoiseregError, Solver, Task
from noisereg.diffusion import compatible
from noisereg.diffusion.adjust import Clip, constant
from noisereg.diffusion.diffusion import Diffusion
from noisereg.errors import nearest
from noisereg.plugins.registry import Registry
from noisereg.plugins.spec import Spec
from noisereg.runs import conditions, rescaling
from noisereg.runs.config import SampleConfig, validate


def override(
    settings: SampleConfig,
    registry: Registry,
    *,
    steps: int | None = None,
    eta: float | None = None,
    solver: str | Spec | None = None,
    grid: str | Spec | None = None,
    guidance: float | None = None,
    eps_scale: float | str | Spec | None = None,
    clip: str | Spec | None = None,
    batch_size: int | None = None,
) -> SampleConfig:
    """``settings`` with some replaced; None leaves one as it is. Another solver takes its own η
    and grid unless these are given.

    Raises:
        NoiseregError: for a value out of range.
    """
    given = {"steps": steps, "eta": eta, "solver": solver, "grid": grid, "guidance": guidance}
    given |= {"eps_scale": eps_scale, "clip": clip, "batch_size": batch_size}
    values = settings.model_dump() | {k: v for k, v in given.items() if v is not None}
    if solver is not None:
        wanted = Spec.model_validate(solver)
        another = wanted.name != settings.solver.name
        fields = registry.find("solver", wanted.name).component.params.model_fields
        if eta is None and "eta" not in fields:
            values["eta"] = 0.0
        elif eta is None and (another or "eta" in wanted.params):
            values["eta"] = "auto"
        if grid is None and another:
            values["grid"] = "auto"
    made = validate({"sample": values}).sample
    build_clip(made.clip)
    if made.grid.name != "auto" and (own := build_grid(made, registry).steps) is not None:
        if steps not in (None, own):
            raise NoiseregError(
                f"`steps={steps}`: grid {made.grid.label()} has {own} steps; leave steps out, or "
                "name another grid"
            )
        made = made.model_copy(update={"steps": own})
    if eps_scale is not None and isinstance(made.eps_scale, Spec):
        made = made.model_copy(update={"eps_scale": filled_scale(made.eps_scale, registry)})
    return made


def resolve(
    settings: SampleConfig,
    registry: Registry,
    diffusion: Diffusion,
    task: Task,
    images: bool = True,
) -> SampleConfig:
    """``settings`` with nothing left on ``auto``, and the solver's own η moved to ``eta``.
    ``images``: whether samples are images in [−1, 1], and not points or latents.

    Raises:
        NoiseregError: for an unknown solver, grid or scale of ε̂, and a combination that would
        sample wrongly.
    """
    process, noise, paired = diffusion.process, diffusion.noise, diffusion.pairing is not None
    entry = registry.find("solver", settings.solver.name)
    params = registry.params(entry, settings.solver.params).model_dump(mode="json")
    own = params.pop("eta", None)  # None: a solver without an η
    eta = settings.eta
    if own is None:
        if eta not in ("auto", 0):
            raise NoiseregError(
                f"solver {entry.name} has no η and eta is {eta:g}; give eta 0, or solver ddim"
            )
        eta = 0.0
    elif own != "auto":
        if eta not in ("auto", own):
            raise NoiseregError(f"eta is {eta:g}, and {own:g} in solver {entry.name}; give one")
        eta = float(own)
    elif eta == "auto":
        eta = compatible.default_eta(process, noise, paired)
    resolved = settings.model_copy(
        update={"eta": float(eta), "solver": Spec(name=entry.recorded, params=params)}
    )
    solver = build_solver(resolved, registry)
    grid = settings.grid
    if grid.name == "auto":
        if grid.params:
            raise NoiseregError("grid auto takes no parameters; name the grid to give it some")
        grid = Spec.parse(compatible.default_grid(process, noise, solver))
    grid_entry = registry.find("grid", grid.name)
    filled = registry.params(grid_entry, grid.params).model_dump(mode="json")
    resolved = resolved.model_copy(update={"grid": Spec(name=grid_entry.recorded, params=filled)})
    compatible.check_solver(process, noise, solver, paired)
    if (of_grid := build_grid(resolved, registry).steps) is not None:
        resolved = resolved.model_copy(update={"steps": of_grid})
    conditions.check(task, resolved.guidance)
    if build_clip(settings.clip) is not None and not images:
        raise NoiseregError(
            f"clip {settings.clip.name}: x̂0 is held to [−1, 1], the range of images, and this "
            "run's samples are points or latents, which have none; give clip none"
        )
    if isinstance(resolved.eps_scale, Spec):
        spec = filled_scale(resolved.eps_scale, registry)
        resolved = resolved.model_copy(update={"eps_scale": spec})
        rescaling.check(spec, registry, process, noise, diffusion.shape)
    elif resolved.eps_scale != 1:
        constant(process, resolved.eps_scale)
    return resolved


def filled_scale(spec: Spec, registry: Registry) -> Spec:
    """The regularizer that ``sample.eps_scale`` names, with all its parameters.

    Raises:
        NoiseregError: for an unknown one, and a weight that changes over training.
    """
    term = registry.find("regularizer", spec.name)
    params = registry.params(term, spec.params).model_dump(mode="json")
    if params["schedule"] != "constant" or params["warmup"]:
        raise NoiseregError(
            f"eps_scale {term.name}: what a weight that changes over training would leave is not "
            "known; expected a constant weight, without schedule and warmup"
        )
    return Spec(name=term.recorded, params=params)


def scale_label(scale: float | Spec) -> float | str:
    """As tables and records show it: a number, or a spec with all its parameters."""
    return scale.label() if isinstance(scale, Spec) else scale


def build_clip(spec: Spec) -> Clip | None:
    """What ``sample.clip`` names; None for none.

    Raises:
        NoiseregError: for another name or parameter.
    """
    known = {"none": (), "static": (), "dynamic": ("percentile",)}
    if spec.name not in known:
        raise NoiseregError(
            f"`clip={spec.name}`: expected {', '.join(known)}{nearest(spec.name, known)}"
        )
    if unknown := next((key for key in spec.params if key not in known[spec.name]), None):
        takes = " and ".join(known[spec.name]) or "no parameters"
        raise NoiseregError(f"`clip={spec.name}:{unknown}=…`: {spec.name} takes {takes}")
    if spec.name == "static":
        return Clip("static")
    if spec.name == "dynamic":
        share = spec.params.get("percentile", Clip.percentile)
        try:
            return Clip("dynamic", float(share))
        except (TypeError, ValueError):
            raise NoiseregError(
                f"`clip=dynamic:percentile={share}`: expected a share, such as 0.995"
            ) from None
    return None


def notes(settings: SampleConfig, noise: Noise) -> list[str]:
    """What the user should know of some settings under a noise, a line each."""
    return [compatible.CLIP_NOTE] if settings.clip.name != "none" and not noise.diagonal else []


def solver_params(settings: SampleConfig, registry: Registry) -> dict[str, Any]:
    """The parameters of resolved settings' solver, with its η where it takes one."""
    params: dict[str, Any] = dict(settings.solver.params)
    fields = registry.find("solver", settings.solver.name).component.params.model_fields
    if "eta" in fields and settings.eta != "auto":
        params["eta"] = settings.eta
    return params


def build_solver(settings: SampleConfig, registry: Registry) -> Solver:
    """The solver of resolved settings."""
    params = solver_params(settings, registry)
    return registry.build("solver", settings.solver.name, params, Context())


def build_grid(settings: SampleConfig, registry: Registry) -> Grid:
    """The grid of resolved settings."""
    return registry.build("grid", settings.grid.name, settings.grid.params, Context())
