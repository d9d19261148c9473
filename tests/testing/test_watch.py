"""The kit looks at every method of every kind: one that writes into what it is handed, or draws
from a generator that everybody shares, is caught, whichever method it is.
"""

from __future__ import annotations

import random
import re

import numpy as np
import pytest
import torch

from noisereg.plugins.registry import BASES
from noisereg.testing import Subject, checks, run
from noisereg.testing.watch import SEEDED, Watch, _tensors

# A component of each kind, and the methods of it that the kit calls.
METHODS = {
    "noise": ("blue-tv", ["color", "mean_square", "whiten", "log_det", "basis", "transport"]),
    "process": (
        "ddpm",
        ["signal_scale", "noise_scale", "target", "split", "noise_gain", "weight"],
    ),
    "regularizer": ("isotropy", ["__call__", "zero_case"]),
    "pairing": ("greedy", ["__call__"]),
    "denoiser": ("mlp:width=16,blocks=1", ["forward"]),
    "dataset": ("moon-circles", ["batch"]),
    "task": ("class", ["cond", "withhold", "null"]),
    "metric": ("fd", ["compute"]),
    "features": ("pixels", ["__call__"]),
    "solver": ("heun", ["step"]),
}
DRAWS_ONLY = {"grid": ("uniform", ["times"]), "dataset": ("moon-circles", ["split", "batch"])}
"""Methods that are handed no tensor."""


def cases(table):
    return [(kind, spec, method) for kind, (spec, methods) in table.items() for method in methods]


def writes(method):
    def wrong(self, *args, **kwargs):
        value = method(self, *args, **kwargs)
        for _, tensor in _tensors([*args, kwargs]):
            with torch.no_grad():
                # Little: what comes of it must not be found by another check first.
                tensor[:1].add_(1 if not tensor.is_floating_point() else 1e-4)
            break
        return value

    return wrong


def draws(method):
    def wrong(self, *args, **kwargs):
        np.random.rand()
        return method(self, *args, **kwargs)

    return wrong


def messages(kind, spec, method, change):
    """What the checks say, one after another, of a component whose method has been changed."""
    subject = Subject.find(kind, spec)
    implementation = subject.entry.implementation()
    if (kind, method) == ("dataset", "batch"):
        changed = _with_split(implementation, change)
    else:
        changed = type(
            "Wrong", (implementation,), {method: change(getattr(implementation, method))}
        )

    for check in checks(kind):
        subject = Subject.find(kind, spec)

        def build(changes=None, subject=subject, **context):
            return subject.watch.build(
                lambda: changed(subject.params(**(changes or {})), subject.context(**context))
            )

        subject.build = build
        yield run(check, subject).message


def _with_split(implementation, change):
    def split(self, name):
        part = implementation.split(self, name)
        part.__class__ = type("Wrong", (type(part),), {"batch": change(type(part).batch)})
        return part

    return type("Wrong", (implementation,), {"split": split})


def named(method):
    return {"forward": "it", "__call__": "it"}.get(method, method)


@pytest.mark.parametrize(("kind", "spec", "method"), cases(METHODS))
def test_a_method_that_writes_into_what_it_is_handed_is_caught(kind, spec, method):
    wanted = rf"\b{named(method)} changes .* in place; work on a copy"
    assert any(re.search(wanted, said) for said in messages(kind, spec, method, writes))


@pytest.mark.parametrize(("kind", "spec", "method"), cases({**METHODS, **DRAWS_ONLY}))
def test_a_method_that_draws_from_a_shared_generator_is_caught(kind, spec, method):
    wanted = f"{named(method)} draws from the global generator of numpy"
    assert any(wanted in said for said in messages(kind, spec, method, draws))


def test_every_kind_that_is_handed_tensors_has_a_case():
    # A logger is handed numbers, a launcher commands: their kits have checks of their own.
    assert {*METHODS, *DRAWS_ONLY, "logger", "launcher"} == set(BASES)


class Draws(torch.nn.Module):
    def __init__(self, source):
        super().__init__()
        source()


@pytest.mark.parametrize(
    ("source", "name"), [(random.random, "random"), (np.random.rand, "numpy")]
)
def test_a_constructor_that_draws_is_caught(source, name):
    watch = Watch("denoiser")
    watch.build(lambda: Draws(source))
    (said,) = watch.found
    assert f"its construction draws from the global generator of {name}" in said


def test_first_weights_and_dropout_may_come_from_torchs_generator():
    watch = Watch("denoiser")
    dropout = watch.build(
        lambda: torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(0.5))
    )
    dropout(torch.ones(1, 2))
    assert watch.found == []
    assert {"denoiser", "regularizer"} == set(SEEDED)


def test_what_an_import_draws_once_is_not_the_components():
    first = iter([True])
    watch = Watch("pairing")
    watch.build(lambda: random.random() if next(first, False) else object())
    assert watch.found == []


def test_the_built_ins_are_watched():
    """Putting the watch into a component does not fail for want of a replaceable class."""
    for kind, (spec, methods) in METHODS.items():
        if kind == "dataset":
            continue
        implementation = Subject.find(kind, spec).entry.implementation()
        watch = Watch(kind)
        component = object.__new__(implementation)
        watch.on(component)
        for method in methods:
            assert getattr(type(component), method) is not getattr(implementation, method)
