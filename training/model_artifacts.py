"""Adds the artifacts of the models to images: the autoencoders', and those of the student's last steps, guided and not.

A judge that was trained on drawings alone takes a soft edge for damage, and traces of guidance for parts.
"""

import random
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan, StableDiffusion3Img2ImgPipeline
from torch import Tensor

from training.labelled_images import ABSENT, LabelledImages
from vsf_cli.generation.guided import guided
from vsf_cli.methods import Method
from vsf_cli.toy.image_recipe import TEXT_LENGTH
from vsf_cli.toy.scenes import PARTS, Scene, caption
from vsf_cli.toy.video_scenes import SIDE

__all__ = ["FrameArtifacts", "ModelArtifacts"]

BY_AUTOENCODER, BY_STUDENT = 0.3, 0.35
"""The fractions of images that go through each model."""
GUIDED = 0.5
LAST_STEPS = (1, 2, 3)
"""The numbers of the student's last steps that are run. More would repair damage, or remove small parts."""
BATCH = 35
FRAMES_BY_AUTOENCODER = 0.6
"""The fraction of frames that go through the autoencoder."""
MOMENTS = 5
"""Two latent frames: in the second, as in nearly all of a video, one latent stands for four frames."""


class ModelArtifacts:
    """Sends images through the models whose images the judge will score.

    Arguments:
        student: The parts of the student's pipeline, by name.
        method: The guidance of some of the images, against a part that they do not show.
        num_inference_steps: The student's steps.
    """

    def __init__(self, student: dict[str, Any], method: Method, num_inference_steps: int = 8) -> None:
        self.pipe = StableDiffusion3Img2ImgPipeline(**student)
        self.pipe.set_progress_bar_config(disable=True)
        self.method = method
        self.num_inference_steps = num_inference_steps

    def __call__(self, rng: random.Random, scenes: list[Scene], labelled: LabelledImages) -> None:
        """Adds artifacts to some of the images, in place."""
        order = [index for index, scene in enumerate(scenes) if scene.color is not None]
        rng.shuffle(order)
        first, second = (int(fraction * len(order)) for fraction in (BY_AUTOENCODER, BY_AUTOENCODER + BY_STUDENT))
        labelled.images[order[:first]] = self._through_autoencoder(labelled.images[order[:first]])
        for start in range(first, second, BATCH):
            chosen = order[start : min(start + BATCH, second)]
            negatives = [_absent(rng, labelled.parts[index]) if rng.random() < GUIDED else "" for index in chosen]
            captions = [caption(scenes[index], rng) for index in chosen]
            labelled.images[chosen] = self._through_student(rng, captions, negatives, labelled.images[chosen])
            # The quality of the student's image is unknown.
            labelled.quality[chosen] = torch.nan

    @torch.no_grad()
    def _through_autoencoder(self, images: Tensor) -> Tensor:
        """Decoded images, with noise of up to a quarter of a standard deviation in the latents."""
        vae = self.pipe.vae
        latents = vae.encode(images).latent_dist.mean
        noise = torch.randn_like(latents) * torch.rand(len(latents), 1, 1, 1) / 4 / vae.config.scaling_factor
        return vae.decode(latents + noise).sample.clamp(-1, 1)

    def _through_student(self, rng: random.Random, captions: list[str], negatives: list[str], images: Tensor) -> Tensor:
        with guided(self.pipe, negatives, self.method):
            images = self.pipe(
                captions,
                image=images / 2 + 0.5,
                strength=rng.choice(LAST_STEPS) / self.num_inference_steps,
                num_inference_steps=self.num_inference_steps,
                guidance_scale=0.0,
                max_sequence_length=TEXT_LENGTH,
                generator=torch.Generator().manual_seed(rng.getrandbits(31)),
                output_type="pt",
            ).images
        return images.clamp(0, 1) * 2 - 1


class FrameArtifacts:
    """Sends images, as frames of videos that stand still, through the autoencoder of the video model.

    Arguments:
        vae: The autoencoder.
    """

    def __init__(self, vae: AutoencoderKLWan) -> None:
        self.vae = vae

    @torch.no_grad()
    def __call__(self, rng: random.Random, scenes: list[Scene], labelled: LabelledImages) -> None:
        """Adds artifacts to some of the images, in place, with noise of up to half a standard deviation in the latents."""
        chosen = torch.tensor([rng.random() < FRAMES_BY_AUTOENCODER for _ in scenes]).nonzero()[:, 0]
        for batch in chosen.split(BATCH):
            side = labelled.images.shape[-1]
            frames = F.interpolate(labelled.images[batch], size=SIDE, mode="bilinear", antialias=True)  # [B, 3, SIDE, SIDE]
            latents = self.vae.encode(frames[:, :, None].repeat(1, 1, MOMENTS, 1, 1)).latent_dist.mean
            spread = latents.new_tensor(self.vae.config.latents_std).view(1, -1, 1, 1, 1)
            noise = torch.randn_like(latents) * torch.rand(len(batch), 1, 1, 1, 1) / 2
            decoded = self.vae.decode(latents + spread * noise).sample.clamp(-1, 1)
            labelled.images[batch] = F.interpolate(decoded[:, :, rng.randrange(1, MOMENTS)], size=side, mode="bilinear")


def _absent(rng: random.Random, states: Tensor) -> str:
    """A part that the object could have and lacks, or an empty string if it lacks none."""
    return rng.choice([part for part, state in zip(PARTS, states.tolist(), strict=True) if state == ABSENT] or [""])
