"""Corrupts images by a known amount, so that a judge can learn to score quality.

Every corruption takes images with shape (B, 3, H, W) and values of -1 to 1, and severities with shape (B,) of 0 to 1. Severity
0 leaves an image as it is; at 1 it is useless. The quality of an image is the product of 1 - severity over its corruptions.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "CORRUPTIONS",
    "blur",
    "break_shapes",
    "erase",
    "expose_twice",
    "half_plane",
    "oversaturate",
    "patches",
    "sprinkle",
    "warp",
]

MAX_BLUR = 4.0
"""Pixels: the standard deviation at severity 1."""
MAX_NOISE = 0.5
"""The standard deviation at severity 1, where -1 to 1 is black to white."""
MAX_CHROMA = 3.0
"""The factor by which the chroma grows at severity 1. The contrast grows by a fifth of it."""
MAX_WARP = 5.0
"""Pixels: the standard deviation of the displacement at severity 1."""
MAX_SHIFT = 14.0
"""Pixels: the shift of the bands of a broken image at severity 1."""


def _column(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def blur(images: Tensor, severity: Tensor) -> Tensor:
    """Gaussian blur of up to `MAX_BLUR` pixels."""
    count, channels, height, width = images.shape
    reach = round(3 * MAX_BLUR)
    offsets = torch.arange(-reach, reach + 1.0)
    kernel = torch.exp(-(offsets**2) / (2 * (MAX_BLUR * severity[:, None]).clamp_min(1e-3) ** 2))
    kernel = (kernel / kernel.sum(-1, keepdim=True)).repeat_interleave(channels, 0)
    flat = F.pad(images.reshape(1, -1, height, width), (reach,) * 4, "replicate")
    flat = F.conv2d(flat, kernel[:, None, :, None], groups=count * channels)
    return F.conv2d(flat, kernel[:, None, None, :], groups=count * channels).view_as(images)


def sprinkle(images: Tensor, severity: Tensor) -> Tensor:
    """Gaussian noise of up to `MAX_NOISE`."""
    return (images + MAX_NOISE * _column(severity) * torch.randn_like(images)).clamp(-1, 1)


def oversaturate(images: Tensor, severity: Tensor) -> Tensor:
    """Images with more chroma and contrast than was drawn."""
    weights = images.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    grey, factor = (images * weights).sum(1, keepdim=True), MAX_CHROMA * _column(severity)
    return (grey * (1 + factor / 5) + (images - grey) * (1 + factor)).clamp(-1, 1)


def expose_twice(images: Tensor, severity: Tensor) -> Tensor:
    """Each image mixed with another one of the batch, of up to one half."""
    return torch.lerp(images, images.roll(1, 0), _column(severity) / 2)


def _sample(images: Tensor, displacement: Tensor) -> Tensor:
    """Images whose pixels are displaced, by pixels with shape (B, 2, H, W): to the right, and down."""
    height, width = images.shape[-2:]
    identity = F.affine_grid(torch.eye(2, 3).expand(len(images), 2, 3), list(images.shape), align_corners=False)
    grid = identity + displacement.permute(0, 2, 3, 1) * images.new_tensor([2 / width, 2 / height])
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def warp(images: Tensor, severity: Tensor) -> Tensor:
    """Images under a smooth displacement that changes over an eighth of the side: straight lines become waves."""
    coarse = torch.randn(len(images), 2, 8, 8)
    field = F.interpolate(coarse, images.shape[-2:], mode="bicubic", align_corners=False)
    return _sample(images, MAX_WARP * _column(severity) * field)


def break_shapes(images: Tensor, severity: Tensor) -> Tensor:
    """Images whose bands of an eighth of the height are shifted sideways, each by its own amount: shapes come apart."""
    shifts = F.interpolate(torch.rand(len(images), 1, 8, 1) * 2 - 1, images.shape[-2:], mode="nearest")
    return _sample(images, MAX_SHIFT * _column(severity) * torch.cat([shifts, torch.zeros_like(shifts)], dim=1))


def patches(count: int, side: int, cells: int = 6) -> Tensor:
    """Soft random masks with shape (count, 1, side, side), about half of each between 0 and 1."""
    field = F.interpolate(torch.randn(count, 1, cells, cells), (side, side), mode="bicubic", align_corners=False)
    return (3 * field).sigmoid()


def half_plane(count: int, side: int) -> Tensor:
    """Ramps across the image in random directions, with shape (count, 1, side, side) and values of -1 to 1."""
    angle = torch.rand(count, 1, 1, 1) * 2 * torch.pi
    position = torch.linspace(-1, 1, side)
    return (angle.cos() * position + angle.sin() * position[:, None]) / 2**0.5


def erase(images: Tensor, without: Tensor, weight: Tensor) -> Tensor:
    """A mixture of images of a part with the same images without it.

    Arguments:
        images: Images that show the part.
        without: The same images without it.
        weight: The weight of the part, for each pixel or image: 1 keeps it whole, 0 removes it.
    """
    return torch.lerp(without, images, weight)


CORRUPTIONS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = MappingProxyType(
    {
        "blur": blur,
        "noise": sprinkle,
        "over-saturation": oversaturate,
        "double exposure": expose_twice,
        "waves": warp,
        "broken shapes": break_shapes,
    }
)
"""The corruptions that lower the quality of an image, by name."""
