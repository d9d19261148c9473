"""How the tests of the kit state that a check catches a wrong component, and that a right one
passes.
"""

from __future__ import annotations

from noisereg.testing import Subject, checks, run


def outcome(kind, name, implementation, **params):
    (check,) = [c for c in checks(kind) if c.name == name]
    return run(check, Subject.of(kind, implementation, **params))


def assert_caught(kind, name, implementation, said, **params):
    """The check fails, and its message says what is wrong."""
    found = outcome(kind, name, implementation, **params)
    assert found.status == "failed", (
        f"{name} does not catch {implementation.__name__}: {found.status} {found.message}"
    )
    assert said in found.message


def failures(kind, implementation, **params):
    """Names and messages of the failed checks."""
    outcomes = [run(c, Subject.of(kind, implementation, **params)) for c in checks(kind)]
    return {o.check.name: o.message for o in outcomes if o.status == "failed"}


def assert_complete(kind, *wrong):
    """Each check of the kind has a wrong component; the common ones are tested once for all."""
    own = {c.name for c in checks(kind) if c.kind == kind}
    tested = [name for table in wrong for name in table]
    assert set(tested) == own
    for check in checks(kind):
        assert check.explanation.endswith("."), f"{check.name} has no explanation"
        assert check.confidence
