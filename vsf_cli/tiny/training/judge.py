"""Trains the judge on renders, some of them worn by the autoencoder and by noise, as generated pictures are."""

import random
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from vsf_cli.tiny.judge import CLASSES, NOTHING, Judge
from vsf_cli.tiny.scenes import OBJECTS, PARTS, Scene, Split, sample_part_alone, sample_scene
from vsf_cli.tiny.training.autoencoder import pixels
from vsf_cli.tiny.training.loop import Checkpoint, autocast, render, steps

__all__ = ["accuracy", "train_judge"]

SCENES = 12_000
WORN = 4_000
PART_ABSENT = 0.5
ALONE = 0.06
BATCH = 64

OF_OBJECT = torch.tensor([[part in OBJECTS.get(name, ()) for part in PARTS] for name in CLASSES])
"""Which parts an object can have, with shape (classes, parts)."""


def labels(scenes: list[Scene]) -> tuple[Tensor, Tensor]:
    """The class of each scene, and whether each part is there; a part without its object is of the class "nothing"."""
    objects = torch.tensor([CLASSES.index(NOTHING if scene.color is None else scene.object) for scene in scenes])
    return objects, torch.tensor([[scene.has(part) for part in PARTS] for scene in scenes])


def _scenes(rng: random.Random, split: Split, count: int, alone: float) -> list[Scene]:
    return [sample_part_alone(rng) if rng.random() < alone else sample_scene(rng, split, PART_ABSENT) for _ in range(count)]


@torch.no_grad()
def _wear(vae: AutoencoderKL, images: np.ndarray) -> np.ndarray:
    """The same pictures through the autoencoder, with up to a third of a standard deviation of noise in the latents."""
    worn = []
    for start in range(0, len(images), 50):
        latents = vae.encode(pixels(images[start : start + 50])).latent_dist.mean
        noise = torch.randn_like(latents) * torch.rand(len(latents), 1, 1, 1) / 3 / vae.config.scaling_factor
        decoded = vae.decode(latents + noise).sample.clamp(-1, 1)
        worn.append(((decoded + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy())
    return np.concatenate(worn)


def train_judge(vae: AutoencoderKL, folder: Path, total: int) -> Judge:
    """Trains the judge for `total` steps on the train split.

    Returns:
        The judge with averaged weights.
    """
    rng = random.Random("judge")
    torch.manual_seed(2)
    scenes = _scenes(rng, "train", SCENES, ALONE)
    images = render(scenes)
    images[:WORN] = _wear(vae, images[:WORN])
    objects, parts = labels(scenes)
    model = Judge()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.5e-3, weight_decay=0.05)
    checkpoint = Checkpoint(folder / "judge.safetensors", {"judge": model}, [optimizer], 0.99)

    for chance in steps("judge", checkpoint, total, 1.0):
        chosen = [chance.randrange(len(scenes)) for _ in range(BATCH)]
        batch = pixels(images[chosen])
        batch = batch * (1 + 0.1 * torch.randn(BATCH, 1, 1, 1)) + 0.05 * torch.randn(BATCH, 3, 1, 1)
        batch = batch + 0.1 * torch.rand(BATCH, 1, 1, 1) * torch.randn_like(batch)
        with autocast():
            object_logits, part_logits = model(batch)
        # A part is asked for only where the object can have it.
        asked = OF_OBJECT.to(objects.device)[objects[chosen]].float()
        errors = F.binary_cross_entropy_with_logits(part_logits.float(), parts[chosen].float(), reduction="none")
        loss = F.cross_entropy(object_logits.float(), objects[chosen]) + 2 * (errors * asked).sum() / asked.sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        checkpoint.losses.append(loss.item())

    model.load_state_dict(checkpoint.averaged("judge"), strict=False)
    return model.eval()


@torch.no_grad()
def accuracy(judge: Judge, split: Split = "dev", count: int = 1500) -> tuple[float, float]:
    """How often the judge is right on renders of another split: of objects, and of parts that the object can have."""
    scenes = _scenes(random.Random(f"judge {split}"), split, count, 0.0)
    objects, parts = labels(scenes)
    outputs = [judge(pixels(render(scenes[start : start + 100]))) for start in range(0, count, 100)]
    object_logits, part_logits = (torch.cat(logits) for logits in zip(*outputs, strict=True))
    asked = OF_OBJECT.to(objects.device)[objects]
    right = (part_logits > 0) == parts
    return (object_logits.argmax(-1) == objects).float().mean().item(), right[asked].float().mean().item()
