"""Which components there are: discovery, isolation of broken plugins, look-up by name, building.

Nothing here knows which plugins exist. Built-ins are registered through the same hooks as third parties'. Every
implementation is called on its own, so that one that fails is reported and stops nothing but itself.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import os
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args

import pluggy
from pydantic import BaseModel, ValidationError

from noisereg import hookspecs
from noisereg.api import API_VERSION, Component, Context, Params
from noisereg.errors import NoiseregError, nearest

Kind = Literal[
    "noise",
    "regularizer",
    "pairing",
    "process",
    "denoiser",
    "dataset",
    "task",
    "metric",
    "features",
    "logger",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
HOOKS: dict[Kind, str] = {
    "noise": "noisereg_noises",
    "regularizer": "noisereg_regularizers",
    "pairing": "noisereg_pairings",
    "process": "noisereg_processes",
    "denoiser": "noisereg_denoisers",
    "dataset": "noisereg_datasets",
    "task": "noisereg_tasks",
    "metric": "noisereg_metrics",
    "features": "noisereg_features",
    "logger": "noisereg_loggers",
}
CALLED: dict[str, str] = {kind: {"dataset": "data set", "features": "feature space"}.get(kind, kind) for kind in KINDS}

BUILTIN = "noisereg"
"""The distribution of the built-in components."""

Status = Literal["ok", "slow", "broken", "conflict", "blocked", "incompatible"]


@dataclass(frozen=True)
class Entry:
    """A component and who registered it."""

    kind: Kind
    component: Component
    distribution: str
    version: str

    @property
    def name(self) -> str:
        return self.component.name

    @property
    def qualified(self) -> str:
        return f"{self.distribution}/{self.name}"

    @property
    def recorded(self) -> str:
        """The name that a run's config.yaml holds: short for built-ins, qualified for the rest."""
        return self.name if self.distribution == BUILTIN else self.qualified

    def implementation(self) -> type:
        """The class, imported now.

        Raises:
            NoiseregError: if it cannot be imported, with the cause.
        """
        impl = self.component.impl
        if isinstance(impl, type):
            return impl
        module, _, attribute = impl.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (Exception, SystemExit) as error:
            raise NoiseregError(f"{self.qualified} cannot be imported from {impl!r}: {_cause(error)}") from error


@dataclass
class Plugin:
    """One source of components and what became of it."""

    name: str
    distribution: str
    version: str = ""
    source: str = ""
    sha256: str = ""
    status: Status = "ok"
    reason: str = ""
    seconds: float = 0.0
    entries: list[Entry] = field(default_factory=list)


def _cause(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _words(text: str | None) -> list[str]:
    return [word.strip() for word in (text or "").split(",") if word.strip()]


@dataclass(frozen=True)
class Policy:
    """Which plugins may be loaded. Names are those of entry points or distributions."""

    entry_points: bool = True
    allow: tuple[str, ...] = ()
    block: tuple[str, ...] = ()
    strict: bool = False

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Policy:
        """``NOISEREG_NO_PLUGINS``, ``NOISEREG_ALLOW``, ``NOISEREG_BLOCK`` (comma-separated), ``NOISEREG_STRICT``."""
        env = os.environ if environ is None else environ
        return cls(
            entry_points=env.get("NOISEREG_NO_PLUGINS", "") in ("", "0"),
            allow=tuple(_words(env.get("NOISEREG_ALLOW"))),
            block=tuple(_words(env.get("NOISEREG_BLOCK"))),
            strict=env.get("NOISEREG_STRICT", "") not in ("", "0"),
        )

    def refuses(self, name: str, distribution: str) -> str:
        """Why a plugin is not loaded, or the empty string."""
        if name in self.block or distribution in self.block:
            return "blocked by NOISEREG_BLOCK"
        if self.allow and name not in self.allow and distribution not in self.allow:
            return "not in NOISEREG_ALLOW"
        return ""


class Registry:
    """Components by kind and name."""

    def __init__(self, policy: Policy | None = None) -> None:
        self.policy = policy or Policy()
        self.plugins: list[Plugin] = []
        self._hooks = pluggy.PluginManager("noisereg")
        self._hooks.add_hookspecs(hookspecs)
        self._import(Plugin("built-in", BUILTIN, _own_version(), "noisereg.builtins"), "noisereg.builtins")
        if self.policy.entry_points:
            self._load_entry_points()

    # Loading

    def _load_entry_points(self) -> None:
        for point in sorted(importlib.metadata.entry_points(group="noisereg"), key=lambda p: p.name):
            distribution = point.dist.name if point.dist else point.name
            version = point.dist.version if point.dist else ""
            plugin = Plugin(point.name, distribution, version, point.value)
            if reason := self.policy.refuses(point.name, distribution):
                plugin.status, plugin.reason = "blocked", reason
                self.plugins.append(plugin)
            else:
                self._import(plugin, point.load)

    def load(self, reference: str, sha256: str = "") -> Plugin:
        """A plugin from a ``.py`` file or a module's name, as ``--plugin`` gives it.

        With ``sha256`` (a run's record of it), a file with other contents is refused.

        Raises:
            NoiseregError: if it does not exist, is broken, or has changed.
        """
        path = Path(reference).expanduser()
        if path.suffix == ".py" or os.sep in reference:
            return self._load_file(path, sha256)
        if any(p.source == reference and p.distribution == "module" for p in self.plugins):
            return next(p for p in self.plugins if p.source == reference)
        plugin = Plugin(reference, "module", "", reference)
        self._import(plugin, reference, quiet=True)
        return self._demand(plugin)

    def _load_file(self, path: Path, sha256: str) -> Plugin:
        try:
            source = path.resolve().read_bytes()
        except OSError as error:
            raise NoiseregError(
                f"--plugin {path}: {error.strerror}; expected a Python file or a module's name"
            ) from None
        digest = hashlib.sha256(source).hexdigest()
        if sha256 and digest != sha256:
            raise NoiseregError(
                f"{path} has changed since this run recorded it (SHA-256 {digest[:12]}…, recorded {sha256[:12]}…); "
                f"restore it, or give --plugin {path} to use it as it is now"
            )
        for known in self.plugins:
            if known.source == str(path.resolve()) and known.sha256 == digest:
                return known
        plugin = Plugin(path.stem, "file", digest[:12], str(path.resolve()), digest)

        def load() -> ModuleType:
            name = f"noisereg_file_{path.stem}_{digest[:8]}"
            spec = importlib.util.spec_from_file_location(name, path.resolve())
            if spec is None or spec.loader is None:
                raise NoiseregError(f"{path} is no Python source; expected a file that ends in .py")
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module  # so that impl="module:Class" and pickling by name find it
            try:
                spec.loader.exec_module(module)
            except BaseException:
                del sys.modules[name]
                raise
            return module

        self._import(plugin, load, quiet=True)
        return self._demand(plugin)

    def _demand(self, plugin: Plugin) -> Plugin:
        if plugin.status == "broken":
            raise NoiseregError(f"the plugin {plugin.source} is broken: {plugin.reason}")
        return plugin

    def _import(self, plugin: Plugin, load: Any, quiet: bool = False) -> None:
        """Import a plugin and collect its components; whatever it raises, SystemExit too, makes it broken."""
        began = time.perf_counter()
        had_torch = "torch" in sys.modules
        self.plugins.append(plugin)
        try:
            module = importlib.import_module(load) if isinstance(load, str) else load()
            self._collect(plugin, module)
        except (Exception, SystemExit) as error:
            plugin.status, plugin.reason, plugin.entries = "broken", _cause(error), []
            if self.policy.strict:
                raise NoiseregError(
                    f"the plugin {plugin.name} ({plugin.distribution}) is broken: {plugin.reason}"
                ) from None
            if not quiet:
                print(
                    f"noisereg: warning: the plugin {plugin.name} ({plugin.distribution}) is broken and left out: "
                    f"{plugin.reason} (noisereg plugins list)",
                    file=sys.stderr,
                )
        plugin.seconds = time.perf_counter() - began
        if plugin.status == "ok" and not had_torch and "torch" in sys.modules:
            plugin.status, plugin.reason = "slow", "importing it imports torch; give impl as 'pkg.module:Class'"

    def _collect(self, plugin: Plugin, module: Any) -> None:
        for name in dir(module):
            function = getattr(module, name)
            if not name.startswith("noisereg_") or not callable(function) or isinstance(function, type):
                continue
            if name not in HOOKS.values():
                raise NoiseregError(f"no hook is called {name!r}{nearest(name, HOOKS.values())}")
            if self._hooks.parse_hookimpl_opts(module, name) is None:
                raise NoiseregError(f"{name} is not marked; put @noisereg.api.hookimpl above it")
        self._hooks.register(module, name=f"{plugin.distribution}:{plugin.source}")
        callers = {caller.name: caller for caller in self._hooks.get_hookcallers(module) or []}
        if not callers:
            raise NoiseregError(f"{plugin.source} implements no hook; expected a function such as noisereg_noises")
        for kind, name in HOOKS.items():
            if name in callers:
                own = next(impl for impl in callers[name].get_hookimpls() if impl.plugin is module)
                for component in self._components(name, own.function()):
                    plugin.entries.append(Entry(kind, component, plugin.distribution, plugin.version))
        if old := [e for e in plugin.entries if e.component.api != API_VERSION]:
            plugin.status = "incompatible"
            plugin.reason = f"{old[0].name} is built for API {old[0].component.api}; this is API {API_VERSION}"

    @staticmethod
    def _components(hook: str, yielded: Iterable[Component] | None) -> Iterable[Component]:
        if yielded is None or isinstance(yielded, Component):
            raise NoiseregError(f"{hook} must yield Components; it returned {type(yielded).__name__}")
        for component in yielded:
            if not isinstance(component, Component):
                raise NoiseregError(f"{hook} must yield Components; it yielded {type(component).__name__}")
            yield component

    def register(self, component: Component, kind: Kind | None = None) -> None:
        """Add one component by hand, in a notebook or a test; of the same name, the last one counts.

        ``kind`` is read off the class where it extends one of :mod:`noisereg.api`'s bases.

        Raises:
            NoiseregError: if the kind cannot be told.
        """
        if kind is None:
            kind = getattr(Entry("noise", component, "session", "").implementation(), "kind", None)
        if kind not in KINDS:
            raise NoiseregError(f"{component.name}: cannot tell its kind; give kind= one of {', '.join(KINDS)}")
        plugin = next((p for p in self.plugins if p.distribution == "session"), None)
        if plugin is None:
            plugin = Plugin("session", "session", "", "noisereg.register")
            self.plugins.append(plugin)
        plugin.entries = [e for e in plugin.entries if (e.kind, e.name) != (kind, component.name)]
        plugin.entries.append(Entry(kind, component, "session", ""))

    # Look-up

    def entries(self, kind: Kind | None = None) -> list[Entry]:
        return [e for p in self.plugins for e in p.entries if kind is None or e.kind == kind]

    def conflicts(self, entry: Entry) -> list[Entry]:
        """Other components that have this one's kind and short name."""
        return [e for e in self.entries(entry.kind) if e.name == entry.name and e.qualified != entry.qualified]

    def find(self, kind: Kind, name: str) -> Entry:
        """The component called ``name`` or ``distribution/name``.

        Raises:
            NoiseregError: for an unknown name (with the nearest one, or the broken plugin that may have held it), for a
                short name that two plugins share, and for a component built for another API version.
        """
        entries = self.entries(kind)
        matches = [e for e in entries if name in (e.name, e.qualified)]
        if not matches:
            raise NoiseregError(self._unknown(kind, name))
        if len(matches) > 1:
            raise NoiseregError(
                f"two {CALLED[kind]} components are called {name!r}: write "
                + " or ".join(sorted(e.qualified for e in matches))
            )
        entry = matches[0]
        if entry.component.api != API_VERSION:
            raise NoiseregError(
                f"{entry.qualified} is built for plugin API {entry.component.api} and this noisereg has {API_VERSION}; "
                f"install a version of {entry.distribution} for API {API_VERSION}"
            )
        return entry

    def _unknown(self, kind: Kind, name: str) -> str:
        text = f"no {CALLED[kind]} is called {name!r}"
        distribution, slash, short = name.rpartition("/")
        for plugin in self.plugins:
            if plugin.status in ("broken", "blocked") and (
                plugin.distribution == distribution
                or short in (plugin.name, plugin.distribution)
                or short in plugin.source
            ):
                return f"{text}: the plugin {plugin.name} ({plugin.distribution}) is {plugin.status}: {plugin.reason}"
        if slash and distribution not in ("file", "module", "session"):
            known = {p.distribution for p in self.plugins}
            if distribution not in known:
                return f"{text}: the package {distribution!r} is not installed{nearest(distribution, known)}"
        elif slash:
            return f"{text}; it came with a --plugin {distribution}: give that again"
        if hint := nearest(name, [n for e in self.entries(kind) for n in (e.name, e.qualified)]):
            return f"{text}{hint} (noisereg plugins list --kind {kind})"
        return f"{text}; is the package that brings it installed? (noisereg plugins list --kind {kind})"

    # Building

    def params(self, entry: Entry, values: Mapping[str, Any]) -> Params:
        """Validated parameters of a component.

        Raises:
            NoiseregError: one line that names the key, what was expected, and the nearest key there is.
        """
        try:
            return entry.component.params.model_validate(dict(values))
        except ValidationError as error:
            raise NoiseregError(validation_message(error, entry.component.params, entry.name)) from None

    def build(self, kind: Kind, name: str, values: Mapping[str, Any], ctx: Context) -> Any:
        """The component, built as ``Class(params, ctx)``."""
        entry = self.find(kind, name)
        return entry.implementation()(self.params(entry, values), ctx)


def field_names(model: type[BaseModel], prefix: str = "") -> list[str]:
    """All dotted keys of a model: ``gamma.tau``."""
    names: list[str] = []
    for name, info in model.model_fields.items():
        nested = model_of(info.annotation)
        names += field_names(nested, f"{prefix}{name}.") if nested else [f"{prefix}{name}"]
    return names


def model_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = [m for a in get_args(annotation) if (m := model_of(a))]
    return found[0] if found else None


def _leaf(prefix: str, value: Any) -> str:
    """The dotted key down to the first thing that is no mapping: what the user typed."""
    while isinstance(value, Mapping) and value:
        key, value = next(iter(value.items()))
        prefix = f"{prefix}.{key}"
    return prefix


def validation_message(error: ValidationError, model: type[BaseModel], owner: str) -> str:
    """One line from pydantic's first complaint; ``owner`` is a component's name, or empty for the configuration."""
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        given = _leaf(key, first["input"])
        hint = nearest(given, field_names(model)) or nearest(key, [n.partition(".")[0] for n in field_names(model)])
        if owner:
            known = "" if field_names(model) else " (it takes none)"
            return f"{owner} has no parameter {given!r}{hint or known} (noisereg plugins show {owner})"
        return f"the configuration has no key {given!r}{hint} (noisereg config schema)"
    message = first["msg"]
    message = message.removeprefix("Value error, ").removeprefix("Assertion failed, ")
    message = message[:1].lower() + message[1:]
    where = ": ".join(part for part in (owner, key) if part)
    given = f", not {first['input']!r}" if isinstance(first["input"], str | int | float) else ""
    return f"{where}: {message}{given}" if where else f"{message}{given}"


def _own_version() -> str:
    from noisereg import __version__

    return __version__


_registry: Registry | None = None


def registry() -> Registry:
    """The process's registry, loaded at the first call; ``NOISEREG_PLUGINS`` names files and modules to add."""
    global _registry
    if _registry is None:
        _registry = Registry(Policy.from_environment())
        for reference in _words(os.environ.get("NOISEREG_PLUGINS")):
            _registry.load(reference)
    return _registry


def reset() -> None:
    """Forget the process's registry, so that the next look-up discovers plugins anew."""
    global _registry
    _registry = None


__all__ = [
    "HOOKS",
    "KINDS",
    "Entry",
    "Kind",
    "Plugin",
    "Policy",
    "Registry",
    "field_names",
    "registry",
    "reset",
    "validation_message",
]
