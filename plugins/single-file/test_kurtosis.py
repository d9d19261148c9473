"""The conformance kit on a plugin that is a file, and what the term sees that isotropy does
not.
"""

import dataclasses
from pathlib import Path

import torch

from noisereg.plugins.registry import registry
from noisereg.testing import conformance
from noisereg.testing.doubles import train_step

FILE = str(Path(__file__).with_name("kurtosis.py"))

test_kurtosis = conformance("regularizer", "file/kurtosis", plugin=FILE)


def test_it_sees_a_mixture_of_the_right_power():
    """Half of the numbers too small, half too large: isotropy is content."""
    registry().load(FILE)
    s, _ = train_step(registry(), "iadb", shape=(1, 16, 16), batch=64)
    term = registry().build("regularizer", "file/kurtosis", {}, _context(s))
    isotropy = registry().build("regularizer", "isotropy", {}, _context(s))
    factor = torch.where(torch.arange(256) % 2 == 0, 0.5, (2 - 0.5**2) ** 0.5).reshape(
        1, 1, 16, 16
    )
    right, wrong = (dataclasses.replace(s, eps_hat=e) for e in (s.eps, s.eps * factor))
    assert float(term(right)) == 0
    assert float(term(wrong)) > 1
    assert float(isotropy(wrong)) < 0.02


def _context(s):
    from noisereg.api import Context

    return Context(shape=tuple(s.x0.shape[1:]), noise=s.noise, process=s.process)
