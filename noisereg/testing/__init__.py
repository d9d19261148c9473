"""The conformance kit: what a component must do, as checks that a third party runs on its own.

    from noisereg.testing import conformance

    test_my_noise = conformance("noise", "my-noise")

Needs pytest only for :func:`conformance`; ``noisereg plugins check`` runs the same checks without
it. Names are imported when first used, so that a plugin's own import can be timed before torch's.
"""

from typing import TYPE_CHECKING, Any

__all__ = [
    "Check",
    "CheckFailed",
    "NotApplicable",
    "Outcome",
    "Subject",
    "checks",
    "conformance",
    "failures",
    "run",
]

if TYPE_CHECKING:
    from noisereg.testing.kit import (
        Check,
        CheckFailed,
        NotApplicable,
        Outcome,
        Subject,
        checks,
        conformance,
        failures,
        run,
    )


def __getattr__(name: str) -> Any:
    if name in __all__:
        from noisereg.testing import kit

        return getattr(kit, name)
    raise AttributeError(f"module 'noisereg.testing' has no attribute {name!r}")
