"""All that a plugin imports.

Importing this module imports no torch, so a plugin's descriptors cost nothing until one of them is
built.

A *component* is anything that a run names: a noise, a regularizer, a pairing, a process, a
denoiser, a data set, a task, a metric, a feature extractor, a logger. A plugin yields
:class:`Component` descriptors from the hooks in :mod:`noisereg.plugins.hookspecs`; the one that
was asked for is built as ``Class(params, ctx)``. The base classes below are the protocols: they
hold the defaults, and their docstrings are the reference.

Shapes: ``B`` samples of ``shape`` (``(C, H, W)`` for images, ``(D,)`` for points), so a batch is
``(B, *shape)``. Times: ``t`` in [0, 1], 0 = data, 1 = noise, a float64 tensor of shape ``(B,)``.

What may change: within one :data:`API_VERSION`, names are only added, and every addition has a
default. A component built for another version is listed as incompatible and refused, with both
numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, get_args, get_origin

import pluggy
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from noisereg.errors import NoiseregError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from noisereg.runs.build import Parts

__all__ = [
    "API_VERSION",
    "Batch",
    "Component",
    "Context",
    "Dataset",
    "Denoiser",
    "Features",
    "Field",
    "Logger",
    "Metric",
    "Noise",
    "NoiseregError",
    "Pairing",
    "Params",
    "Process",
    "Regularizer",
    "RegularizerParams",
    "Split",
    "Task",
    "TrainStep",
    "hookimpl",
    "per_sample",
]

API_VERSION = 1

hookimpl = pluggy.HookimplMarker("noisereg")
"""Marks a plugin's function as the implementation of the hook of the same name."""

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
        """The command line gives text: ``none`` where None is allowed, ``64,128`` where a sequence
        is, ``2`` where ``Literal[1, 2]`` is, ``1e4`` where a whole number is.
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
            return [part.strip() for part in value.split(",")]
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


class _Built:
    """What the bases below share: a component with nothing to set up needs no ``__init__``."""

    def __init__(self, params: Params | None = None, ctx: Context | None = None) -> None:
        pass


class Noise(_Built):
    """ε_t from white latents. The engine draws the latents from each sample's own generator; a
    noise only shapes them, so it is seed-exact, resumable and the same on any number of ranks
    without its author doing anything.

    Subclass it (or ``torch.nn.Module`` and it, in that order, for a noise that learns) and write
    :meth:`color` and :meth:`mean_square`; white noise of any linear shape also has :meth:`whiten`.
    Static noise needs nothing else.

    A component that learns may have ``lr``, its own learning rate, and ``after_step()``, which the
    trainer calls after each step of the optimiser (to keep parameters within limits; it should not
    wait for the device).
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
    leaves a little signal at t = 1, and a grid uniform in t, go wrong where it is near 0 (DESIGN
    §2, "Process")."""

    def latents(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """The latents of one sample of ``shape``, by name; each is drawn from N(0, 1)."""
        return {"z": shape}

    def color(self, latents: Mapping[str, Tensor], t: Tensor) -> Tensor:
        """ε_t, (B, *shape), from latents (B, …) and t (B,); L_t z for a linear noise. Must not
        draw.
        """
        raise NotImplementedError

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
    linear_path: bool = False
    """True where a = 1 − t and b = t: BNDM's own loss weight belongs to it."""
    summary: str = ""
    """What it resolved to, for the start of a run: ``linear, T 1000, target ε``."""
    notes: tuple[str, ...] = ()
    """What the user should know about this process with this noise, a line each."""
    params: Params | None = None
    """A component that resolves an ``auto`` keeps its resolved parameters here; config.yaml
    records them.
    """

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
    """The mean of v, (B,) or (), over the micro-batch of *all* ranks, with the gradient that one
    rank with the whole batch would have. ``v.mean()`` would not be the same thing."""
    own: Tensor | None = None
    """The process's own heads, (B, C·extra_heads, …); ``heads`` are the noise's."""


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

    def logs(self) -> dict[str, Tensor]:
        """What else of the last call is worth a column in metrics.jsonl, as scalars on the
        device.
        """
        return {}


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


class Denoiser(Protocol):
    """A ``torch.nn.Module`` built as ``Class(params, ctx)``.

    It has ``C·(1 + ctx.process.extra_heads + ctx.noise.extra_heads)`` output channels (or numbers,
    for points), in that order, and takes the condition that ``ctx.task`` describes.
    """

    def __call__(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        """(B, C·(1 + heads), …) from x_t (B, *shape), t (B,) in [0, 1] and ``cond``."""
        ...


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
    summary: str = ""
    """One line for the start of a run: ``1,617 images of 1×8×8 (180 held out), in memory``."""
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

        found: dict[str, Any] = {"shape": list(self.shape)}
        if self.classes:
            found["classes"] = list(self.class_names) or self.classes
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
            found[name] = {"count": total, "sha256": digest.hexdigest()[:16]}
        return found

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

    needs_run: ClassVar[bool] = False
    """True if it measures the model itself (a likelihood) and not samples: then :meth:`of_run` is
    called.
    """

    def compute(self, samples: Tensor, reference: Tensor, features: Features) -> dict[str, float]:
        """Named numbers from samples (N, *shape) and reference (M, *shape): uint8 images or float
        points.

        Raises:
            NoiseregError: for fewer samples than the metric needs.
        """
        raise NotImplementedError

    def of_run(self, parts: Parts, dataset: Dataset) -> dict[str, float]:
        """Named numbers of a run's network, its weights loaded, on the data it was trained on;
        where ``needs_run``.

        Raises:
            NoiseregError: where they do not exist for these parts, with the reason.
        """
        raise NotImplementedError

    def notes(self) -> list[str]:
        """What the last :meth:`compute` or :meth:`of_run` has to say beside its numbers
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

    def __call__(self, x: Tensor) -> Tensor:
        """(N, D) float from uint8 images (N, C, H, W) or float points (N, D); uint8 where the
        pixels are the features.
        """
        raise NotImplementedError


class Logger(_Built):
    """Is told what a run measures, on rank 0; what it raises is printed once and the run goes
    on.
    """

    kind: ClassVar[str] = "logger"

    def run_started(self, out: Path, config: dict[str, Any]) -> None: ...

    def logged(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def run_ended(self, error: BaseException | None) -> None: ...
