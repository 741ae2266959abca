"""Draws pictures with a network trained by Reverie, in diffusers alone. :func:`reverie.bridge.write` puts this file into a folder:

pipeline = diffusers.DiffusionPipeline.from_pretrained(FOLDER, trust_remote_code=True)
pictures = pipeline(4, class_labels=[0, 1, 2, 3], guidance_scale=2.0).images
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.utils.torch_utils import randn_tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle


class PicturePipeline(DiffusionPipeline):
    """Pictures from noise; on a table of betas by DDIM.

    Args:
        scheduler: a flow's, EDM's, or one of a table.
        unet, transformer: the network, one of the two.
        vae: between pictures and what is diffused.
        prior: Gaussians whose exact denoiser the network corrects, on a flow.
        patch: a square of this side is folded into channels for the network.
    """

    _optional_components = ["unet", "transformer", "vae", "prior"]  # noqa: RUF012 - diffusers asks for a list

    def __init__(
        self,
        scheduler: Any,
        unet: Any = None,
        transformer: Any = None,
        vae: Any = None,
        prior: Any = None,
        patch: int = 1,
    ) -> None:
        super().__init__()
        if isinstance(scheduler, DDPMScheduler):
            scheduler = DDIMScheduler.from_config(scheduler.config)
        self.register_modules(scheduler=scheduler, unet=unet, transformer=transformer, vae=vae, prior=prior)
        self.register_to_config(patch=patch)

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        class_labels: Any = None,
        guidance_scale: float = 1.0,
        num_inference_steps: int = 20,
        generator: Any = None,
        latents: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> Any:
        """Draw.

        Args:
            batch_size: pictures.
            class_labels: the class of each, of a network with classes; none of them by default.
            guidance_scale: towards the classes, away from none of them.
            num_inference_steps: of the scheduler.
            generator: of the noise.
            latents: the noise itself, of unit variance.
            output_type: "pil", "np" or "pt".
        """
        net = self.transformer if self.unet is None else self.unet
        patch, device = self.config["patch"], self._execution_device
        size = net.config.sample_size
        height, width = (patch * side for side in ((size, size) if isinstance(size, int) else size))
        channels = net.config.in_channels // patch**2 // (1 if self.prior is None else 2)
        if latents is None:
            shape = (batch_size, channels, height, width)
            latents = randn_tensor(shape, generator=generator, device=device, dtype=net.dtype)
        assert latents is not None
        batch_size, none = len(latents), self._none(net)
        labels: torch.Tensor | None = None
        plain: torch.Tensor | None = None
        if none is not None:
            plain = torch.full((batch_size,), none, device=device)
            labels = plain if class_labels is None else torch.as_tensor(class_labels, device=device).expand(batch_size)
        elif class_labels is not None:
            raise ValueError("this network has no classes")
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        x = latents.to(device) * getattr(self.scheduler, "init_noise_sigma", 1.0)
        steps: Any = self.progress_bar
        for i, t in enumerate(steps(self.scheduler.timesteps)):
            out = self._predict(net, x, t, i, labels)
            if guidance_scale != 1.0 and plain is not None:
                away = self._predict(net, x, t, i, plain)
                out = away + guidance_scale * (out - away)
            x = self.scheduler.step(out, t, x).prev_sample
        if self.vae is not None:
            x = self.vae.decode(x / self.vae.config.scaling_factor + (self.vae.config.shift_factor or 0.0)).sample
        images: Any = (x / 2 + 0.5).clamp(0, 1)
        if output_type != "pt":
            images = images.cpu().permute(0, 2, 3, 1).float().numpy()
        if output_type == "pil":
            images = self.numpy_to_pil(images)
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _none(self, net: Any) -> int | None:
        """The number that stands for no class, if the network has classes: a U-Net's table counts it, a transformer's does not."""
        if self.unet is None:
            return net.config.num_embeds_ada_norm
        return None if net.config.num_class_embeds is None else net.config.num_class_embeds - 1

    def _predict(self, net: Any, x: torch.Tensor, t: torch.Tensor, i: int, labels: Any) -> torch.Tensor:
        """What the scheduler asks for at its step i."""
        patch, channels = self.config["patch"], x.shape[1]
        seen, first, noise, share = x, None, x, 0.0
        if hasattr(self.scheduler, "scale_model_input"):
            seen = self.scheduler.scale_model_input(x, t)
        if self.prior is not None:
            sigma = self.scheduler.sigmas[i]
            first = self.prior(x, 1.0 - sigma, sigma, labels)
            noise = (x - (1.0 - sigma) * first) / sigma
            share = sigma**2 / (sigma**2 + 0.25 * (1.0 - sigma) ** 2)
            seen = torch.cat([seen, first], dim=1)
        told = {} if labels is None else {"class_labels": labels}
        out = net(pixel_unshuffle(seen, patch), t.expand(len(x)), **told).sample
        out = pixel_shuffle(out, patch)[:, :channels]
        return out if first is None else out + share * (noise - first)
