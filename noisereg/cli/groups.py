"""Options that belong together, as one dataclass: written once, shared by the commands that have
them.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

import typer


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """A command for typer in which each parameter that is annotated with a dataclass stands for
    that dataclass's fields: an option for each, in its order, with its default.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, type] = {}
    options: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        kind = hints[name]
        if not is_dataclass(kind):
            options.append(parameter.replace(annotation=kind))
            continue
        assert isinstance(kind, type)
        groups[name] = kind
        types = get_type_hints(kind, include_extras=True)
        options += [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=types[field.name],
            )
            for field in fields(kind)
        ]

    @functools.wraps(command)
    def called(**given: Any) -> None:
        for name, kind in groups.items():
            given[name] = kind(**{field.name: given.pop(field.name) for field in fields(kind)})
        command(**given)

    del called.__wrapped__  # typer follows it
    called.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [option.replace(kind=inspect.Parameter.KEYWORD_ONLY) for option in options]
    )
    called.__annotations__ = {option.name: option.annotation for option in options}
    return called


def on_command_line(ctx: typer.Context) -> Mapping[str, str]:
    """The options that were typed, not left at their default: each one's name, and its flag."""
    typed = {}
    for parameter in ctx.command.params:
        source = ctx.get_parameter_source(parameter.name or "")
        if parameter.name and source is not None and source.name == "COMMANDLINE":
            typed[parameter.name] = max(parameter.opts, key=len)
    return typed
