"""What a component does to what is not its own: the tensors that it is handed, and the generators
that everybody shares.

Every method of its kind that a component overrides is watched in every check, so that none can be
forgotten.
"""

from __future__ import annotations

import dataclasses
import pickle
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from noisereg.plugins.registry import BASES, Kind
from noisereg.runs.guard import put_methods

SEEDED: dict[Kind, tuple[str, ...]] = {"denoiser": ("torch",), "regularizer": ("torch",)}
"""The generators that the engine sets before it calls components of the kind (dropout draws from
torch's), so that a run's seed fixes what they give.
"""


def generators() -> dict[str, Any]:
    """The states of torch's, numpy's and Python's global generators, to be compared."""
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": pickle.dumps(np.random.get_state()),
        "random": random.getstate(),
    }


def moved(before: Mapping[str, Any]) -> list[str]:
    """The names of the generators that have been drawn from, or set, since."""
    after = generators()
    return [name for name, state in before.items() if after[name] != state]


def drawn(what: str, names: Sequence[str]) -> str:
    return (
        f"{what} draws from the global generator of {', '.join(names)}: its results depend on "
        "what ran before"
    )


class Watch:
    """Found out about the components :meth:`on` which it is, one line each."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.found: list[str] = []

    def build(self, make: Callable[[], Any]) -> Any:
        """The component that is made, watched, and its making too: first weights, which modules
        alone have, come from torch's generator, and nothing else does.
        """
        before = generators()
        component = make()
        allowed = ["torch"] if isinstance(component, nn.Module) else []
        if any(name not in allowed for name in moved(before)):
            before = generators()
            component = make()  # again: the first may have imported what draws once
            if names := [name for name in moved(before) if name not in allowed]:
                self._add(drawn("its construction", names))
        self.on(component)
        return component

    def on(self, component: Any) -> None:
        """Watch those methods of its kind that the component's author wrote."""
        own, base = type(component), BASES[self.kind]
        names = [n for n in vars(base) if not n.startswith("_") or n == "__call__"]
        if isinstance(component, nn.Module):
            names = ["forward", *(n for n in names if n != "__call__")]
        written = [
            n
            for n in names
            if callable(getattr(own, n, None)) and getattr(own, n) is not getattr(base, n, None)
        ]
        put_methods(component, {n: self._watched(getattr(own, n), n) for n in written})

    def _watched(self, method: Callable[..., Any], name: str) -> Callable[..., Any]:
        called = {"forward": "it", "__call__": "it"}.get(name, name)
        allowed = SEEDED.get(self.kind, ())

        def call(component: Any, *args: Any, **kwargs: Any) -> Any:
            handed = dict(_tensors([*args, kwargs]))
            before = {k: (v, v.detach().clone()) for k, v in handed.items()}
            states = {k: v for k, v in generators().items() if k not in allowed}
            value = method(component, *args, **kwargs)
            if names := moved(states):
                self._add(drawn(called, names))
            changed = [k for k, (now, then) in before.items() if not _same(now.detach(), then)]
            if changed:
                self._add(f"{called} changes {', '.join(changed)} in place; work on a copy")
            if self.kind == "dataset" and name == "split":
                put_methods(value, {"batch": self._watched(type(value).batch, "batch")})
            return value

        return call

    def _add(self, text: str) -> None:
        if text not in self.found:
            self.found.append(text)


def _same(now: Tensor, then: Tensor) -> bool:
    return now.shape == then.shape and torch.equal(
        now.nan_to_num(12345.0), then.nan_to_num(12345.0)
    )


def _tensors(given: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors in what a method is handed, each by a name."""
    if isinstance(given, Tensor):
        yield name, given
    elif isinstance(given, Mapping):
        for key, value in given.items():
            yield from _tensors(value, f"{name}[{key!r}]" if name else str(key))
    elif isinstance(given, list | tuple):
        for k, value in enumerate(given):
            yield from _tensors(value, f"{name}[{k}]" if name else f"argument {k + 1}")
    elif dataclasses.is_dataclass(given) and not isinstance(given, type):
        for field in dataclasses.fields(given):
            yield from _tensors(getattr(given, field.name), field.name)
