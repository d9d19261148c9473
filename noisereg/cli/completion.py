"""What a shell offers on TAB: commands and options, and for options that name components their
names, and after ``NAME:`` their parameters. Imports no torch.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

import typer

from noisereg.cli.parameters import parameters
from noisereg.errors import NoiseregError
from noisereg.plugins.registry import Kind, registry
from noisereg.runs.config import SECTION_KIND

BY_OPTION: dict[str, Kind] = {
    **SECTION_KIND,
    "solver": "solver",
    "grid": "grid",
    "metric": "metric",
    "features": "features",
    "launcher": "launcher",
}
"""By option's name, the kind of component that it names."""


def offered(kind: Kind, begun: str) -> list[str]:
    """The names of a kind that begin so; after ``NAME:`` or ``NAME:key=value,`` the parameters."""
    name, colon, rest = begun.partition(":")
    reg = registry()
    if not colon:
        return sorted({e.name for e in reg.entries(kind) if e.name.startswith(begun)})
    try:
        found = parameters(reg.find(kind, name).component.params)
    except NoiseregError:
        return []
    before, comma, key = rest.rpartition(",")
    done = f"{name}:{before}{comma}"
    return [f"{done}{p['name']}=" for p in found if p["name"].startswith(key)]


def add_to(command: Any) -> None:
    """Have the options of a command (click's object) that name components offer them."""
    for option in command.params:
        kind = BY_OPTION.get((option.name or "").rstrip("_"))
        if kind is not None and "SPEC" in (option.metavar or ""):
            option._custom_shell_complete = functools.partial(_complete, kind)


def _complete(kind: Kind, context: Any, option: Any, incomplete: str) -> list[Any]:
    return [_item(text) for text in offered(kind, incomplete)]


def _item(text: str) -> Any:
    """What click, typer's own copy or the package, takes from a function that completes."""
    root = typer.BadParameter.__module__.rpartition(".")[0]
    return importlib.import_module(f"{root}.shell_completion").CompletionItem(text)
