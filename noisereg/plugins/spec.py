"""Component specs as text: ``name``, ``name:key=value,key=value``, ``name:{json}``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, model_serializer, model_validator

from noisereg.errors import NoiseregError
from noisereg.paths import remote_scheme
from noisereg.reading import parse_json

KEY = r"[A-Za-z_][\w.\-]*"
MAX_PARTS = 16
"""Of a dotted key."""


def set_dotted(target: dict[str, Any], key: str, value: Any) -> None:
    """``target["a"]["b"] = value`` for ``a.b``, making the mappings on the way.

    Raises:
        NoiseregError: for more than ``MAX_PARTS`` parts, which no parameters have.
    """
    *path, last = key.split(".", MAX_PARTS)
    if "." in last:
        raise NoiseregError(
            f"{key[:60]}… has more than {MAX_PARTS} parts; expected a key such as gamma.tau"
        )
    for part in path:
        inner = target.get(part)
        if not isinstance(inner, dict):
            inner = target[part] = {}
        target = inner
    target[last] = value


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys of nested mappings and lists."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list) and any(isinstance(v, Mapping) for v in value):
            flat |= flatten({str(i): v for i, v in enumerate(value)}, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def parse_values(text: str) -> dict[str, Any]:
    """``key=value,key=value`` as nested text values; a comma splits only where ``key=`` follows
    it.
    """
    values: dict[str, Any] = {}
    given: set[str] = set()
    for part in re.split(rf",(?={KEY}=)", text):
        key, equals, value = part.partition("=")
        if not equals or not re.fullmatch(KEY, key):
            raise NoiseregError(
                f"cannot read {part!r}: expected key=value,key=value after the colon"
            )
        if key in given:
            raise NoiseregError(f"{key} stands twice in {text!r}; expected each key once")
        given.add(key)
        set_dotted(values, key, value)
    return values


def added(text: str) -> list[str]:
    """The specs that ``A+B`` names, to be used together; ``none`` adds nothing. A ``+`` in a
    number (1e+3) is no separator.
    """
    return [part for part in re.split(r"\+(?=[A-Za-z])", text) if part != "none"]


class Spec(BaseModel):
    """A component as a run asks for it: a name and its parameters. Reads text or a mapping; dumps
    a mapping.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    params: dict[str, Any] = {}

    @classmethod
    def parse(cls, text: str) -> Spec:
        """
        Raises:
            NoiseregError: for text that is no spec.
        """
        if not isinstance(text, str):
            raise NoiseregError(
                f"a component is a {type(text).__name__}; expected its name, or "
                "name:key=value,key=value"
            )
        if scheme := remote_scheme(text.strip()):
            raise NoiseregError(
                f"{text!r}: {scheme} is remote storage, where no component is; expected a "
                "component, or a folder of this machine"
            )
        name, colon, rest = text.strip().partition(":")
        if not name:
            raise NoiseregError(
                f"{text!r} names no component; expected name or name:key=value,key=value"
            )
        if rest.lstrip().startswith("{"):
            return cls(name=name, params=parse_json(rest, f"{name}: the JSON after the colon"))
        if colon and not rest:
            raise NoiseregError(
                f"{text!r} ends after the colon; expected {name}:key=value, or {name} alone"
            )
        return cls(name=name, params=parse_values(rest) if rest else {})

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        if isinstance(value, str):
            spec = cls.parse(value)
            return {"name": spec.name, "params": spec.params}
        if isinstance(value, Spec):
            return value
        if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
            raise ValueError("expected a component: its name, or a mapping with the key 'name'")
        if set(value) != {"name", "params"}:
            return {
                "name": value["name"],
                "params": {k: v for k, v in value.items() if k != "name"},
            }
        return value

    @model_serializer
    def _dump(self) -> dict[str, Any]:
        return {"name": self.name, **self.params}

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        """As it is written: text, or a mapping with the parameters beside the name."""
        mapping = {"type": "object", "properties": {"name": {"type": "string"}}}
        return {"anyOf": [{"type": "string"}, {**mapping, "required": ["name"]}]}

    def label(self) -> str:
        """``isotropy(weight=0.1)``: for tables and names of cells."""
        flat = flatten(self.params)
        return (
            f"{self.name}({', '.join(f'{k}={v}' for k, v in flat.items())})" if flat else self.name
        )
