"""All that a plugin imports.

Importing this module imports no torch, so a plugin's descriptors cost nothing until one of them is
built.

A *component* is anything that a run names: a noise, a regularizer, a pairing, a process, a solver,
a grid, a denoiser, a data set, a task, a metric, a feature extractor, a logger, a launcher. A
plugin yields :class:`Component` descriptors from the hooks in :mod:`noisereg.plugins.hookspecs`;
the one that was asked for is built as ``Class(params, ctx)``. The base classes below are the
protocols: they hold the defaults, and their docstrings are the reference.

Shapes: ``B`` samples of ``shape`` (``(C, H, W)`` for images, ``(D,)`` for points), so a batch is
``(B, *shape)``. Times: ``t`` in [0, 1], 0 = data, 1 = noise, a float64 tensor of shape ``(B,)``.

What may change: within one :data:`API_VERSION`, names are only added, and every addition has a
default. A component built for another version is listed as incompatible and refused, with both
numbers.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Literal,
    Protocol,
    get_args,
    get_origin,
)

import pluggy
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from noisereg.errors import NoiseregError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor


__all__ = [
    "API_VERSION",
    "Batch",
    "Component",
    "ContentPath",
    "Context",
    "Dataset",
    "Denoiser",
    "EpsScale",
    "Features",
    "Field",
    "Grid",
    "Job",
    "Launcher",
    "Logger",
    "Metric",
    "Model",
    "Noise",
    "NoiseregError",
    "Pairing",
    "Params",
    "Prediction",
    "Process",
    "Regularizer",
    "RegularizerParams",
    "SampleStep",
    "Solver",
    "Split",
    "Started",
    "Task",
    "TimeInput",
    "TrainStep",
    "TrainedPower",
    "check_times",
    "hookimpl",
    "per_sample",
]

API_VERSION = 1

hookimpl = pluggy.HookimplMarker("noisereg")
"""Marks a plugin's function as the implementation of the hook of the same name."""

TimeInput = Literal["index", "step", "unit"]
"""What a network is told for t: 1000t − 1 (DDPM's index from 0), 1000t, or t itself."""


class Content:
    """The mark of :data:`ContentPath`."""


ContentPath = Annotated[Path, Content]
"""A parameter that is a file or folder of this machine whose content makes the component's
numbers, as ``spectrum: ContentPath | None = None``: a run records its SHA-256 (of a folder without
what begins with a dot), and is neither resumed nor sampled with another content."""

NAME = re.compile(r"[a-z][a-z0-9-]*")
IMPL = re.compile(r"\w+(\.\w+)*:\w+")


class Params(BaseModel):
    """Base of every component's parameters: unknown keys are refused, and values do not change
    once built.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    @field_validator("*", mode="before")
    @classmethod
    def _from_text(cls, value: Any, info: ValidationInfo) -> Any:
        """The command line gives text: ``none`` where None is allowed, ``64,128`` or ``[64,128]``
        where a sequence is, ``2`` where ``Literal[1, 2]`` is, ``1e4`` where a whole number is.
        """
        if not isinstance(value, str) or info.field_name is None:
            return value
        annotation = cls.model_fields[info.field_name].annotation
        options = (annotation, *get_args(annotation))
        if value.lower() in ("none", "null") and type(None) in options:
            return None
        known = [v for o in options if get_origin(o) is Literal for v in get_args(o)]
        known += [v for v in options if isinstance(v, int)]  # Literal's own arguments
        for number in known:
            if isinstance(number, int) and not isinstance(number, bool) and value == str(number):
                return number
        if int in options and re.fullmatch(r"\d+(\.\d*)?[eE]\+?\d{1,2}", value):
            whole = float(value)
            return int(whole) if whole.is_integer() else value
        if any(get_origin(option) in (list, tuple, set, frozenset) for option in options):
            inner = value.strip()
            if inner.startswith("[") and inner.endswith("]"):
                inner = inner[1:-1].strip()
            return [part.strip() for part in inner.split(",")] if inner else []
        return value


class RegularizerParams(Params):
    """Base of a regularizer's parameters: the engine adds ``weight`` times its value to the loss,
    λ changing over training as ``warmup`` and ``schedule`` say."""

    weight: float = Field(
        0.1,
        ge=0,
        allow_inf_nan=False,
        description="λ: what the value is multiplied by in the loss",
        json_schema_extra={"strength": True},  # tables show it, and draw numbers over it
    )
    warmup: int = Field(0, ge=0, description="steps over which λ rises linearly from 0")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="of λ after the warm-up, to 0 at the last step"
    )


@dataclass(frozen=True)
class Component:
    """A torch-free description of one component, yielded by a hook.

    Raises:
        NoiseregError: for a name that is not ``[a-z][a-z0-9-]*`` or that is reserved (``none``,
        ``auto``), for params that
            extend no ``Params``, and for an impl that is neither ``"pkg.module:Class"`` nor a
            class.
    """

    name: str
    impl: str | type
    """``"pkg.module:Class"``, imported only when built, or the class itself."""
    params: type[Params] = Params
    summary: str = ""
    """One line, for ``noisereg plugins list``."""
    cite: str = ""
    """Where the idea comes from: paper, equation."""
    revision: int = 1
    """Bumped when the numbers a component gives change; a run resumes only on the revision it was
    started with.
    """
    api: int = API_VERSION

    def __post_init__(self) -> None:
        if (
            not isinstance(self.name, str)
            or not NAME.fullmatch(self.name)
            or self.name in ("none", "auto")
        ):
            raise NoiseregError(
                f"a component cannot be called {self.name!r}: expected [a-z][a-z0-9-]*, other "
                "than 'none' and 'auto'"
            )
        if not isinstance(self.params, type) or not issubclass(self.params, Params):
            raise NoiseregError(
                f"{self.name}: params must be a subclass of noisereg.api.Params, not "
                f"{self.params!r}"
            )
        if "name" in self.params.model_fields:
            raise NoiseregError(
                f"{self.name}: a parameter cannot be called 'name', which is the component's own "
                "key"
            )
        if not isinstance(self.impl, type) and not (
            isinstance(self.impl, str) and IMPL.fullmatch(self.impl)
        ):
            raise NoiseregError(
                f"{self.name}: impl must be 'pkg.module:Class' or a class, not {self.impl!r}"
            )


@dataclass(frozen=True)
class Context:
    """What a component is told about the run it is built for. What is built later than it is
    None.
    """

    shape: tuple[int, ...] = ()
    """One sample: ``(C, H, W)`` or ``(D,)``; empty for a data set, which is built first."""
    device: torch.device | str = "cpu"
    dtype: torch.dtype | None = None
    """Of the samples; None means float32."""
    process: Process | None = None
    noise: Noise | None = None
    task: Task | None = None
    dataset: Dataset | None = None
    """For feature extractors, which may learn from its labels, for tasks, which may need them, and
    for processes, whose bound depends on its grey levels."""
    cache_dir: Path | None = None
    """The user's cache folder; it may not exist or be writable, and everything works without
    it.
    """
    batches: Callable[[str], Iterator[Tensor]] | None = None
    """``batches("train")``: the data of one split, in batches, once, in order."""


def per_sample(v: Tensor, like: Tensor) -> Tensor:
    """``v`` of shape (B,) as (B, 1, …, 1) in ``like``'s dtype and device, so that it multiplies a
    batch.
    """
    return v.to(device=like.device, dtype=like.dtype).reshape(-1, *([1] * (like.ndim - 1)))


def check_times(t: Tensor, by_value: bool = True) -> None:
    """
    Raises:
        NoiseregError: for integer times, and with ``by_value`` for times outside [0, 1]: a loop's
            steps, which must be divided by their number. (Noise seen at such a t would be white in
            silence.)
    """
    if not hasattr(t, "is_floating_point"):
        raise NoiseregError(
            f"times are a {type(t).__name__}; expected a torch.Tensor (B,), each sample's t in "
            "[0, 1]"
        )
    if not t.is_floating_point():
        raise NoiseregError(
            f"times are {str(t.dtype).removeprefix('torch.')}: expected t in [0, 1], 0 = data; "
            "divide steps by their number, t = (k + 1)/1000 for k = 0 … 999, or give T=1000"
        )
    if by_value and bool((wrong := ~((t >= 0) & (t <= 1))).any()):  # NaN is wrong too
        raise NoiseregError(
            f"a time is {float(t[wrong][0]):g}: expected t in [0, 1], "
            "0 = data; divide steps by their number, t = (k + 1)/1000 for k = 0 … 999"
        )


class _Built:
    """What the bases below share: a component with nothing to set up needs no ``__init__``.

    A component that learns is a ``torch.nn.Module`` too: it is moved, saved, synchronised over
    ranks and optimised.
    """

    summary: str = ""
    """What it resolved to, for the start of a run: ``linear, T 1000, target ε``."""
    params: Any = None
    """A component that resolves an ``auto`` keeps its resolved parameters here; config.yaml
    records them."""
    lr: float | None = None
    """A learning rate of its own, for a component that learns; None: the denoiser's."""

    def __init__(self, params: Params | None = None, ctx: Context | None = None) -> None:
        pass

    def after_step(self) -> None:
        """Called after each step of the optimiser, to keep parameters within limits; it should not
        wait for the device.
        """


@dataclass(frozen=True)
class Prediction:
    """What the network says of x_t, each (B, *shape) but for the heads, (B, C·heads, …)."""

    x0_hat: Tensor
    eps_hat: Tensor
    heads: Tensor | None = None
    """The noise's own heads: what :meth:`Noise.basis` is predicted to be."""
    own: Tensor | None = None
    """The process's own heads (a learned variance)."""


def _with_checked_arguments(color: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(color)
    def checked(self: Noise, latents: Tensor | Mapping[str, Tensor], t: Tensor) -> Any:
        import torch

        if not torch.compiler.is_compiling():
            # A device is waited for once; by then a loop that counts steps has been found out.
            on_cpu, seen = t.device.type == "cpu", self.__dict__.get("_times_seen", False)
            check_times(t, by_value=on_cpu or not seen)
            if not on_cpu:
                self.__dict__["_times_seen"] = True
        if not isinstance(latents, Mapping):
            latents = self.named(latents, tuple(latents.shape[1:]))
        # L z as a product of half-precision numbers would be another noise: no autocast.
        with torch.autocast(t.device.type, enabled=False):
            return color(self, latents, t)

    return checked


class Noise(_Built):
    """ε_t from white latents. The engine draws the latents from each sample's own generator; a
    noise only shapes them, so it is seed-exact, resumable and the same on any number of ranks
    without its author doing anything.

    Subclass it (or ``torch.nn.Module`` and it, in that order, for a noise that learns) and write
    :meth:`color` and :meth:`mean_square`; white noise of any linear shape also has :meth:`whiten`.
    Static noise needs nothing else. In one's own loop :meth:`draw` gives ε_t like a batch.
    """

    kind: ClassVar[str] = "noise"

    extra_heads: int = 0
    """How many more blocks of C channels the denoiser predicts, beside its first: those of
    :meth:`basis`.
    """
    gaussian: bool = True
    """False refuses what rests on a Gaussian: η > 0 and the variational bound."""
    linear: bool = True
    """ε_t = L_t z. False refuses what rests on it: ``whiten`` and isotropy's
    ``space=whitened``.
    """
    diagonal: bool = False
    """True where L_t is diagonal, as white noise's is: each number of a sample has a noise of its
    own. Then a learned variance may differ between numbers, and the bound's decoder can be
    integrated over the width of a grey level."""
    power_floor: float = 1.0
    """The smallest power of ε_1 in any direction over its mean: 1 for white noise. A process that
    leaves a little signal at t = 1, and a grid uniform in t, go wrong where it is near 0
    (docs/theory.md, §5)."""
    notes: tuple[str, ...] = ()
    """What the user should know about it as it was built, a line each."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Every noise's ``color`` takes a tensor where it has one latent, and refuses times that
        are no times: given a loop's steps 0 … 999, blue noise would be white in silence.

        A class with a ``color`` or a ``basis`` of its own is not given a ``color_and_basis`` that
        was written for its parent's.
        """
        super().__init_subclass__(**kwargs)
        own = {"color", "basis", "color_and_basis"} & cls.__dict__.keys()
        for name in own - {"basis"}:
            setattr(cls, name, _with_checked_arguments(cls.__dict__[name]))
        if own and "color_and_basis" not in own:
            cls.color_and_basis = Noise.color_and_basis  # type: ignore[method-assign]

    def latents(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """The latents of one sample of ``shape``, by name; each is drawn from N(0, 1)."""
        return {"z": shape}

    def color(self, latents: Mapping[str, Tensor], t: Tensor) -> Tensor:
        """ε_t, (B, *shape), from latents (B, …) and t (B,); L_t z for a linear noise. Must not
        draw.

        A noise with one latent can be given that tensor itself.

        Raises:
            NoiseregError: for integer times, and for times outside [0, 1] (on an accelerator,
                where looking would wait for the device, at the first call only).
        """
        raise NotImplementedError

    def draw(self, x0: Tensor, t: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """ε_t, (B, *shape), for samples x0 (B, *shape) at t (B,) in [0, 1]: in x0's dtype and on
        its device, from ``generator`` (torch's default one where it is None).
        """
        check_times(t, by_value=False)
        shape = tuple(x0.shape[1:])
        return self.color(
            self.draw_latents(len(x0), shape, generator, x0.device, x0.dtype), t.to(x0.device)
        )

    def draw_latents(
        self,
        count: int,
        shape: tuple[int, ...],
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> dict[str, Tensor]:
        """The latents of ``count`` samples of ``shape``, each (count, …) N(0, 1), by name. Drawn
        on the generator's device and moved.
        """
        import torch

        source = generator.device if generator is not None else device
        return {
            name: torch.randn(count, *size, generator=generator, device=source, dtype=dtype).to(
                device
            )
            for name, size in self.latents(shape).items()
        }

    def named(
        self, latents: Tensor | Mapping[str, Tensor], shape: tuple[int, ...]
    ) -> Mapping[str, Tensor]:
        """``latents`` by name, where a single tensor stands for the only one there is.

        Raises:
            NoiseregError: for a single tensor where the noise has several latents.
        """
        if isinstance(latents, Mapping):
            return latents
        names = list(self.latents(shape))
        if len(names) != 1:
            raise NoiseregError(
                f"{type(self).__name__} has the latents {', '.join(names)}; expected them by name"
            )
        return {names[0]: latents}

    def given(self, cond: Tensor | None) -> Noise:
        """The noise of samples under the condition ``cond`` (B, …), as the task makes it: itself,
        unless it depends on what the network is told. What is returned must have the same heads,
        latents and ``power_floor``.
        """
        return self

    def mean_square(self, t: Tensor) -> Tensor:
        """E‖ε_t‖²/n, (B,), in t's dtype: 1 for white noise."""
        raise NotImplementedError

    def whiten(self, eps: Tensor, t: Tensor) -> Tensor:
        """z = L_t⁻¹ ε, (B, *shape).

        Raises:
            NoiseregError: where L_t cannot be inverted; the message gives its condition number.
        """
        raise NoiseregError(f"{type(self).__name__} cannot be whitened: it gives no inverse")

    def log_det(self, t: Tensor, shape: tuple[int, ...]) -> Tensor:
        """log |det L_t| for samples of ``shape``, (B,) float64: what the density of ε_t needs
        beside :meth:`whiten`.

        Raises:
            NoiseregError: where it is not known, or L_t cannot be inverted.
        """
        raise NoiseregError(
            f"{type(self).__name__} gives no log_det, without which ε_t has no density"
        )

    def whitened_power(self, eps: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """‖L_t⁻¹ε‖², (B,), over the directions that carry at least 1 % of the mean power, and
        their number, (B,).

        For ε = L_t z the first has the second as its mean. This default takes all directions:
        override it where some carry almost nothing, since there a small error of ε̂ would count
        for everything.
        """
        import torch

        z = self.whiten(eps, t).flatten(1)
        return z.square().sum(1), torch.full_like(z[:, 0], z.shape[1])

    def basis(self, latents: Mapping[str, Tensor]) -> Tensor:
        """What the extra heads predict, (B, C·extra_heads, …)."""
        raise NoiseregError(f"{type(self).__name__} has no extra heads")

    @_with_checked_arguments
    def color_and_basis(
        self, latents: Mapping[str, Tensor], t: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """:meth:`color`, and :meth:`basis` or None without extra heads: a step of training asks
        for both. Override it where they share work.
        """
        return self.color(latents, t), self.basis(latents) if self.extra_heads else None

    def head_weight(self, t: Tensor, process: Process) -> Tensor:
        """The weight, (B,) in float64, of the heads' mean squared error in the loss."""
        import torch

        return torch.ones_like(t)

    def transport(self, eps: Tensor, heads: Tensor | None, t: Tensor, s: Tensor) -> Tensor:
        """ε̂_s from ε̂_t, both (B, *shape): the same latents seen at another time. Static noise
        does not move.
        """
        return eps

    def transport_rate(self, eps: Tensor, heads: Tensor | None, t: Tensor) -> Tensor:
        """∂/∂s of :meth:`transport` at s = t, (B, *shape): for the flow's velocity."""
        import torch

        return torch.zeros_like(eps)

    def logs(self) -> dict[str, Tensor]:
        """What of its state is worth a column in metrics.jsonl, as scalars on the device."""
        return {}

    def curves(self, t: Tensor) -> dict[str, Tensor]:
        """What of it changes with t and is worth a picture, by name: each (B,) from t (B,)."""
        return {}

    def fit(self, batches: Iterator[Tensor]) -> None:
        """Learn from the training data, once, on rank 0, before training. What is learnt must be
        in ``state_dict()``.
        """


class Process(_Built):
    """x_t = a(t)·x0 + b(t)·ε_t, what the network is trained to predict, and how its output is
    read.

    ``signal_scale`` is a, ``noise_scale`` is b; both must be exact in float64.
    """

    kind: ClassVar[str] = "process"

    T: int = 1000
    """Training times are t = k/T, k = 1 … T."""
    extra_heads: int = 0
    """How many more blocks of C channels the process itself reads (learned variance: 1), after the
    first and before the noise's."""
    default_eta: float = 0.0
    """η of the sampler where the run does not say."""
    trains_bound: bool = False
    """True where :meth:`head_loss` is the variational bound, which rests on Gaussian noise that
    can be whitened and is independent of the data: a pairing is then refused."""
    diagonal: bool | None = None
    """Whether the noise that it was built with is ``diagonal``; None if that changes nothing in
    it."""
    notes: tuple[str, ...] = ()
    """What the user should know about it as it was built, a line each."""
    default_grid: str | None = None
    """The step grid, as a spec, where the run does not say; None: the solver's. Noise that is weak
    in some directions gets ``logsnr`` all the same."""

    def time(self, u: Tensor) -> Tensor:
        """Training times, (B,) float64, from u (B,) uniform on [0, 1): k/T, k uniform on 1 … T. It
        must not fall as u rises: antithetic pairs are (u, 1 − u).
        """
        return ((u.double() * self.T).floor() + 1).clamp(max=self.T) / self.T

    def input_scale(self, t: Tensor) -> Tensor | None:
        """What x_t is multiplied by for the network, (B,) float64 (EDM's c_in); None: nothing."""
        return None

    def signal_scale(self, t: Tensor) -> Tensor:
        """a(t), (B,) float64; a(0) = 1."""
        raise NotImplementedError

    def noise_scale(self, t: Tensor) -> Tensor:
        """b(t), (B,) float64; b(0) = 0."""
        raise NotImplementedError

    def target(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """What the network's first C channels are regressed on, (B, *shape)."""
        raise NotImplementedError

    def split(self, out: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(x̂0, ε̂_t), each (B, *shape), from the network's first C channels."""
        raise NotImplementedError

    def variance_fraction(self, own: Tensor | None) -> Tensor | float:
        """f of the stochastic step's σ̃ = σ·(b_t/b_s)^f: 0 is the posterior's variance β̃, 1 is
        β_{t|s}.

        ``own``: the process's own heads, (B, C·extra_heads, …). A number, or (B, 1, …) or (B,
        *shape).
        """
        return 0.0

    def head_loss(self, s: TrainStep) -> Tensor:
        """What the process's own heads (``s.own``) are trained by, (B,): the engine adds its mean
        to the loss.
        """
        raise NotImplementedError

    def noise_gain(self, t: Tensor) -> Tensor:
        """By how much ε̂ repeats an error of the network, (B,) float64: 1 if it predicts ε, a/b if
        it predicts x0.
        """
        import torch

        return torch.ones_like(t)

    def weight(self, t: Tensor) -> Tensor:
        """The weight, (B,) float64, of each sample's mean squared error in the loss."""
        import torch

        return torch.ones_like(t)


@dataclass(frozen=True)
class TrainStep:
    """One micro-batch as a regularizer sees it. Tensors are (B, *shape) but for ``t`` (B,)."""

    x0: Tensor
    latents: Mapping[str, Tensor]
    t: Tensor
    eps: Tensor
    """ε_t, the true noise."""
    x_t: Tensor
    x0_hat: Tensor
    eps_hat: Tensor
    """ε̂_t, the predicted noise, whatever the network's target is."""
    heads: Tensor | None
    cond: Tensor | None
    noise: Noise
    process: Process
    step: int
    """The optimiser's step, from 0."""
    denoise: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    """``denoise(x, t) -> (x̂0, ε̂)``: the network again, under the same ``cond``."""
    mean: Callable[[Tensor], Tensor]
    """The mean of v, (B, …), over its first axis, the micro-batch, and over *all* ranks: (…), with
    the gradient that one rank with the whole batch would have. (A v of shape () is the same on
    every sample of a rank: the ranks are averaged.) Other axes stay: a (B, H, W) map of each
    sample gives the (H, W) mean map. ``v.mean()`` is neither over the ranks nor over the first
    axis alone."""
    own: Tensor | None = None
    """The process's own heads, (B, C·extra_heads, …); ``heads`` are the noise's."""
    ranks: int = 1
    """How many ranks there are, each with a micro-batch of this size."""


EpsScale = Callable[["Tensor", "Tensor"], "Tensor"]
"""(ε̂_t (B, *shape) float64, t (B,)) → what sampling takes in its place, (B, *shape)."""


@dataclass(frozen=True)
class TrainedPower:
    """The power of the noise that a network predicts, at K times that training draws, equally
    often each, in ascending order. Tensors are (K,) float64.
    """

    process: Process
    t: Tensor
    power: Tensor
    """E‖ε̂_t‖²/n over the data."""
    level: Tensor
    """E‖ε_t‖²/n."""
    together: bool = False
    """Whether training draws one t for a whole minibatch."""
    noise: Noise | None = None
    shape: tuple[int, ...] = ()
    """Of a sample."""
    device: torch.device | None = None
    means: Callable[[Callable[[Tensor, int], Tensor], Tensor], Tensor] | None = None
    """(of, known) → (K, D): the means over the data of ``of``(ε̂_t (B, *shape) float64, k), (B, D)
    numbers of ε̂ at the k-th time, such as its power by direction; those of ε_t are ``known`` (K,
    D). None where there is no network to ask."""


class Regularizer(_Built):
    """A term of the loss. Built once; called with every micro-batch."""

    kind: ClassVar[str] = "regularizer"

    def __call__(self, s: TrainStep) -> Tensor:
        """The unweighted value, a scalar in float32; the engine multiplies it by
        ``params.weight``.
        """
        raise NotImplementedError

    def zero_case(self, s: TrainStep) -> Tensor | None:
        """An ε̂, (B, *shape), at which the value is 0, all else being as in ``s``; None if there
        is none.

        Nothing calls it in training: it declares what the term asks for, and the conformance kit
        checks it.
        """
        return None

    def eps_scale(self, weight: float, trained: TrainedPower) -> EpsScale:
        """What makes of ε̂ about what a network trained with this term too would predict, ε̂ being
        that of one trained without: the row "no term, ε̂ rescaled" of a table, which costs no
        training (``eval --rescaled NAME:weight=λ``). A function of ε̂_t (B, *shape) float64 and t
        (B,) that gives the scaled ε̂, each sample's by itself.

        Raises:
            NoiseregError: where the term does more than scale ε̂, or nobody has said.
        """
        raise NoiseregError(
            f"{type(self).__name__} has no `eps_scale`: expected a regularizer that says how it "
            "scales ε̂, such as isotropy, or a number"
        )

    def logs(self) -> dict[str, Tensor]:
        """What else of the last call is worth a column in metrics.jsonl, as scalars on the
        device.
        """
        return {}


@dataclass(frozen=True)
class SampleStep:
    """One step of sampling, from t to s < t. Tensors are (B, *shape) but for times, (B,)."""

    x_t: Tensor
    t: Tensor
    s: Tensor
    here: Prediction
    """What the network says of x_t."""
    history: Sequence[tuple[Tensor, Prediction]]
    """Earlier times and predictions, the newest last: as many as the solver's ``memory``."""
    process: Process
    noise: Noise
    predict: Callable[[Tensor, Tensor], Prediction]
    """``predict(x, t)``: the network again, under the same condition."""
    fresh: Callable[[], Tensor]
    """ε_s of new latents, color(z', s): what a stochastic step adds."""
    last: bool
    """Whether s is 0, where b is."""

    @functools.cached_property
    def scales(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """a_t, b_t, a_s, b_s, each (B, 1, …) in x_t's dtype."""
        a, b = self.process.signal_scale, self.process.noise_scale
        a_t, b_t, a_s, b_s = (
            per_sample(scale, self.x_t) for scale in (a(self.t), b(self.t), a(self.s), b(self.s))
        )
        return a_t, b_t, a_s, b_s

    @functools.cached_property
    def moved(self) -> Tensor:
        """ε̂_t carried to s (to t itself on the last step, where it is multiplied by 0)."""
        if self.last:
            return self.here.eps_hat
        return self.noise.transport(self.here.eps_hat, self.here.heads, self.t, self.s)


class Solver(_Built):
    """How sampling goes from x_t to x_s: one step from the history of predictions.

    It must be right for time-varying noise: ``noise.transport`` carries ε̂ between times. The
    conformance kit holds its output on Gaussian data to the closed form. A parameter called
    ``eta`` is what ``--eta`` sets.
    """

    kind: ClassVar[str] = "solver"

    order: int = 1
    """By what power of the step its error falls, on a smooth path."""
    deterministic: bool = True
    """False where it adds fresh noise, which rests on Gaussian noise that is independent of the
    data."""
    evaluations: int = 1
    """Of the network, in a step."""
    memory: int = 0
    """How many earlier predictions it looks at."""
    default_grid: str = "uniform"
    """The step grid, as a spec, on which it does best, where nothing else says."""

    def step(self, s: SampleStep) -> Tensor:
        """x_s, (B, *shape)."""
        raise NotImplementedError


class Grid(_Built):
    """The times of sampling's steps."""

    kind: ClassVar[str] = "grid"

    steps: int | None = None
    """How many steps it has, whatever is asked for; None: as many as are asked for."""

    def times(self, process: Process, steps: int) -> Tensor:
        """Times that fall from 1 to 0, (steps + 1,) float64 on the CPU."""
        raise NotImplementedError


class Pairing(_Built):
    """Which noise goes with which image of a micro-batch. It breaks the independence of x0 and ε
    on which η > 0 and the bound rest, so a run trained with one samples with η = 0."""

    kind: ClassVar[str] = "pairing"

    moves_time: bool = False
    """True if the permutation moves (z_i, t_i) together; else z moves and each image keeps its
    t.
    """

    def __call__(
        self, x0: Tensor, latents: Mapping[str, Tensor], eps: Tensor, t: Tensor
    ) -> Tensor:
        """A permutation p, (B,) int64: image j is given the latents p[j]."""
        raise NotImplementedError


class Denoiser(_Built):
    """A network: a ``torch.nn.Module`` (``class Mine(nn.Module, Denoiser)``), built as
    ``Class(params, ctx)``.

    It has ``C·(1 + ctx.process.extra_heads + ctx.noise.extra_heads)`` output channels (or numbers,
    for points), in that order, and takes the condition that ``ctx.task`` describes. Its
    ``forward(x_t, t, cond=None)`` gives (B, C·(1 + heads), …) from x_t (B, *shape), t (B,) in
    [0, 1] and ``cond``.
    """

    kind: ClassVar[str] = "denoiser"

    default_lr: float = 1e-3
    """The learning rate where a run does not say."""

    if TYPE_CHECKING:

        def __call__(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor: ...


@dataclass(frozen=True)
class Batch:
    """Some samples of a data set."""

    x: Tensor
    """(B, *shape), float32; images are in [−1, 1]."""
    labels: Tensor | None = None
    """(B,) int64."""


class Split(Protocol):
    """One part of a data set: a length and batches by index. The engine decides order and
    flips.
    """

    def __len__(self) -> int: ...

    def batch(self, indices: Tensor) -> Batch:
        """The samples at ``indices``, (B,) int64 on the CPU, in that order, on the data set's
        device.
        """
        ...


class Dataset(_Built):
    """Real data, or a generator of it."""

    kind: ClassVar[str] = "dataset"

    shape: tuple[int, ...]
    """One sample: (C, H, W), or (D,) for points."""
    classes: int = 0
    """How many labels there are; 0 where there are none."""
    class_names: tuple[str, ...] = ()
    """What label 0, 1, … is called, ``classes`` of them; empty where they have no names. A run
    records them, so that ``noisereg sample --label cat`` finds the label without the data."""
    levels: int = 0
    """On how many evenly spaced values from −1 to 1 the numbers lie: 256 for images of 8 bits; 0
    where they are continuous. Likelihoods of images are probabilities of these values, those of
    other data densities."""
    flip: bool = False
    """Whether the engine mirrors half of the training images left to right."""
    notes: tuple[str, ...] = ()
    """What was inferred from the data and what of them is left out, a line each, for the start of
    a run."""
    fresh: Callable[[int, np.random.Generator], Tensor] | None = None
    """``fresh(n, generator)``: n new samples (n, *shape), where the data have a generator, else
    None.
    """
    decode: Callable[[Tensor], Tensor] | None = None
    """What :meth:`decoder` gives for the data set's own parameters."""

    def split(self, name: str) -> Split:
        """``"train"`` or ``"heldout"``."""
        raise NotImplementedError

    def fingerprint(self) -> dict[str, Any]:
        """What tells these data from others, as plain JSON: a run records it, and is resumed on
        the same data only.

        This one holds for any data set whose splits are the same each time they are built: by
        split the count and a hash of at most 256 samples, evenly spaced. Override it to say more
        (:func:`noisereg.datasets.fingerprint.difference` explains a change by the keys it knows:
        ``shape``, ``classes``, ``files`` and these), or to read less.
        """
        import hashlib

        import torch

        fingerprint: dict[str, Any] = {"shape": list(self.shape)}
        if self.classes:
            fingerprint["classes"] = list(self.class_names) or self.classes
        for name in ("train", "heldout"):
            split = self.split(name)
            total, some = len(split), min(len(split), 256)
            digest = hashlib.sha256()
            if some:
                batch = split.batch(torch.arange(some) * total // some)
                # Values of 8 bits are hashed as such: the last digit of a float is the device's.
                x = batch.x.add(1).mul(127.5).round().byte() if self.levels == 256 else batch.x
                for tensor in (x, batch.labels):
                    if tensor is not None:
                        digest.update(tensor.cpu().contiguous().numpy().tobytes())
            fingerprint[name] = {"count": total, "sha256": digest.hexdigest()[:16]}
        return fingerprint

    @classmethod
    def decoder(cls, params: Params, ctx: Context) -> Callable[[Tensor], Tensor] | None:
        """How samples (N, *shape) become what a user sees: uint8 images, or floats. None: images
        are in [−1, 1], and points are as they are. From the parameters alone, so that a run is
        sampled without its data."""
        return None


class Task(_Built):
    """What the network is told beside x_t and t.

    ``cond`` is None, or an image (B, ``channels``, H, W) concatenated to x_t, or labels (B,) int64
    below ``classes`` (``classes`` itself then means "no label", for classifier-free guidance).
    What it needs of the data set (``ctx.dataset``, None when a finished run is sampled) it keeps
    in ``params``, which config.yaml records.
    """

    kind: ClassVar[str] = "task"

    channels: int = 0
    classes: int = 0
    input_shape: tuple[int, ...] | None = None
    """One image of ``noisereg sample --input``, (C, h, w), where the condition is made from
    images; else None.
    """
    guidable: bool = False
    """Whether training withholds the condition from some samples, so that guidance has an
    unconditional network.
    """

    def cond(self, batch: Batch) -> Tensor | None:
        """The condition of a batch of data, for training and for evaluation."""
        return None

    def withhold(self, cond: Tensor, u: Tensor) -> Tensor:
        """The condition as training sees it. ``u``, (B,) float64 in [0, 1), depends on seed, step
        and global index alone, so that what is withheld does not change with ranks or
        interruptions."""
        return cond

    def null(self, cond: Tensor) -> Tensor:
        """What stands for "no condition" in ``cond``'s place; asked for only where
        :attr:`guidable`.
        """
        raise NotImplementedError

    def from_input(self, images: Tensor) -> Tensor:
        """The condition of images that a user gives, (N, *input_shape) in [−1, 1]; where
        ``input_shape`` is not None.
        """
        raise NotImplementedError


class Model(Protocol):
    """A trained network as a metric sees it: no type of the engine's, no file, no configuration.

    Its weights are loaded and it is in evaluation mode. Draws are counters: what sample i gets at
    step k depends on i, k and the seed alone.
    """

    @property
    def process(self) -> Process: ...

    @property
    def noise(self) -> Noise: ...

    @property
    def task(self) -> Task: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def paired(self) -> bool:
        """Whether it was trained with a pairing, which gave up that noise and data are
        independent."""
        ...

    @property
    def sampling(self) -> Mapping[str, Any]:
        """How it is sampled, resolved: ``steps``, ``eta``, ``solver``, ``grid`` (as specs),
        ``guidance``, ``seed``."""
        ...

    def predict(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Prediction:
        """What the network says of x (B, *shape) at t (B,), under ``cond``."""
        ...

    def latents(self, indices: Sequence[int], step: int) -> Mapping[str, Tensor]:
        """The latents with which samples ``indices`` are drawn, by name, (B, …): at step 0 those
        of the start, at k those of the k-th step's fresh noise."""
        ...

    def times(self, steps: int | None = None, grid: str | None = None) -> Tensor:
        """The times of sampling, 1 to 0, (steps + 1,) float64: as asked for, or another number of
        them or another grid."""
        ...

    def trajectory(self, indices: Sequence[int], cond: Tensor | None = None) -> Iterator[Tensor]:
        """x of samples ``indices`` at each of :meth:`times`, (B, *shape), from noise to data."""
        ...


class Metric(_Built):
    """Numbers from samples and reference data."""

    kind: ClassVar[str] = "metric"

    better: Mapping[str, str] = {}
    """Each number's good direction: ``"higher"`` or ``"lower"``."""
    space: ClassVar[str] = ""
    """The feature space it is defined in (FID: ``inception``); empty takes the one that
    ``--features`` names.
    """
    paired: ClassVar[bool] = False
    """True if sample i is compared with reference i, as in super-resolution."""

    needs_model: ClassVar[bool] = False
    """True if it measures the model itself (a likelihood) and not samples: then :meth:`of_model`
    is called.
    """
    reads_data: ClassVar[bool] = False
    """True if :meth:`compute` reads ``ctx.dataset``, and not the reference alone: its numbers then
    are of other data if those change."""

    def check_counts(self, samples: int, reference: int) -> None:
        """Called before anything is sampled; :meth:`compute` will be given so many.

        Raises:
            NoiseregError: for fewer samples than the metric needs, with what to give instead.
        """

    def compute(self, samples: Tensor, reference: Tensor, features: Features) -> dict[str, float]:
        """Named numbers from samples (N, *shape) and reference (M, *shape): uint8 images or float
        points.

        Raises:
            NoiseregError: for fewer samples than the metric needs.
        """
        raise NotImplementedError

    def of_model(self, model: Model, data: Dataset) -> dict[str, float]:
        """Named numbers of a trained network, on the data that it was trained on; where
        ``needs_model``. ``model.sampling`` is what was asked for, not the run's own.

        Raises:
            NoiseregError: where they do not exist for this model, with the reason.
        """
        raise NotImplementedError

    def notes(self) -> list[str]:
        """What the last :meth:`compute` or :meth:`of_model` has to say beside its numbers
        (duplicates, a smaller window), a line each."""
        return []


class Features(_Built):
    """A feature extractor: the space in which a metric measures."""

    kind: ClassVar[str] = "features"

    name: str = ""
    """What ``--features`` calls it; set by the evaluation, for metrics that name their numbers
    after their space.
    """
    identity: str = ""
    """What tells two extractors apart: a hash of weights and settings; recorded with every
    result.
    """
    cheap: ClassVar[bool] = False
    """True where taking features costs no more than reading them from a disk: they are not kept
    from one command to the next."""

    def __call__(self, x: Tensor) -> Tensor:
        """(N, D) float from uint8 images (N, C, H, W) or float points (N, D); uint8 where the
        pixels are the features.
        """
        raise NotImplementedError

    def logits(self, features: Tensor) -> Tensor:
        """Class scores (N, classes) of features (N, D), where the extractor is a classifier."""
        raise NotImplementedError

    def statistic(
        self, x: Tensor, name: str, what: Mapping[str, Any], compute: Callable[[], Tensor]
    ) -> Tensor:
        """``compute()``, something of the set ``x`` alone in this space (radii, a mean), of any
        shape on the CPU. An evaluation keeps it from one command to the next, under ``name`` and
        ``what``, all else that it depends on.
        """
        return compute()


class Logger(_Built):
    """Is told what a run measures, on rank 0; what it raises is printed once and the run goes
    on.
    """

    kind: ClassVar[str] = "logger"

    def run_started(self, out: Path, config: dict[str, Any]) -> None: ...

    def logged(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def pictured(self, step: int, name: str, picture: bytes) -> None:
        """A picture of what the run makes, as a PNG, after :meth:`logged` of the same step:
        ``samples``, and ``trajectory``, from noise to data. By default nothing is done with it.
        """

    def run_ended(self, error: BaseException | None) -> None: ...


@dataclass(frozen=True)
class Job:
    """A command that trains one cell of a sweep, or goes on with it, or that does a part of an
    evaluation. It can be pickled, and run again after it was killed: what was saved is kept.
    """

    name: str
    """The cell's, or the part's."""
    command: tuple[str, ...]
    environment: Mapping[str, str]
    """Variables over those of the process that runs it."""
    folder: Path
    """The working directory, an absolute path that every machine of the launcher's sees."""
    log: Path
    """What the command says is added at its end, an absolute path."""
    inherited: tuple[int, ...] = ()
    """Descriptors of locks that a child of this process inherits; none where the launcher is not
    :attr:`~Launcher.here`."""

    def begin(self, environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start the command as a child of this process, in a session of its own: a Ctrl-C in the
        terminal reaches the sweep, which passes it on once. ``environment`` goes over the job's.

        Raises:
            OSError: if it cannot be started.
        """
        with self.log.open("ab") as log:
            return subprocess.Popen(
                list(self.command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={**os.environ, **self.environment, **(environment or {})},
                pass_fds=self.inherited,
                start_new_session=True,
            )

    def run(self) -> int:
        """Run the command here to its end, and give its exit code: what a worker of another
        machine does. An exception that a signal raises meanwhile (KeyboardInterrupt, SystemExit)
        is passed on as SIGTERM, and goes on once the command has saved and ended.
        """
        process = self.begin()
        try:
            while True:
                # Waking up at times lets an interrupt through that is no signal (Ray's).
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return process.wait(timeout=1)
        except BaseException:
            process.terminate()
            process.wait()
            raise


class Started:
    """A job that a launcher was given: waiting, running or ended."""

    reason: str = ""
    """Why it was lost, in a line, where the command itself could not say it (its machine is
    gone)."""

    def poll(self) -> int | None:
        """The exit code; None while the job waits or runs. A job that was lost or cancelled has
        one that is not 0. Once there is one it stays."""
        raise NotImplementedError

    def stop(self) -> None:
        """Ask the job to end, and return at once: SIGTERM for a command that runs, which saves; a
        job that waits is never started. :meth:`poll` may give a code before the command has saved:
        the sweep also waits for the cell's lock.
        """
        raise NotImplementedError


class Launcher(_Built):
    """Where the cells of a sweep are trained, and the runs of an evaluation drawn and measured.
    These know what is left, keep it from being done twice and read in their folders what came of
    it; a launcher runs commands, and says when they end.

    Commands may be killed, and are then started again by whoever types the sweep's or the
    evaluation's command next. A launcher that tries again by itself runs the same job once more.
    """

    kind: ClassVar[str] = "launcher"

    here: ClassVar[bool] = False
    """Whether every job is a child of this process. Then it inherits the cell's lock from the
    sweep; elsewhere the command takes it itself, on a file system that all machines share."""
    jobs: int | None = None
    """How many jobs it is given at once, where ``--jobs`` does not say; None: all, and it queues
    them."""
    poll_every: ClassVar[float] = 1.0
    """Seconds between two looks at what was started."""

    def open(self, folder: Path, jobs: int | None) -> None:
        """Called once before anything is started, with the sweep's folder, which may not be there
        yet (nothing may be written), or one that an evaluation has made, and how many jobs will be
        given at once.

        Raises:
            NoiseregError: if the engine is not installed or cannot be reached, with what to do.
        """

    def start(self, jobs: Sequence[Job]) -> Sequence[Started]:
        """Start these, or queue them; one :class:`Started` a job, in their order. Several are
        given where several can be started, so that they can be one array.

        Raises:
            NoiseregError: if they cannot be.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Called at the end, also after an error; every job has ended by then, or was asked to."""
