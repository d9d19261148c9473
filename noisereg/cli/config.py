"""``noisereg config show`` and ``noisereg config schema``."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from noisereg.cli.options import (
    ConfigFile,
    Json,
    NoPlugins,
    Plugins,
    Set,
    component_flags,
    make_config,
    open_registry,
)

app = typer.Typer(
    help="Configurations: what a run would be, and the schema of their files.",
    no_args_is_help=True,
)


@app.command()
def show(
    config: ConfigFile = None,
    noise: Annotated[str | None, typer.Option(metavar="SPEC")] = None,
    reg: Annotated[list[str] | None, typer.Option(metavar="SPEC")] = None,
    data: Annotated[str | None, typer.Option(metavar="SPEC|PATH")] = None,
    process: Annotated[str | None, typer.Option(metavar="SPEC")] = None,
    sets: Set = None,
    plugin: Plugins = None,
    no_plugins: NoPlugins = False,
    as_json: Json = False,
) -> None:
    """The complete configuration, with what each ``auto`` became, as a file that ``--config``
    reads.
    """
    registry = open_registry(no_plugins)
    flags = component_flags(noise=noise, reg=reg, data=data, process=process)
    full = make_config(registry, flags, config, sets, plugin)
    from noisereg.reading import write_yaml
    from noisereg.runs.build import build_parts
    from noisereg.runs.runtime import Runtime

    resolved = build_parts(full, registry, Runtime.start(full.runtime)).config
    sys.stdout.write(
        json.dumps(resolved.dump(), indent=1) + "\n" if as_json else write_yaml(resolved.dump())
    )


@app.command()
def schema(plugin: Plugins = None, no_plugins: NoPlugins = False) -> None:
    """JSON Schema of configuration files, with every installed component's parameters, for
    editors.
    """
    from noisereg.runs.config import json_schema

    registry = open_registry(no_plugins, plugin)
    print(json.dumps(json_schema(registry), indent=1))
