"""Trains the autoencoder on crops of scenes."""

import random
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from training.loop import Budget, Checkpoint, autocast, minimize, render, steps
from vsf_cli.toy.image_recipe import build_autoencoder
from vsf_cli.toy.scenes import sample_part_alone, sample_scene

__all__ = ["normalised_latents", "pixels", "reconstruction_loss", "scale_penalty", "silence", "train_autoencoder"]

SCENES = 16_000
CROP = 64
BATCH = 24
LATENT_NOISE = 0.1
MEASURED = 512
"""The number of scenes over which the spread of the latents is measured."""


def pixels(images: np.ndarray) -> Tensor:
    """Bytes with shape (B, H, W, 3) as values of -1 to 1 with shape (B, 3, H, W)."""
    return torch.from_numpy(images).to(torch.get_default_device()).permute(0, 3, 1, 2).to(torch.float32).div(127.5).sub(1.0)


def normalised_latents(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """The latents of pixels with shape (B, 3, H, W), as the transformer takes them, in float32."""
    mean = vae.encode(images).latent_dist.mean.float()
    return (mean - vae.config.shift_factor) * vae.config.scaling_factor


def reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    """L1 on values, on differences of neighbours (edges) and on means of 8 x 8 pixels (colour)."""
    error = output - target
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + 0.5 * edges + F.avg_pool2d(error, 8).abs().mean()


def scale_penalty(mean: Tensor) -> Tensor:
    """Keeps the latents' standard deviation near one and their mean near zero, so that their scale does not drift."""
    mean = mean.float()
    return 0.01 * (mean.std() - 1).square() + 1e-3 * mean.mean().square()


def _crops(images: np.ndarray, rng: random.Random) -> Tensor:
    span = images.shape[1] - CROP
    chosen = []
    for _ in range(BATCH):
        x, y = rng.randint(0, span), rng.randint(0, span)
        chosen.append(images[rng.randrange(len(images)), y : y + CROP, x : x + CROP])
    return pixels(np.stack(chosen))


@torch.no_grad()
def silence(model: AutoencoderKL) -> None:
    """Makes the encoder's distribution a point: its variance is not trained, and would be noise in an image that is edited."""
    for parameter, value in ((model.encoder.conv_out.weight, 0.0), (model.encoder.conv_out.bias, -30.0)):
        parameter[parameter.shape[0] // 2 :] = value


def train_autoencoder(folder: Path, budget: Budget, device: torch.device) -> AutoencoderKL:
    """Trains the autoencoder, or continues from the checkpoint in `folder`.

    The latent gets noise before it is decoded, so that the decoder tolerates small errors of the transformer.

    Returns:
        The autoencoder with averaged weights, its scaling factor set so that latents have unit variance.
    """
    rng = random.Random("autoencoder")
    scenes = [sample_part_alone(rng) if rng.random() < 0.1 else sample_scene(rng) for _ in range(SCENES)]
    torch.manual_seed(0)
    model = build_autoencoder().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.98), weight_decay=1e-4)
    checkpoint = Checkpoint(folder / "autoencoder.safetensors", {"vae": model}, [optimizer], 0.995)
    images = render(scenes[:MEASURED] if checkpoint.finished(budget) else scenes)

    def loss_of(target: Tensor) -> tuple[Tensor, float]:
        with autocast(device):
            mean = model.encode(target).latent_dist.mean
            spread = mean.float().std()
            output = model.decode(mean + LATENT_NOISE * spread.detach() * torch.randn_like(mean)).sample
        return reconstruction_loss(output.float(), target) + scale_penalty(mean), 0.0

    for rng in steps("autoencoder", checkpoint, budget):
        minimize(checkpoint, loss_of, _crops(images, rng).to(device))

    model.load_state_dict(checkpoint.averaged("vae"), strict=False)
    model.eval()
    silence(model)
    with torch.no_grad():
        batches = [pixels(images[start : start + 64]).to(device) for start in range(0, MEASURED, 64)]
        latents = torch.cat([model.encode(batch).latent_dist.mean for batch in batches])
    model.register_to_config(scaling_factor=float(1 / latents.std()), shift_factor=float(latents.mean()))
    return model
