"""Images and frames from latents, in the three forms that autoencoders share."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

__all__ = ["decode_normalized", "decode_scaled", "decode_whitened"]


def decode_scaled(pipe: Any, latents: "Tensor") -> "list[Image.Image]":
    """Returns images from latents with shape (B, C, h, w), which have one scale and one shift."""
    import torch

    vae = pipe.vae
    scaled = latents.to(pipe._execution_device, vae.dtype) / vae.config.scaling_factor + vae.config.shift_factor
    with torch.no_grad():
        return pipe.image_processor.postprocess(vae.decode(scaled).sample, output_type="pil")


def decode_normalized(pipe: Any, latents: "Tensor", epsilon: float) -> "list[Image.Image]":
    """Returns images from latents with shape (B, 4 C, h, w), which a batch norm with an epsilon made."""
    import torch

    vae = pipe.vae
    mean, variance = (statistic.view(1, -1, 1, 1) for statistic in (vae.bn.running_mean, vae.bn.running_var))
    scaled = latents.to(pipe._execution_device, vae.dtype) * (variance + epsilon).sqrt() + mean
    with torch.no_grad():
        return pipe.image_processor.postprocess(vae.decode(pipe._unpatchify_latents(scaled)).sample, output_type="pil")


def decode_whitened(pipe: Any, latents: "Tensor") -> "Tensor":
    """Returns pixels with shape (B, 3, frames, height, width) from latents with shape (B, C, f, h, w).

    The latents have a mean and a standard deviation for each channel.
    """
    import torch

    vae = pipe.vae
    mean, std = (
        torch.tensor(numbers).view(1, -1, 1, 1, 1).to(pipe._execution_device, vae.dtype)
        for numbers in (vae.config.latents_mean, vae.config.latents_std)
    )
    with torch.no_grad():
        pixels: Tensor = vae.decode(latents.to(mean) * std + mean, return_dict=False)[0]
    return pixels
