"""The application: its subcommands, and the one place where errors become lines and exit codes."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from noisereg.cli import config, export, noise, plugins, sample, sweep, train
from noisereg.cli import eval as evaluation
from noisereg.errors import NoiseregError
from noisereg.plugins.registry import reset

app = typer.Typer(
    name="noisereg",
    help="Train, sample and compare diffusion models with any noise and any regularizer.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

_usage_error = typer.BadParameter.__base__
"""typer's own copy of click's UsageError, reached without importing click."""


def _version(value: bool) -> None:
    if value:
        from noisereg import __version__

        print(f"noisereg {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")
    ] = False,
    allow_plugin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Of the installed plugins load only these. [NOISEREG_ALLOW]"
        ),
    ] = None,
    block_plugin: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Do not load this plugin. [NOISEREG_BLOCK]"),
    ] = None,
    strict_plugins: Annotated[
        bool,
        typer.Option(
            "--strict-plugins", help="A plugin that is not in order is an error. [NOISEREG_STRICT]"
        ),
    ] = False,
) -> None:
    # By environment, so that the processes of a sweep are under the same policy.
    policy = {
        "NOISEREG_ALLOW": allow_plugin,
        "NOISEREG_BLOCK": block_plugin,
        "NOISEREG_STRICT": strict_plugins and ["1"],
    }
    for variable, names in policy.items():
        if names:
            os.environ[variable] = ",".join(names)
            reset()


app.command("train", add_help_option=False)(train.train)
app.command("sample")(sample.sample)
app.command("eval")(evaluation.evaluate)
app.command("sweep")(sweep.sweep)
app.command("export")(export.export)
app.add_typer(config.app, name="config")
app.add_typer(noise.app, name="noise")
app.add_typer(plugins.app, name="plugins")


def run(arguments: list[str]) -> int:
    """Run one command line; the exit code. A user's mistake is one line on stderr and code 2."""
    try:
        code = app(arguments, prog_name="noisereg", standalone_mode=False)
        _leave_group(wait=True)
        return code if isinstance(code, int) else 0
    except NoiseregError as error:
        return _fail(str(error), 2)
    except typer.Exit as stop:
        _leave_group(wait=True)  # a run stopped by a signal: all ranks come here
        return stop.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", 130)
    except BrokenPipeError:  # `noisereg … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if _usage_error and isinstance(error, _usage_error.__base__ or _usage_error):
            return _fail(_usage(error), 2)
        raise
    finally:
        _leave_group(wait=False)


def _leave_group(wait: bool) -> None:
    """Of torchrun, if this command joined one: without importing torch to find out."""
    if runtime := sys.modules.get("noisereg.runs.runtime"):
        runtime.leave_group(wait)


def _usage(error: Exception) -> str:
    message = error.format_message()  # type: ignore[attr-defined]
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "noisereg"
    return f"{' '.join(message.split()).rstrip('.')} ({path} --help)"


def _fail(message: str, code: int) -> int:
    print(f"noisereg: error: {' '.join(message.split())}", file=sys.stderr)
    return code
