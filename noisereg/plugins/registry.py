"""Which components there are: discovery, isolation of broken plugins, look-up by name, building.

Nothing here knows which plugins exist. Built-ins are registered through the same hooks as third
parties'. Every implementation is called on its own, so that one that fails is reported and stops
nothing but itself.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

import pluggy
from pydantic import ValidationError

from noisereg import api
from noisereg.api import API_VERSION, Component, Context, Params, RegularizerParams
from noisereg.errors import NoiseregError, nearest
from noisereg.plugins import builtins, hookspecs, trust
from noisereg.plugins.sources import (
    FileSource,
    ModuleSource,
    cause,
    code_of,
    holds_torch,
    is_file,
    read_source,
)
from noisereg.plugins.validation import check_numbers, validation_message
from noisereg.terminal import one_line

Kind = Literal[
    "noise",
    "regularizer",
    "pairing",
    "process",
    "solver",
    "grid",
    "denoiser",
    "dataset",
    "task",
    "metric",
    "features",
    "logger",
    "launcher",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
HOOKS: dict[Kind, str] = {
    "noise": "noisereg_noises",
    "regularizer": "noisereg_regularizers",
    "pairing": "noisereg_pairings",
    "process": "noisereg_processes",
    "solver": "noisereg_solvers",
    "grid": "noisereg_grids",
    "denoiser": "noisereg_denoisers",
    "dataset": "noisereg_datasets",
    "task": "noisereg_tasks",
    "metric": "noisereg_metrics",
    "features": "noisereg_features",
    "logger": "noisereg_loggers",
    "launcher": "noisereg_launchers",
}
BASES: dict[Kind, type] = {
    cast(Kind, base.kind): base
    for base in (
        api.Noise,
        api.Regularizer,
        api.Pairing,
        api.Process,
        api.Solver,
        api.Grid,
        api.Denoiser,
        api.Dataset,
        api.Task,
        api.Metric,
        api.Features,
        api.Logger,
        api.Launcher,
    )
}

"""What a component of each kind extends, in :mod:`noisereg.api`."""
CALLED: dict[str, str] = {
    kind: {"dataset": "data set", "features": "feature space"}.get(kind, kind) for kind in KINDS
}

BUILTIN = "noisereg"
"""The distribution of the built-in components."""
FILE, MODULE, SESSION = "file", "module", "session"
"""What stands for the distribution of a ``--plugin`` file, a ``--plugin`` module, and
``noisereg.register``.
"""

ELSEWHERE = {
    ("solver", "euler"): "Euler's step is ddim with η 0: `ddim:eta=0`",
    ("solver", "ancestral"): "DDPM's ancestral step is ddim with η 1: `ddim:eta=1`",
    ("solver", "ddpm"): "DDPM's ancestral step is ddim with η 1: `ddim:eta=1`",
}
"""What is there under another name, by kind and the name that others give it."""
COMES_WITH = {
    "wandb": "noisereg-wandb",
    "mlflow": "noisereg-mlflow",
    "ray": "noisereg-ray",
    "submitit": "noisereg-submitit",
    "student-t": "noisereg-heavy-tail",
    "offset": "noisereg-offset",
    "pyramid": "noisereg-offset",
    "equal-snr": "noisereg-equal-snr",
    "spectral": "noisereg-spectral",
    "rectified-flow": "noisereg-flow",
    "edm": "noisereg-flow",
}
"""Which plugin of the repository (docs/plugins/known.md) brings what people ask for by name."""

Status = Literal["ok", "slow", "broken", "conflict", "blocked", "incompatible"]


@dataclass(frozen=True)
class Entry:
    """A component and who registered it."""

    kind: Kind
    component: Component
    distribution: str
    version: str
    sha256: str = ""
    """Of the plugin's code, where it has been read."""

    @functools.cached_property
    def code(self) -> str:
        """What tells its code apart from another of the same name and version; empty for a
        built-in, whose revision says so. What is kept on disk is kept by this, too: a plugin is
        edited without another revision.
        """
        if self.distribution == BUILTIN:
            return ""
        return self.sha256 or code_of(self.implementation())

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

    @property
    def compatible(self) -> bool:
        return self.component.api == API_VERSION

    def implementation(self) -> Any:
        """The class, or a function that returns a component, imported now.

        Raises:
            NoiseregError: if it cannot be imported, with the cause.
        """
        impl = self.component.impl
        if isinstance(impl, type):
            return impl
        module, _, attribute = impl.partition(":")
        try:
            implementation = getattr(importlib.import_module(module), attribute)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise NoiseregError(
                f"{self.qualified} cannot be imported from {impl!r}: {cause(error)}"
            ) from error
        if not callable(implementation):
            raise NoiseregError(
                f"{self.qualified}: {impl!r} is {type(implementation).__name__} and no class"
            )
        return implementation


@dataclass
class Plugin:
    """One source of components and what became of it."""

    name: str
    distribution: str
    version: str = ""
    source: str = ""
    """An entry point's value, a file's absolute path, or a module's name."""
    sha256: str = ""
    status: Status = "ok"
    reason: str = ""
    seconds: float = 0.0
    """What importing it and asking it for its components took."""
    entries: list[Entry] = field(default_factory=list)
    given: bool = False
    """Asked for as it is now, by a flag or the environment, rather than as a run recorded it."""


def _words(text: str | None) -> tuple[str, ...]:
    return tuple(word.strip() for word in (text or "").split(",") if word.strip())


def canonical(distribution: str) -> str:
    """A distribution's name as package indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


@dataclass(frozen=True)
class Policy:
    """Which plugins may be loaded. Names are those of entry points, distributions, files (without
    .py) or modules.
    """

    entry_points: bool = True
    """False loads no installed plugin, and none of ``NOISEREG_PLUGINS``."""
    others: bool = True
    """False loads none that is given, and none that a file names."""
    allow: tuple[str, ...] = ()
    """If not empty, no other installed plugin is loaded."""
    block: tuple[str, ...] = ()
    strict: bool = False
    """A plugin that is broken, incompatible or in conflict is an error at once."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Policy:
        """``NOISEREG_NO_PLUGINS``, ``NOISEREG_ALLOW``, ``NOISEREG_BLOCK`` (comma-separated),
        ``NOISEREG_STRICT``.
        """
        env = os.environ if environ is None else environ
        some = env.get("NOISEREG_NO_PLUGINS", "") in ("", "0")
        return cls(
            entry_points=some,
            others=some,
            allow=_words(env.get("NOISEREG_ALLOW")),
            block=_words(env.get("NOISEREG_BLOCK")),
            strict=env.get("NOISEREG_STRICT", "") not in ("", "0"),
        )

    def refuses(self, name: str, distribution: str) -> str:
        """Why an installed plugin is not loaded, or the empty string."""
        names = {canonical(name), canonical(distribution)}
        if names & {canonical(n) for n in self.block}:
            return "blocked by NOISEREG_BLOCK"
        if self.allow and not names & {canonical(n) for n in self.allow}:
            return "not in NOISEREG_ALLOW"
        return ""


class Registry:
    """Components by kind and name."""

    def __init__(self, policy: Policy | None = None) -> None:
        """
        Raises:
            NoiseregError: under a strict policy, for the first plugin that is not in order.
        """
        self.policy = policy or Policy()
        self.plugins: list[Plugin] = []
        self._hooks = pluggy.PluginManager("noisereg")
        self._hooks.add_hookspecs(hookspecs)
        self._owners: dict[int, Plugin] = {}
        self._noted: set[str] = set()
        self._left_out: list[str] = []
        """What files named and ``--no-plugins`` left out."""
        from noisereg import __version__

        for module in builtins.MODULES:
            own = Plugin("built-in", BUILTIN, __version__, module)
            self._import(own, functools.partial(importlib.import_module, module))
        if self.policy.entry_points:
            self._load_entry_points()
        if self.policy.strict:
            for plugin, status, reason in self.problems():
                raise NoiseregError(f"{plugin} is {status}: {reason} (NOISEREG_STRICT is set)")

    # Loading

    def _load_entry_points(self) -> None:
        points = [
            (p.dist.name if p.dist else p.name, p)
            for p in importlib.metadata.entry_points(group="noisereg")
        ]
        for name, point in sorted(points, key=lambda found: (canonical(found[0]), found[1].name)):
            plugin = Plugin(
                point.name, canonical(name), point.dist.version if point.dist else "", point.value
            )
            if plugin.distribution in (FILE, MODULE, SESSION):
                plugin.status, plugin.reason = (
                    "broken",
                    f"a package cannot be called {name!r}: that name has a meaning",
                )
                self.plugins.append(plugin)
            elif reason := self.policy.refuses(point.name, name):
                plugin.status, plugin.reason = "blocked", reason
                self.plugins.append(plugin)
            else:
                self._import(plugin, point.load)

    def load(self, reference: str) -> Plugin:
        """A plugin from a ``.py`` file or a module's name, as the *user* gives it: by
        ``--plugin``, ``NOISEREG_PLUGINS`` or from Python. What a file names is
        :meth:`load_recorded`'s.

        The user has run it then, and later commands may find it by a run's record of it.

        Raises:
            NoiseregError: if it is not there, is broken, is blocked, or lies in a run or a sweep.
        """
        if not self.policy.others:
            raise NoiseregError(
                f"`plugin={reference}` and `no_plugins` (NOISEREG_NO_PLUGINS) were given; "
                "expected one of them"
            )
        self._refuse_blocked(reference)
        source = read_source(reference)
        plugin = self._execute(source)
        plugin.given = True
        if plugin.distribution in (FILE, MODULE):
            trust.remember(source)
        self._refuse_problems()
        return plugin

    def load_recorded(
        self, source: str, sha256: str, origin: str = "the configuration"
    ) -> Plugin | None:
        """A plugin that the file ``origin`` names, which anybody may have written: it is imported
        only if :mod:`noisereg.plugins.trust` knows it as code that the user has run, and if its
        contents are those recorded (``sha256``, where there is one). Where the user has given the
        same plugin in this process, that one stands for it. None under ``--no-plugins``.

        Raises:
            NoiseregError: as :meth:`load`, and for code that has changed, is not there or was
            never run by the user.
        """
        if not self.policy.others:
            self._left_out.append(source)
            return None
        self._refuse_blocked(source)
        if known := self._as_recorded(source, sha256):
            return known
        try:
            code = self._decide(source, sha256, origin)
        except NoiseregError:
            if known := self._given_instead(source):
                return known
            raise
        plugin = self._execute(code)
        self._refuse_problems()
        return plugin

    def _decide(self, source: str, sha256: str, origin: str) -> FileSource | ModuleSource:
        """What may be executed for a record: the file or module itself, or the user's own copy.

        Raises:
            NoiseregError: if nothing may.
        """
        file = Path(source).name
        code: FileSource | ModuleSource | None = None
        wrong: NoiseregError | None = None
        try:
            code = read_source(source, f"{origin}: the plugin {source}")
        except NoiseregError as error:
            wrong = error
        if code and (not sha256 or code.sha256 == sha256) and trust.is_trusted(code):
            return code
        digest = sha256 or (code.sha256 if code else "")
        if is_file(source) and digest and (own := trust.own_copy(file, digest)):
            _say(f"note: for the plugin {source} of {origin} your own {own.source} is used")
            return own
        if code is None:
            if is_file(source) and not _is_there(source):
                recorded = f" (SHA-256 {sha256[:12]}…)" if sha256 else ""
                raise NoiseregError(
                    f"the plugin file {source} that {origin} names{recorded} is not there; "
                    f"give it where it is now: `plugin=PATH/{file}`"
                )
            assert wrong is not None
            raise wrong
        if sha256 and code.sha256 != sha256:
            raise NoiseregError(
                f"{code.source} has changed since {origin} recorded it (SHA-256 "
                f"{code.sha256[:12]}…, recorded {sha256[:12]}…); "
                f"restore it, or give `plugin={code.source}` to use it as it is now"
            )
        raise trust.refusal(code, origin)

    def _refuse_blocked(self, reference: str) -> None:
        name = Path(reference).stem if is_file(reference) else reference
        if any(canonical(name) == canonical(blocked) for blocked in self.policy.block):
            raise NoiseregError(f"`plugin={reference}` is blocked by NOISEREG_BLOCK")

    def _refuse_problems(self) -> None:
        if self.policy.strict and (problems := self.problems()):
            raise NoiseregError(
                f"{problems[0][0]} is {problems[0][1]}: {problems[0][2]} (NOISEREG_STRICT is set)"
            )

    def _loaded(self, reference: str) -> list[Plugin]:
        """The files, or modules, of this name that are loaded, from wherever they came."""
        given = [
            p for p in self.plugins if p.distribution in (FILE, MODULE) and p.status != "broken"
        ]
        return [p for p in given if Path(p.source).name == Path(reference).name]

    def _as_recorded(self, source: str, sha256: str) -> Plugin | None:
        """What is loaded already and is what a record means: of the same name and contents, or an
        installed plugin's module.
        """
        same = (p for p in self._loaded(source) if sha256 and p.sha256 == sha256)
        installed = (
            p
            for p in self.plugins
            if p.distribution not in (FILE, MODULE, SESSION, BUILTIN)
            and p.status in ("ok", "slow")
            and p.source.partition(":")[0] == source
        )
        return next(same, None) or next(installed, None)

    def _given_instead(self, reference: str) -> Plugin | None:
        """Where a run's plugin cannot be had as recorded, one of the same name that the user has
        given stands for it.
        """
        known = next((p for p in self._loaded(reference) if p.given), None)
        if known and reference not in self._noted:
            self._noted.add(reference)
            _say(
                f"note: the run's plugin {reference} is not as it was recorded; {known.source} is "
                "used, as given"
            )
        return known

    def _execute(self, source: FileSource | ModuleSource) -> Plugin:
        if isinstance(source, FileSource):
            return self._execute_file(source)
        return self._execute_module(source)

    def _execute_file(self, file: FileSource) -> Plugin:
        for known in [p for p in self.plugins if p.source == file.source]:
            if known.sha256 == file.sha256 and known.status != "broken":
                return known
            self._forget(known)  # edited since, in a notebook
        plugin = Plugin(file.path.stem, FILE, file.sha256[:12], file.source, file.sha256)
        return self._demand(self._import(plugin, file.execute, quiet=True))

    def _execute_module(self, module: ModuleSource) -> Plugin:
        name = module.name
        for known in [p for p in self.plugins if p.source == name and p.distribution == MODULE]:
            if known.status != "broken":
                return known
            self._forget(known)
        plugin = self._import(
            Plugin(name, MODULE, "", name, module.sha256),
            lambda: importlib.import_module(name),
            quiet=True,
        )
        if (
            plugin.status == "broken"
            and plugin.reason.startswith("ModuleNotFoundError")
            and not module.files
        ):
            self._forget(plugin)
            file = Path(f"{name.replace('.', os.sep)}.py")
            hint = (
                f"; did you mean the file: `plugin={os.curdir}{os.sep}{file}`"
                if file.is_file()
                else ""
            )
            raise NoiseregError(f"`plugin={name}`: no module of that name can be imported{hint}")
        return self._demand(plugin)

    def _demand(self, plugin: Plugin) -> Plugin:
        if plugin.status == "broken":
            raise NoiseregError(f"the plugin {plugin.source} is broken: {plugin.reason}")
        return plugin

    def _forget(self, plugin: Plugin) -> None:
        self.plugins.remove(plugin)
        if module := self._hooks.get_plugin(f"{plugin.distribution}:{plugin.source}"):
            self._owners.pop(id(module), None)
            self._hooks.unregister(module)

    def _import(self, plugin: Plugin, load: Callable[[], Any], quiet: bool = False) -> Plugin:
        """Import a plugin and collect its components; whatever it raises, SystemExit too, makes it
        broken.

        Returns the plugin, or the one that had brought the same module before.
        """
        began = time.perf_counter()
        before = set(sys.modules)
        module: Any = None
        try:
            with contextlib.redirect_stdout(
                sys.stderr
            ):  # what a plugin prints must not end up in a --json
                module = load()
                if id(module) in self._owners:
                    return self._owners[id(module)]
                self._collect(plugin, module)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            plugin.status, plugin.reason, plugin.entries = "broken", cause(error), []
            if isinstance(error, NoiseregError):
                plugin.reason = str(error)
            if not quiet and not self.policy.strict:
                _say(
                    f"warning: the plugin {plugin.name} ({plugin.distribution}) is broken and "
                    "left out: "
                    f"{plugin.reason} (noisereg plugins list)"
                )
        plugin.seconds = time.perf_counter() - began
        self.plugins.append(plugin)
        if plugin.status == "ok":
            self._owners[id(module)] = plugin
            new = sys.modules.keys() - before
            if "torch" in new or holds_torch(new):
                plugin.status = "slow"
                plugin.reason = (
                    "importing it imports torch: give impl as 'pkg.module:Class', or import torch "
                    "in methods"
                )
        elif module is not None and self._hooks.is_registered(module):
            self._hooks.unregister(module)
        return plugin

    def _collect(self, plugin: Plugin, module: Any) -> None:
        self._check_hooks(module)
        self._hooks.register(module, name=f"{plugin.distribution}:{plugin.source}")
        callers = {caller.name: caller for caller in self._hooks.get_hookcallers(module) or []}
        if not callers:
            raise NoiseregError(
                f"{plugin.source} implements no hook; expected a function such as noisereg_noises"
            )
        for kind, name in HOOKS.items():
            if name in callers:
                own = next(impl for impl in callers[name].get_hookimpls() if impl.plugin is module)
                for component in self._components(name, own.function()):
                    self._add(plugin, kind, component)

    def _add(self, plugin: Plugin, kind: Kind, component: Component) -> None:
        entry = Entry(kind, component, plugin.distribution, plugin.version, plugin.sha256)
        if kind == "regularizer" and not issubclass(component.params, RegularizerParams):
            raise NoiseregError(
                f"{component.name}: a regularizer's params must extend "
                "noisereg.api.RegularizerParams"
            )
        others = [e for p in (*self.plugins, plugin) for e in p.entries]
        if any((e.kind, e.qualified) == (kind, entry.qualified) for e in others):
            raise NoiseregError(
                f"there is already a {CALLED[kind]} {entry.qualified}; give one of them another "
                "name"
            )
        plugin.entries.append(entry)

    def _check_hooks(self, module: Any) -> None:
        """
        Raises:
            NoiseregError: for what looks like a hook and is none.
        """
        for name in dir(module):
            function = getattr(module, name, None)
            if isinstance(function, type) or not callable(function):
                continue
            marked = self._hooks.parse_hookimpl_opts(module, name) is not None
            if (marked or name.startswith("noisereg_")) and name not in HOOKS.values():
                raise NoiseregError(f"no hook is called {name!r}{nearest(name, HOOKS.values())}")
            if name.startswith("noisereg_") and not marked:
                raise NoiseregError(f"{name} is not marked; put @noisereg.api.hookimpl above it")

    @staticmethod
    def _components(hook: str, yielded: object) -> Iterable[Component]:
        if isinstance(yielded, Component | str) or not isinstance(yielded, Iterable):
            raise NoiseregError(
                f"{hook} must yield Components; it returned {type(yielded).__name__}"
            )
        for component in yielded:
            if not isinstance(component, Component):
                raise NoiseregError(
                    f"{hook} must yield Components; it yielded {type(component).__name__}"
                )
            yield component

    def register(self, component: Component, kind: Kind | None = None) -> None:
        """Add one component by hand, in a notebook or a test; of the same name, the last one
        counts.

        ``kind`` is read off the class where it extends one of :mod:`noisereg.api`'s bases.

        Raises:
            NoiseregError: if the kind cannot be told, and for a built-in's name.
        """
        if kind is None:
            kind = getattr(Entry("noise", component, SESSION, "").implementation(), "kind", None)
        if kind not in KINDS:
            raise NoiseregError(
                f"{component.name}: cannot tell its kind; give kind= one of {', '.join(KINDS)}"
            )
        if any(e.distribution == BUILTIN and e.name == component.name for e in self.entries(kind)):
            raise NoiseregError(
                f"{component.name!r} is a built-in {CALLED[kind]}; give yours another name"
            )
        plugin = next((p for p in self.plugins if p.distribution == SESSION), None)
        if plugin is None:
            plugin = Plugin("session", SESSION, "", "noisereg.register")
            self.plugins.append(plugin)
        before = plugin.entries
        plugin.entries = [e for e in before if (e.kind, e.name) != (kind, component.name)]
        try:
            self._add(plugin, kind, component)
        except NoiseregError:
            plugin.entries = before
            raise

    # Look-up

    def entries(self, kind: Kind | None = None) -> list[Entry]:
        return [e for p in self.plugins for e in p.entries if kind is None or e.kind == kind]

    def plugin_of(self, entry: Entry) -> Plugin:
        return next(p for p in self.plugins if any(e is entry for e in p.entries))

    def conflicts(self, entry: Entry) -> list[Entry]:
        """Other components that have this one's kind and short name."""
        return [
            e
            for e in self.entries(entry.kind)
            if e.name == entry.name and e.qualified != entry.qualified and e.compatible
        ]

    def status(self, entry: Entry) -> tuple[Status, str]:
        """What ``plugins list`` says of a component, and why where it is not "ok"."""
        if not entry.compatible:
            return (
                "incompatible",
                f"built for plugin API {entry.component.api}; this noisereg has {API_VERSION}",
            )
        others = self.conflicts(entry)
        if any(e.distribution == BUILTIN for e in others):
            return "conflict", f"the built-in keeps the short name; write {entry.qualified}"
        if others and entry.distribution != BUILTIN:
            also = ", ".join(sorted(e.qualified for e in others))
            return "conflict", f"the short name is also that of {also}; write {entry.qualified}"
        plugin = self.plugin_of(entry)
        return plugin.status, plugin.reason

    def problems(self) -> list[tuple[str, Status, str]]:
        """Every plugin and component that is broken, incompatible or in conflict: what, status,
        reason.
        """
        problems: list[tuple[str, Status, str]] = [
            (f"the plugin {p.name} ({p.distribution})", p.status, p.reason)
            for p in self.plugins
            if p.status == "broken"
        ]
        for entry in self.entries():
            status, reason = self.status(entry)
            if status in ("incompatible", "conflict"):
                problems.append((f"the {CALLED[entry.kind]} {entry.qualified}", status, reason))
        return problems

    def find(self, kind: Kind, name: str) -> Entry:
        """The component called ``name`` or ``distribution/name``. A built-in keeps its short name.

        Raises:
            NoiseregError: for an unknown name (with the nearest one, or the broken plugin that may
            have held it), for a
                short name that two plugins share, and for a component built for another API
                version.
        """
        distribution, slash, short = name.rpartition("/")
        named = distribution if distribution in (FILE, MODULE) else canonical(distribution)
        wanted = f"{named}/{short}" if slash else ""
        matches = [
            e for e in self.entries(kind) if (e.qualified == wanted if slash else e.name == name)
        ]
        if not matches:
            raise NoiseregError(self.unknown(kind, name))
        matches = [e for e in matches if e.compatible] or matches
        builtin = next((e for e in matches if e.distribution == BUILTIN), None)
        if len(matches) > 1 and builtin is None:
            raise NoiseregError(
                f"two {CALLED[kind]} components are called {name!r}: write "
                + " or ".join(sorted(e.qualified for e in matches))
            )
        entry = builtin or matches[0]
        if len(matches) > 1 and f"{kind}:{name}" not in self._noted:
            self._noted.add(f"{kind}:{name}")
            others = " or ".join(sorted(e.qualified for e in matches if e is not entry))
            _say(f"note: {name} is the built-in {CALLED[kind]}; for the plugin's write {others}")
        if not entry.compatible:
            raise NoiseregError(
                f"{entry.qualified} is built for plugin API {entry.component.api} and this "
                f"noisereg has {API_VERSION}; "
                f"install a version of {entry.distribution} for API {API_VERSION}"
            )
        return entry

    def unknown(self, kind: Kind | None, name: str) -> str:
        """Why there is no such component, of one kind or of any, and what to type instead."""
        text = f"no {CALLED[kind] if kind else 'component'} is called {name!r}"
        look = f"(noisereg plugins list{f' --kind {kind}' if kind else ''})"
        distribution, slash, short = name.rpartition("/")
        wanted = canonical(distribution)
        for plugin in self.plugins:
            if plugin.status in ("broken", "blocked") and (
                plugin.distribution == wanted or (not slash and canonical(short) in _names(plugin))
            ):
                return (
                    f"{text}: the plugin {plugin.name} ({plugin.distribution}) is "
                    f"{plugin.status}: {plugin.reason}"
                )
        if slash and distribution in (FILE, MODULE):
            if self._left_out:
                them = ", ".join(self._left_out)
                return f"{text}; it came with the plugin {them}, and `no_plugins` loads none"
            held = [e.qualified for e in self.entries(kind) if e.distribution == distribution]
            if held:
                there = f"; there are: {', '.join(held)}"
                return f"{text}{nearest(name, held) or there} {look}"
            return f"{text}; it came with a `plugin={distribution}`: give that again"
        if slash and distribution == SESSION:
            return (
                f"{text}; it was registered in a Python session: register it again, or keep it "
                "in a `plugin` file"
            )
        off = "" if self.policy.entry_points else "; plugins are switched off (`no_plugins`)"
        if slash:
            known = {p.distribution for p in self.plugins}
            if wanted in known:
                held = [e.name for e in self.entries(kind) if e.distribution == wanted]
                return f"{text}{nearest(short, held)} {look}"
            if name[:1] in (".", "/", "~") and not _is_there(name):
                return f"{text}: there is no {name}"
            if _is_path(name) or kind == "dataset":
                # Never advice to install what may be somebody else's package of a folder's name.
                return (
                    f"{text}: {distribution!r} is no package of an installed plugin; a path "
                    "begins with ./, / or ~"
                )
            hint = off or nearest(wanted, known - {BUILTIN}) or "; pip install it"
            return f"{text}: the package {distribution!r} is not installed{hint}"
        called, comma, rest = name.partition(",")
        if comma and "=" in rest and any(e.name == called for e in self.entries(kind)):
            return f"{text}; did you mean '{called}:{rest}'? {look}"
        if kind and (kind, name) in ELSEWHERE:
            return f"{text}; {ELSEWHERE[kind, name]}"
        if kind and (
            elsewhere := [k for k in KINDS if any(e.name == name for e in self.entries(k))]
        ):
            return f"{text}; {name} is a {CALLED[elsewhere[0]]} {look}"
        if hint := nearest(name, [n for e in self.entries(kind) for n in (e.name, e.qualified)]):
            return f"{text}{hint} {look}"
        if off:
            return f"{text}{off} {look}"
        if name in COMES_WITH:
            return (
                f"{text}; it comes with the plugin {COMES_WITH[name]} of noisereg's repository: "
                f"pip install ./plugins/{COMES_WITH[name]}"
            )
        if _is_path(name):
            return f"{text}; a path begins with ./, / or ~ {look}"
        bring = "if a plugin brings it, pip install that, or give its file with `plugin`"
        return f"{text}; {bring} {look}"

    # Building

    def params(self, entry: Entry, values: Mapping[str, Any]) -> Params:
        """Validated parameters of a component.

        Raises:
            NoiseregError: one line that names the key, what was expected, and the nearest key
            there is.
        """
        try:
            params = entry.component.params.model_validate(dict(values))
            check_numbers(params, entry.name)
            return params
        except ValidationError as error:
            raise NoiseregError(
                validation_message(error, entry.component.params, entry.name)
            ) from None

    def build(self, kind: Kind, name: str, values: Mapping[str, Any], ctx: Context) -> Any:
        """The component, built as ``Class(params, ctx)``.

        Raises:
            NoiseregError: for an unknown name, a wrong parameter, whatever a plugin's class
            raises, and a component that does not extend the base of its kind.
        """
        entry = self.find(kind, name)
        implementation, params = entry.implementation(), self.params(entry, values)
        try:
            built = implementation(params, ctx)
        except NoiseregError:
            raise
        except Exception as error:
            if "before Module.__init__() call" in str(error):
                raise NoiseregError(
                    f"{entry.qualified} is no torch.nn.Module yet where it takes its parts; "
                    f"expected class {implementation.__name__}(torch.nn.Module, "
                    f"{BASES[kind].__name__}), in this order, and super().__init__() first"
                ) from error
            if entry.distribution in (BUILTIN, SESSION):
                raise
            raise NoiseregError(
                f"{entry.qualified} could not be built: {cause(error)} (noisereg plugins check "
                f"{entry.qualified})"
            ) from error
        if not isinstance(built, base := BASES[kind]):
            raise NoiseregError(
                f"{entry.qualified} is {type(built).__name__}, which is no {base.__name__}; "
                f"expected a class that extends noisereg.api.{base.__name__}"
            )
        _check_learns(entry, built)
        return built


def check_kind(kind: str) -> None:
    """
    Raises:
        NoiseregError: for what is no kind.
    """
    if kind not in KINDS:
        raise NoiseregError(
            f"no kind is called {kind!r}{nearest(str(kind), KINDS)}; expected one of "
            f"{', '.join(KINDS)}"
        )


def _check_learns(entry: Entry, built: Any) -> None:
    """
    Raises:
        NoiseregError: for a parameter that no optimiser and no checkpoint would know of.
    """
    if entry.kind not in ("noise", "regularizer", "process"):
        return
    from torch import nn  # which what was built has imported

    held = getattr(built, "__dict__", {}).values()
    if not isinstance(built, nn.Module) and any(isinstance(v, nn.Parameter) for v in held):
        base = BASES[entry.kind].__name__
        raise NoiseregError(
            f"{entry.qualified} holds a torch.nn.Parameter and is no torch.nn.Module: it would "
            f"not be trained, nor be in any checkpoint; expected class {type(built).__name__}"
            f"(torch.nn.Module, noisereg.api.{base})"
        )


def _is_there(path: str) -> bool:
    try:
        return Path(path).expanduser().exists()
    except (OSError, ValueError, RuntimeError):
        return False


_PREFIX = f"{BUILTIN}-"


def _is_path(name: str) -> bool:
    """Whether a name was rather meant as a path."""
    if name[:1] in (".", "/", "~") or _is_there(name):
        return True
    return name.count("/") > 1 or bool(Path(name).suffix) or os.sep * 2 in name


def _names(plugin: Plugin) -> set[str]:
    """What a user may call a plugin, and what it may be expected to hold: ``noisereg-offset`` an
    ``offset``.
    """
    names = {
        canonical(n) for n in (plugin.name, plugin.distribution, plugin.source.partition(":")[0])
    }
    return names | {n.removeprefix(_PREFIX) for n in names}


def _say(text: str) -> None:
    """One line on stderr, of one rank."""
    if os.environ.get("RANK", "0") == "0":
        print(one_line(f"noisereg: {text}"), file=sys.stderr)


_registry: Registry | None = None


def registry() -> Registry:
    """The process's registry, loaded at the first call; ``NOISEREG_PLUGINS`` names files and
    modules to add.

    Raises:
        NoiseregError: if a plugin of ``NOISEREG_PLUGINS`` cannot be had.
    """
    global _registry
    if _registry is None:
        loaded = Registry(Policy.from_environment())
        for reference in (
            _words(os.environ.get("NOISEREG_PLUGINS")) if loaded.policy.entry_points else ()
        ):
            try:
                loaded.load(reference).given = False  # not the user's word on what a run recorded
            except NoiseregError as error:
                raise NoiseregError(f"NOISEREG_PLUGINS: {error}") from None
        _registry = loaded
    return _registry


def reset() -> None:
    """Forget the process's registry, so that the next look-up discovers plugins anew."""
    global _registry
    _registry = None


__all__ = [
    "BUILTIN",
    "CALLED",
    "HOOKS",
    "KINDS",
    "Entry",
    "Kind",
    "Plugin",
    "Policy",
    "Registry",
    "Status",
    "canonical",
    "registry",
    "reset",
]
