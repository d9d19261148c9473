"""Checks by kind, the component they are run on, and what came of it."""

from __future__ import annotations

import importlib
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from noisereg.api import Component, Context, Params
from noisereg.errors import NoiseregError, nearest
from noisereg.folders import cache_dir
from noisereg.plugins.registry import Entry, Kind, Registry, check_kind, registry
from noisereg.plugins.spec import Spec
from noisereg.testing.watch import Watch

IMAGES: tuple[int, ...] = (2, 8, 8)
OBLONG: tuple[int, ...] = (1, 6, 10)
POINTS: tuple[int, ...] = (3,)
SHAPES = (IMAGES, OBLONG, POINTS)
"""What components are tried on; each must work or be refused with a reason, and one at least must
work.
"""


class CheckFailed(AssertionError):
    """What was found, what was expected, and what to do about it."""


class NotApplicable(Exception):
    """Why a check has nothing to look at."""


@dataclass(frozen=True)
class Check:
    """One thing that a component must do."""

    kind: Kind | None
    """None: every kind."""
    name: str
    confidence: str
    """How sure a failure is: ``exact``, up to a stated rounding, or the chance at which a right
    component fails.
    """
    explanation: str
    function: Callable[[Subject], None] = field(repr=False)


_CHECKS: dict[tuple[Kind | None, str], Check] = {}


def check(
    kind: Kind | None, confidence: str
) -> Callable[[Callable[[Subject], None]], Callable[[Subject], None]]:
    """Register a function as a check; its docstring is the explanation."""

    def decorate(function: Callable[[Subject], None]) -> Callable[[Subject], None]:
        explanation = " ".join((function.__doc__ or "").split())
        _CHECKS[kind, function.__name__] = Check(
            kind, function.__name__, confidence, explanation, function
        )
        return function

    return decorate


def checks(kind: Kind) -> list[Check]:
    """The checks of a kind, in the order in which to read their failures.

    Raises:
        NoiseregError: for what is no kind.
    """
    check_kind(kind)
    for module in ("common", kind):
        importlib.import_module(f"noisereg.testing.kinds.{module}")
    return [c for c in _CHECKS.values() if c.kind in (None, kind)]


def expect(condition: bool, message: str) -> None:
    """
    Raises:
        CheckFailed: with ``message``, unless ``condition`` holds.
    """
    if not condition:
        raise CheckFailed(message)


@dataclass
class Subject:
    """A component under test."""

    kind: Kind
    spec: Spec
    registry: Registry
    on: Sequence[tuple[int, ...]] = ()
    """The shapes to try it on, where it takes none of the kit's own."""
    watch: Watch = field(init=False)
    """What has been found out about all that were built."""

    def __post_init__(self) -> None:
        self.watch = Watch(self.kind)

    @classmethod
    def find(
        cls,
        kind: Kind,
        spec: str,
        known: Registry | None = None,
        on: Sequence[tuple[int, ...]] = (),
    ) -> Subject:
        """The component that ``spec`` names (``offset:strength=0.5``), to be tried ``on`` shapes.

        Raises:
            NoiseregError: for an unknown name or a wrong parameter.
        """
        subject = cls(kind, Spec.parse(spec), known or registry(), on)
        subject.params()
        return subject

    @classmethod
    def of(
        cls, kind: Kind, implementation: type, params: type[Params] = Params, **values: Any
    ) -> Subject:
        """A class that is not registered, for the tests of the kit itself."""
        known = Registry(registry().policy)
        known.register(
            Component(name="under-test", impl=implementation, params=params, summary="under test"),
            kind,
        )
        return cls(kind, Spec(name="under-test", params=values), known)

    @property
    def entry(self) -> Entry:
        return self.registry.find(self.kind, self.spec.name)

    def params(self, **changed: Any) -> Params:
        return self.registry.params(self.entry, {**self.spec.params, **changed})

    def context(self, **given: Any) -> Context:
        """A context for samples of ``shape``, with data to learn from."""
        from noisereg.testing.doubles import smooth_batches

        shape = given.get("shape", ())
        told = {
            "dtype": torch.float32,
            "cache_dir": cache_dir(),
            "batches": lambda split: smooth_batches(shape, split),
        }
        return Context(**{**told, **given})

    def build(self, changed: Mapping[str, Any] | None = None, **context: Any) -> Any:
        """The component built for the given context, its parameters as in the spec but for
        ``changed``.
        """
        implementation = self.entry.implementation()
        params, told = self.params(**(changed or {})), self.context(**context)
        return self.watch.build(lambda: implementation(params, told))

    def shapes(
        self, among: Sequence[tuple[int, ...]] = SHAPES, **context: Any
    ) -> list[tuple[int, ...]]:
        """Those shapes for which it can be built; the others it refuses with a reason.

        Raises:
            CheckFailed: if it can be built for none.
        """
        accepted, reasons = [], []
        among = self.on or among
        for shape in among:
            try:
                self.build(shape=shape, **context)
                accepted.append(shape)
            except NoiseregError as error:
                reasons.append(f"{shape}: {error}")
        expect(
            bool(accepted),
            f"it can be built for none of the shapes {tuple(among)}: {'; '.join(reasons)}; say "
            "what "
            "it takes: noisereg plugins check NAME --shape 3x32x32, conformance(…, shapes=…)",
        )
        return accepted


@dataclass(frozen=True)
class Outcome:
    """What came of one check."""

    check: Check
    status: Literal["passed", "failed", "not applicable"]
    message: str
    seconds: float


def run(check: Check, subject: Subject) -> Outcome:
    """Run one check; an exception of the component's is a failure, with the place where it was
    raised, and so is what :class:`~noisereg.testing.watch.Watch` finds in a check that passes.

    On one thread: what the checks compute is small, and several threads only wait for each other.
    """
    began, threads = time.perf_counter(), torch.get_num_threads()
    torch.set_num_threads(1)
    status: Literal["passed", "failed", "not applicable"] = "passed"
    message = ""
    try:
        check.function(subject)
    except NotApplicable as reason:
        status, message = "not applicable", str(reason)
    except CheckFailed as failure:
        status, message = "failed", str(failure)
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        text = " ".join(str(error).split())
        status, message = (
            "failed",
            f"{type(error).__name__}: {text} ({frame.filename}:{frame.lineno})",
        )
    finally:
        torch.set_num_threads(threads)
    if status != "failed" and subject.watch.found:
        status, message = "failed", "; ".join(subject.watch.found)
    return Outcome(check, status, message, time.perf_counter() - began)


def failures(kind: Kind, spec: str, shapes: Sequence[tuple[int, ...]] = ()) -> dict[str, str]:
    """What each check of ``kind`` that fails says of the component that ``spec`` names, by the
    check's name: empty for one that passes, in a notebook or a script. ``shapes`` are tried in
    place of the kit's own.

    Raises:
        NoiseregError: for an unknown kind or component.
    """
    every, subject = checks(kind), Subject.find(kind, spec, on=shapes)
    outcomes = [run(check, subject) for check in every]
    return {each.check.name: each.message for each in outcomes if each.status == "failed"}


def conformance(
    kind: Kind,
    spec: str,
    *,
    expected_failures: Mapping[str, str] | None = None,
    plugin: str | None = None,
    shapes: Sequence[tuple[int, ...]] = (),
) -> Callable[..., None]:
    """The checks of ``kind`` as one parametrised pytest function, to be assigned to a name that
    begins with ``test_``.

    ``spec`` names an installed component, with parameters if need be; ``plugin`` is the path of a
    single-file plugin. ``shapes`` are tried in place of the kit's own, for a component that takes
    none of those (three channels only, sides of at least 16). ``expected_failures`` maps a check's
    name to the reason why this component does not pass it; one that passes after all is then an
    error, so that the reason cannot go stale.

    Raises:
        NoiseregError: for an unknown kind or check.
    """
    import pytest

    expected = dict(expected_failures or {})
    known = checks(kind)
    for name in expected:
        if name not in {c.name for c in known}:
            raise NoiseregError(
                f"no check of a {kind} is called {name!r}{nearest(name, [c.name for c in known])}"
            )
    cases = [
        pytest.param(
            c,
            id=c.name,
            marks=[pytest.mark.xfail(reason=expected[c.name], strict=True, raises=CheckFailed)]
            if c.name in expected
            else [],
        )
        for c in known
    ]

    @pytest.mark.parametrize("check", cases)
    def test(check: Check) -> None:
        if plugin is not None:
            registry().load(plugin)
        outcome = run(check, Subject.find(kind, spec, on=shapes))
        if outcome.status == "not applicable":
            pytest.skip(outcome.message)
        if outcome.status == "failed":
            raise CheckFailed(
                f"{outcome.message}\n  {check.name}: {check.explanation}\n  confidence: "
                f"{check.confidence}"
            )

    return test
