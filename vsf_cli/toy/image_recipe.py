"""The sizes of the built-in image models, and their untrained parts, which have the classes of Stable Diffusion 3.5."""

import json
import math
import string
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from tokenizers import Regex, normalizers
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

__all__ = [
    "IMAGE_TOKENS_SIDE",
    "LATENT_CHANNELS",
    "LATENT_SIDE",
    "T5_SIZES",
    "TEXT_LENGTH",
    "WIDTH",
    "build_autoencoder",
    "build_clip",
    "build_clip_tokenizer",
    "build_scheduler",
    "build_student_scheduler",
    "build_t5",
    "build_t5_tokenizer",
    "build_transformer",
]

WIDTH = 128
LATENT_CHANNELS = 4
LATENT_SIDE = 24
PATCH = 2
IMAGE_TOKENS_SIDE = LATENT_SIDE // PATCH
TEXT_LENGTH = 20
"""Tokens of each encoder, padding included: a caption has 15 words at most."""

T5_SIZES: dict[str, Any] = {
    "d_model": WIDTH,
    "d_kv": 32,
    "d_ff": 2 * WIDTH,
    "num_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 16,
    "relative_attention_max_distance": 32,
    "dropout_rate": 0.0,
    "feed_forward_proj": "gated-gelu",
}
"""The sizes of the T5 of the image models, and of the UMT5 of the video model."""


def build_autoencoder() -> AutoencoderKL:
    """Returns an autoencoder that turns 96 x 96 pixels into 24 x 24 latents of 4 channels."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=96,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
        shift_factor=0.0,
        scaling_factor=1.0,
    )


def build_transformer(heads: int = 4) -> SD3Transformer2DModel:
    """Returns a transformer of 6 joint blocks with heads of 32 channels, for 144 image tokens and 40 text tokens."""
    model = SD3Transformer2DModel(
        sample_size=LATENT_SIDE,
        patch_size=PATCH,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=6,
        attention_head_dim=32,
        num_attention_heads=heads,
        joint_attention_dim=WIDTH,
        caption_projection_dim=32 * heads,
        pooled_projection_dim=WIDTH,
        pos_embed_max_size=24,
        qk_norm="rms_norm",
    )
    # adaLN-zero: every block starts as the identity, and the output as zero.
    for block in model.transformer_blocks:
        for linear in (block.norm1.linear, block.norm1_context.linear):
            torch.nn.init.zeros_(linear.weight)
            torch.nn.init.zeros_(linear.bias)
    torch.nn.init.zeros_(model.proj_out.weight)
    torch.nn.init.zeros_(model.proj_out.bias)
    return model


def build_clip(vocab_size: int, pad_token_id: int, bos_token_id: int, eos_token_id: int) -> CLIPTextModelWithProjection:
    """Returns one of the two CLIP text encoders.

    Its text projection is zero and stays zero: with an informative pooled vector, a small model would read only its
    normalisation layers, and never the words.
    """
    model = CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=vocab_size,
            hidden_size=WIDTH // 2,
            intermediate_size=WIDTH,
            projection_dim=WIDTH // 2,
            # Stable Diffusion 3 uses the output of the last layer but one.
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=TEXT_LENGTH,
            pad_token_id=pad_token_id,
            bos_token_id=bos_token_id,
            eos_token_id=eos_token_id,
        )
    )
    torch.nn.init.zeros_(model.text_projection.weight)
    model.text_projection.weight.requires_grad_(False)
    return model


def build_t5(vocab_size: int) -> T5EncoderModel:
    """Returns the T5 text encoder: 2 layers of width 128."""
    return T5EncoderModel(T5Config(vocab_size=vocab_size, **T5_SIZES))


def build_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Returns the base model's scheduler: evenly spaced sigmas."""
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0)


def build_student_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Returns the student's scheduler: 8 steps from sigma 1 to 1/8, and then to 0.

    Without a terminal sigma the last step would begin at 0.001, and be wasted.
    """
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0, shift_terminal=0.125)


def build_clip_tokenizer(captions: Iterable[str]) -> CLIPTokenizer:
    """Returns a byte-pair tokenizer trained on captions, with CLIP's special tokens; the same captions give the same ids."""
    trained = json.loads(CLIPTokenizer().train_new_from_iterator(captions, vocab_size=1024).backend_tokenizer.to_str())
    merges = [tuple(merge) for merge in trained["model"]["merges"]]
    merged = [first + second for first, second in merges]
    # The trainer's order of single letters differs between runs.
    single = sorted(set(trained["model"]["vocab"]) - set(merged) - {"<|startoftext|>", "<|endoftext|>"})
    tokens = dict.fromkeys(["<|startoftext|>", "<|endoftext|>", *single, *merged])
    return CLIPTokenizer(
        vocab={token: number for number, token in enumerate(tokens)}, merges=merges, model_max_length=TEXT_LENGTH
    )


def build_t5_tokenizer(captions: Iterable[str]) -> PreTrainedTokenizerFast:
    """Returns a unigram tokenizer of the words of captions and of single letters, with T5's special tokens.

    The usual training would split a vocabulary of some sixty words into syllables; here each word stays whole. As CLIP's, it
    takes words in any case, and whatever stands between them. A `T5Tokenizer` has no place for that.
    """
    counts = Counter(word for caption in captions for word in caption.split())
    total = counts.total()
    words = [("\u2581" + word, math.log(count / total)) for word, count in sorted(counts.items())]
    letters = [(letter, -20.0) for letter in ("\u2581", *string.ascii_lowercase)]
    special = [(token, 0.0) for token in ("<pad>", "</s>", "<unk>")]
    tokenizer = T5Tokenizer(vocab=[*special, *words, *letters], extra_ids=0).backend_tokenizer
    apart = normalizers.Replace(Regex(r"[^\p{L}\p{N}]+"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), apart])
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=TEXT_LENGTH, **names)
