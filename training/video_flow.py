"""Trains the embedded video model: first on single frames, then on clips; then a LoRA for 8 steps without CFG."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from peft import LoraConfig
from torch import Tensor, nn
from transformers import T5Tokenizer

from training.image_autoencoder import pixels
from training.loop import Checkpoint, autocast, minimize, optimizers_for, steps
from training.regions import RegionHeads, Regions
from vsf_cli.toy.image_recipe import build_t5_tokenizer
from vsf_cli.toy.scenes import Scene
from vsf_cli.toy.video_recipe import LORA_RANK, SHIFT, TEXT_LENGTH, TOKENS_SIDE, build_encoder, build_transformer
from vsf_cli.toy.video_scenes import FRAMES, draw_video, moving, sample_part, sample_video, video_caption

__all__ = ["LORA_TARGETS", "ClipExamples", "TextEncoder", "train_clip_base", "train_lora"]

CLIPS, STILLS, PARTS = 8_000, 24_000, 4_000
EMPTY_CAPTION = 0.1
REGION_WEIGHT = 0.2
BATCH, STILL_BATCH, LORA_BATCH = 32, 128, 20
CLIPS_AMONG_STILLS = 3
"""Once clips are trained on, it is one step in so many: single frames show six times the captions in the same time."""
TEACHER_GUIDANCE = 3.0
GOING_ON_RATE = 0.6
"""The learning rate's factor of a model that is trained already."""
LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2")


@dataclass
class ClipExamples:
    """Scenes with their latents, with shape (scenes, channels, frames, side, side) in float16, and their regions."""

    scenes: list[Scene]
    latents: Tensor
    regions: Regions

    @classmethod
    def clips(cls, vae: AutoencoderKLWan, folder: Path) -> "ClipExamples":
        """Whole clips."""
        return cls._encode(vae, folder, "clips", sample_video, CLIPS, FRAMES)

    @classmethod
    def stills(cls, vae: AutoencoderKLWan, folder: Path) -> "ClipExamples":
        """First frames of clips, and pictures of a part alone."""
        whole = cls._encode(vae, folder, "stills", sample_video, STILLS, 1)
        alone = cls._encode(vae, folder, "parts", sample_part, PARTS, 1)
        scenes = [*whole.scenes, *alone.scenes]
        shares = torch.cat([whole.regions.shares, alone.regions.shares])
        return cls(scenes, torch.cat([whole.latents, alone.latents]), Regions(scenes, shares))

    @classmethod
    def _encode(
        cls, vae: AutoencoderKLWan, folder: Path, name: str, sample: Callable[[random.Random], Scene], count: int, frames: int
    ) -> "ClipExamples":
        """Draws and encodes the first `frames` frames of clips of the train split; latents and regions are kept in `folder`."""
        rng = random.Random(name)
        scenes = [sample(rng) for _ in range(count)]
        latents, shares = folder / f"{name}.npy", folder / f"{name}-regions.npy"
        if not latents.exists():
            parts = [_encoded(vae, scenes[start : start + 20], frames) for start in range(0, count, 20)]
            np.save(latents, np.concatenate(parts))
        if not shares.exists():
            # A latent frame covers four frames, but for the first, which covers one.
            moments = [0, *range(3, frames, 4)]
            shown = [[moving(scene, max(frames, 2))[moment] for moment in moments] for scene in scenes]
            flat = Regions.measure([each for several in shown for each in several], TOKENS_SIDE)
            np.save(shares, flat.reshape(count, -1, flat.shape[-1]))
        return cls(scenes, torch.from_numpy(np.load(latents)), Regions(scenes, torch.from_numpy(np.load(shares))))

    def batch(self, rng: random.Random, count: int, empty: float) -> tuple[Tensor, list[str], list[int]]:
        """Latents with shape (count, ...), a fresh caption of each, and their numbers."""
        chosen = [rng.randrange(len(self.scenes)) for _ in range(count)]
        captions = ["" if rng.random() < empty else video_caption(self.scenes[index], rng) for index in chosen]
        return self.latents[chosen].to(torch.get_default_device()).float(), captions, chosen


@torch.no_grad()
def _encoded(vae: AutoencoderKLWan, scenes: list[Scene], frames: int) -> np.ndarray:
    drawn = np.stack([draw_video(scene, max(frames, 2))[:frames] for scene in scenes])
    clips = pixels(drawn.reshape(-1, *drawn.shape[2:])).unflatten(0, (len(scenes), frames)).transpose(1, 2)
    with autocast():
        mean = vae.encode(clips).latent_dist.mean.float()
    shift, scale = (torch.tensor(numbers).view(1, -1, 1, 1, 1) for numbers in (vae.config.latents_mean, vae.config.latents_std))
    latents: np.ndarray = ((mean - shift) / scale).half().cpu().numpy()
    return latents


class TextEncoder(nn.Module):
    """The text encoder with its tokenizer, used as `WanPipeline` uses them: what is padding becomes zeros."""

    def __init__(self, tokenizer: T5Tokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.encoder = build_encoder(len(tokenizer))

    @classmethod
    def for_captions(cls, folder: Path) -> "TextEncoder":
        """An untrained encoder, with a tokenizer of 20,000 captions that is kept in `folder`."""
        place = folder / "tokenizer"
        if place.is_dir():
            return cls(T5Tokenizer.from_pretrained(place))
        rng = random.Random("clip captions")
        tokenizer = build_t5_tokenizer([video_caption(sample_video(rng), rng) for _ in range(20_000)])
        tokenizer.save_pretrained(place)
        return cls(tokenizer)

    def forward(self, captions: list[str]) -> Tensor:
        """Prompt embeddings with shape (B, `TEXT_LENGTH`, width)."""
        options: dict[str, Any] = {"padding": "max_length", "max_length": TEXT_LENGTH, "truncation": True}
        inputs = self.tokenizer(captions, return_tensors="pt", **options)
        hidden: Tensor = self.encoder(inputs.input_ids, inputs.attention_mask).last_hidden_state
        return hidden * inputs.attention_mask[:, :, None]


class _TrainingProcessor:
    """Attention written out, self and cross: the gradient of the CPU's flash kernel takes twice as long at these sizes."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key = attn.norm_q(attn.to_q(hidden_states)), attn.norm_k(attn.to_k(source))
        query, key, value = (part.unflatten(2, (attn.heads, -1)) for part in (query, key, attn.to_v(source)))
        if rotary_emb is not None:
            query, key = _rotated(query, *rotary_emb), _rotated(key, *rotary_emb)
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        with torch.autocast(query.device.type, enabled=False):
            logits = (query * query.shape[-1] ** -0.5).to(value.dtype) @ key.to(value.dtype).transpose(-1, -2)
            output = (logits.softmax(-1) @ value).transpose(1, 2).flatten(2)
        projected: Tensor = attn.to_out[0](output)
        return projected


def _rotated(states: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotary positions as Wan has them: neighbouring channels are a pair."""
    first, second = states.unflatten(-1, (-1, 2)).unbind(-1)
    cosine, sine = cosines[..., 0::2], sines[..., 1::2]
    return torch.stack([first * cosine - second * sine, first * sine + second * cosine], -1).flatten(-2).type_as(states)


def _prepare(transformer: WanTransformer3DModel) -> None:
    for block in transformer.blocks:
        for attention in (block.attn1, block.attn2):
            attention.set_processor(_TrainingProcessor())
        block.forward = torch.compile(block.forward)


def _predict(transformer: WanTransformer3DModel, latents: Tensor, sigma: Tensor, text: Tensor) -> Tensor:
    with autocast():
        velocity: Tensor = transformer(latents, sigma * 1000, text, return_dict=False)[0].float()
    return velocity


def train_clip_base(
    stills: ClipExamples,
    clips: ClipExamples,
    folder: Path,
    still_steps: int,
    clip_steps: int,
    start: WanPipeline | None = None,
) -> tuple[WanTransformer3DModel, TextEncoder]:
    """Trains transformer and text encoder by flow matching, logit-normal times: on single frames, then on clips.

    Arguments:
        stills, clips: What is learnt.
        folder: Where the checkpoint is.
        still_steps: Steps on single frames alone.
        clip_steps: Steps on both.
        start: A trained model to go on from; None means from nothing.

    Returns:
        Both, with averaged weights.
    """
    torch.manual_seed(0)
    transformer = build_transformer()
    encoder = TextEncoder.for_captions(folder) if start is None else TextEncoder(start.tokenizer)
    if start is not None:
        transformer.load_state_dict(start.transformer.state_dict())
        encoder.encoder.load_state_dict(start.text_encoder.state_dict())
    heads = RegionHeads(transformer.blocks)
    modules = {"encoder": encoder, "transformer": transformer, "heads": heads}
    checkpoint = Checkpoint(folder / "base.safetensors", modules, optimizers_for(transformer, [encoder, heads]), 0.998)
    _prepare(transformer)

    for rng in steps("base", checkpoint, still_steps + clip_steps, 1.0 if start is None else GOING_ON_RATE):
        single = checkpoint.step < still_steps or checkpoint.step % CLIPS_AMONG_STILLS > 0
        examples, count = (stills, STILL_BATCH) if single else (clips, BATCH)
        latents, captions, chosen = examples.batch(rng, count, EMPTY_CAPTION)
        sigma, noise = torch.randn(count).sigmoid(), torch.randn_like(latents)
        # Frames repeat each other: below much noise they tell the colours, and the text need not be read.
        sigma = SHIFT * sigma / (1 + (SHIFT - 1) * sigma)
        noised = torch.lerp(latents, noise, sigma.view(-1, 1, 1, 1, 1))
        with autocast():
            text = encoder(captions)
        loss = F.mse_loss(_predict(transformer, noised, sigma, text), noise - latents)
        minimize(loss, checkpoint, REGION_WEIGHT * heads(*examples.regions.targets(chosen)))

    averaged = build_transformer()
    averaged.load_state_dict(checkpoint.averaged("transformer"), strict=False)
    encoder.load_state_dict(checkpoint.averaged("encoder"), strict=False)
    return averaged.eval(), encoder.eval()


def train_lora(
    base: WanTransformer3DModel,
    encoder: TextEncoder,
    scheduler: FlowMatchEulerDiscreteScheduler,
    clips: ClipExamples,
    folder: Path,
    total: int,
    earlier: dict[str, Tensor] | None = None,
    num_inference_steps: int = 8,
) -> dict[str, Tensor]:
    """Distils a LoRA with which the base makes one step where it alone makes two with CFG.

    Arguments:
        base, encoder: The base model and its text encoder.
        scheduler: Whose sigmas the LoRA is for.
        clips: What is learnt.
        folder: Where the checkpoint is.
        total: Steps.
        earlier: A LoRA of an earlier base to go on from, by the names of diffusers; None means from nothing.
        num_inference_steps: The steps that it is for.

    Returns:
        The LoRA's averaged weights, by the names of diffusers.
    """
    scheduler.set_timesteps(num_inference_steps)
    grid = scheduler.sigmas.to(torch.get_default_device())
    torch.manual_seed(1)
    student = build_transformer()
    student.load_state_dict(base.state_dict())
    base.requires_grad_(False)
    encoder.requires_grad_(False)
    student.requires_grad_(False)
    student.add_adapter(LoraConfig(r=LORA_RANK, lora_alpha=LORA_RANK, target_modules=list(LORA_TARGETS)))
    lora = _Trained(student)
    if earlier is not None:
        lora.load_state_dict({name.replace(".", "/"): tensor for name, tensor in earlier.items()})
    optimizer = torch.optim.AdamW(lora.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.0)
    checkpoint = Checkpoint(folder / "lora.safetensors", {"lora": lora}, [optimizer], 0.99)
    _prepare(student)
    _prepare(base)
    with torch.no_grad():
        nothing = encoder([""]).expand(LORA_BATCH, -1, -1)

    def teach(latents: Tensor, sigma: Tensor, text: Tensor) -> Tensor:
        velocity = _predict(base, latents.repeat(2, 1, 1, 1, 1), sigma.repeat(2), text)
        unconditional, conditional = velocity.chunk(2)
        return unconditional + TEACHER_GUIDANCE * (conditional - unconditional)

    for rng in steps("lora", checkpoint, total, 1.0 if earlier is None else GOING_ON_RATE, warmup=20):
        latents, captions, _ = clips.batch(rng, LORA_BATCH, 0.05)
        index = torch.randint(num_inference_steps, (LORA_BATCH,))
        start, end = (grid[place].view(-1, 1, 1, 1, 1) for place in (index, index + 1))
        middle = (start + end) / 2
        with torch.no_grad():
            text = encoder(captions)
            both = torch.cat([nothing, text])
            noised = torch.lerp(latents, torch.randn_like(latents), start)
            halfway = noised + (middle - start) * teach(noised, start.flatten(), both)
            arrived = halfway + (end - middle) * teach(halfway, middle.flatten(), both)
        predicted = _predict(student, noised, start.flatten(), text)
        minimize(F.mse_loss(predicted, (arrived - noised) / (end - start)), checkpoint)

    return {name.replace("/", "."): tensor for name, tensor in checkpoint.averaged("lora").items()}


class _Trained(nn.Module):
    """The parameters of a module that are trained, under their own names."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                self.register_parameter(name.replace(".", "/"), parameter)
