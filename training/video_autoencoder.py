"""Trains the causal autoencoder of videos on crops of videos."""

import math
import random
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from training.examples import draw
from training.image_autoencoder import pixels, reconstruction_loss, scale_penalty
from training.loop import Budget, Checkpoint, autocast, minimize, steps
from training.video_flow import VIDEO_DRAWING
from vsf_cli.toy.video_recipe import build_autoencoder

__all__ = ["normalised_video_latents", "train_video_autoencoder"]

VIDEOS = 3_000
MEASURED = 32
CROP = 32
LATENT_NOISE = 0.1


def _to_pixels(videos: np.ndarray, device: torch.device) -> Tensor:
    """Bytes with shape (B, frames, H, W, 3) as values of -1 to 1 with shape (B, 3, frames, H, W)."""
    count, frames = videos.shape[:2]
    return pixels(videos.reshape(-1, *videos.shape[2:])).to(device).unflatten(0, (count, frames)).transpose(1, 2)


def _crops(videos: np.ndarray, rng: random.Random, batch: int, device: torch.device) -> Tensor:
    """Crops of all frames, with shape (B, 3, frames, side, side): crops of fewer frames would never train the last ones."""
    chosen = []
    for _ in range(batch):
        video = videos[rng.randrange(len(videos))]
        x, y = (rng.randint(0, video.shape[2] - CROP) for _ in range(2))
        chosen.append(video[:, y : y + CROP, x : x + CROP])
    return _to_pixels(np.stack(chosen), device)


def train_video_autoencoder(
    folder: Path, budget: Budget, device: torch.device, batch: int = 4, base_dim: int = 12, workers: int = 0
) -> AutoencoderKLWan:
    """Trains the autoencoder, or continues from the checkpoint in `folder`.

    Returns:
        The autoencoder with averaged weights. Its configuration has the mean and standard deviation of the latents.
    """
    torch.manual_seed(0)
    model = build_autoencoder(base_dim).to(device)
    if device.type == "cpu":
        for module in model.modules():
            if isinstance(module, torch.nn.Conv3d):
                # Twice as fast.
                module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last_3d)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.98), weight_decay=1e-4)
    checkpoint = Checkpoint(folder / "autoencoder.safetensors", {"vae": model}, [optimizer], 0.995)
    count = MEASURED if checkpoint.finished(budget) else VIDEOS
    videos = np.concatenate([images for images, _ in draw(VIDEO_DRAWING, count, workers)])

    def loss_of(target: Tensor) -> tuple[Tensor, float]:
        with autocast(device):
            mean = model.encode(target).latent_dist.mean
            spread = mean.float().std()
            output = model.decode(mean + LATENT_NOISE * spread.detach() * torch.randn_like(mean)).sample
        frames, expected = (part.float().transpose(1, 2).flatten(0, 1) for part in (output, target))
        return reconstruction_loss(frames, expected) + scale_penalty(mean), 0.0

    for rng in steps("autoencoder", checkpoint, budget):
        minimize(checkpoint, loss_of, _crops(videos, rng, batch, device))

    model.load_state_dict(checkpoint.averaged("vae"), strict=False)
    _measure(model.eval().requires_grad_(False), _to_pixels(videos[:MEASURED], device))
    return model


def _measure(model: AutoencoderKLWan, videos: Tensor) -> None:
    """Writes the statistics of the latents into the configuration, and prints the reconstruction error."""
    latents = torch.cat([model.encode(part).latent_dist.mean for part in videos.split(8)])
    decoded = torch.cat([model.decode(part).sample for part in latents.split(8)]).clamp(-1, 1)
    error = float(((decoded - videos) / 2).square().mean())
    print(f"autoencoder: {-10 * math.log10(error):.1f} dB on {len(videos)} of its videos")
    statistics = latents.transpose(0, 1).flatten(1)
    model.register_to_config(
        latents_mean=[round(number, 5) for number in statistics.mean(1).tolist()],
        latents_std=[round(number, 5) for number in statistics.std(1).tolist()],
    )


@torch.no_grad()
def normalised_video_latents(vae: AutoencoderKLWan, videos: np.ndarray) -> Tensor:
    """The latents of drawn videos with shape (B, frames, H, W, 3), as the transformer takes them, in float32."""
    parts = _to_pixels(videos, vae.device).split(20)
    with autocast(vae.device):
        mean = torch.cat([vae.encode(part).latent_dist.mean.float() for part in parts])
    numbers = (vae.config.latents_mean, vae.config.latents_std)
    shift, scale = (mean.new_tensor(each).view(1, -1, 1, 1, 1) for each in numbers)
    return (mean - shift) / scale
