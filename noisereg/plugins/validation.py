"""Pydantic's complaints as one line in the user's words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from noisereg.errors import nearest
from noisereg.reading import first_complaint


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
    found = [m for a in get_args(annotation) if (m := model_of(a))]
    return found[0] if found else None


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
        given = _leaf(key, first["input"])
        hint = nearest(given, field_names(model)) or nearest(
            key, [n.partition(".")[0] for n in field_names(model)]
        )
        if owner:
            known = "" if field_names(model) else " (it takes none)"
            return f"{owner} has no parameter {given!r}{hint or known} (noisereg plugins show {owner})"
        return f"the configuration has no key {given!r}{hint} (noisereg config schema)"
    return ": ".join(part for part in (owner, key, message) if part)
