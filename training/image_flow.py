"""Trains the base model by flow matching, then distils the student that runs in 8 steps without CFG."""

import copy
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from transformers import CLIPTokenizer, T5Tokenizer

from training.image_autoencoder import normalised_latents, pixels
from training.joint_attention import merge_heads, project_image, project_text
from training.loop import Checkpoint, autocast, minimize, optimizers_for, render, steps
from training.regions import RegionHeads, Regions
from vsf_cli.toy.image_recipe import (
    IMAGE_TOKENS_SIDE,
    TEXT_LENGTH,
    build_clip,
    build_clip_tokenizer,
    build_t5,
    build_t5_tokenizer,
    build_transformer,
)
from vsf_cli.toy.scenes import Scene, caption, sample_part_alone, sample_scene

__all__ = ["Examples", "TextEncoders", "attended_tokens", "train_base", "train_student"]

SCENES = 40_000
PART_ALONE = 0.12
EMPTY_CAPTION = 0.1
WORDS_ALONE = 0.5
"""In how many samples the text is its words alone, without padding, beginning and end: a word has to do by itself."""
REGION_WEIGHT = 0.2
BATCH = 96
STUDENT_BATCH = 64
TEACHER_GUIDANCE = 3.0


@dataclass
class Examples:
    """Scenes with their latents, normalised, with shape (scenes, channels, side, side) in float16, and their regions."""

    scenes: list[Scene]
    latents: Tensor
    regions: Regions

    @classmethod
    @torch.no_grad()
    def encode(cls, vae: AutoencoderKL, folder: Path) -> "Examples":
        """Draws and encodes the scenes of the train split; the latents are kept in `folder`."""
        rng = random.Random("flow")
        scenes = [sample_part_alone(rng) if rng.random() < PART_ALONE else sample_scene(rng) for _ in range(SCENES)]
        path = folder / "latents.npy"
        if not path.exists():
            parts = []
            for start in range(0, SCENES, 100):
                images = pixels(render(scenes[start : start + 100]))
                with autocast():
                    parts.append(normalised_latents(vae, images).half().cpu().numpy())
            np.save(path, np.concatenate(parts))
        shares = folder / "regions.npy"
        if not shares.exists():
            np.save(shares, Regions.measure(scenes))
        return cls(scenes, torch.from_numpy(np.load(path)), Regions(scenes, torch.from_numpy(np.load(shares))))

    def batch(self, rng: random.Random, count: int, empty: float) -> tuple[Tensor, list[str], list[int]]:
        """Latents with shape (count, channels, side, side), a fresh caption of each, and their numbers."""
        chosen = [rng.randrange(len(self.scenes)) for _ in range(count)]
        captions = ["" if rng.random() < empty else caption(self.scenes[index], rng) for index in chosen]
        return self.latents[chosen].to(torch.get_default_device()).float(), captions, chosen


class TextEncoders(nn.Module):
    """The three text encoders with their tokenizers, joined as `StableDiffusion3Pipeline` joins them."""

    def __init__(self, clip_tokenizer: CLIPTokenizer, t5_tokenizer: T5Tokenizer) -> None:
        super().__init__()
        self.clip_tokenizer = clip_tokenizer
        self.t5_tokenizer = t5_tokenizer
        special = {name: getattr(clip_tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
        self.clip = build_clip(len(clip_tokenizer), **special)
        self.clip_2 = build_clip(len(clip_tokenizer), **special)
        self.t5 = build_t5(len(t5_tokenizer))

    @classmethod
    def for_captions(cls, folder: Path) -> "TextEncoders":
        """Untrained encoders, with tokenizers trained on 20,000 captions.

        The tokenizers are kept in `folder` and read from there again: weights belong to the tokenizers they grew up with.
        """
        places = folder / "tokenizer", folder / "tokenizer_3"
        if all(place.is_dir() for place in places):
            return cls(CLIPTokenizer.from_pretrained(places[0]), T5Tokenizer.from_pretrained(places[1]))
        rng = random.Random("captions")
        captions = [caption(sample_scene(rng), rng) for _ in range(18_000)]
        captions += [caption(sample_part_alone(rng), rng) for _ in range(2_000)]
        tokenizers = build_clip_tokenizer(captions), build_t5_tokenizer(captions)
        for tokenizer, place in zip(tokenizers, places, strict=True):
            tokenizer.save_pretrained(place)
        return cls(*tokenizers)

    def tokens(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        """Token ids for the CLIP encoders and for the T5, each with shape (B, `TEXT_LENGTH`)."""
        options = {"padding": "max_length", "max_length": TEXT_LENGTH, "truncation": True, "return_tensors": "pt"}
        return self.clip_tokenizer(captions, **options).input_ids, self.t5_tokenizer(captions, **options).input_ids

    def words(self, clip_ids: Tensor, t5_ids: Tensor) -> Tensor:
        """Which tokens of the prompt embeddings belong to words, with shape (B, 2 `TEXT_LENGTH`)."""
        special = zip((clip_ids, t5_ids), (self.clip_tokenizer, self.t5_tokenizer), strict=True)
        return torch.cat([~torch.isin(ids, torch.tensor(tokenizer.all_special_ids)) for ids, tokenizer in special], dim=1)

    def forward(self, clip_ids: Tensor, t5_ids: Tensor) -> Tensor:
        """Prompt embeddings with shape (B, 2 `TEXT_LENGTH`, width)."""
        clip = torch.cat(
            [model(clip_ids, output_hidden_states=True).hidden_states[-2] for model in (self.clip, self.clip_2)], dim=-1
        )
        t5 = self.t5(t5_ids)[0]
        clip = F.pad(clip, (0, t5.shape[-1] - clip.shape[-1]))
        return torch.cat([clip, t5.to(clip.dtype)], dim=1)


def _predict(
    transformer: SD3Transformer2DModel, latents: Tensor, sigma: Tensor, text: Tensor, attended: Tensor | None = None
) -> Tensor:
    """The velocity; `attended` says which text tokens are keys, with shape (B, text tokens), and all are without it."""
    shape = len(latents), IMAGE_TOKENS_SIDE**2 + text.shape[1]
    mask = torch.zeros(shape)
    if attended is not None:
        mask[:, IMAGE_TOKENS_SIDE**2 :].masked_fill_(~attended, -torch.inf)
    with autocast():
        pooled = torch.zeros(len(latents), transformer.config.pooled_projection_dim)
        besides = {"attention_mask": mask[:, None, None]}
        return transformer(latents, text, pooled, sigma * 1000, joint_attention_kwargs=besides, return_dict=False)[0].float()


def attended_tokens(encoders: TextEncoders, clip_ids: Tensor, t5_ids: Tensor) -> Tensor:
    """All text tokens of some samples, and the words alone of the others."""
    return encoders.words(clip_ids, t5_ids) | (torch.rand(len(clip_ids), 1) >= WORDS_ALONE)


class _TrainingProcessor:
    """Joint attention written out: the gradient of the CPU's flash kernel takes twice as long at these sizes."""

    def __call__(
        self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor, attention_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        images = hidden_states.shape[1]
        query, image_key, image_value = project_image(attn, hidden_states)
        text_query, text_key, text_value = project_text(attn, encoder_hidden_states)
        query, key = torch.cat([query, text_query], dim=2), torch.cat([image_key, text_key], dim=2)
        value = torch.cat([image_value, text_value], dim=2)
        with autocast(enabled=False):
            logits = (query * query.shape[-1] ** -0.5).to(value.dtype) @ key.to(value.dtype).transpose(-1, -2)
            logits = logits + attention_mask.to(logits.dtype)
            output = merge_heads(logits.softmax(-1) @ value)
        text_output = output[:, images:]
        return attn.to_out[0](output[:, :images]), text_output if attn.context_pre_only else attn.to_add_out(text_output)


def _prepare(transformer: SD3Transformer2DModel) -> None:
    for block in transformer.transformer_blocks:
        block.attn.set_processor(_TrainingProcessor())
        # The call around it is left as it is: its hooks need not be compiled.
        block.forward = torch.compile(block.forward)


def train_base(examples: Examples, folder: Path, total: int) -> tuple[SD3Transformer2DModel, TextEncoders]:
    """Trains the transformer and the text encoders together: flow matching, logit-normal times.

    Returns:
        Both, with averaged weights.
    """
    torch.manual_seed(0)
    transformer = build_transformer()
    encoders = TextEncoders.for_captions(folder)
    heads = RegionHeads(transformer.transformer_blocks)
    modules = {"encoders": encoders, "transformer": transformer, "heads": heads}
    checkpoint = Checkpoint(folder / "base.safetensors", modules, optimizers_for(transformer, [encoders, heads]), 0.998)
    _prepare(transformer)

    for rng in steps("base", checkpoint, total, 1.0):
        latents, captions, chosen = examples.batch(rng, BATCH, EMPTY_CAPTION)
        sigma = torch.randn(BATCH).sigmoid()
        noise = torch.randn_like(latents)
        noised = torch.lerp(latents, noise, sigma[:, None, None, None])
        ids = encoders.tokens(captions)
        with autocast():
            text = encoders(*ids)
        loss = F.mse_loss(_predict(transformer, noised, sigma, text, attended_tokens(encoders, *ids)), noise - latents)
        minimize(loss, checkpoint, REGION_WEIGHT * heads(*examples.regions.targets(chosen)))

    averaged = build_transformer()
    averaged.load_state_dict(checkpoint.averaged("transformer"), strict=False)
    encoders.load_state_dict(checkpoint.averaged("encoders"), strict=False)
    return averaged.eval(), encoders.eval()


def train_student(
    base: SD3Transformer2DModel,
    encoders: TextEncoders,
    scheduler: FlowMatchEulerDiscreteScheduler,
    examples: Examples,
    folder: Path,
    total: int,
    num_inference_steps: int = 8,
) -> SD3Transformer2DModel:
    """Distils a student that makes one step where the base makes two with CFG.

    For a noised scene at a sigma of the scheduler's own grid, the target velocity is that of two guided Euler steps to
    the grid's next sigma.

    Arguments:
        scheduler: The student's scheduler, as it is shipped.
        num_inference_steps: The step count it is distilled for.
    """
    scheduler.set_timesteps(num_inference_steps)
    grid = scheduler.sigmas.to(torch.get_default_device())
    torch.manual_seed(1)
    student = copy.deepcopy(base).train()
    base.requires_grad_(False)
    encoders.requires_grad_(False)
    optimizer = torch.optim.AdamW(student.parameters(), lr=4e-4, betas=(0.9, 0.98), weight_decay=0.0)
    checkpoint = Checkpoint(folder / "student.safetensors", {"transformer": student}, [optimizer], 0.99)
    _prepare(student)
    _prepare(base)

    def teach(latents: Tensor, sigma: Tensor, text: Tensor) -> Tensor:
        velocity = _predict(base, latents.repeat(2, 1, 1, 1), sigma.repeat(2), text)
        unconditional, conditional = velocity.chunk(2)
        return unconditional + TEACHER_GUIDANCE * (conditional - unconditional)

    with torch.no_grad():
        nothing = encoders(*encoders.tokens([""])).expand(STUDENT_BATCH, -1, -1)

    for rng in steps("student", checkpoint, total, 1.0, warmup=20):
        latents, captions, _ = examples.batch(rng, STUDENT_BATCH, 0.05)
        index = torch.randint(num_inference_steps, (STUDENT_BATCH,))
        start, end = grid[index], grid[index + 1]
        middle = (start + end) / 2

        with torch.no_grad():
            ids = encoders.tokens(captions)
            text = encoders(*ids)
            both = torch.cat([nothing, text])
            shape = (-1, 1, 1, 1)
            noised = torch.lerp(latents, torch.randn_like(latents), start.view(shape))
            halfway = noised + (middle - start).view(shape) * teach(noised, start, both)
            arrived = halfway + (end - middle).view(shape) * teach(halfway, middle, both)
            target = (arrived - noised) / (end - start).view(shape)

        predicted = _predict(student, noised, start, text, attended_tokens(encoders, *ids))
        minimize(F.mse_loss(predicted, target), checkpoint)

    averaged = build_transformer()
    averaged.load_state_dict(checkpoint.averaged("transformer"), strict=False)
    return averaged.eval()
