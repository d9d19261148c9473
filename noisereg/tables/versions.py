"""Measurements of runs that different versions of the program have recorded, brought to the same
keys. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from noisereg.errors import NoiseregError
from noisereg.plugins.registry import registry
from noisereg.plugins.spec import Spec, flatten
from noisereg.runs.config import SECTION_KIND, Config, resolved_horizon
from noisereg.tables.naming import CONTROL
from noisereg.tables.table import Measurement

AUTO = "auto"
HORIZON = "optim.horizon"
SAMPLING = {"eps_scale": 1.0, "clip": "none", "seed": 0}
"""Of sampling, what came after the first tables; a control has no eps_scale, it is in its name."""


def of_one_version(measurements: Sequence[Measurement]) -> list[Measurement]:
    """With the keys that the configuration or a component had not yet when some were measured, at
    their defaults, which is how a run without the key is read; of a component the parameters
    themselves, and not what is inside one; and of sampling what came later, likewise. What a run
    resolves ("auto"), and the parameters of a component that is not there, stay as they are.
    """
    runs = [m for m in measurements if m.components]
    defaults = {k: v for k, v in flatten(Config().dump()).items() if v != AUTO or k == HORIZON}
    keys = {key for m in runs for key in m.values if key in defaults}
    sampled = {key for m in runs for key in m.sampling if key in SAMPLING}
    names: dict[tuple[str, str], set[str]] = {}
    for m in runs:
        for section, specs in m.components.items():
            for spec in specs:
                names.setdefault((section, spec.name), set()).update(spec.params)

    def completed(m: Measurement) -> Measurement:
        components = {
            section: [_completed(section, spec, names[section, spec.name]) for spec in specs]
            for section, specs in m.components.items()
        }
        values = {**{key: defaults[key] for key in keys}, **m.values}
        if HORIZON in keys - m.values.keys():
            read = {**defaults, **values}
            values[HORIZON] = resolved_horizon(
                read["optim.schedule"], components.get("reg", ()), read["train.steps"]
            )
        control = any(spec.name.startswith(CONTROL) for spec in m.components.get("reg", ()))
        given = sampled - {"eps_scale"} if control else sampled
        sampling = {**{key: SAMPLING[key] for key in given}, **m.sampling}
        return replace(m, components=components, values=values, sampling=sampling)

    return [completed(m) if m.components else m for m in measurements]


def _completed(section: str, spec: Spec, names: set[str]) -> Spec:
    """With those of its parameters that are ``names``."""
    if names <= spec.params.keys():
        return spec
    try:
        entry = registry().find(SECTION_KIND[section], spec.name.removeprefix(CONTROL))
    except NoiseregError:
        return spec
    defaults = entry.component.params.model_construct().model_dump(mode="json")
    missing = [name for name in defaults if name in names - spec.params.keys()]
    given = {name: defaults[name] for name in missing if defaults[name] != AUTO}
    return Spec(name=spec.name, params={**spec.params, **given})
