"""A pipeline of diffusers where its own two do not do: images that the network's levels do not
divide, a process that scales the network's input, and a solver that evaluates the network twice.

    from noisereg.exchange.pipeline import NoiseregPipeline
    pipeline = NoiseregPipeline.from_pretrained(folder)
    images = pipeline(batch_size=4, num_inference_steps=100).images

The steps are those of :class:`noisereg.exchange.scheduler.NoiseScheduler`.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor
from torch.nn import functional

from noisereg.exchange.scheduler import NoiseScheduler


class NoiseregPipeline(DiffusionPipeline):
    """``DDPMPipeline`` with a border of zeros around what the network sees, its scheduler's
    ``scale_model_input``, and the network for a step that evaluates it again.
    """

    model_cpu_offload_seq: Any = "unet"
    unet: Any
    scheduler: Any

    def __init__(self, unet: UNet2DModel, scheduler: NoiseScheduler) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        num_inference_steps: int = 100,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple:
        """Images in [0, 1]: ``output_type`` ``pil``, ``np`` (N, H, W, C) or ``pt`` (N, C, H, W).

        Raises:
            NoiseregError: for fewer than one step.
        """
        device, scheduler = self._execution_device, self.scheduler
        shape = (batch_size, *scheduler.config.shape)
        scheduler.set_timesteps(num_inference_steps, device=device)
        z = randn_tensor(shape, generator=generator, device=device, dtype=self.unet.dtype)
        x = scheduler.init_noise_sigma * z
        for t in self.progress_bar(scheduler.timesteps):
            out = self._network(scheduler.scale_model_input(x, t), t)
            x = scheduler.step(out, t, x, generator=generator, network=self._network).prev_sample
        images: Any = (x / 2 + 0.5).clamp(0, 1)
        if output_type != "pt":
            images = images.cpu().permute(0, 2, 3, 1).float().numpy()
            if output_type == "pil":
                images = self.numpy_to_pil(images)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _network(self, x: Tensor, t: Tensor) -> Tensor:
        """Its output for x in the middle of its window, which is where
        :func:`noisereg.denoisers.unet.padding` puts it."""
        height, width = x.shape[-2:]
        size = self.unet.config.sample_size
        high, wide = (size, size) if isinstance(size, int) else size
        left, top = (wide - width) // 2, (high - height) // 2
        border = (left, wide - width - left, top, high - height - top)
        out = self.unet(functional.pad(x, border), t, return_dict=False)[0]
        return out[..., top : top + height, left : left + width]
