"""The video model that is trained: the family of Wan, with a LoRA as its student."""

import random
from pathlib import Path
from typing import Any

import numpy as np
from peft import LoraConfig
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from training.attention import WanTrainingProcessor
from training.examples import Drawing
from training.flow import FlowModel
from training.regions import Regions
from vsf_cli.toy.image_recipe import build_t5_tokenizer
from vsf_cli.toy.scenes import Scene
from vsf_cli.toy.video_recipe import (
    CHANNELS,
    LATENT_FRAMES,
    LATENT_SIDE,
    LORA_RANK,
    SHIFT,
    TEXT_LENGTH,
    TOKENS_SIDE,
    build_encoder,
    build_student_scheduler,
    build_transformer,
)
from vsf_cli.toy.video_scenes import FRAMES, animate, draw_video, sample_part, sample_video, video_caption

__all__ = ["VIDEO_DRAWING", "WanModel", "load_tokenizer"]

PART_ALONE = 0.12
STILLS_FIRST = 0.27
"""The first fraction of the budget, in which the model learns from single frames alone."""
STEPS_PER_VIDEO = 3
"""After it, every third step is of videos: single frames show more captions in the same time."""
STILLS_PER_VIDEO = 4
"""The ratio of single frames to videos in a batch."""
LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2")
MOMENTS = (0, *range(3, FRAMES, 4))
"""The frames whose regions stand for the latent frames: a latent frame covers four frames, the first covers one."""


def _sample(rng: random.Random) -> Scene:
    return sample_part(rng) if rng.random() < PART_ALONE else sample_video(rng)


def _regions(scene: Scene) -> np.ndarray:
    coverage = Regions.measure([animate(scene)[moment] for moment in MOMENTS], TOKENS_SIDE)
    return coverage.reshape(-1, coverage.shape[-1])


VIDEO_DRAWING = Drawing("videos", _sample, draw_video, _regions)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer in a folder. If it has none, it is trained on 20,000 captions and saved there."""
    path = folder / "tokenizer"
    if not path.is_dir():
        rng = random.Random("clip captions")
        build_t5_tokenizer([video_caption(sample_video(rng), rng) for _ in range(20_000)]).save_pretrained(path)
    return PreTrainedTokenizerFast.from_pretrained(path)


class WanEncoder(nn.Module):
    """The text encoder, used as `WanPipeline` uses it: padding becomes zeros."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__()
        self.encoder = build_encoder(len(tokenizer))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Prompt embeddings with shape (B, `TEXT_LENGTH`, width)."""
        hidden: Tensor = self.encoder(ids, mask).last_hidden_state
        return hidden * mask[:, :, None]


class TrainedParameters(nn.Module):
    """Those parameters of a module that require gradients, under their own names."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                # Names of parameters cannot have dots.
                self.register_parameter(name.replace(".", "/"), parameter)


class WanModel(FlowModel):
    """Wan: 6 blocks over 5 latent frames, and a LoRA for 8 steps.

    Arguments:
        tokenizer: The tokenizer.
        heads: Heads of the transformer, each with 32 channels.
    """

    name = "wan"
    processor = WanTrainingProcessor
    latent_shape = (CHANNELS, LATENT_FRAMES, LATENT_SIDE, LATENT_SIDE)
    # Frames repeat each other. At low noise they show the colours, and the model need not read the text.
    shift = SHIFT
    student_rate = 1e-3

    def __init__(self, tokenizer: PreTrainedTokenizerFast, heads: int) -> None:
        self.tokenizer = tokenizer
        self.heads = heads
        self.width = 32 * heads

    @property
    def grid(self) -> Tensor:  # type: ignore[override]
        scheduler = build_student_scheduler()
        scheduler.set_timesteps(8)
        sigmas: Tensor = scheduler.sigmas
        return sigmas

    def build_transformer(self) -> nn.Module:
        return build_transformer(self.heads)

    def build_encoders(self) -> nn.Module:
        return WanEncoder(self.tokenizer)

    def caption(self, scene: Scene, rng: random.Random) -> str:
        return video_caption(scene, rng)

    def tokens(self, captions: list[str]) -> tuple[Tensor, ...]:
        options: dict[str, Any] = {"padding": "max_length", "max_length": TEXT_LENGTH, "truncation": True}
        inputs = self.tokenizer(captions, return_tensors="pt", **options)
        return inputs.input_ids, inputs.attention_mask

    def blocks(self, transformer: nn.Module) -> list[nn.Module]:
        return list(transformer.blocks)  # type: ignore[arg-type]

    def region_block(self, transformer: nn.Module) -> nn.Module:
        return self.blocks(transformer)[3]

    def velocity(
        self, transformer: nn.Module, latents: Tensor, sigma: Tensor, text: Tensor, attended: Tensor | None = None
    ) -> Tensor:
        velocity: Tensor = transformer(latents, sigma * 1000, text, return_dict=False)[0]
        return velocity

    def cut(self, latents: Tensor, step: int, progress: float) -> Tensor:
        """The first latent frame of all samples, which encodes the first frame alone; or all frames of fewer samples."""
        if progress < STILLS_FIRST or step % STEPS_PER_VIDEO:
            return latents[:, :, :1]
        return latents[: max(1, len(latents) // STILLS_PER_VIDEO)]

    def student(self, base: nn.Module) -> tuple[nn.Module, nn.Module]:
        """The base model with a LoRA, and the weights of the LoRA."""
        student = build_transformer(self.heads)
        student.load_state_dict(base.state_dict())
        student.requires_grad_(False)
        student.add_adapter(LoraConfig(r=LORA_RANK, lora_alpha=LORA_RANK, target_modules=list(LORA_TARGETS)))
        return student, TrainedParameters(student)
