"""The image models that are trained: the families of Stable Diffusion 3 and of Flux."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn
from transformers import CLIPTokenizer, PreTrainedTokenizerFast

from training.attention import FluxTrainingProcessor, SD3TrainingProcessor
from training.examples import Drawing
from training.flow import FlowModel
from training.regions import Regions
from vsf_cli.toy.drawing import draw
from vsf_cli.toy.image_recipe import (
    IMAGE_TOKENS_SIDE,
    LATENT_CHANNELS,
    LATENT_SIDE,
    TEXT_LENGTH,
    WIDTH,
    build_clip,
    build_clip_tokenizer,
    build_student_scheduler,
    build_t5,
    build_t5_tokenizer,
    build_transformer,
)
from vsf_cli.toy.scenes import Scene, caption, sample_part_alone, sample_scene

__all__ = ["IMAGE_DRAWING", "IMAGE_MODELS", "FluxModel", "SD3Model", "load_tokenizers", "special_ids"]

PART_ALONE = 0.12
WORDS_ALONE = 0.5
"""The fraction of samples whose text has no padding, start and end tokens: a word has to work by itself."""
HEAD_DIM = 32
IMAGE_TOKENS = IMAGE_TOKENS_SIDE**2


def _sample(rng: random.Random) -> Scene:
    return sample_part_alone(rng) if rng.random() < PART_ALONE else sample_scene(rng)


def _render(scene: Scene) -> np.ndarray:
    return np.asarray(draw(scene))


def _regions(scene: Scene) -> np.ndarray:
    return Regions.measure([scene])[0]


IMAGE_DRAWING = Drawing("images", _sample, _render, _regions)


def load_tokenizers(folder: Path) -> tuple[CLIPTokenizer, PreTrainedTokenizerFast]:
    """The tokenizers of CLIP and of T5 in a folder. If it has none, they are trained on 20,000 captions and saved there."""
    paths = folder / "tokenizer", folder / "tokenizer_3"
    if not all(path.is_dir() for path in paths):
        rng = random.Random("captions")
        captions = [caption(sample_scene(rng), rng) for _ in range(18_000)]
        captions += [caption(sample_part_alone(rng), rng) for _ in range(2_000)]
        for tokenizer, path in zip((build_clip_tokenizer(captions), build_t5_tokenizer(captions)), paths, strict=True):
            tokenizer.save_pretrained(path)
    return CLIPTokenizer.from_pretrained(paths[0]), PreTrainedTokenizerFast.from_pretrained(paths[1])


def special_ids(tokenizer: CLIPTokenizer) -> dict[str, int]:
    """The special tokens of CLIP, as its text encoder's configuration takes them."""
    return {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}


class SD3Encoders(nn.Module):
    """Two CLIP encoders and T5, joined as `StableDiffusion3Pipeline` joins them."""

    def __init__(self, clip_tokenizer: CLIPTokenizer, t5_tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__()
        self.clip = build_clip(len(clip_tokenizer), **special_ids(clip_tokenizer))
        self.clip_2 = build_clip(len(clip_tokenizer), **special_ids(clip_tokenizer))
        self.t5 = build_t5(len(t5_tokenizer))

    def forward(self, clip_ids: Tensor, t5_ids: Tensor) -> Tensor:
        """Prompt embeddings with shape (B, 2 `TEXT_LENGTH`, `WIDTH`)."""
        hidden = [model(clip_ids, output_hidden_states=True).hidden_states[-2] for model in (self.clip, self.clip_2)]
        clip, t5 = torch.cat(hidden, dim=-1), self.t5(t5_ids)[0]
        return torch.cat([F.pad(clip, (0, t5.shape[-1] - clip.shape[-1])), t5.to(clip.dtype)], dim=1)


class FluxEncoders(nn.Module):
    """T5 alone: the pooled vector of CLIP is zero."""

    def __init__(self, t5_tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__()
        self.t5 = build_t5(len(t5_tokenizer))

    def forward(self, t5_ids: Tensor) -> Tensor:
        """Prompt embeddings with shape (B, `TEXT_LENGTH`, `WIDTH`)."""
        hidden: Tensor = self.t5(t5_ids)[0]
        return hidden


class _ImageModel(FlowModel):
    """The base class of both families.

    Arguments:
        tokenizers: The tokenizers of CLIP and of T5.
        heads: Heads of the transformer, each with 32 channels.
    """

    latent_shape = (LATENT_CHANNELS, LATENT_SIDE, LATENT_SIDE)

    def __init__(self, tokenizers: tuple[CLIPTokenizer, PreTrainedTokenizerFast], heads: int) -> None:
        self.tokenizers = tokenizers
        self.heads = heads
        self.width = HEAD_DIM * heads

    def caption(self, scene: Scene, rng: random.Random) -> str:
        return caption(scene, rng)

    def tokens(self, captions: list[str]) -> tuple[Tensor, ...]:
        options: dict[str, Any] = {"padding": "max_length", "max_length": TEXT_LENGTH, "truncation": True}
        return tuple(tokenizer(captions, return_tensors="pt", **options).input_ids for tokenizer in self.tokenizers_in_use)

    @property
    def tokenizers_in_use(self) -> tuple[Any, ...]:
        """One tokenizer for each tensor of tokens."""
        return self.tokenizers

    def words(self, tokens: tuple[Tensor, ...]) -> Tensor:
        """A mask of the tokens that belong to words, with shape (B, text)."""
        special = zip(tokens, self.tokenizers_in_use, strict=True)
        return torch.cat([~torch.isin(ids, ids.new_tensor(each.all_special_ids)) for ids, each in special], dim=1)

    def attended(self, tokens: tuple[Tensor, ...]) -> Tensor:
        """A mask of all tokens of some samples, and of the words alone of the others."""
        whole = torch.rand(len(tokens[0]), 1, device=tokens[0].device) >= WORDS_ALONE
        return self.words(tokens) | whole


class SD3Model(_ImageModel):
    """Stable Diffusion 3: 6 joint blocks, three text encoders, a student for 8 steps."""

    name = "sd3"
    processor = SD3TrainingProcessor

    @property
    def grid(self) -> Tensor:  # type: ignore[override]
        scheduler = build_student_scheduler()
        scheduler.set_timesteps(8)
        sigmas: Tensor = scheduler.sigmas
        return sigmas

    def build_transformer(self) -> nn.Module:
        return build_transformer(self.heads)

    def build_encoders(self) -> nn.Module:
        return SD3Encoders(*self.tokenizers)

    def blocks(self, transformer: nn.Module) -> list[nn.Module]:
        return list(transformer.transformer_blocks)  # type: ignore[arg-type]

    def region_block(self, transformer: nn.Module) -> nn.Module:
        return self.blocks(transformer)[3]

    def velocity(
        self, transformer: nn.Module, latents: Tensor, sigma: Tensor, text: Tensor, attended: Tensor | None = None
    ) -> Tensor:
        options = {}
        if attended is not None:
            images = attended.new_ones(len(latents), IMAGE_TOKENS)
            options = {"attention_mask": torch.cat([images, attended], dim=1)}
        pooled = torch.zeros(len(latents), WIDTH, device=latents.device)
        velocity: Tensor = transformer(latents, text, pooled, sigma * 1000, joint_attention_kwargs=options, return_dict=False)[
            0
        ]
        return velocity


class FluxModel(_ImageModel):
    """Flux: 2 double and 5 single blocks, T5 alone, a student for 4 steps."""

    name = "flux"
    processor = FluxTrainingProcessor
    grid = torch.linspace(1, 0, 5)
    substeps = 8

    @property
    def tokenizers_in_use(self) -> tuple[Any, ...]:
        return self.tokenizers[1:]

    def build_transformer(self) -> nn.Module:
        model = FluxTransformer2DModel(
            patch_size=1,
            in_channels=4 * LATENT_CHANNELS,
            num_layers=2,
            num_single_layers=5,
            attention_head_dim=HEAD_DIM,
            num_attention_heads=self.heads,
            joint_attention_dim=WIDTH,
            pooled_projection_dim=WIDTH,
            guidance_embeds=False,
            axes_dims_rope=(8, 12, 12),
        )
        # adaLN-zero: every block starts as the identity, and the output is zero.
        double = [linear for block in model.transformer_blocks for linear in (block.norm1.linear, block.norm1_context.linear)]
        single = [block.norm.linear for block in model.single_transformer_blocks]
        for linear in (*double, *single, model.proj_out):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
        return model

    def build_encoders(self) -> nn.Module:
        return FluxEncoders(self.tokenizers[1])

    def blocks(self, transformer: nn.Module) -> list[nn.Module]:
        return [*transformer.transformer_blocks, *transformer.single_transformer_blocks]  # type: ignore[misc]

    def region_block(self, transformer: nn.Module) -> nn.Module:
        return self.blocks(transformer)[3]

    def velocity(
        self, transformer: nn.Module, latents: Tensor, sigma: Tensor, text: Tensor, attended: Tensor | None = None
    ) -> Tensor:
        options, device = {}, latents.device
        if attended is not None:
            images = attended.new_ones(len(latents), IMAGE_TOKENS)
            options = {"attention_mask": torch.cat([attended, images], dim=1)}
        positions = torch.zeros(IMAGE_TOKENS_SIDE, IMAGE_TOKENS_SIDE, 3, device=device)
        positions[..., 1] = torch.arange(IMAGE_TOKENS_SIDE, device=device)[:, None]
        positions[..., 2] = torch.arange(IMAGE_TOKENS_SIDE, device=device)
        velocity = transformer(
            hidden_states=_pack(latents),
            encoder_hidden_states=text,
            pooled_projections=torch.zeros(len(latents), WIDTH, device=device),
            timestep=sigma,
            img_ids=positions.view(-1, 3),
            txt_ids=torch.zeros(text.shape[1], 3, device=device),
            joint_attention_kwargs=options,
            return_dict=False,
        )[0]
        return _unpack(velocity)


def _pack(latents: Tensor) -> Tensor:
    """Latents with shape (B, C, H, W) as tokens of 2 x 2, with shape (B, H W / 4, 4 C)."""
    return F.pixel_unshuffle(latents, 2).flatten(2).transpose(1, 2)


def _unpack(tokens: Tensor) -> Tensor:
    return F.pixel_shuffle(tokens.transpose(1, 2).unflatten(-1, (IMAGE_TOKENS_SIDE, IMAGE_TOKENS_SIDE)), 2)


IMAGE_MODELS: dict[str, type[SD3Model] | type[FluxModel]] = {"sd3": SD3Model, "flux": FluxModel}
