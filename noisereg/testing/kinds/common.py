"""What every component must do, whatever its kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from noisereg.api import API_VERSION, Params
from noisereg.errors import NoiseregError
from noisereg.plugins.validation import model_of
from noisereg.testing.kit import CheckFailed, NotApplicable, Subject, check, expect
from noisereg.testing.watch import drawn, generators, moved

EXACT = "exact"


@contextmanager
def untouched_generators(what: str) -> Iterator[None]:
    """
    Raises:
        CheckFailed: if torch's, numpy's or Python's global generator has moved.
    """
    before = generators()
    yield
    names = moved(before)
    expect(not names, drawn(what, names))


@contextmanager
def unchanged(what: str, **tensors: Tensor) -> Iterator[None]:
    """
    Raises:
        CheckFailed: if a tensor that was handed over has been changed in place.
    """
    before = {name: value.detach().clone() for name, value in tensors.items()}
    yield
    changed = [
        name for name, value in tensors.items() if not torch.equal(before[name], value.detach())
    ]
    expect(not changed, f"{what} changes {', '.join(changed)} in place; work on a copy")


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """‖found − wanted‖ / ‖wanted‖ over everything."""
    return float(
        (found.double() - wanted.double()).norm() / wanted.double().norm().clamp(min=1e-30)
    )


def refused(call: Callable[[], Any]) -> str | None:
    """The one line with which something is refused, or None if it is done.

    Raises:
        CheckFailed: for a refusal in several lines.
    """
    try:
        call()
    except NoiseregError as error:
        expect("\n" not in str(error), f"a refusal is one line, not: {error}")
        return str(error)
    return None


def learns(component: Any) -> bool:
    return isinstance(component, torch.nn.Module)


def numeric_bounds(model: type[Params]) -> dict[str, list[float]]:
    """The inclusive bounds (ge, le) of each numeric parameter at the top level."""
    bounds_of: dict[str, list[float]] = {}
    for name, info in model.model_fields.items():
        if model_of(info.annotation) is not None:
            continue
        bounds = [getattr(m, k) for m in info.metadata for k in ("ge", "le") if hasattr(m, k)]
        if bounds:
            bounds_of[name] = bounds
    return bounds_of


def try_bounds(subject: Subject, attempt: Callable[[dict[str, Any]], None]) -> None:
    """Run ``attempt`` with each parameter at each of its inclusive bounds; a refusal with a reason
    is as good.

    Raises:
        CheckFailed: if a value that the parameter's own limits allow breaks the component.
    """
    bounds = numeric_bounds(subject.entry.component.params)
    if not bounds:
        raise NotApplicable("it declares no inclusive bounds (ge, le) of a number")
    for name, values in bounds.items():
        for value in values:
            try:
                attempt({name: value})
            except NoiseregError:
                continue
            except Exception as error:
                raise CheckFailed(
                    f"{name}={value:g} is within its declared bounds and gives "
                    f"{type(error).__name__}: {error}; narrow "
                    "the bounds (gt, lt) or handle it"
                ) from error


@check(None, EXACT)
def describes_itself(subject: Subject) -> None:
    """The descriptor has a one-line summary, a description for every parameter, this API's number
    and a revision from 1; the class, where it says its kind, is of that kind."""
    entry = subject.entry
    component = entry.component
    expect(
        bool(component.summary.strip()),
        "it has no summary: the one line that `noisereg plugins list` shows",
    )
    expect("\n" not in component.summary, "its summary has several lines")
    expect(component.api == API_VERSION, f"it is for API {component.api}; this is {API_VERSION}")
    expect(component.revision >= 1, f"its revision is {component.revision}; they count from 1")
    without = [
        n
        for n, i in component.params.model_fields.items()
        if not i.description and model_of(i.annotation) is None
    ]
    expect(
        not without,
        f"no description of the parameters {', '.join(without)}: Field(…, description=…)",
    )
    kind = getattr(entry.implementation(), "kind", subject.kind)
    expect(
        kind == subject.kind,
        f"its class is a {kind}, and the hook registers it as a {subject.kind}",
    )


@check(None, EXACT)
def parameters_survive_a_file(subject: Subject) -> None:
    """The parameters, written to config.yaml and read back, are the same: a run is repeated from
    its file.
    """
    from noisereg.reading import parse_yaml, write_yaml

    params = subject.params()
    dumped = params.model_dump(mode="json")
    again = type(params).model_validate(
        parse_yaml(write_yaml({"params": dumped}), "config.yaml").get("params") or {}
    )
    expect(again == params, f"{params!r} comes back as {again!r}")
