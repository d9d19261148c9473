"""Pydantic's complaints as one line in the user's words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from noisereg.errors import NoiseregError, nearest
from noisereg.reading import first_complaint, short

RECORDED = ("parent.", "init.")
"""How keys begin that a run writes, and nobody types."""


def field_names(model: type[BaseModel], prefix: str = "") -> list[str]:
    """All dotted keys of a model: ``gamma.tau``."""
    names: list[str] = []
    for name, info in model.model_fields.items():
        nested = model_of(info.annotation)
        names += field_names(nested, f"{prefix}{name}.") if nested else [f"{prefix}{name}"]
    return names


def model_of(annotation: Any) -> type[BaseModel] | None:
    """The model that a field holds, inside ``| None`` and the like too."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    models = [m for a in get_args(annotation) if (m := model_of(a))]
    return models[0] if models else None


def _leaf(prefix: str, value: Any) -> str:
    """The dotted key down to the first thing that is no mapping: what the user typed."""
    while isinstance(value, Mapping) and value:
        key, value = next(iter(value.items()))
        prefix = f"{prefix}.{key}"
    return prefix


def validation_message(error: ValidationError, model: type[BaseModel], owner: str) -> str:
    """One line from pydantic's first complaint; ``owner`` is a component's name, or empty for the
    configuration.
    """
    first = error.errors(include_url=False)[0]
    key, message = first_complaint(error)
    if first["type"] == "extra_forbidden":
        typed = str(first["loc"][-1])
        section, dot, rest = typed.partition(".")
        if dot and section in model.model_fields:
            said = f"no key has a dot in it, as {typed!r} has; expected {section}={{{rest!r}: …}}"
            return f"{owner}: {said}" if owner else f"{said}, or `set`, which takes {typed}=…"
        given = _leaf(key, first["input"])
        last = given.rpartition(".")[2]
        written = [name for name in field_names(model) if not name.startswith(RECORDED)]
        elsewhere = [name for name in written if name.rpartition(".")[2] == last]
        hint = f"; did you mean '{elsewhere[0]}'?" if len(elsewhere) == 1 and not owner else ""
        hint = (
            hint
            or nearest(given, field_names(model))
            or nearest(key, [n.partition(".")[0] for n in field_names(model)])
        )
        if owner:
            known = "" if field_names(model) else " (it takes none)"
            look = f"noisereg plugins show {owner}"
            return f"{owner} has no parameter {given!r}{hint or known} ({look})"
        return f"the configuration has no key {given!r}{hint} (noisereg config schema)"
    return ": ".join(part for part in (owner, key, message) if part)


def check_numbers(params: BaseModel, owner: str) -> None:
    """That every number among a component's parameters is finite and has at most 64 bits, which is
    what an array can hold, whatever a plugin's own model allows.

    Raises:
        NoiseregError: names the parameter.
    """
    for key, value in _numbers(params.model_dump(), ""):
        if isinstance(value, float) and not math.isfinite(value):
            raise NoiseregError(f"{owner}: {key}: expected a finite number, not {value}")
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise NoiseregError(
                f"{owner}: {key}: expected a whole number of at most 64 bits, not {short(value)}"
            )


def check_used(params: BaseModel, owner: str, value: object, *names: str) -> None:
    """That parameters which act only where ``owner`` is ``value`` are given only there: elsewhere
    they would be silently ignored.

    Raises:
        ValueError: names the first.
    """
    if getattr(params, owner) == value:
        return
    for name in names:
        if getattr(params, name) != type(params).model_fields[name].default:
            shown = "true" if value is True else value
            raise ValueError(
                f"{name} belongs to {owner}={shown}; give that too, or leave {name} out"
            )


def _numbers(value: Any, key: str) -> Iterator[tuple[str, int | float]]:
    if isinstance(value, int | float):
        yield key, value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _numbers(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _numbers(inner, key)
