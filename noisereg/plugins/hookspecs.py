"""The pluggy hooks. A plugin implements those it has something for, each yielding
:class:`noisereg.api.Component`\\ s.

Implementations are called one by one, each on its own: one that raises marks its plugin broken and
stops nothing else. The examples below are whole plugins but for ``from noisereg.api import …``;
tests run the conformance kit on them.
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

    Example:

        class Loud(Noise):
            def color(self, latents, t):
                return 2 * latents["z"]

            def mean_square(self, t):
                return 0 * t + 4

        @hookimpl
        def noisereg_noises():
            yield Component(name="loud", impl=Loud, summary="white noise of power 4", api=1)
    """
    return []


@hookspec
def noisereg_regularizers() -> Iterable[Component]:
    """Terms of the loss: :class:`noisereg.api.Regularizer`; their params extend
    ``RegularizerParams``.

    Example:

        class Centred(Regularizer):
            def __call__(self, s):
                return s.mean(s.eps_hat.float().flatten(1).mean(1)).square()

        @hookimpl
        def noisereg_regularizers():
            summary = "(E[mean of ε̂])²"
            params = RegularizerParams
            yield Component(name="centred", impl=Centred, params=params, summary=summary, api=1)
    """
    return []


@hookspec
def noisereg_pairings() -> Iterable[Component]:
    """Which noise goes with which image of a batch: :class:`noisereg.api.Pairing`.

    Example:

        class ByBrightness(Pairing):
            def __call__(self, x0, latents, eps, t):
                rank = x0.flatten(1).mean(1).argsort().argsort()
                return latents["z"].flatten(1).mean(1).argsort()[rank]

        @hookimpl
        def noisereg_pairings():
            summary = "bright noise to bright images"
            yield Component(name="by-brightness", impl=ByBrightness, summary=summary, api=1)
    """
    return []


@hookspec
def noisereg_processes() -> Iterable[Component]:
    """Forward processes: :class:`noisereg.api.Process`; ``ctx.noise`` is the noise they will be
    run with.

    Example:

        class Straight(Process):
            def signal_scale(self, t):
                return 1 - t.double()

            def noise_scale(self, t):
                return t.double()

            def target(self, x0, eps, t):
                return x0 - eps

            def split(self, out, x_t, t):
                b = per_sample(t, x_t)
                return x_t + b * out, x_t - (1 - b) * out

            def noise_gain(self, t):
                return 1 - t.double()

        @hookimpl
        def noisereg_processes():
            yield Component(name="straight", impl=Straight, summary="a = 1 − t, b = t", api=1)
    """
    return []


@hookspec
def noisereg_solvers() -> Iterable[Component]:
    """How sampling steps: :class:`noisereg.api.Solver`, for ``--solver``.

    Example:

        class Euler(Solver):
            def step(self, s):
                a_t, b_t, a_s, b_s = s.scales
                return a_s * s.here.x0_hat + b_s * s.moved

        @hookimpl
        def noisereg_solvers():
            yield Component(name="euler", impl=Euler, summary="first order", api=1)
    """
    return []


@hookspec
def noisereg_grids() -> Iterable[Component]:
    """The times of sampling's steps: :class:`noisereg.api.Grid`, for ``--grid``.

    Example:

        class Squared(Grid):
            def times(self, process, steps):
                import torch

                return torch.linspace(1, 0, steps + 1, dtype=torch.float64) ** 2

        @hookimpl
        def noisereg_grids():
            yield Component(name="squared", impl=Squared, summary="closer to the data", api=1)
    """
    return []


@hookspec
def noisereg_denoisers() -> Iterable[Component]:
    """Networks: :class:`noisereg.api.Denoiser`; ``ctx.noise``, ``ctx.process`` and ``ctx.task``
    size their output and input.

    Example:

        from noisereg.denoisers import MLPParams

        @hookimpl
        def noisereg_denoisers():
            # impl as text: torch is imported when the network is built
            impl = "noisereg.denoisers.mlp:MLP"
            yield Component(name="my-mlp", impl=impl, params=MLPParams, summary="an MLP", api=1)
    """
    return []


@hookspec
def noisereg_datasets() -> Iterable[Component]:
    """Data: :class:`noisereg.api.Dataset`, built before everything else (``ctx.shape`` is empty).

    Example:

        from noisereg.datasets import PointsParams

        @hookimpl
        def noisereg_datasets():
            impl = "noisereg.datasets.toy2d:SwissRoll"
            yield Component(name="my-roll", impl=impl, params=PointsParams, summary="a spiral")
    """
    return []


@hookspec
def noisereg_tasks() -> Iterable[Component]:
    """What the network is conditioned on: :class:`noisereg.api.Task`.

    Example:

        class Labels(Task):
            def __init__(self, params, ctx):
                self.classes = ctx.dataset.classes

            def cond(self, batch):
                return batch.labels

        @hookimpl
        def noisereg_tasks():
            yield Component(name="labels", impl=Labels, summary="the label of each sample", api=1)
    """
    return []


@hookspec
def noisereg_metrics() -> Iterable[Component]:
    """Metrics for ``noisereg eval --metric``: :class:`noisereg.api.Metric`.

    Example:

        class MeanGap(Metric):
            better = {"mean-gap": "lower"}

            def compute(self, samples, reference, features):
                gap = features(samples).double().mean(0) - features(reference).double().mean(0)
                return {"mean-gap": float(gap.norm())}

        @hookimpl
        def noisereg_metrics():
            summary = "distance of the features' means"
            yield Component(name="mean-gap", impl=MeanGap, summary=summary, api=1)
    """
    return []


@hookspec
def noisereg_features() -> Iterable[Component]:
    """Feature spaces for ``noisereg eval --features``: :class:`noisereg.api.Features`.

    Example:

        class EverySecond(Features):
            identity = "every-second"

            def __call__(self, x):
                return x[..., ::2].flatten(1).float()

        @hookimpl
        def noisereg_features():
            summary = "every second column of pixels"
            yield Component(name="every-second", impl=EverySecond, summary=summary, api=1)
    """
    return []


@hookspec
def noisereg_loggers() -> Iterable[Component]:
    """Where ``--log`` sends what a run measures: :class:`noisereg.api.Logger`.

    Example:

        class Lines(Logger):
            def run_started(self, out, config):
                self.path = out / "lines.txt"

            def logged(self, step, metrics):
                with self.path.open("a") as file:
                    print(step, metrics["loss"], file=file)

        @hookimpl
        def noisereg_loggers():
            summary = "the loss, a line each, in RUN/lines.txt"
            yield Component(name="lines", impl=Lines, summary=summary, api=1)
    """
    return []


@hookspec
def noisereg_launchers() -> Iterable[Component]:
    """Where ``noisereg sweep --launcher`` trains its cells, and ``noisereg eval --launcher`` draws
    and measures runs: :class:`noisereg.api.Launcher`.

    Example:

        from noisereg.api import Started

        class Child(Started):
            def __init__(self, process):
                self.poll, self.stop = process.poll, process.terminate

        class OneByOne(Launcher):
            here = True
            jobs = 1
            poll_every = 0.1

            def start(self, jobs):
                return [Child(job.begin()) for job in jobs]

        @hookimpl
        def noisereg_launchers():
            summary = "one after another, on this machine"
            yield Component(name="one-by-one", impl=OneByOne, summary=summary, api=1)
    """
    return []
