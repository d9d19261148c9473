"""``noisereg plugins check``: the conformance kit, each component in a fresh process."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from noisereg.cli.options import Json, Plugins, open_registry
from noisereg.errors import NoiseregError
from noisereg.plugins import trust
from noisereg.plugins.registry import BUILTIN, FILE, MODULE, SESSION, Entry, Registry, canonical
from noisereg.terminal import printable

SLOWEST_IMPORT = 1.0
"""Seconds; every command that resolves a name waits for it."""
MARK = {"passed": "passed", "failed": "FAILED", "not applicable": "not applicable"}


@dataclass
class Origin:
    """What is to be checked and how a fresh process finds it."""

    entries: list[Entry]
    references: list[str] = field(default_factory=list)
    """``--plugin`` arguments."""
    path: list[str] = field(default_factory=list)
    """Folders for PYTHONPATH: a package that is not installed."""
    requirements: list[str] | None = None
    """What the package declares to need; None for a file or a module."""


def check(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME|PATH]",
            help="A component, a package, a .py file or a package's folder. [all]",
        ),
    ] = None,
    plugin: Plugins = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CxHxW",
            help="Try it on samples of this shape, such as 3x32x32; repeat. [the kit's own]",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Run the conformance kit on a plugin's components, each in a fresh process; also its import
    and declared bounds.

    Exits with 1 if something failed. Without NAME: all plugins that are installed or given.
    """
    for text in shape or []:
        if not re.fullmatch(r"[1-9]\d{0,4}(x[1-9]\d{0,4}x[1-9]\d{0,4})?", text):
            raise NoiseregError(
                f"--shape {text}: expected CxHxW, such as 3x32x32, or D for points"
            )
    registry = open_registry(plugins=plugin)
    results = [
        _check(origin, entry, as_json, shape or [])
        for origin in _origins(registry, name, plugin or [])
        for entry in origin.entries
    ]
    if as_json:
        print(json.dumps(results, indent=1))
    if any(answer["status"] == "failed" for result in results for answer in result["checks"]):
        raise typer.Exit(1)


def _origins(registry: Registry, name: str | None, given: list[str]) -> Iterator[Origin]:
    """
    Raises:
        NoiseregError: for what is neither a component, a package, a file nor a folder.
    """
    if name is not None and (
        name.endswith(".py") or (os.sep in name and Path(name).expanduser().exists())
    ):
        path = Path(name).expanduser()
        if path.is_dir():
            yield _folder(path)
        else:
            yield Origin(registry.load(name).entries, [name])
        return
    entries = registry.entries()
    if name is None:
        entries = [e for e in entries if e.distribution != BUILTIN]
        if not entries:
            raise NoiseregError(
                "no plugin is installed; give a component, a .py file or a package's folder to "
                "check"
            )
    elif any(p.distribution == canonical(name) for p in registry.plugins):
        plugin = next(p for p in registry.plugins if p.distribution == canonical(name))
        if plugin.status == "broken":
            raise NoiseregError(
                f"the plugin {plugin.name} ({plugin.distribution}) is broken: {plugin.reason}"
            )
        entries = [e for e in entries if e.distribution == canonical(name)]
    else:
        from noisereg.cli.plugins import find_all

        entries = find_all(registry, name)
    for entry in entries:
        yield Origin([entry], given, requirements=_requirements(entry.distribution))


def _folder(path: Path) -> Origin:
    """A package that need not be installed: its modules are those of its pyproject's entry
    points.
    """
    file = path / "pyproject.toml"
    try:
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        modules = list(project["entry-points"]["noisereg"].values())
    except OSError as error:
        raise NoiseregError(
            f"{file}: {error.strerror}; expected a package with an entry point in the group "
            "noisereg"
        ) from None
    except (tomllib.TOMLDecodeError, KeyError, AttributeError) as error:
        raise NoiseregError(
            f"{file} declares no entry point: expected [project.entry-points.noisereg] ({error})"
        ) from None
    folders = [str(f.resolve()) for f in (path / "src", path) if f.is_dir()]
    before = list(sys.path)
    sys.path[:0] = folders
    try:
        fresh = Registry()
        entries = [e for module in modules for e in fresh.load(module.partition(":")[0]).entries]
    finally:
        sys.path[:] = before
    return Origin(
        entries, [m.partition(":")[0] for m in modules], folders, project.get("dependencies", [])
    )


def _requirements(distribution: str) -> list[str] | None:
    if distribution in (BUILTIN, FILE, MODULE, SESSION):
        return None
    return importlib.metadata.requires(distribution) or []


def _check(origin: Origin, entry: Entry, quiet: bool, shapes: list[str]) -> dict[str, Any]:
    """One component's answers, printed as they come; a reason that repeats is printed once."""
    paths = os.pathsep.join([*origin.path, *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [*trust.interpreter(), "-m", "noisereg.testing", entry.kind, entry.qualified]
    if origin.references:
        command += ["--plugin", *origin.references]
    if shapes:
        command += ["--shape", *shapes]
    told: set[str] = set()
    result: dict[str, Any] = {
        "kind": entry.kind,
        "name": entry.qualified,
        "version": entry.version,
        "checks": [],
    }
    if not quiet:
        print(
            f"{entry.name}  {entry.kind} of {entry.distribution} {entry.version}".rstrip(),
            flush=True,
        )
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": paths},
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            answer = json.loads(line)
            if "error" in answer:
                answers = [_answer("loads", answer["error"])]
            elif "check" not in answer:
                answers = _package(origin, entry, answer)
                result["import_seconds"] = round(answer["seconds"], 4)
            else:
                answers = [answer]
            for one in answers:
                result["checks"].append(one)
                if not quiet:
                    said = one["message"] if one["status"] != "passed" else ""
                    again = bool(said) and said in told
                    told.add(said)
                    said = "(the same)" if again else said
                    mark, name = MARK[one["status"]], one["check"]
                    print(
                        f"  {mark:<14}  {name:<36}  {printable(said)}".rstrip(),
                        flush=True,
                    )
                    if one["status"] == "failed" and one.get("explanation") and not again:
                        print(f"{'':<18}{one['explanation']} ({one['confidence']})")
    if process.returncode not in (0, 2):
        died = _answer("survives", f"the process ended with code {process.returncode}")
        result["checks"].append(died)
        if not quiet:
            print(f"  {MARK['failed']:<14}  {died['check']:<36}  {died['message']}")
    if not quiet:
        count = {s: sum(a["status"] == s for a in result["checks"]) for s in MARK}
        imported = (
            f", imported in {result['import_seconds'] * 1000:.0f} ms"
            if "import_seconds" in result
            else ""
        )
        print(f"  {', '.join(f'{n} {s}' for s, n in count.items() if n)}{imported}")
    return result


def _answer(name: str, failure: str) -> dict[str, Any]:
    status = "failed" if failure else "passed"
    return {
        "check": name,
        "status": status,
        "message": failure,
        "seconds": 0.0,
        "confidence": "exact",
        "explanation": "",
    }


def _package(origin: Origin, entry: Entry, imported: dict[str, Any]) -> list[dict[str, Any]]:
    """What is asked of the plugin beside its component."""
    answers = []
    if entry.distribution not in (BUILTIN, FILE):
        slow = imported["reason"] if imported["status"] == "slow" else ""
        if not slow and imported["seconds"] > SLOWEST_IMPORT:
            slow = (
                f"importing it takes {imported['seconds']:.1f} s, and every command that resolves "
                "a name waits for it"
            )
        answers.append(_answer("imports_quickly", slow))
    if origin.requirements is not None:
        bound = any(
            re.match(r"noisereg\b[^;]*(>=|==|~=|>)", line.replace(" ", ""))
            for line in origin.requirements
        )
        missing = (
            ""
            if bound
            else "the package does not say which noisereg it needs: "
            'dependencies = ["noisereg>=0.1"]'
        )
        answers.append(_answer("declares_its_bounds", missing))
    if imported["status"] in ("conflict", "incompatible"):
        answers.append(_answer("has_a_name_of_its_own", imported["reason"]))
    return answers
