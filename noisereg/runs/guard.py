"""What components give while a run trains, looked at where the engine takes it.

A component that returns something of another shape or type may train on wrong numbers to the end,
by broadcasting; one that raises, or leaves by ``sys.exit``, ends in somebody else's words. So
every method that the engine calls is watched: what goes wrong is one line that names the
component, the method, the step, what came and what was expected.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from noisereg.errors import NoiseregError
from noisereg.runs.build import Parts

Check = Callable[..., str]
"""(the value, the arguments…) → what was expected, where the value is not that; else empty."""


class Guard:
    """Watches a run's components while the block runs.

    An object is watched by :func:`put_methods`.
    """

    def __init__(self, parts: Parts, compiled: bool = False, stacked: bool = False) -> None:
        self.step = 0
        """The optimiser step, from 0, that errors name."""
        self._own: list[tuple[Any, type]] = []
        self._parts, self._compiled, self._stacked = parts, compiled, stacked

    def __enter__(self) -> Guard:
        parts, config = self._parts, self._parts.config
        shape = tuple(parts.shape)
        channels, rest = shape[0], shape[1:]
        heads = channels * parts.noise.extra_heads
        outputs = channels * parts.diffusion.outputs

        def colored(value: Any, latents: Any, t: Tensor) -> str:
            like = next(iter(latents.values()))
            return _tensor(value, (len(t), *shape), like.dtype)

        def basis(value: Any, latents: Any) -> str:
            like = next(iter(latents.values()))
            return _tensor(value, (len(like), heads, *rest), like.dtype)

        def color_and_basis(value: Any, latents: Any, t: Tensor) -> str:
            if not isinstance(value, tuple) or len(value) != 2:
                return "the pair (color, basis)"
            if wrong := colored(value[0], latents, t):
                return f"the pair (color, basis) whose first is {wrong}"
            if heads and (wrong := basis(value[1], latents)):
                return f"the pair (color, basis) whose second is {wrong}"
            return ""

        def like_first(value: Any, first: Tensor, *_: Any) -> str:
            return _tensor(value, tuple(first.shape), first.dtype)

        def both(value: Any, out: Tensor, x_t: Tensor, *_: Any) -> str:
            if not isinstance(value, tuple) or len(value) != 2:
                return "the pair (x0_hat, eps_hat)"
            wrong = (_tensor(v, tuple(x_t.shape), x_t.dtype) for v in value)
            return next((f"two of {text}" for text in wrong if text), "")

        def output(value: Any, x: Tensor, *_: Any) -> str:
            value = value if isinstance(value, Tensor) else getattr(value, "sample", value)
            half = isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16)
            wanted = _tensor(value, (len(x), outputs, *rest), value.dtype if half else x.dtype)
            learns = any(p.requires_grad for p in parts.denoiser.parameters())
            if not wanted and learns and torch.is_grad_enabled() and not value.requires_grad:
                return "a tensor with a gradient"
            return wanted

        watched: dict[str, Check | None] = dict.fromkeys(
            ("given", "head_weight", "mean_square", "logs", "after_step")
        )
        self.watch(
            parts.noise,
            f"noise {config.noise.name}",
            {
                **watched,
                "color": colored,
                "basis": basis,
                "color_and_basis": color_and_basis,
            },
        )
        watched = dict.fromkeys(("signal_scale", "noise_scale", "weight", "time", "after_step"))
        self.watch(
            parts.process,
            f"process {config.process.name}",
            {**watched, "target": like_first, "split": both},
        )
        for spec, one in zip(config.reg, parts.diffusion.regularizers, strict=True):
            self.watch(
                one.term,
                f"regularizer {spec.name}",
                # Under vmap no value can be looked at; a stack compares it with the cell's own.
                {"__call__": None if self._stacked else _scalar, "logs": None, "after_step": None},
            )
        if parts.pairing is not None:
            self.watch(parts.pairing, f"pairing {config.pairing.name}", {"__call__": _permutation})
        self.watch(parts.task, f"task {config.task.name}", {"cond": _condition, "withhold": None})
        if not (self._compiled or self._stacked):
            self.watch(parts.denoiser, f"denoiser {config.denoiser.name}", {"forward": output})
        return self

    def __exit__(self, *_: Any) -> None:
        for component, own in reversed(self._own):
            component.__class__ = own
        self._own.clear()

    def watch_split(self, split: Any) -> Any:
        """The training split, watched too."""
        shape, name = tuple(self._parts.shape), self._parts.config.data.name

        def batch(value: Any, indices: Sequence[int]) -> str:
            x = getattr(value, "x", None)
            wanted = _tensor(x, (len(indices), *shape), torch.float32)
            return f"a Batch with x, {wanted}" if wanted else ""

        self.watch(split, f"data {name}", {"batch": batch})
        return split

    def watch(self, component: Any, name: str, methods: dict[str, Check | None]) -> None:
        """Watch those of ``methods`` that ``component``, called ``name`` in errors, has."""
        own = type(component)
        if isinstance(component, nn.Module) and "__call__" in methods:
            # nn.Module's own __call__ leads to forward, which is the author's.
            methods = {("forward" if k == "__call__" else k): v for k, v in methods.items()}
        replaced = {
            method: self._watched(getattr(own, method), f"{name}: {method}", check)
            for method, check in methods.items()
            if callable(getattr(own, method, None))
        }
        if put_methods(component, replaced):
            self._own.append((component, own))

    def _watched(self, method: Callable[..., Any], name: str, check: Check | None) -> Any:
        def call(component: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                value = method(component, *args, **kwargs)
            except NoiseregError:
                raise
            except KeyboardInterrupt as stop:  # of one that does not return, perhaps
                where = str(stop) or f"in {name}, step {self.step + 1}"
                raise KeyboardInterrupt(where) from None
            except (Exception, SystemExit) as error:
                raise NoiseregError(self._raised(name, error)) from error
            if check is not None and (wanted := check(value, *args, **kwargs)):
                raise NoiseregError(
                    f"{name} gave {_described(value)} in step {self.step + 1}; expected {wanted}"
                )
            return value

        return call

    def _raised(self, name: str, error: BaseException) -> str:
        said = " ".join(str(error).split())[:500]
        what = f"{type(error).__name__}{f': {said}' if said else ''}"
        if isinstance(error, SystemExit):
            what = f"SystemExit (sys.exit({error.code!r}))"
        text = f"{name} raised {what} in step {self.step + 1}"
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            text += "; a smaller train.batch_size, or more train.accumulate, needs less memory"
        return (
            f"{text}; the checkpoints that were written are kept (the traceback: NOISEREG_DEBUG=1)"
        )


def put_methods(component: Any, methods: dict[str, Any]) -> bool:
    """Put a subclass of its class, with these methods, in the class's place: it stays the same
    object, whoever else holds it. False for a class that cannot be replaced, as one with slots.
    """
    own = type(component)
    replaced = type(own.__name__, (own,), {**methods, "__module__": own.__module__})
    try:
        component.__class__ = replaced
    except TypeError:
        return False
    return True


def _tensor(value: Any, shape: tuple[int, ...], dtype: torch.dtype) -> str:
    """Empty for a tensor of that shape and type, else what was expected."""
    if isinstance(value, Tensor) and tuple(value.shape) == shape and value.dtype == dtype:
        return ""
    return f"a tensor {shape} of {str(dtype).removeprefix('torch.')}"


def _scalar(value: Any, *_: Any) -> str:
    wanted = "a tensor of one floating-point number, with a gradient"
    if not isinstance(value, Tensor) or value.numel() != 1 or not value.is_floating_point():
        return wanted
    # A term that is out of its range of steps may be a plain 0.
    return wanted if not value.requires_grad and float(value) != 0 else ""


def _permutation(value: Any, x0: Tensor, *_: Any) -> str:
    count = len(x0)
    if isinstance(value, Tensor) and value.shape == (count,) and value.dtype == torch.int64:
        seen = torch.zeros(count, dtype=torch.int64, device=value.device)
        inside = ((value >= 0) & (value < count)).all()
        counts = seen.scatter_add(0, value.clamp(0, count - 1), torch.ones_like(seen))
        if bool(inside & (counts == 1).all()):
            return ""
    return f"a permutation of 0 … {count - 1}, a tensor ({count},) of int64"


def _condition(value: Any, batch: Any) -> str:
    count = len(batch.x)
    if value is None or (isinstance(value, Tensor) and value.ndim and len(value) == count):
        return ""
    return f"None, or a tensor ({count}, …)"


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        grad = "" if value.requires_grad or math.prod(value.shape) != 1 else ", without a gradient"
        return f"a tensor {tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}{grad}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {', '.join(map(_described, value[:4])) or 'nothing'}"
    if value is None or isinstance(value, int | float | str):
        return repr(value)[:80]
    kind = type(value)
    return (
        f"a {kind.__module__}.{kind.__qualname__}"
        if kind.__module__ != "builtins"
        else (f"a {kind.__qualname__}")
    )
