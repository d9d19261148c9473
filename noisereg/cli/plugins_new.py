"""``noisereg plugins new``: a plugin that installs, passes the kit and trains before its author
has written a line.
"""

from __future__ import annotations

import contextlib
import importlib.resources
import keyword
import sys
from pathlib import Path
from string import Template
from typing import Annotated

import typer

from noisereg.api import API_VERSION, NAME
from noisereg.errors import NoiseregError, nearest
from noisereg.plugins.registry import BUILTIN, CALLED, HOOKS, Policy, Registry

TEMPLATED = (
    *("noise", "regularizer", "pairing", "denoiser", "dataset", "metric"),
    *("process", "solver", "grid", "launcher"),
)
"""Kinds that there is a template of."""
SAMPLED = ("solver", "grid")
"""Kinds that a run is sampled with: nothing is trained by them."""
USE: dict[str, str] = {
    "noise": "noisereg train --noise {}",
    "regularizer": "noisereg train --reg {}",
    "pairing": "noisereg train --pairing {}",
    "process": "noisereg train --process {}",
    "solver": "noisereg sample RUN --solver {}",
    "grid": "noisereg sample RUN --grid {}",
    "denoiser": "noisereg train --denoiser {}",
    "dataset": "noisereg train --data {}",
    "task": "noisereg train --task {}",
    "logger": "noisereg train --log {}",
    "launcher": "noisereg sweep --launcher {}",
    "metric": "noisereg eval RUN --metric {}",
    "features": "noisereg eval RUN --features {}",
}
"""By kind, a line to paste."""
RUN = "runs/{}"
TENSOR = "from torch import Tensor"


def new(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="What it will be called, such as my-noise.")
    ],
    kind: Annotated[
        str, typer.Option("--kind", metavar="KIND", help=" | ".join(TEMPLATED))
    ] = "noise",
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="A new folder, or a new .py file. [./NAME]"),
    ] = None,
    single_file: Annotated[
        bool, typer.Option("--single-file", help="One file for --plugin instead of a package.")
    ] = False,
) -> None:
    """Write a new plugin: a package with one working component, a parameter, its tests and a
    README.

    Needs no network. What it prints next can be typed as it is.
    """
    if kind not in TEMPLATED:
        raise NoiseregError(
            f"--kind {kind}: expected one of {', '.join(TEMPLATED)}{nearest(kind, TEMPLATED)}"
        )
    module = _module_name(name, kind)
    single_file = single_file or (out is not None and out.suffix == ".py")
    if single_file:
        target = out or Path(f"{module}.py")
        target = target if target.suffix == ".py" else target / f"{module}.py"
        files = {target: _fill("single_file.py", name, kind, module, target)}
    else:
        target = out or Path(name)
        parts = {
            "pyproject.toml": "pyproject.toml",
            "README.md": "README.md",
            f"{module}/__init__.py": "init.py",
            f"{module}/{kind}.py": "impl.py",
            f"tests/test_{module}.py": "test.py",
        }
        files = {
            target / path: _fill(template, name, kind, module, target)
            for path, template in parts.items()
        }
    from noisereg.ownership import new_folder, owned_file  # here: filelock and numpy take time
    from noisereg.store import write_atomically

    with owned_file(target) if single_file else new_folder(target):
        written: list[Path] = []
        try:
            for path, text in files.items():
                if path.exists():
                    raise NoiseregError(f"{path} is there already; give another --out")
                written.append(path)
                write_atomically(path, text.encode())
        except NoiseregError:  # a full disk: half a plugin is none
            _remove(written, target)
            raise
    for path in files:
        print(path)
    print()
    for line in _next(name, kind, target, single_file):
        print(f"  {line}")


def _remove(files: list[Path], target: Path) -> None:
    """What was written, and the folders made for it."""
    for path in files:
        with contextlib.suppress(OSError):
            path.unlink()
        for folder in path.parents:
            if target not in (folder, *folder.parents):
                break
            with contextlib.suppress(OSError):
                folder.rmdir()


def _module_name(name: str, kind: str) -> str:
    """
    Raises:
        NoiseregError: for a name that is none, that is taken, or that no module can have.
    """
    if not NAME.fullmatch(name) or name in ("none", "auto"):
        raise NoiseregError(
            f"a component cannot be called {name!r}: expected [a-z][a-z0-9-]*, other than 'none' "
            "and 'auto'"
        )
    builtin = Registry(Policy(entry_points=False))
    if any(e.name == name and e.distribution == BUILTIN for e in builtin.entries(kind)):  # type: ignore[arg-type]
        raise NoiseregError(
            f"{name!r} is a built-in {CALLED[kind]}; choose another name, such as my-{name}"
        )
    module = name.replace("-", "_")
    if (
        keyword.iskeyword(module)
        or module in sys.stdlib_module_names
        or module in ("noisereg", "torch", "numpy", "tests")
    ):
        raise NoiseregError(
            f"{name!r} would need a module called {module!r}, which Python has; try my-{name}"
        )
    return module


def _read(name: str) -> str:
    return (importlib.resources.files("noisereg.cli") / "templates" / f"{name}.txt").read_text(
        encoding="utf-8"
    )


def _sections(kind: str) -> dict[str, str]:
    """A kind's template: its summary, and what follows each ``--- name``."""
    first, *rest = _read(kind).split("--- ")
    sections = {"summary": first.removeprefix("summary:").strip()}
    for part in rest:
        title, _, text = part.partition("\n")
        sections[title.strip()] = (
            text.rstrip("\n") + "\n" if title.strip() in ("params", "code") else text.strip("\n")
        )
    return sections


def _fill(template: str, name: str, kind: str, module: str, target: Path) -> str:
    from noisereg import __version__

    parts = _sections(kind)
    single = template == "single_file.py"
    base = "RegularizerParams" if kind == "regularizer" else "Params"
    names = [n.strip() for n in parts["names"].split(",")]
    imports, checked = parts["imports"].splitlines(), ""
    if single:
        names += ["Component", "Field", base, "hookimpl"]
        imports = [line for line in imports if line]
        abc = "from collections.abc import "
        imports = [line.replace(abc, f"{abc}Iterator, ") for line in imports]
        imports += [] if any(abc in line for line in imports) else [f"{abc}Iterator"]
        if [line for line in imports if "torch" in line] == [
            TENSOR
        ]:  # for annotations alone: not worth importing torch
            imports = [
                *(line for line in imports if line != TENSOR),
                "from typing import TYPE_CHECKING",
            ]
            checked = f"\n\nif TYPE_CHECKING:\n    {TENSOR}"
    words = {
        "name": name,
        "kind": kind,
        "module": module,
        "file": kind,
        "Class": "".join(word.capitalize() for word in name.split("-") if word),
        "hook": HOOKS[kind],  # type: ignore[index]
        "base": base,
        "summary": parts["summary"],
        "lower": parts["summary"][:1].lower() + parts["summary"][1:],
        "noisereg": ".".join(__version__.split(".")[:2]),
        "api": str(API_VERSION),
        "use": USE[kind].format(name),
        "path": str(target),
        "imports": _sorted_imports(
            [*imports, f"from noisereg.api import {', '.join(sorted(set(names), key=_order))}"]
        )
        + checked,
    }
    inner = {
        key: Template(parts[key]).substitute(words).rstrip("\n") + "\n"
        for key in ("params", "code")
    }
    text = Template(_read(template)).substitute({**words, **inner})
    return text.rstrip("\n") + "\n"


def _order(name: str) -> tuple[bool, str]:
    return name[:1].islower(), name


def _sorted_imports(lines: list[str]) -> str:
    """Standard library, then the rest; ``import`` before ``from``, as isort has it."""

    def key(line: str) -> tuple[bool, str]:
        return line.startswith("from"), line.split()[1]

    own = [
        line
        for line in lines
        if line and line.split()[1].partition(".")[0] in sys.stdlib_module_names
    ]
    other = [line for line in lines if line and line not in own]
    return "\n\n".join("\n".join(sorted(block, key=key)) for block in (own, other) if block)


def _next(name: str, kind: str, target: Path, single_file: bool) -> list[str]:
    """What to type now."""
    use = USE[kind].format(name)
    of_a_run = kind == "metric" or kind in SAMPLED
    out = f"--steps 50 --out {RUN.format(name)}"
    if kind == "launcher":
        out = f"--noise white --noise blue-tv --steps 50 --out sweeps/{name}"
    short = use if of_a_run else f"{use} {out}"
    if single_file:
        return [f"noisereg plugins check {target}", f"{short} --plugin {target}"]
    place = target if target.is_absolute() else f"./{target}"
    return [f"pip install {place}", f"pytest {target}", short]
