"""Options that are written once, as a dataclass, and shared by commands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import pytest
import typer

from noisereg.cli.groups import grouped, on_command_line


@dataclass(frozen=True)
class Size:
    width: Annotated[int, typer.Option(help="In pixels.")] = 8
    tall: Annotated[bool, typer.Option("--tall", "-t")] = False


@dataclass(frozen=True)
class Names:
    label: Annotated[list[str] | None, typer.Option()] = None


def app(seen: list[object]) -> typer.Typer:
    made = typer.Typer()

    @made.command()
    @grouped
    def draw(
        ctx: typer.Context,
        path: Annotated[str, typer.Argument()],
        size: Size,
        names: Names,
        seed: Annotated[int, typer.Option()] = 0,
    ) -> None:
        """Draw it."""
        seen.extend([path, size, names, seed, dict(on_command_line(ctx))])

    return made


def test_a_groups_options_reach_the_command_as_one_value(
    capsys: pytest.CaptureFixture[str],
) -> None:
    seen: list[object] = []
    app(seen)(["a", "--width", "3", "--label", "x", "--label", "y"], standalone_mode=False)
    assert seen[:4] == ["a", Size(3, False), Names(["x", "y"]), 0]
    assert seen[4] == {"path": "path", "width": "--width", "label": "--label"}
    seen.clear()
    app(seen)(["a", "-t"], standalone_mode=False)
    assert seen[:4] == ["a", Size(8, True), Names(None), 0]
    assert seen[4] == {"path": "path", "tall": "--tall"}


def test_the_help_lists_them_in_their_order(capsys: pytest.CaptureFixture[str]) -> None:
    app([])(["--help"], standalone_mode=False)
    said = capsys.readouterr().out
    assert "Draw it." in said
    places = [said.index(flag) for flag in ("--width", "--tall", "--label", "--seed")]
    assert places == sorted(places)
    assert "In pixels." in said
