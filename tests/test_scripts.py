"""The scripts beside the package: what they import of it is there."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted(
    path.relative_to(ROOT)
    for folder in ("benchmarks", "docs", "docs/results")
    for path in (ROOT / folder).glob("*.py")
)


def imported(source: str) -> Iterator[tuple[str, str | None]]:
    """(module, name) of every import from noisereg, in functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((each.name, None) for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, each.name) for each in node.names)


def missing(module: str, name: str | None) -> bool:
    try:
        found = importlib.import_module(module)
        if name is not None and not hasattr(found, name):
            importlib.import_module(f"{module}.{name}")
    except ImportError:
        return True
    return False


@pytest.mark.parametrize("script", SCRIPTS, ids=str)
def test_what_a_script_imports_is_there(script: Path) -> None:
    wanted = {
        (module, name)
        for module, name in imported((ROOT / script).read_text(encoding="utf-8"))
        if module.split(".")[0] == "noisereg"
    }
    assert [each for each in sorted(wanted, key=str) if missing(*each)] == []


def test_a_name_that_is_not_there_is_found_out() -> None:
    (found,) = imported("def f():\n    from noisereg.runs.logged import logged_steps\n")
    assert missing(*found)
    assert not missing("noisereg.runs.logged", "Log")
    assert not missing("noisereg.runs", "logged")
