"""What a message below the command line may say: parameters by their names, not by flags."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import noisereg

PACKAGE = Path(noisereg.__file__).parent
TYPED = re.compile(r"noisereg [a-z]+[^;]*$")
"""The beginning of a whole command to type, in which flags are right."""


def texts(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Every text that is no docstring, with ``{}`` for what an f-string fills in."""
    docstrings = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    inside: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            inside |= {id(part) for part in node.values}
            yield (
                node.lineno,
                "".join(
                    str(part.value) if isinstance(part, ast.Constant) else "{}"
                    for part in node.values
                ),
            )
        elif (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in docstrings | inside
        ):
            yield node.lineno, node.value


def flags_in(text: str) -> list[str]:
    """Flags that stand in running text, not in a command to type."""
    return [
        found[0]
        for found in re.finditer(r"(?<![\w-])--[a-z][a-z-]+", text)
        if not TYPED.search(text[: found.start()])
    ]


def test_no_message_below_the_command_line_names_a_flag():
    """From Python there is none; the command line puts its own (noisereg.cli.flags)."""
    found = [
        f"{file.relative_to(PACKAGE)}:{line}: {flag}"
        for file in sorted(PACKAGE.rglob("*.py"))
        if file.parts[len(PACKAGE.parts)] not in ("cli", "testing", "__main__.py")
        for line, text in texts(ast.parse(file.read_text(encoding="utf-8")))
        if "color-scheme" not in text  # the style sheet of the report: its variables
        and not text.strip().startswith("--")  # the arguments of a command that is started
        for flag in flags_in(text)
    ]
    assert found == []


def test_the_search_finds_what_it_should():
    assert flags_in("give --num 3, or --steps") == ["--num", "--steps"]
    assert flags_in("type noisereg sweep --config x --out y; or --num") == ["--num"]
    assert flags_in("a — b -- c, x--y") == []
