"""What can be asked of an evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from noisereg.errors import NoiseregError, nearest
from noisereg.reading import first_complaint

_NUMBERS = ("num", "num_reference", "guidance", "eps_scale", "seed", "jobs")
"""Of the options; for Python true is 1."""


@dataclass(frozen=True)
class Options:
    """The names are those of ``noisereg eval``'s options."""

    features: str = "pixels"
    num: int | None = None
    """Samples of each run; None: as many as the reference has, at most 10,000."""
    reference: str = "train"
    num_reference: int | None = None
    """Real samples, evenly spaced; None: all, at most 50,000."""
    data: str | None = None
    steps: tuple[int, ...] = ()
    eta: tuple[float, ...] = ()
    solver: str | None = None
    grid: tuple[str, ...] = ()
    guidance: float | None = None
    eps_scale: float | str | None = None
    rescaled: tuple[str, ...] = ()
    """Each a further row beside every run without a regularizer: that run sampled with this
    ``eps_scale``."""
    clip: str | None = None
    seed: int = 0
    checkpoint: tuple[int | str, ...] = ()
    """Steps, ``best`` or ``all``; none: the newest of each run."""
    ema: bool = True
    inception_weights: Path | None = None
    """For a parameter of a feature space that is declared to be this (``option``)."""
    plugins: tuple[str, ...] = ()
    jobs: int | None = None
    """Processes that draw and measure at once; None: as many as the launcher takes."""
    launcher: str | None = None
    """Where they run; None: on this machine."""
    baseline: str | None = None
    labels: tuple[str, ...] = ()
    columns: tuple[str, ...] | None = None
    where: str | None = None
    by: tuple[str, ...] = ()
    pick: str | None = None
    pick_on: tuple[int, ...] = ()
    effects: tuple[str, ...] = ()
    """The factors of a table of effects that is to be made of each table."""

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Options:
        """From Python, where one value may stand for a tuple of one.

        Raises:
            NoiseregError: for a name that is none, and a value of another type.
        """
        known = {f.name: f for f in fields(cls)}
        if unknown := next((key for key in given if key not in known), None):
            raise NoiseregError(f"evaluate() has no option {unknown!r}{nearest(unknown, known)}")
        values = dict(given)
        for name, value in given.items():
            if "tuple" in str(known[name].type) and value is not None:
                one = isinstance(value, str | Path) or not isinstance(value, Iterable)
                values[name] = (value,) if one else tuple(value)
        for name in ("rescaled", "grid"):
            several = values.get(name) or ()
            if twice := next((x for k, x in enumerate(several) if x in several[:k]), None):
                raise NoiseregError(f"`{name}={twice}`: given twice; expected it once")
        if truth := next((name for name in _NUMBERS if isinstance(values.get(name), bool)), None):
            raise NoiseregError(f"`{truth}={values[truth]}`: expected a number")
        try:
            made = TypeAdapter(cls).validate_python(values)
        except ValidationError as error:
            name, complaint = first_complaint(error)
            raise NoiseregError(f"`{name}`: {complaint}") from None
        if made.jobs is not None and made.jobs < 1:
            raise NoiseregError(f"`jobs={made.jobs}`: expected at least 1")
        if not 0 <= made.seed < 2**63:
            raise NoiseregError(f"`seed={made.seed}`: expected a whole number from 0 to 2**63 - 1")
        return made

    def rows(self) -> dict[str, Any]:
        """The part that :func:`~noisereg.tables.ablation.build` takes."""
        return {
            "baseline": self.baseline,
            "labels": self.labels,
            "columns": self.columns,
            "pick": self.pick,
            "pick_on": self.pick_on,
        }

    def sampling(self) -> dict[str, Any]:
        """The part that every run is sampled with, beside its steps, η and grid."""
        return {
            "solver": self.solver,
            "guidance": self.guidance,
            "clip": self.clip,
            "seed": self.seed,
            "ema": self.ema,
        }
