"""The conformance kit: what a component must do, as checks that a third party runs on its own.

    from noisereg.testing import conformance

    test_my_noise = conformance("noise", "my-noise")

Needs pytest only for :func:`conformance`; ``noisereg plugins check`` runs the same checks without it.
"""

from noisereg.testing.kit import Check, CheckFailed, NotApplicable, Outcome, Subject, checks, conformance, run

__all__ = ["Check", "CheckFailed", "NotApplicable", "Outcome", "Subject", "checks", "conformance", "run"]
