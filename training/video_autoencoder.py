"""Trains the causal autoencoder of clips on crops of clips."""

import random
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from training.image_autoencoder import pixels, reconstruction_loss
from training.loop import Checkpoint, autocast, minimize, steps
from vsf_cli.toy.video_recipe import build_autoencoder
from vsf_cli.toy.video_scenes import draw_video, sample_video

__all__ = ["train_video_autoencoder"]

CLIPS = 3_000
MEASURED = 32
CROP = 32
BATCH = 4
LATENT_NOISE = 0.1


def _crops(clips: np.ndarray, rng: random.Random) -> Tensor:
    """Crops with shape (B, 3, frames, side, side), of whole clips: on fewer frames, those behind were never learnt."""
    chosen = []
    for _ in range(BATCH):
        clip = clips[rng.randrange(len(clips))]
        x, y = (rng.randint(0, clip.shape[2] - CROP) for _ in range(2))
        chosen.append(clip[:, y : y + CROP, x : x + CROP])
    crops = np.stack(chosen)
    return pixels(crops.reshape(-1, CROP, CROP, 3)).unflatten(0, (BATCH, -1)).transpose(1, 2)


def train_video_autoencoder(folder: Path, total: int) -> AutoencoderKLWan:
    """Trains the autoencoder for `total` steps, or goes on from the checkpoint in `folder`.

    Returns:
        The autoencoder with averaged weights; its latents' mean and standard deviation are in its configuration.
    """
    rng = random.Random("clip autoencoder")
    torch.manual_seed(0)
    model = build_autoencoder()
    for module in model.modules():
        if isinstance(module, torch.nn.Conv3d):
            # Twice as fast on a CPU.
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last_3d)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.98), weight_decay=1e-4)
    checkpoint = Checkpoint(folder / "autoencoder.safetensors", {"vae": model}, [optimizer], 0.995)
    count = MEASURED if checkpoint.finished(total) else CLIPS
    clips = np.stack([draw_video(sample_video(rng)) for _ in range(count)])

    for chance in steps("autoencoder", checkpoint, total, 1.0):
        target = _crops(clips, chance)
        with autocast():
            mean = model.encode(target).latent_dist.mean
            spread = mean.float().std()
            output = model.decode(mean + LATENT_NOISE * spread.detach() * torch.randn_like(mean)).sample.float()
        flat, wanted = (part.transpose(1, 2).flatten(0, 1) for part in (output, target))
        # A standard deviation near one keeps the latents' scale from drifting.
        loss = reconstruction_loss(flat, wanted) + 0.01 * (spread - 1).square() + 1e-3 * mean.float().mean().square()
        minimize(loss, checkpoint)

    model.load_state_dict(checkpoint.averaged("vae"), strict=False)
    model.eval().requires_grad_(False)
    whole = pixels(clips[:MEASURED].reshape(-1, *clips.shape[2:])).unflatten(0, (MEASURED, -1)).transpose(1, 2)
    latents = torch.cat([model.encode(part).latent_dist.mean for part in whole.split(8)])
    decoded = torch.cat([model.decode(part).sample for part in latents.split(8)]).clamp(-1, 1)
    print(f"autoencoder: {-10 * torch.log10(((decoded - whole) / 2).square().mean()):.1f} dB on {MEASURED} of its clips")
    statistics = latents.transpose(0, 1).flatten(1)
    model.register_to_config(
        latents_mean=[round(number, 5) for number in statistics.mean(1).tolist()],
        latents_std=[round(number, 5) for number in statistics.std(1).tolist()],
    )
    return model
