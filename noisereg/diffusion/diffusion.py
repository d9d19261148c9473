"""The idea as one object, for anyone's training loop: a law, a noise, a loss, a solver."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from numbers import Integral
from typing import Any, get_args

import torch
from torch import Tensor, nn

from noisereg.api import (
    EpsScale,
    Grid,
    Noise,
    NoiseregError,
    Pairing,
    Prediction,
    Process,
    Solver,
    TimeInput,
)
from noisereg.diffusion import arguments, compatible
from noisereg.diffusion.adjust import Clip, adjusted, constant
from noisereg.diffusion.grids import own
from noisereg.diffusion.law import add_noise, network_time, times_of
from noisereg.diffusion.loss import (
    WHOLE,
    Loss,
    Net,
    Weighted,
    Whole,
    guided,
    loss,
    mean_over_ranks,
    output_of,
    read,
    under_autocast_of_caller,
)
from noisereg.diffusion.sample import Source, trajectory
from noisereg.diffusion.solvers import DDIM
from noisereg.errors import nearest


class Diffusion(nn.Module):
    """A process, a noise and the terms of a loss, around any network.

    The network is not held: each method is given it, as any callable (x_t (B, *shape), t (B,)) →
    (B, C·outputs, …), or (x_t, t, cond) with a condition. A component that learns is a submodule,
    so that ``parameters()`` has it for the optimiser and ``to(device)`` moves it; everything else
    follows the device and dtype of the tensors that are given. Nothing random is drawn but from
    the ``generator`` given (torch's default one where it is None), and none of torch's global
    generators is ever seeded. Autocast reaches the network alone.

    Raises:
        NoiseregError: for a process and a noise that do not go together
        (:mod:`noisereg.diffusion.compatible`).
    """

    def __init__(
        self,
        shape: Sequence[int],
        process: Process,
        noise: Noise,
        regularizers: Sequence[Weighted] = (),
        pairing: Pairing | None = None,
        T: int | None = None,
        time_input: TimeInput = "unit",
        mean: Callable[[Tensor], Tensor] = mean_over_ranks,
    ) -> None:
        """``shape``: one sample's, (C, H, W) or (D,). ``T``: the steps of a loop that counts k =
        0 … T − 1; then integer times are taken as (k + 1)/T. ``time_input``: what the network is
        told, t itself (``unit``), 1000t (``step``) or 1000t − 1 (``index``, DDPM's). ``mean``:
        over the batch of all ranks; it must keep the gradient.
        """
        super().__init__()
        if T is not None and (not isinstance(T, Integral) or isinstance(T, bool) or T < 1):
            raise NoiseregError(f"`T={T}`: expected at least 1 step, or None for t in [0, 1]")
        if time_input not in get_args(TimeInput):
            raise NoiseregError(
                f"`time_input={time_input}`: expected {', '.join(get_args(TimeInput))}"
                f"{nearest(str(time_input), get_args(TimeInput))}"
            )
        self.shape = checked_shape(shape)
        compatible.check_path(process, noise)
        compatible.check_transport(noise, self.shape)
        compatible.check_trained_bound(process, noise, self.shape, pairing is not None)
        self.process, self.noise, self.pairing = process, noise, pairing
        self.regularizers = list(regularizers)
        self.learners = nn.ModuleList(
            r.term for r in regularizers if isinstance(r.term, nn.Module)
        )
        self.T, self.time_input, self.mean = T, time_input, mean

    @property
    def outputs(self) -> int:
        """How many blocks of C channels the network has: its first, the process's own heads, the
        noise's.
        """
        return 1 + self.process.extra_heads + self.noise.extra_heads

    # Training

    def loss(
        self,
        net: Net,
        x0: Tensor,
        *,
        cond: Tensor | None = None,
        t: Tensor | float | None = None,
        latents: Tensor | Mapping[str, Tensor] | None = None,
        generator: torch.Generator | None = None,
        step: int = 0,
        batch: Whole = WHOLE,
    ) -> Loss:
        """(loss, parts) of x0 (B, *shape), images in [−1, 1]: a scalar to differentiate, and what
        it is made of, detached.

        What is not given is drawn: ``t``, (B,) or one number, in [0, 1] or integer steps, and the
        noise's ``latents``, one tensor (B, …) or several by name. ``cond``, (B, …), goes to the
        network and the noise. ``step`` is the optimiser's, for weights that change over training;
        ``batch`` is how the samples are summed, where they are several runs'.

        Raises:
            NoiseregError: for samples, latents or a network's output of another shape, and times
                that are out of range.
        """
        self.check_samples(x0)
        arguments.check_network(net)
        if not len(x0):
            raise NoiseregError("no samples: the loss is a mean over the batch; expected one")
        if self.pairing is not None and cond is not None:
            raise NoiseregError(
                "a pairing with a condition: paired noise depends on the image and so on its "
                "condition, but sampling draws it whatever the condition is; expected one of them"
            )
        t = (
            self.draw_times(len(x0), generator, x0.device)
            if t is None
            else arguments.times(t, self.T, len(x0), x0.device)
        )
        told = self._told(under_autocast_of_caller(net, x0.device))
        with torch.autocast(x0.device.type, enabled=False):
            return loss(
                told,
                x0,
                self._latents(latents, len(x0), generator, x0.device, x0.dtype),
                t,
                process=self.process,
                noise=self.noise.given(cond),
                regularizers=self.regularizers,
                pairing=self.pairing,
                cond=cond,
                step=step,
                mean=self.mean,
                batch=batch,
            )

    def draw_times(
        self,
        count: int,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Training times by the process's own law, (count,) float64."""
        arguments.check_count("count", count)
        arguments.check_generator(generator)
        source = generator.device if generator is not None else device
        u = torch.rand(count, generator=generator, device=source, dtype=torch.float64)
        return self.process.time(u).to(device)

    def draw_latents(
        self,
        count: int,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> dict[str, Tensor]:
        """The noise's latents of ``count`` samples by name, each (count, …) N(0, 1)."""
        arguments.check_count("count", count)
        arguments.check_generator(generator)
        arguments.check_dtype(dtype)
        return self.noise.draw_latents(count, self.shape, generator, device, dtype)

    def add_noise(self, x0: Tensor, eps: Tensor, t: Tensor | float) -> Tensor:
        """x_t = a(t)·x0 + b(t)·ε_t, (B, *shape), for t as :meth:`loss` takes it."""
        self.check_samples(x0)
        arguments.check_tensor("eps", eps)
        if eps.shape != x0.shape:
            raise NoiseregError(
                f"the noise is {tuple(eps.shape)} and the samples are {tuple(x0.shape)}; expected "
                "one ε_t a sample, of its shape"
            )
        return add_noise(self.process, x0, eps, arguments.times(t, self.T, len(x0), x0.device))

    # Sampling

    def predict(
        self,
        net: Net,
        x_t: Tensor,
        t: Tensor | float,
        cond: Tensor | None = None,
        guidance: float = 1.0,
        null: Tensor | None = None,
    ) -> Prediction:
        """(x̂0, ε̂_t, heads) of x_t (B, *shape) at t, (B,) or one number; with ``null``, the
        condition's absence, under classifier-free ``guidance``.

        Raises:
            NoiseregError: for guidance without a condition and its absence.
        """
        self.check_samples(x_t)
        _check_guidance(guidance, cond, null)
        arguments.check_network(net)
        at = arguments.times(t, self.T, len(x_t), x_t.device)
        return self._predict(net, x_t, at, cond, guidance, null)

    def _predict(
        self,
        net: Net,
        x_t: Tensor,
        t: Tensor,
        cond: Tensor | None,
        guidance: float,
        null: Tensor | None,
    ) -> Prediction:
        """At times in [0, 1] that are there, float64: to look would be to wait for the device."""
        told = self._told(under_autocast_of_caller(net, x_t.device))
        with torch.autocast(x_t.device.type, enabled=False):
            if cond is None or null is None or guidance == 1:
                out = output_of(told, self.process, x_t, t, cond)
            else:
                out = guided(told, self.process, x_t, t, cond, null, guidance)
            return read(out, x_t, t, self.process, self.noise.given(cond))

    def trajectory(
        self,
        net: Net,
        source: Source,
        times: Tensor,
        solver: Solver,
        cond: Tensor | None = None,
        guidance: float = 1.0,
        null: Tensor | None = None,
        start: Tensor | None = None,
        eps_scale: EpsScale | None = None,
        clip: Clip | None = None,
    ) -> Iterator[Tensor]:
        """x at each of ``times``, 1 to 0: (B, *shape). ``source(k)`` gives the latents of step k,
        0 being the start. ``eps_scale`` and ``clip``:
        :func:`noisereg.diffusion.adjust.adjusted`.

        Raises:
            NoiseregError: for a solver under which a step would be wrong, and guidance without a
                condition, and times out of [0, 1].
        """
        _check_guidance(guidance, cond, null)
        noise = self.noise.given(cond)
        compatible.check_solver(self.process, noise, solver, self.pairing is not None)

        def predict(x: Tensor, t: Tensor) -> Prediction:
            return self._predict(net, x, t, cond, guidance, null)

        predicted = adjusted(predict, self.process, eps_scale, clip)
        times = times_of(times, None, times.device)
        return trajectory(predicted, self.process, noise, source, times, solver, start)

    def sample(
        self,
        net: Net,
        num: int,
        *,
        steps: int | None = None,
        solver: Solver | None = None,
        grid: Grid | None = None,
        cond: Tensor | None = None,
        guidance: float = 1.0,
        null: Tensor | None = None,
        eps_scale: float | EpsScale = 1.0,
        clip: Clip | None = None,
        latents: Tensor | Mapping[str, Tensor] | None = None,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """``num`` samples, (num, *shape), images in [−1, 1] (not clipped, but with ``clip``).

        ``steps``: 100 where None, or those of a ``grid`` of given times. ``solver`` and ``grid``:
        the noise's and process's own where None (DDIM with their η).
        ``latents`` replace the draw of the start. ``dtype``: of the samples and of what the
        network is given; between steps 16 bits are 32. ``device``: the latents', else the
        network's where it is a module, else the generator's. ``eps_scale``: a factor of ε̂
        (:func:`noisereg.diffusion.adjust.constant`), or a function (ε̂, t) → ε̂ scaled.

        Raises:
            NoiseregError: as :meth:`trajectory`, and for fewer than one sample or step.
        """
        arguments.check_network(net)
        arguments.check_count("num", num)
        if steps is not None:
            arguments.check_count("steps", steps)
        arguments.check_generator(generator)
        arguments.check_dtype(dtype)
        if device is None:
            device = _device_of(net, latents, generator)
        else:
            device = arguments.device_of(device)
        if solver is None:
            solver = DDIM(
                compatible.default_eta(self.process, self.noise, self.pairing is not None)
            )
        if grid is None:
            grid = own(compatible.default_grid(self.process, self.noise, solver))
        if grid.steps is not None and steps not in (None, grid.steps):
            raise NoiseregError(
                f"`steps={steps}`: the grid has {grid.steps} steps; leave steps out, or name "
                "another grid"
            )
        steps = grid.steps or steps or 100

        # A step of a thousand is below the rounding of 16 bits, and L z as a product of them would
        # be another noise: the network alone is given the state in them.
        half = dtype in (torch.float16, torch.bfloat16)
        state = torch.float32 if half else dtype

        def source(k: int) -> Mapping[str, Tensor]:
            return self._latents(latents if k == 0 else None, num, generator, device, state)

        def rounded(x: Tensor, *told: Tensor) -> Any:
            return net(x.to(dtype), *told)

        scale = eps_scale if callable(eps_scale) else None
        if not callable(eps_scale) and eps_scale != 1:
            scale = constant(self.process, eps_scale)
        # Each by itself: a part that is frozen in eval mode stays so.
        training = [m for m in net.modules() if m.training] if isinstance(net, nn.Module) else []
        for module in training:
            module.training = False
        try:
            with torch.no_grad():
                times = grid.times(self.process, steps)
                asked = rounded if half else net
                *_, x = self.trajectory(
                    asked, source, times, solver, cond, guidance, null, None, scale, clip
                )
        finally:
            for module in training:
                module.training = True
        return x.to(dtype)

    # What is given in several forms

    def _told(self, net: Net) -> Net:
        """The network, told t as it counts it."""
        if self.time_input == "unit":
            return net
        return lambda x, t, *cond: net(x, network_time(t, self.time_input), *cond)

    def _latents(
        self,
        latents: Tensor | Mapping[str, Tensor] | None,
        count: int,
        generator: torch.Generator | None,
        device: torch.device,
        dtype: torch.dtype,
    ) -> Mapping[str, Tensor]:
        if latents is None:
            return self.draw_latents(count, generator, device, dtype)
        for z in latents.values() if isinstance(latents, Mapping) else [latents]:
            arguments.check_tensor("latents", z)
        named = self.noise.named(latents, self.shape)
        wanted = {name: (count, *size) for name, size in self.noise.latents(self.shape).items()}
        got = {name: tuple(z.shape) for name, z in named.items()}
        if got != wanted:
            raise NoiseregError(f"latents are {_shapes(got)}; expected {_shapes(wanted)}")
        return {name: z.to(device=device, dtype=dtype) for name, z in named.items()}

    def check_samples(self, x0: Tensor) -> None:
        """
        Raises:
            NoiseregError: for samples that are no tensor of floats, or of another shape.
        """
        arguments.check_tensor("x", x0)
        if not x0.is_floating_point():
            raise NoiseregError(
                f"samples are {str(x0.dtype).removeprefix('torch.')}; expected floating point, "
                "images in [-1, 1]: x / 127.5 - 1 of 0 … 255"
            )
        if tuple(x0.shape[1:]) != self.shape:
            raise NoiseregError(
                f"samples are of shape {tuple(x0.shape[1:])}; this diffusion is for {self.shape}"
            )


def checked_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """
    Raises:
        NoiseregError: for what is no sample's shape.
    """
    sizes = tuple(shape) if isinstance(shape, Iterable) else ()
    if not sizes or not all(isinstance(n, Integral) and n > 0 for n in sizes):
        raise NoiseregError(
            f"`shape={shape}`: expected one sample's, (C, H, W) of images or (D,) of points"
        )
    return sizes


def _check_guidance(guidance: float, cond: Tensor | None, null: Tensor | None) -> None:
    arguments.check_number("guidance", guidance)
    if not 0 <= guidance < math.inf:
        raise NoiseregError(f"`guidance={guidance:g}`: expected a number from 0, 1 for none")
    if guidance != 1 and (cond is None or null is None):
        raise NoiseregError(
            f"`guidance={guidance:g}` mixes the outputs with and without a condition; give cond= "
            "and null=, what stands for none"
        )


def _shapes(of: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in of.items())


def _device_of(
    net: Net, latents: Tensor | Mapping[str, Tensor] | None, generator: torch.Generator | None
) -> torch.device:
    if latents is not None:
        return (latents if isinstance(latents, Tensor) else next(iter(latents.values()))).device
    parameter = next(net.parameters(), None) if isinstance(net, nn.Module) else None
    if parameter is not None:
        return parameter.device
    return generator.device if generator is not None else torch.device("cpu")
