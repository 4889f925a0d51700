"""Wears pictures as the models do: through the autoencoder, and through the student's last steps, guided and not.

A judge that has seen renders alone takes a soft edge for damage, and the traces of guidance for parts.
"""

import random
from typing import Any

import torch
from diffusers import StableDiffusion3Img2ImgPipeline
from torch import Tensor

from training.labelled_images import ABSENT, Shown
from vsf_cli.generation.guided import guided
from vsf_cli.methods import Method
from vsf_cli.toy.image_recipe import TEXT_LENGTH
from vsf_cli.toy.scenes import PARTS, Scene, caption

__all__ = ["ModelWear"]

BY_AUTOENCODER, BY_STUDENT = 0.3, 0.35
"""The shares of pictures that go through each."""
GUIDED = 0.5
LAST_STEPS = (1, 2, 3)
"""Of the student's steps: more would mend what is damaged, or take away what is small."""
BATCH = 35


class ModelWear:
    """Sends pictures through the models that the judge will judge.

    Arguments:
        student: The parts of the student's pipeline, by name.
        method: The guidance that some of the pictures get, against a part that they do not show anyway.
        num_inference_steps: The student's steps.
    """

    def __init__(self, student: dict[str, Any], method: Method, num_inference_steps: int = 8) -> None:
        self.pipe = StableDiffusion3Img2ImgPipeline(**student)
        self.pipe.set_progress_bar_config(disable=True)
        self.method = method
        self.num_inference_steps = num_inference_steps

    def __call__(self, rng: random.Random, scenes: list[Scene], shown: Shown) -> None:
        """Wears some of the pictures, in place."""
        order = [index for index, scene in enumerate(scenes) if scene.color is not None]
        rng.shuffle(order)
        first, second = (int(share * len(order)) for share in (BY_AUTOENCODER, BY_AUTOENCODER + BY_STUDENT))
        shown.images[order[:first]] = self._through_autoencoder(shown.images[order[:first]])
        for start in range(first, second, BATCH):
            chosen = order[start : min(start + BATCH, second)]
            negatives = [_absent(rng, shown.parts[index]) if rng.random() < GUIDED else "" for index in chosen]
            captions = [caption(scenes[index], rng) for index in chosen]
            shown.images[chosen] = self._through_student(rng, captions, negatives, shown.images[chosen])
            # What the student makes of a picture is not known to be perfect.
            shown.quality[chosen] = torch.nan

    @torch.no_grad()
    def _through_autoencoder(self, images: Tensor) -> Tensor:
        """With up to a quarter of a standard deviation of noise in the latents."""
        vae = self.pipe.vae
        latents = vae.encode(images).latent_dist.mean
        noise = torch.randn_like(latents) * torch.rand(len(latents), 1, 1, 1) / 4 / vae.config.scaling_factor
        return vae.decode(latents + noise).sample.clamp(-1, 1)

    def _through_student(self, rng: random.Random, captions: list[str], negatives: list[str], images: Tensor) -> Tensor:
        with guided(self.pipe, negatives, self.method):
            made = self.pipe(
                captions,
                image=images / 2 + 0.5,
                strength=rng.choice(LAST_STEPS) / self.num_inference_steps,
                num_inference_steps=self.num_inference_steps,
                guidance_scale=0.0,
                max_sequence_length=TEXT_LENGTH,
                generator=torch.Generator().manual_seed(rng.getrandbits(31)),
                output_type="pt",
            ).images
        return made.clamp(0, 1) * 2 - 1


def _absent(rng: random.Random, states: Tensor) -> str:
    """A part that the object could have and has not; nothing if it has all."""
    return rng.choice([part for part, state in zip(PARTS, states.tolist(), strict=True) if state == ABSENT] or [""])
