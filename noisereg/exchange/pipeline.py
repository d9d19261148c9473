"""A diffusers pipeline for what diffusers has no scheduler for: IADB, time-varying noise, and a
network told t itself.

``noisereg export`` puts this file into the folder it writes, as ``pipeline.py``; it needs torch
and diffusers alone.

    from diffusers import DiffusionPipeline
    pipe = DiffusionPipeline.from_pretrained(DIR, custom_pipeline=DIR, trust_remote_code=True)
    images = pipe(batch_size=4, num_inference_steps=100).images

Its steps are deterministic (η = 0), x_s = a_s x̂0 + b_s ε̂_s, on times uniform in t unless they
are given.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from torch import Tensor


class NoiseregPipeline(DiffusionPipeline):
    """Samples of one run. Time t runs from 1 (noise) to 0 (data)."""

    model_cpu_offload_seq: Any = "unet"
    config: Any
    unet: Any

    def __init__(
        self,
        unet: UNet2DModel,
        process: str = "iadb",
        schedule: str = "linear",
        T: int = 1000,
        zero_terminal_snr: bool = False,
        target: str = "eps",
        time_input: str = "index",
        gamma: str = "none",
        gamma_s: float = 0.0,
        gamma_e: float = 3.0,
        gamma_tau: float = 0.2,
        gamma_trace: float = -1.0,
        channels: int = 1,
        height: int = 32,
        width: int = 32,
        left: int = 0,
        top: int = 0,
    ) -> None:
        """``process``: ``ddpm`` (with ``schedule``, ``zero_terminal_snr`` and ``target``) or
        ``iadb``, of T times.

        ``gamma``: how white the noise is at t, ``none`` where it always is; with ``gamma_trace`` ≥
        0, the factor's mean diagonal, the mixture is divided by the root of its mean square.
        ``left`` and ``top``: the padding that brings images up to what the network's levels
        divide.
        """
        super().__init__()
        self.register_modules(unet=unet)
        given = {k: v for k, v in locals().items() if k not in ("self", "unet", "__class__")}
        self.register_to_config(**given)
        self._angle = self._angles() if process == "ddpm" else torch.empty(0)

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        num_inference_steps: int = 100,
        times: Sequence[float] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple:
        """Images in [0, 1]: ``output_type`` ``pil``, ``np`` (N, H, W, C) or ``pt`` (N, C, H, W).

        ``latents``: white noise (N, C, H, W) in place of new draws; ``times``: from 1 down to 0 in
        place of ``num_inference_steps`` equal steps.
        """
        from diffusers.utils.torch_utils import randn_tensor

        config, device = self.config, self._execution_device
        if latents is None:
            shape = (batch_size, config.channels, config.height, config.width)
            latents = randn_tensor(
                shape, generator=generator, device=device, dtype=self.unet.dtype
            )
        steps = (
            list(times)
            if times is not None
            else [1 - k / num_inference_steps for k in range(num_inference_steps + 1)]
        )
        x = self._scales(steps[0])[1] * latents.to(
            device=device, dtype=self.unet.dtype
        )  # γ(1) = 1: white
        for t, s in self.progress_bar(list(pairwise(steps))):
            x0_hat, eps_hat, head = self._predict(x, t)
            a_s, b_s = self._scales(s)
            x = a_s * x0_hat + b_s * self._moved(eps_hat, head, t, s)
        images: Any = (x / 2 + 0.5).clamp(0, 1)
        if output_type != "pt":
            images = images.cpu().permute(0, 2, 3, 1).float().numpy()
            if output_type == "pil":
                images = self.numpy_to_pil(images)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    # The network

    def _predict(self, x: Tensor, t: float) -> tuple[Tensor, Tensor, Tensor | None]:
        """x̂0, ε̂ and, for a noise that varies with t, the head (L−I)z."""
        config = self.config
        high, wide = self.unet.config.sample_size
        left, top = config.left, config.top
        right, bottom = wide - config.width - left, high - config.height - top
        told = {"unit": t, "step": 1000 * t, "index": 1000 * t - 1}[config.time_input]
        padded = torch.nn.functional.pad(x, (left, right, top, bottom))
        time = torch.full((len(x),), told, dtype=torch.float32, device=x.device)
        out = self.unet(padded, time, return_dict=False)[0]
        out = out[..., top : top + config.height, left : left + config.width]
        first, head = out[:, : config.channels], out[:, config.channels :]
        return *self._split(first, x, t), head if config.gamma != "none" else None

    def _split(self, out: Tensor, x: Tensor, t: float) -> tuple[Tensor, Tensor]:
        a, b = self._scales(t)
        if self.config.process == "iadb":  # out predicts x0 − ε
            return x + b * out, x - a * out
        if self.config.target == "eps":
            return (x - b * out) / a, out
        if self.config.target == "x0":
            return out, (x - a * out) / b
        return a * x - b * out, b * x + a * out

    # The process

    def _scales(self, t: float) -> tuple[float, float]:
        """a(t) and b(t); for DDPM the angle atan2(b, a) is linear between the table's points."""
        if self.config.process == "iadb":
            return 1 - t, t
        place = min(max(t, 0.0), 1.0) * self.config.T
        below = min(int(place), self.config.T - 1)
        angle = torch.lerp(self._angle[below], self._angle[below + 1], place - below)
        return max(float(angle.cos()), 0.0), float(angle.sin())

    def _angles(self) -> Tensor:
        config, T = self.config, self.config.T
        if config.schedule == "linear":
            betas = torch.linspace(0.1 / T, min(20 / T, 0.999), T, dtype=torch.float64)
        else:
            k = torch.arange(T + 1, dtype=torch.float64) / T
            alpha_bar = torch.cos((k + 0.008) / 1.008 * math.pi / 2) ** 2
            betas = (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=0.999)
        root = (1 - betas).cumprod(0).sqrt()
        if config.zero_terminal_snr:
            root = (root - root[-1]) * root[0] / (root[0] - root[-1])
        return torch.cat(
            [torch.zeros(1, dtype=torch.float64), torch.atan2((1 - root**2).sqrt(), root)]
        )

    # The noise

    def _moved(self, eps_hat: Tensor, head: Tensor | None, t: float, s: float) -> Tensor:
        """ε̂_s = (c_t ε̂_t + (γ_t − γ_s)ĥ)/c_s (BNDM, arXiv 2402.04930)."""
        if head is None or s == 0:
            return eps_hat
        at, to = self._gamma(t), self._gamma(s)
        c_t, c_s = self._norm(at), self._norm(to)
        return c_t / c_s * eps_hat + (at - to) / c_s * head

    def _norm(self, gamma: float) -> float:
        trace = self.config.gamma_trace
        return (
            math.sqrt(gamma**2 + (1 - gamma) ** 2 + 2 * gamma * (1 - gamma) * trace)
            if trace >= 0
            else 1.0
        )

    def _gamma(self, t: float) -> float:
        config = self.config
        s, e, tau = config.gamma_s, config.gamma_e, config.gamma_tau

        def raw(t: float) -> float:
            u = s + (e - s) * t
            if config.gamma == "sigmoid":
                return 1 / (1 + math.exp(-u / tau))
            return max(math.cos(u * math.pi / 2), 0.0) ** (2 * tau)

        return t if config.gamma == "linear" else (raw(t) - raw(0)) / (raw(1) - raw(0))
