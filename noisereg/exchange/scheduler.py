"""Any Gaussian linear noise, and any process, as a scheduler of diffusers: in its pipelines and
its training scripts.

    from noisereg.exchange.scheduler import NoiseScheduler
    scheduler = NoiseScheduler(shape=(3, 64, 64), noise="blue-tv", process="iadb")
    pipeline = DDPMPipeline(unet, scheduler)

It holds a :class:`noisereg.diffusion.diffusion.Diffusion` and has no formula of its own; see
docs/diffusers.md.
"""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin, SchedulerOutput
from diffusers.utils.torch_utils import randn_tensor
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from noisereg.api import (
    Context,
    Noise,
    Prediction,
    Process,
    SampleStep,
    Solver,
    TimeInput,
    per_sample,
)
from noisereg.diffusion import arguments, compatible
from noisereg.diffusion.adjust import adjusted, constant
from noisereg.diffusion.diffusion import Diffusion, checked_shape
from noisereg.diffusion.law import NO_SIGNAL, add_noise, network_time, time_from_network
from noisereg.diffusion.loss import read
from noisereg.diffusion.sample import Predict
from noisereg.errors import NoiseregError
from noisereg.folders import cache_dir
from noisereg.plugins.registry import registry
from noisereg.plugins.spec import Spec
from noisereg.runs.sampling import build_clip

LEARNT = "noise.safetensors"
"""Beside the configuration: what the noise and the process have learnt."""
_FORGOTTEN = (
    "a configuration has nothing of what was learnt; this scheduler begins with initial values, "
    "where from_pretrained would load them"
)
OURS = "noisereg"
"""Our ``beta_schedule``, which no scheduler of diffusers knows: one that is made of this
configuration, as ``DDIMPipeline(unet, scheduler)`` makes itself a ``DDIMScheduler``, says so
instead of sampling white noise in silence."""


@dataclass
class NoiseSchedulerOutput(SchedulerOutput):
    """``prev_sample``: x at the next time; ``pred_original_sample``: x̂0; each (B, C, H, W)."""

    pred_original_sample: Tensor | None = None


class NoiseScheduler(SchedulerMixin, ConfigMixin):  # type: ignore[misc]  # diffusers' own bases
    """A noise, a process, a solver and a grid by their specs; diffusers' calls.

    A *timestep* is t as the network counts it (``time_input``): 1000t − 1, which is diffusers' 0 …
    999, or 1000t, or t itself. The network's output is (B, C·outputs, H, W): the process's target,
    then the heads (:attr:`noisereg.diffusion.diffusion.Diffusion.outputs`).

    Where noise is coloured at t = 1 (static noise), pipelines, which start from white, are given
    one timestep more: its step is x_1 = b(1)·L_1·z, and looks at no output.

    Raises:
        NoiseregError: for an unknown name, what does not go together, and noise that is not
            Gaussian and linear.
    """

    order = 1
    config: Any
    """As registered by ConfigMixin: the arguments of ``__init__``."""

    @register_to_config
    def __init__(
        self,
        shape: Sequence[int],
        noise: str | dict[str, Any] = "white",
        process: str | dict[str, Any] = "ddpm",
        solver: str | dict[str, Any] = "ddim",
        grid: str | dict[str, Any] | None = None,
        time_input: TimeInput = "index",
        predicts: Literal["target", "white"] = "target",
        start: Literal["white", "coloured"] = "white",
        eps_scale: float = 1.0,
        clip: str | dict[str, Any] = "none",
        num_train_timesteps: int = 1000,
        beta_schedule: str = OURS,
    ) -> None:
        """``shape``: one sample's, (C, H, W). ``solver``: the η of ``ddim`` is the process's own
        where neither it nor :meth:`step` is given one; one of two evaluations a step (``heun``)
        needs the network in :meth:`step`, which ``NoiseregPipeline`` gives it. ``grid``: the
        noise's and process's own where None.

        ``predicts``: ``target``, what noisereg trains a network to; ``white``, the white noise
        that :meth:`add_noise` was given, which is what diffusers' own training script trains one
        to (``--prediction_type epsilon``). ``start``: what sampling starts from; ``coloured`` if
        the caller makes x_1 himself. ``eps_scale``, a factor of ε̂, and ``clip``, of x̂0
        (``static``, ``dynamic:percentile=0.995``), are those of sampling
        (:mod:`noisereg.diffusion.adjust`). ``num_train_timesteps`` is 1000, whatever the process's
        T.
        """
        for name, value, known in (
            ("predicts", predicts, ("target", "white")),
            ("start", start, ("white", "coloured")),
            ("time_input", time_input, ("index", "step", "unit")),
            ("beta_schedule", beta_schedule, (OURS,)),
            ("num_train_timesteps", num_train_timesteps, (1000,)),
        ):
            if value not in known:
                raise NoiseregError(
                    f"`{name}={value}`: expected {' or '.join(map(str, known))} (NoiseScheduler)"
                )
        sizes = checked_shape(shape)
        ctx = Context(shape=sizes, dtype=torch.float32, cache_dir=cache_dir())
        made_noise: Noise = _built("noise", noise, ctx)
        ctx = dataclasses.replace(ctx, noise=made_noise)
        made_process: Process = _built("process", process, ctx)
        if not (made_noise.gaussian and made_noise.linear):
            raise NoiseregError(
                f"noise {_spec(noise).name}: a scheduler colours white noise, which needs a "
                "Gaussian, linear noise"
            )
        if predicts == "white" and made_process.extra_heads:
            raise NoiseregError(
                "`predicts=white`: the network has one block, and this process reads "
                f"{1 + made_process.extra_heads}; expected predicts=target"
            )
        one = torch.ones(1, dtype=torch.float64)
        if predicts == "white" and float(made_process.signal_scale(one)) < NO_SIGNAL:
            raise NoiseregError(
                "`predicts=white`: x̂0 cannot be read from the noise where no signal is left at "
                "t = 1; expected predicts=target, or a process such as ddpm:schedule=linear"
            )
        self.diffusion = Diffusion(sizes, made_process, made_noise, time_input=time_input)
        self.diffusion.requires_grad_(False)
        self.solver: Solver = _built("solver", solver, Context())
        self._own_eta = "eta" not in _spec(solver).params or _spec(solver).params["eta"] == "auto"
        self._scale = None if eps_scale == 1 else constant(made_process, eps_scale)
        self._clip = build_clip(_spec(clip))
        if predicts == "white" and (self._scale or self._clip):
            raise NoiseregError(
                "`eps_scale` and `clip` change ε̂, and with `predicts=white` it is read from the "
                "network's white noise at each time anew; expected predicts=target"
            )
        z = torch.randn(1, *sizes, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            coloured = not torch.allclose(
                made_noise.color(made_noise.named(z, sizes), one), z, atol=1e-6
            )
        self._colours_start = coloured and start == "white"
        self.init_noise_sigma = (
            1.0 if self._colours_start else float(made_process.noise_scale(one))
        )
        self.num_inference_steps: int | None = None
        self._history: list[tuple[Tensor, Prediction]] = []
        self._next = 0
        self._times: list[float] = []
        self.timesteps: Tensor = torch.empty(0)
        self.set_timesteps(num_train_timesteps)
        # diffusers leaves out of a configuration in memory what was given by place or not at all,
        # and a DDIMPipeline would not see whose it is.
        self.register_to_config(_use_default_values=[])

    # What diffusers' pipelines and scripts call

    def set_timesteps(
        self, num_inference_steps: int, device: torch.device | str | None = None
    ) -> None:
        """The times of sampling: ``timesteps``, (steps,), or (steps + 1,) where the first colours
        the start; int64 where all are whole, as diffusers' are.

        Raises:
            NoiseregError: for what is no number of steps, or no device.
        """
        if isinstance(num_inference_steps, Tensor) and not num_inference_steps.ndim:
            num_inference_steps = num_inference_steps.item()
        arguments.check_count("num_inference_steps", num_inference_steps)
        place = arguments.device_of("cpu" if device is None else device)
        process, noise = self.diffusion.process, self.diffusion.noise
        spec = self.config.grid or compatible.default_grid(process, noise, self.solver)
        times = _built("grid", spec, Context()).times(process, num_inference_steps)
        told = network_time(times[:-1], self.config.time_input)
        if bool((told == told.round()).all()) and self.config.time_input != "unit":
            told = told.long()
        if self._colours_start:
            told = torch.cat([told[:1], told])
        self.num_inference_steps = num_inference_steps
        self._times = times.tolist()
        self.timesteps = told.to(place)
        self._told: list[float] = told.tolist()
        self._restart()

    def scale_model_input(self, sample: Tensor, timestep: Tensor | float | None = None) -> Tensor:
        """What the network is given for ``sample``, (B, C, H, W): itself, unless the process
        scales its input (EDM).
        """
        t = self._time_of(timestep, len(sample), sample.device)
        scale = self.diffusion.process.input_scale(t)
        return sample if scale is None else per_sample(scale, sample) * sample

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t = a(t)·x0 + b(t)·L_t·z from *white* noise z, all (B, C, H, W), for timesteps
        (B,).
        """
        self._check_pair(original_samples, noise)
        t = self._time_of(timesteps, len(original_samples), original_samples.device)
        eps = self._color(noise, t)
        return add_noise(self.diffusion.process, original_samples, eps, t)

    def target(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the network is regressed on, (B, C·outputs, H, W), from x0 and the white noise that
        :meth:`add_noise` was given.

        Raises:
            NoiseregError: for a process that learns a variance, whose head has no target.
        """
        self._check_pair(original_samples, noise)
        if self.config.predicts == "white":
            return noise
        process, coloured = self.diffusion.process, self.diffusion.noise
        if process.extra_heads:
            raise NoiseregError(
                "a learned variance is trained by the bound and has no target; take "
                "Diffusion.loss (docs/own-loop.md)"
            )
        t = self._time_of(timesteps, len(noise), noise.device)
        first = process.target(original_samples, self._color(noise, t), t)
        latents = coloured.named(noise, self.diffusion.shape)
        return torch.cat([first, coloured.basis(latents)], 1) if coloured.extra_heads else first

    def step(
        self,
        model_output: Tensor,
        timestep: Tensor | float,
        sample: Tensor,
        eta: float | None = None,
        use_clipped_model_output: bool | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
        network: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> NoiseSchedulerOutput | tuple[Tensor, Tensor | None]:
        """From x_t, ``sample`` (B, C, H, W), to x at the next of the times, by the network's
        output.

        ``eta`` replaces that of the solver; ``variance_noise``: white noise in place of a draw
        from ``generator``. ``network``: (input (B, C, H, W), timesteps (B,)) → output, for a
        solver that evaluates it within a step.

        Raises:
            NoiseregError: for a timestep that :meth:`set_timesteps` did not give, an output of
                another size, an η that the solver or the noise does not take, and a solver that
                needs the ``network``, which diffusers' pipelines do not give.
        """
        if use_clipped_model_output:
            raise NoiseregError("`use_clipped_model_output`: x̂0 is not clipped; leave it out")
        self.diffusion.check_samples(sample)
        arguments.check_tensor("model_output", model_output)
        for own in generator if isinstance(generator, list) else [generator]:
            arguments.check_generator(own)
        if isinstance(eta, Tensor) and not eta.ndim:
            eta = eta.item()
        if eta is not None:
            arguments.check_number("eta", eta)
        if variance_noise is not None:
            self._check_pair(sample, variance_noise)
        place = self._place_of(timestep)
        last = place == len(self.timesteps) - 1
        self._next = 0 if last else place + 1
        if place == 0 and self._colours_start:
            x = self._start(sample)
            return NoiseSchedulerOutput(x) if return_dict else (x, None)
        t, s = list(pairwise(self._times))[place - self._colours_start]
        times = torch.tensor([[t], [s]], dtype=torch.float64, device=sample.device)
        at, to = times.expand(2, len(sample))
        solver = self._solver(eta)
        if solver.evaluations != 1 and network is None:
            raise NoiseregError(
                f"solver {_spec(self.config.solver).name} evaluates the network "
                f"{solver.evaluations} times a step, and this pipeline gives one output; expected "
                "ddim or dpmpp-2m, or NoiseregPipeline (noisereg.exchange.pipeline)"
            )
        process, noise = self.diffusion.process, self.diffusion.noise

        def predicted(evaluate: Callable[[Tensor, Tensor], Tensor]) -> Predict:
            """As the solver sees it."""
            return adjusted(
                lambda x, t: self._read(evaluate(x, t), x, t), process, self._scale, self._clip
            )

        def again(x: Tensor, t: Tensor) -> Tensor:
            assert network is not None
            told = network_time(t, self.config.time_input)
            return network(self.scale_model_input(x, told).to(sample.dtype), told)

        # In 16 bits the coefficients of a short step cancel to nothing.
        x_t = sample if sample.dtype == torch.float64 else sample.float()
        here = predicted(lambda x, t: model_output)(x_t, at)

        def fresh() -> Tensor:
            if variance_noise is not None:
                return self._color(variance_noise.to(x_t.dtype), to)
            shape = (len(sample), *self.diffusion.shape)
            z = randn_tensor(shape, generator=generator, device=sample.device, dtype=sample.dtype)
            return self._color(z.to(x_t.dtype), to)

        x = solver.step(
            SampleStep(
                x_t=x_t,
                t=at,
                s=to,
                here=here,
                history=tuple(self._history),
                process=process,
                noise=_WhitePredicted(noise) if self.config.predicts == "white" else noise,
                predict=predicted(again),
                fresh=fresh,
                last=s == 0.0,
            )
        )
        self._history = [*self._history, (at, here)][-solver.memory :] if solver.memory else []
        if last:
            self._history = []
        x, x0_hat = x.to(sample.dtype), here.x0_hat.to(sample.dtype)
        return NoiseSchedulerOutput(x, x0_hat) if return_dict else (x, x0_hat)

    def __len__(self) -> int:
        return self.config.num_train_timesteps

    # On disk

    def save_pretrained(
        self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any
    ) -> None:
        """The configuration, and what noise and process have learnt, as safetensors beside it."""
        if state := self.diffusion.state_dict():  # first: what is pushed is what is there
            Path(save_directory).mkdir(parents=True, exist_ok=True)
            save_file(
                {name: value.contiguous() for name, value in state.items()},
                Path(save_directory) / LEARNT,
            )
        super().save_pretrained(save_directory, push_to_hub, **kwargs)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike | None = None,
        subfolder: str | None = None,
        return_unused_kwargs: bool = False,
        **kwargs: Any,
    ) -> Any:
        """The scheduler of a folder, rebuilt from its specs by the noisereg that is installed.

        Raises:
            NoiseregError: for a component that is not installed, and where what was learnt is not
                there.
        """
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", _FORGOTTEN)  # it is loaded below
            loaded = super().from_pretrained(
                pretrained_model_name_or_path, subfolder, return_unused_kwargs, **kwargs
            )
        scheduler = loaded[0] if isinstance(loaded, tuple) else loaded
        wanted = scheduler.diffusion.state_dict()
        file = Path(str(pretrained_model_name_or_path)) / (subfolder or "") / LEARNT
        if wanted and not file.is_file():
            raise NoiseregError(f"{file} is not there; expected what this noise has learnt")
        if wanted:
            try:
                state = load_file(file)
            except (OSError, SafetensorError) as error:
                raise NoiseregError(
                    f"{file} cannot be read ({str(error)[:200]}); expected what "
                    "NoiseScheduler.save_pretrained writes"
                ) from None
            if {k: v.shape for k, v in state.items()} != {k: v.shape for k, v in wanted.items()}:
                raise NoiseregError(f"{file} is not of this noise; expected {', '.join(wanted)}")
            if not all(v.isfinite().all() for v in state.values() if v.is_floating_point()):
                raise NoiseregError(f"{file} holds numbers that are not finite")
            scheduler.diffusion.load_state_dict(state)
        return loaded

    @classmethod
    def from_config(
        cls,
        config: Any = None,
        return_unused_kwargs: bool = False,
        **kwargs: Any,
    ) -> Any:
        """The scheduler of another's configuration, which has no more than the specs: what a noise
        or a process has learnt stays with the other, and a warning says so.
        """
        made = super().from_config(config, return_unused_kwargs, **kwargs)
        scheduler = made[0] if isinstance(made, tuple) else made
        if learnt := list(scheduler.diffusion.state_dict()):
            warnings.warn(f"{_FORGOTTEN}: {', '.join(learnt)}", stacklevel=2)
        return made

    # Inside

    def _restart(self) -> None:
        self._next = 0
        self._history = []

    def _time_of(self, timesteps: Any, count: int, device: torch.device) -> Tensor:
        """t, (count,) float64, from one timestep or (count,) of them."""
        if timesteps is None:
            raise NoiseregError("no timestep is given; expected one of scheduler.timesteps")
        try:
            told = torch.as_tensor(timesteps).to(device)
        except (TypeError, ValueError, RuntimeError):
            raise NoiseregError(
                f"timesteps are a {type(timesteps).__name__}; expected numbers, of "
                "scheduler.timesteps"
            ) from None
        t = time_from_network(told, self.config.time_input)
        if t.numel() == 1:
            return t.reshape(-1).expand(count)
        if tuple(t.shape) != (count,):
            raise NoiseregError(
                f"timesteps are of shape {tuple(t.shape)}; expected ({count},), as the samples, "
                "or one for all"
            )
        return t

    def _place_of(self, timestep: Tensor | float) -> int:
        """The place among ``timesteps`` of the one that a step is asked for: the next, or where a
        loop begins in their middle.
        """
        told = self._told
        try:
            asked = float(timestep)
        except (TypeError, ValueError, RuntimeError):
            raise NoiseregError(
                f"the timestep is a {type(timestep).__name__}; expected one of scheduler.timesteps"
            ) from None
        if self._next < len(told) and told[self._next] == asked:
            if self._next == 0:
                self._restart()
            return self._next
        self._restart()
        places = [k for k, value in enumerate(told) if value == asked]
        if not places:
            raise NoiseregError(
                f"timestep {asked:g} is none of the {len(told)} that set_timesteps gave, from "
                f"{told[0]:g} to {told[-1]:g}"
            )
        return places[0]

    def _check_pair(self, x0: Tensor, noise: Tensor) -> None:
        self.diffusion.check_samples(x0)
        arguments.check_tensor("noise", noise)
        if noise.shape != x0.shape:
            raise NoiseregError(
                f"the noise is {tuple(noise.shape)} and the images are {tuple(x0.shape)}; "
                "expected one white noise an image, of its shape"
            )

    def _color(self, z: Tensor, t: Tensor) -> Tensor:
        noise = self.diffusion.noise
        return noise.color(noise.named(z, self.diffusion.shape), t)

    def _start(self, z: Tensor) -> Tensor:
        one = torch.ones(len(z), dtype=torch.float64, device=z.device)
        eps = self._color(z, one)
        return per_sample(self.diffusion.process.noise_scale(one), eps) * eps

    def _read(self, out: Tensor, x: Tensor, t: Tensor) -> Prediction:
        blocks = 1 if self.config.predicts == "white" else self.diffusion.outputs
        wanted = (len(x), x.shape[1] * blocks, *x.shape[2:])
        if tuple(out.shape) != wanted or tuple(x.shape[1:]) != self.diffusion.shape:
            raise NoiseregError(
                f"the network's output is {tuple(out.shape)} for a sample {tuple(x.shape)}; "
                f"expected {wanted} for (B, {', '.join(map(str, self.diffusion.shape))})"
            )
        out = out.to(x.dtype)
        process, noise = self.diffusion.process, self.diffusion.noise
        if blocks == self.diffusion.outputs and self.config.predicts == "target":
            return read(out, x, t, process, noise)
        eps = self._color(out, t)
        a, b = (per_sample(v, x) for v in (process.signal_scale(t), process.noise_scale(t)))
        return Prediction((x - b * eps) / a, eps, heads=out)

    def _solver(self, eta: float | None) -> Solver:
        process, noise = self.diffusion.process, self.diffusion.noise
        spec = _spec(self.config.solver)
        takes = "eta" in registry().find("solver", spec.name).component.params.model_fields
        if eta is None and self._own_eta and takes:
            eta = compatible.default_eta(process, noise)
        if eta is None or (eta == 0 and not takes):
            solver = self.solver
        elif not takes:
            raise NoiseregError(f"`eta={eta:g}`: solver {spec.name} has no η; leave it out")
        else:
            solver = _built("solver", {"name": spec.name, **spec.params, "eta": eta}, Context())
        compatible.check_solver(process, noise, solver)
        return solver


class _WhitePredicted(Noise):
    """The same noise where the network predicts z itself: ε̂_s = L_s ẑ, ẑ standing in the heads'
    place.
    """

    def __init__(self, noise: Noise) -> None:
        self.noise = noise

    def transport(self, eps: Tensor, heads: Tensor | None, t: Tensor, s: Tensor) -> Tensor:
        assert heads is not None
        return self.noise.color(self.noise.named(heads, tuple(heads.shape[1:])), s)


def _spec(said: str | dict[str, Any]) -> Spec:
    # A configuration that was loaded has mappings.
    return Spec.model_validate(said) if isinstance(said, Mapping) else Spec.parse(said)


def _built(kind: Any, said: str | dict[str, Any], ctx: Context) -> Any:
    spec = _spec(said)
    return registry().build(kind, spec.name, spec.params, ctx)
