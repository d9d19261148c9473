"""Options that several commands share, and how flags become a configuration. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from noisereg.plugins.registry import Registry, registry, reset
from noisereg.runs.config import (
    Config,
    apply_set,
    check_components,
    layer,
    load_plugins,
    read_run,
    validate,
)

Plugins = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin",
        metavar="FILE|MODULE",
        help="A plugin that is not installed; repeat for several.",
    ),
]
NoPlugins = Annotated[
    bool, typer.Option("--no-plugins", help="Load no plugin at all: built-ins alone.")
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change one key of the configuration: noise.gamma.tau=0.2; of a key given twice "
        "the last counts.",
    ),
]
ConfigFile = Annotated[
    str | None,
    typer.Option(
        "--config", metavar="FILE|NAME", help="A YAML file, or a shipped configuration's name."
    ),
]
CheckpointStep = Annotated[
    str | None,
    typer.Option(
        "--checkpoint",
        metavar="STEP|best",
        help="The checkpoint's step, or the best that train.keep_best kept. [the newest]",
    ),
]
RawWeights = Annotated[
    bool, typer.Option("--raw-weights", help="The weights themselves, not their average.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def open_registry(no_plugins: bool = False, plugins: Sequence[str] | None = None) -> Registry:
    """The registry under the given flags, with the plugins that ``--plugin`` names.

    Raises:
        NoiseregError: if one of them cannot be had.
    """
    if no_plugins:
        os.environ["NOISEREG_NO_PLUGINS"] = "1"
        reset()
    opened = registry()
    for reference in plugins or ():
        opened.load(reference)
    return opened


def make_config(
    reg: Registry,
    flags: Mapping[str, Any],
    config: str | None = None,
    sets: Sequence[str] | None = None,
    plugins: Sequence[str] | None = None,
    base: Mapping[str, Any] | None = None,
) -> Config:
    """default < base (a run to be resumed) < config file < flags < ``--set``; nothing is validated
    against components.

    Raises:
        NoiseregError: for an unknown key or a value out of range, or a file that holds a sweep.
    """
    values = layer(base or {}, read_run(config) if config else {}, flags)
    origin = config or "the config.yaml of the run"
    values = load_plugins(reg, values, plugins or (), origin)
    if base:
        check_components(validate(base), reg, origin)
    return validate(apply_set(values, sets) if sets else values)


def component_flags(**given: Any) -> dict[str, Any]:
    """Those flags that were given, as a layer: ``None`` and empty lists are left out."""
    return {key: value for key, value in given.items() if value not in (None, [])}
