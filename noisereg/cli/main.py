"""The application: its subcommands, and the one place where errors become lines and exit codes."""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
import typer.main

from noisereg.cli import (
    boundary,
    completion,
    config,
    export,
    flags,
    noise,
    plugins,
    runs,
    sample,
    sweep,
    train,
)
from noisereg.cli import eval as evaluation
from noisereg.errors import NoiseregError
from noisereg.paths import check_text, clean, local_path, remote_scheme
from noisereg.plugins.registry import reset
from noisereg.reading import short

app = typer.Typer(
    name="noisereg",
    help="Train, sample and compare diffusion models with any noise and any regularizer.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_usage_error = typer.BadParameter.__base__
"""typer's own copy of click's UsageError, reached without importing click."""

SWITCHES = {
    "--debug": "NOISEREG_DEBUG",
    "--quiet": "NOISEREG_QUIET",
    "--verbose": "NOISEREG_VERBOSE",
}
"""Flags that may stand anywhere on the line, and the variable that does the same; it also tells
the processes that a command starts.
"""
SHORT = {"-q": "--quiet", "-v": "--verbose"}


def _version(value: bool) -> None:
    if value:
        from noisereg import __version__

        print(f"noisereg {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_version, is_eager=True, help="Print it.")
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
    debug: Annotated[
        bool,
        typer.Option(
            "--debug",
            help="Show the traceback of an error; anywhere on the line. [NOISEREG_DEBUG]",
        ),
    ] = False,
    quiet: Annotated[
        bool,
        typer.Option(
            "--quiet",
            "-q",
            help="Results, notes and errors only; anywhere on the line. [NOISEREG_QUIET]",
        ),
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose",
            "-v",
            help="A line of progress every second; anywhere on the line. [NOISEREG_VERBOSE]",
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
app.add_typer(runs.app, name="runs")
app.add_typer(plugins.app, name="plugins")


@functools.cache
def command() -> Any:
    """The application as click's object, with each command telling the boundary that it runs."""
    made = typer.main.get_command(app)
    for leaf in leaves(made):
        completion.add_to(leaf)
        leaf.invoke = functools.partial(_invoke, leaf, leaf.invoke)
        leaf.parse_args = functools.partial(_parse_once, made, leaf, leaf.parse_args)
    return made


def _parse_once(
    made: Any,
    leaf: Any,
    parse: Callable[[Any, list[str]], Any],
    context: Any,
    arguments: list[str],
) -> Any:
    """Read a command's arguments once it is known that none of them would be dropped, or is no
    number or path.

    Raises:
        NoiseregError: for an option that takes one value and has two, and for such a value.
    """
    flags.run_as(leaf)
    texts, _, order = leaf.make_parser(context).parse_args(args=list(arguments))
    for option in leaf.params:
        given = texts.get(option.name)
        for text in given if isinstance(given, list | tuple) else [given]:
            if isinstance(text, str):
                _check_value(option, text)
        flag = next((text for text in getattr(option, "opts", ()) if text.startswith("--")), None)
        single = not (option.multiple or option.is_flag or option.count) if flag else False
        if single and sum(each is option for each in order) > 1:
            values = " and ".join(_values(arguments, option.opts))
            compare = made.commands["sweep"].params
            of_sweep = any(o.multiple and flag in o.opts for o in compare)
            raise NoiseregError(
                f"{flag} is given more than once ({values}); expected one value"
                + f"; noisereg sweep {flag} … {flag} … trains a run of each" * of_sweep
            )
    return parse(context, arguments)


def _check_value(option: Any, text: str) -> None:
    """
    Raises:
        NoiseregError: for what is no value of the option's kind.
    """
    kind, name = _python_type(option), option.name.rstrip("_")
    if kind is Path and not text:
        raise NoiseregError(f"`{name}` is empty; expected a path")
    if kind not in (int, float):
        return
    expected = "a whole number" if kind is int else "a number"
    try:
        number = kind(text)
    except ValueError:
        raise NoiseregError(f"`{name}={clean(text)}`: expected {expected}") from None
    own = getattr(option, "type", option)
    low, high = getattr(own, "min", None), getattr(own, "max", None)
    if (low is not None and number < low) or (high is not None and number > high):
        bounds = [f"at least {low}"] * (low is not None) + [f"at most {high}"] * (high is not None)
        raise NoiseregError(f"`{name}={clean(text)}`: expected {expected}, {' and '.join(bounds)}")


def _python_type(option: Any) -> type | None:
    """Path, int or float, where an option takes one, or several; None for another. Older versions
    of typer have click's types, and newer ones Python's.
    """
    annotation = getattr(getattr(option, "type_descriptor", None), "annotation", None)
    if annotation is not None:
        kinds = [annotation, *get_args(annotation)]
        return next((kind for kind in (Path, int, float) if kind in kinds), None)
    name = getattr(getattr(option, "type", None), "name", "").removesuffix(" range")
    of_click = {"path": Path, "file": Path, "directory": Path, "integer": int, "float": float}
    return of_click.get(name)


RUNS = ("run", "runs", "paths")
"""Arguments that name runs, which may be kept in a store."""


def _values(arguments: list[str], names: list[str]) -> list[str]:
    """What follows each of an option's names on the line."""
    following = zip(arguments, [*arguments[1:], ""], strict=True)
    return [
        value if text in names else text.partition("=")[2]
        for text, value in following
        if text in names or text.partition("=")[0] in names
    ]


def leaves(group: Any) -> Iterator[Any]:
    """The commands below a group that do something themselves."""
    for inner in group.commands.values():
        if hasattr(inner, "commands"):
            yield from leaves(inner)
        else:
            yield inner


def _invoke(leaf: Any, invoke: Callable[[Any], Any], context: Any) -> Any:
    """Run a command once every path among its options is known to be one of this machine."""
    flags.run_as(leaf)
    for name, value in context.params.items():
        if isinstance(value, int | list | tuple):
            _check_numbers(name.rstrip("_"), value)
        if isinstance(value, Path):
            context.params[name] = path = _reached(leaf, name, value)
            if name == "out" and path.exists() and not (path.is_file() or path.is_dir()):
                raise NoiseregError(
                    f"`out={value}` is a device or a pipe, which a file would take the place of; "
                    "expected a file or a folder"
                )
        elif isinstance(value, list | tuple) and any(isinstance(each, Path) for each in value):
            context.params[name] = [_reached(leaf, name, each) for each in value]
    try:
        return invoke(context)
    except KeyboardInterrupt as stop:  # which typer would take, and say nothing
        raise boundary.Interrupted(str(stop)) from None


def _reached(leaf: Any, name: str, path: Path) -> Path:
    """A path of this machine; a run's address is replaced by its working copy, a file's by the
    file fetched; that of a table, or of a network to start from, stays as it is.

    Raises:
        NoiseregError: for an address of anything else.
    """
    if remote_scheme(str(path)):
        if (leaf.name, name) in (("eval", "out"), ("train", "init")):
            return path
        if name in RUNS or (leaf.name, name) in (("train", "out"), ("sweep", "out")):
            from noisereg.remote import local_or_copy

            return local_or_copy(path)
    return local_path(path, name.rstrip("_"))


def _check_numbers(name: str, value: Any) -> None:
    """No number of more than 64 bits: no array could hold it."""
    for each in value if isinstance(value, list | tuple) else [value]:
        if isinstance(each, int) and not -(2**63) <= each < 2**63:
            raise NoiseregError(
                f"`{name}={short(each, 40)}`: expected a whole number of at most 64 bits"
            )


def run(arguments: list[str]) -> int:
    """Run one command line; the exit code, as :mod:`noisereg.cli.boundary` lists them."""
    flags.run_as(None)
    if "_NOISEREG_COMPLETE" in os.environ:  # a shell asks, and reads what is printed
        command()(arguments, prog_name="noisereg")
    with _switches(arguments) as rest:
        try:
            code = _run(rest)
            boundary.flush()
        except BaseException as error:
            code = boundary.failed(error)
        finally:
            boundary.drop_output()
            _leave_group(wait=False)
    return code


def _run(arguments: list[str]) -> int:
    for argument in arguments:
        check_text(argument, "the argument")
    try:
        code = command()(arguments, prog_name="noisereg", standalone_mode=False)
        _leave_group(wait=True)
        return code if isinstance(code, int) else 0
    except typer.Exit as stop:
        _leave_group(wait=True)  # a run stopped by a signal: all ranks come here
        return stop.exit_code
    except Exception as error:
        if _usage_error and isinstance(error, _usage_error.__base__ or _usage_error):
            return _usage(error)
        raise


@contextlib.contextmanager
def _switches(arguments: list[str]) -> Iterator[list[str]]:
    """Set the variables of the flags that may stand anywhere, for as long as the command runs;
    the other arguments.
    """
    end = arguments.index("--") if "--" in arguments else len(arguments)
    named = [SHORT.get(text, text) for text in arguments[:end]]
    given = {SWITCHES[text] for text in named if text in SWITCHES}
    before = {variable: os.environ.get(variable) for variable in given}
    os.environ.update(dict.fromkeys(given, "1"))
    if SWITCHES["--debug"] in given and hasattr(signal, "SIGQUIT"):
        # Ctrl-\ then shows where each thread is, and ends: of a plugin that does not return.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            faulthandler.register(signal.SIGQUIT, chain=True)
    try:
        rest = [a for a, n in zip(arguments[:end], named, strict=True) if n not in SWITCHES]
        yield rest + arguments[end:]
    finally:
        for variable, value in before.items():
            if value is None:
                os.environ.pop(variable, None)
            else:
                os.environ[variable] = value


def _leave_group(wait: bool) -> None:
    """Of torchrun, if this command joined one: without importing torch to find out."""
    if runtime := sys.modules.get("noisereg.runs.runtime"):
        runtime.leave_group(wait)


def _usage(error: Exception) -> int:
    """A command line that cannot be read: one line; a group's name alone: its help."""
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError" and context is not None:
        print(context.get_help())
        return 0
    message = error.format_message()  # type: ignore[attr-defined]
    path = context.command_path if context else "noisereg"
    message = " ".join(message.split()).rstrip(".")
    return boundary.fail(f"{message[:1].lower()}{message[1:]} ({path} --help)", 2)
