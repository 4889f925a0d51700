"""The sizes of the built-in video model, and its untrained parts, which have the classes of Wan 2.1."""

import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanTransformer3DModel
from transformers import UMT5Config, UMT5EncoderModel

from vsf_cli.toy.image_recipe import T5_SIZES
from vsf_cli.toy.video_scenes import FRAMES, SIDE

__all__ = [
    "CHANNELS",
    "LATENT_FRAMES",
    "LATENT_SIDE",
    "LORA_RANK",
    "PATCH",
    "SHIFT",
    "TEXT_LENGTH",
    "TOKENS_SIDE",
    "WIDTH",
    "build_autoencoder",
    "build_encoder",
    "build_scheduler",
    "build_student_scheduler",
    "build_transformer",
]

WIDTH = 128
CHANNELS = 8
PATCH = 2
LATENT_SIDE = SIDE // 4
TOKENS_SIDE = LATENT_SIDE // PATCH
LATENT_FRAMES = (FRAMES - 1) // 4 + 1
TEXT_LENGTH = 24
"""Tokens of the positive prompt, zero padding included: a caption has at most 19 words and an end token."""
LORA_RANK = 32
SHIFT = 2.0
"""The shift of the sigmas, in training and in sampling."""


def build_autoencoder(base_dim: int = 12) -> AutoencoderKLWan:
    """Returns a causal autoencoder that turns 17 frames of 64 x 64 pixels into 5 of 16 x 16 latents with 8 channels."""
    return AutoencoderKLWan(
        base_dim=base_dim,
        z_dim=CHANNELS,
        dim_mult=[1, 2, 4],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        latents_mean=[0.0] * CHANNELS,
        latents_std=[1.0] * CHANNELS,
        scale_factor_spatial=4,
    )


def build_transformer(heads: int = 4) -> WanTransformer3DModel:
    """Returns a transformer of 6 blocks with heads of 32 channels, for 5 x 8 x 8 tokens of video and 24 of text."""
    model = WanTransformer3DModel(
        patch_size=(1, PATCH, PATCH),
        num_attention_heads=heads,
        attention_head_dim=32,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        text_dim=WIDTH,
        freq_dim=64,
        ffn_dim=4 * 32 * heads,
        num_layers=6,
        cross_attn_norm=True,
        rope_max_seq_len=64,
    )
    # Every block starts near the identity: the tables that scale and gate are small, and the output is zero.
    torch.nn.init.zeros_(model.condition_embedder.time_proj.weight)
    torch.nn.init.zeros_(model.condition_embedder.time_proj.bias)
    for block in model.blocks:
        torch.nn.init.zeros_(block.scale_shift_table)
        torch.nn.init.zeros_(block.attn2.to_out[0].weight)
    torch.nn.init.zeros_(model.proj_out.weight)
    torch.nn.init.zeros_(model.proj_out.bias)
    return model


def build_encoder(vocab_size: int) -> UMT5EncoderModel:
    """Returns the text encoder: 2 layers of width 128."""
    return UMT5EncoderModel(UMT5Config(vocab_size=vocab_size, **T5_SIZES))


def build_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Returns the base model's scheduler."""
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=SHIFT)


def build_student_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Returns the scheduler of base and LoRA together: 8 steps from sigma 1 to 0.2, and then to 0."""
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=SHIFT, shift_terminal=0.2)
