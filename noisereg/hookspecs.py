"""The pluggy hooks. A plugin implements those it has something for, each yielding :class:`noisereg.api.Component`\\ s.

    from noisereg.api import Component, hookimpl

    @hookimpl
    def noisereg_noises():
        yield Component(name="offset", impl="noisereg_offset.noise:OffsetNoise", summary="white noise plus a shift")

Implementations are called one by one, each on its own: one that raises marks its plugin broken and stops nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from noisereg.api import Component

hookspec = pluggy.HookspecMarker("noisereg")


@hookspec
def noisereg_noises() -> Iterable[Component]:
    """Noises: built as ``Class(params, ctx)``, with the protocol of :class:`noisereg.api.Noise`.

    ``ctx.shape`` is one sample; ``color`` must be a pure function of the latents and t.
    """
    return []


@hookspec
def noisereg_regularizers() -> Iterable[Component]:
    """Terms of the loss: :class:`noisereg.api.Regularizer`; their params extend ``RegularizerParams``."""
    return []


@hookspec
def noisereg_pairings() -> Iterable[Component]:
    """Which noise goes with which image of a batch: :class:`noisereg.api.Pairing`."""
    return []


@hookspec
def noisereg_processes() -> Iterable[Component]:
    """Forward processes: :class:`noisereg.api.Process`; ``ctx.noise`` is the noise they will be run with."""
    return []


@hookspec
def noisereg_denoisers() -> Iterable[Component]:
    """Networks: :class:`noisereg.api.Denoiser`; ``ctx.noise``, ``ctx.process`` and ``ctx.task`` size their output and input."""
    return []


@hookspec
def noisereg_datasets() -> Iterable[Component]:
    """Data: :class:`noisereg.api.Dataset`, built before everything else (``ctx.shape`` is empty)."""
    return []


@hookspec
def noisereg_tasks() -> Iterable[Component]:
    """What the network is conditioned on: :class:`noisereg.api.Task`."""
    return []


@hookspec
def noisereg_metrics() -> Iterable[Component]:
    """Metrics for ``noisereg eval --metric``: :class:`noisereg.api.Metric`."""
    return []


@hookspec
def noisereg_features() -> Iterable[Component]:
    """Feature spaces for ``noisereg eval --features``: :class:`noisereg.api.Features`."""
    return []


@hookspec
def noisereg_loggers() -> Iterable[Component]:
    """Where ``--log`` sends what a run measures: :class:`noisereg.api.Logger`."""
    return []
