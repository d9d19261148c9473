"""A component's parameters as lines of help: name, default, description, limits."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from noisereg.plugins.spec import Spec
from noisereg.plugins.validation import model_of

SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def parameters(
    model: type[BaseModel], prefix: str = "", filled: BaseModel | None = None
) -> list[dict[str, Any]]:
    """Name (dotted), default, limits and description of every parameter; ``required`` where there
    is no default.

    ``filled`` is the model's own default instance, whose values (γ's s, e and τ by its form) are
    what a user gets.
    """
    rows: list[dict[str, Any]] = []
    for name, info in model.model_fields.items():
        nested = model_of(info.annotation)
        default = (
            None
            if info.is_required()
            else info.get_default(call_default_factory=True, validated_data={})
        )
        if nested is Spec:  # typed as one text
            default = _plain(default)
        elif nested is not None:
            rows += parameters(
                nested, f"{prefix}{name}.", default if isinstance(default, BaseModel) else None
            )
            continue
        if filled is not None:
            default = _plain(getattr(filled, name))
        rows.append(
            {
                "name": prefix + name,
                "default": default,
                "required": info.is_required(),
                "limits": _limits(info),
                "description": info.description or "",
            }
        )
    return rows


def _plain(default: Any) -> Any:
    """As it would be typed."""
    if isinstance(default, list | tuple):
        return [_plain(each) for each in default]
    return default.label() if isinstance(default, Spec) else default


def parameter_lines(model: type[BaseModel]) -> list[str]:
    """``gamma.tau=0.2   the slope [> 0]`` for every parameter of a params model."""
    rows = [(f"{p['name']}={_text(p)}", p["description"], p["limits"]) for p in parameters(model)]
    width = min(40, max((len(first) for first, _, _ in rows), default=0))
    return [
        f"{first:<{width}}  {said}{f' [{limits}]' if limits else ''}".rstrip()
        for first, said, limits in rows
    ]


def _text(parameter: dict[str, Any]) -> str:
    """A default as one would type it."""
    value = parameter["default"]
    if parameter["required"]:
        return "(required)"
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def _limits(info: FieldInfo) -> str:
    if choices := _choices(info.annotation):
        return "|".join(choices)
    bounds = [
        f"{sign} {getattr(m, k):g}"
        for m in info.metadata
        for k, sign in SIGNS.items()
        if hasattr(m, k)
    ]
    return ", ".join(bounds)


def _choices(annotation: Any) -> list[str]:
    if get_origin(annotation) is Literal:
        return [str(a) for a in get_args(annotation)]
    return [c for a in get_args(annotation) for c in _choices(a)]
