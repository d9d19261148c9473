"""``noisereg plugins list``, ``show``, ``check``, ``trust`` and ``new``. Lists and shows without
importing torch.
"""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Annotated, Any

import typer

from noisereg.cli import plugins_check, plugins_new
from noisereg.cli.options import Json, NoPlugins, Plugins, open_registry
from noisereg.cli.parameters import parameter_lines, parameters
from noisereg.errors import NoiseregError, nearest
from noisereg.plugins import trust
from noisereg.plugins.registry import BUILTIN, FILE, KINDS, Entry, Kind, Plugin, Policy, Registry
from noisereg.plugins.sources import read_source
from noisereg.terminal import printable

app = typer.Typer(
    help="Plugins: which there are, what one takes, whether it is right, and how to begin one.",
    no_args_is_help=True,
)

app.command("check")(plugins_check.check)
app.command("new")(plugins_new.new)

KindOption = Annotated[str | None, typer.Option("--kind", metavar="KIND", help=" | ".join(KINDS))]


def as_kind(text: str | None) -> Kind | None:
    """
    Raises:
        NoiseregError: for what is no kind.
    """
    if text is None:
        return None
    for kind in KINDS:
        if text == kind:
            return kind
    raise NoiseregError(f"--kind {text}: expected one of {', '.join(KINDS)}{nearest(text, KINDS)}")


@app.command("list")
def list_(
    kind: KindOption = None,
    timings: Annotated[
        bool, typer.Option("--timings", help="Also how long each plugin took to import.")
    ] = False,
    plugin: Plugins = None,
    no_plugins: NoPlugins = False,
    as_json: Json = False,
) -> None:
    """Every component with its plugin and status: ok, slow, broken, conflict, blocked or
    incompatible.

    With NOISEREG_STRICT or --strict-plugins, exits with 1 if one is broken, in conflict or
    incompatible.
    """
    wanted = as_kind(kind)
    registry = _lenient(plugin, no_plugins)
    rows = _rows(registry, wanted)
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        table = [["kind", "name", "distribution", "version", "status", ""]]
        table += [
            [
                r["kind"] or "-",
                r["name"],
                r["distribution"],
                r["version"],
                r["status"],
                r["reason"] or r["summary"],
            ]
            for r in rows
        ]
        print_table(table)
        if timings:
            print()
            loaded = sorted(registry.plugins, key=lambda p: -p.seconds)
            print_table(
                [["plugin", "import"]] + [[p.source, f"{p.seconds * 1000:.0f} ms"] for p in loaded]
            )
    if Policy.from_environment().strict and registry.problems():
        raise typer.Exit(1)


def _lenient(references: list[str] | None, no_plugins: bool) -> Registry:
    """The registry even where a strict policy would stop it: someone is looking for what is
    wrong.
    """
    if no_plugins:
        os.environ["NOISEREG_NO_PLUGINS"] = "1"
    if os.environ.get("NOISEREG_STRICT", "") in ("", "0"):
        registry = open_registry(no_plugins)
    else:
        registry = Registry(dataclasses.replace(Policy.from_environment(), strict=False))
    for reference in references or []:
        registry.load(reference)
    return registry


def _rows(registry: Registry, kind: Kind | None) -> list[dict[str, Any]]:
    """One a component, in the order of the kinds, and one for each plugin that has none to
    show.
    """
    entries = sorted(
        registry.entries(kind),
        key=lambda e: (KINDS.index(e.kind), e.distribution != BUILTIN, e.qualified),
    )
    rows = []
    for entry in entries:
        status, reason = registry.status(entry)
        plugin = registry.plugin_of(entry)
        rows.append(
            _row(entry.kind, entry.name, plugin, status, reason)
            | {"summary": entry.component.summary}
        )
    rows += [_row(None, p.name, p, p.status, p.reason) for p in registry.plugins if not p.entries]
    return rows


def _row(kind: Kind | None, name: str, plugin: Plugin, status: str, reason: str) -> dict[str, Any]:
    return {
        "kind": kind,
        "name": name,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "status": status,
        "reason": reason,
        "summary": "",
        "source": plugin.source,
        "seconds": round(plugin.seconds, 4),
    }


def print_table(rows: list[list[str]]) -> None:
    """Columns on stdout, the first row being their headings."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    for row in rows:
        print(
            "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        )


@app.command("trust")
def trust_(
    references: Annotated[
        list[str],
        typer.Argument(metavar="FILE|MODULE…", help="Plugins whose code you have read."),
    ],
    as_json: Json = False,
) -> None:
    """Let a run's or a configuration's record load this plugin, as it is now, from where it is
    now.

    Nothing is executed. --plugin does the same and uses it at once. To take it back, delete its
    line in the file that is printed.
    """
    sources = [read_source(reference) for reference in references]
    for source in sources:
        if not source.codes():
            raise NoiseregError(
                f"{source.source}: no file that importing it executes was found; expected a "
                "Python file or a module's name"
            )
    for source in sources:
        store = trust.remember(source)
        told = {"plugin": source.source, "sha256": source.sha256, "file": str(store)}
        print(
            json.dumps(told)
            if as_json
            else f"trusted: {printable(source.source)} (SHA-256 {source.sha256}), in {store}"
        )


@app.command()
def show(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A component: name, or package/name.")
    ],
    kind: KindOption = None,
    plugin: Plugins = None,
    no_plugins: NoPlugins = False,
    as_json: Json = False,
) -> None:
    """What a component is: summary, citation, parameters with defaults and limits, where its code
    is, a line to paste.
    """
    registry = open_registry(no_plugins, plugin)
    entries = find_all(registry, name, as_kind(kind))
    described = [_describe(registry, entry) for entry in entries]
    if as_json:
        print(json.dumps(described, indent=1, default=str))
        return
    for number, (entry, what) in enumerate(zip(entries, described, strict=True)):
        print(
            "\n" * bool(number)
            + f"{entry.name}  {entry.kind} of {what['distribution']} {what['version']}".rstrip()
        )
        if what["summary"]:
            print(f"  {printable(what['summary'])}")
        status = what["status"] + (f": {what['reason']}" if what["reason"] else "")
        lines = {"cite": what["cite"], "status": status, "code": what["code"]}
        lines["revision"] = (
            f"{what['revision']} (a run resumes on the revision it was started with)"
        )
        for label, text in lines.items():
            if text:
                print(f"  {label:<10} {printable(text)}")
        print("  parameters" + ("" if what["parameters"] else " none"))
        for line in parameter_lines(entry.component.params):
            print(f"    {line}")
        print(f"  {what['use']}")


def find_all(registry: Registry, name: str, kind: Kind | None = None) -> list[Entry]:
    """The components of that name, of one kind or of any.

    Raises:
        NoiseregError: if there is none, with the nearest name or the cause.
    """
    if kind is not None:
        return [registry.find(kind, name)]
    entries = [
        registry.find(k, name)
        for k in KINDS
        if any(name in (e.name, e.qualified) for e in registry.entries(k))
    ]
    if not entries:
        raise NoiseregError(registry.unknown(None, name))
    return entries


def _describe(registry: Registry, entry: Entry) -> dict[str, Any]:
    plugin, (status, reason) = registry.plugin_of(entry), registry.status(entry)
    component = entry.component
    name = entry.recorded if status == "conflict" else entry.name
    known = parameters(component.params)
    required = ",".join(f"{p['name']}=…" for p in known if p["required"])
    shown = required or next(
        (f"{p['name']}={p['default']}" for p in known if isinstance(p["default"], int | float)), ""
    )
    given = f" --plugin {plugin.source}" if plugin.distribution == FILE else ""
    return {
        "kind": entry.kind,
        "name": entry.name,
        "qualified": entry.qualified,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "status": status,
        "reason": reason,
        "summary": component.summary,
        "cite": component.cite,
        "revision": component.revision,
        "api": component.api,
        "code": where(entry),
        "parameters": known,
        "use": plugins_new.USE[entry.kind].format(f"{name}:{shown}" if shown else name) + given,
    }


def where(entry: Entry) -> str:
    """``file:line`` of a component's class, found without importing it; the file alone where the
    class is not in it.
    """
    from noisereg.plugins.sources import files_of

    impl = entry.component.impl
    if isinstance(impl, type):
        import inspect

        try:
            return f"{inspect.getsourcefile(impl)}:{inspect.getsourcelines(impl)[1]}"
        except (OSError, TypeError):
            return ""
    import ast

    module, _, name = impl.partition(":")
    files = files_of(module)
    if not files:
        return ""
    try:
        tree = ast.parse(files[-1].read_bytes())
    except (OSError, SyntaxError, ValueError):
        return str(files[-1])
    lines = [node.lineno for node in tree.body if getattr(node, "name", None) == name]
    return f"{files[-1]}:{lines[0]}" if lines else str(files[-1])
