"""Wan 2.1 and 2.2: cross attention of the video's tokens to the text.

The negative prompt follows the positive prompt and its zero padding (paper, equation 6). Its keys and values do not evolve: in
every block they are projections of the same embeddings.
"""

import math
from operator import attrgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from vsf_cli.config.values import SIDES_OF_CLIPS
from vsf_cli.errors import PatchError
from vsf_cli.models.decoding import decode_whitened
from vsf_cli.models.family import Family, Order, PromptTokenizer, TextPart, Uses
from vsf_cli.models.prompt_tokens import token_ids, word_tokens

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

__all__ = ["WAN"]


def _tokenizers(pipe: Any, max_length: int) -> list[PromptTokenizer]:
    return [PromptTokenizer("t5", pipe.tokenizer, start=0, max_length=max_length)]


def _encode(pipe: Any, prompt: str) -> list[TextPart]:
    import torch

    if pipe.text_encoder is None:
        raise PatchError("the pipeline has no text encoder, so a negative prompt cannot be encoded")
    ids = token_ids(pipe.tokenizer, prompt, pipe)
    tokens: Tensor = pipe.text_encoder(ids, torch.ones_like(ids)).last_hidden_state[0]
    return [TextPart(tokens, word_tokens(pipe.tokenizer, ids))]


def _decode(pipe: Any, latents: "Tensor", width: int, height: int) -> "list[Image.Image]":
    """The frames of one video, from latents with shape (1, C, f, h, w), as the pipeline makes them."""
    return pipe.video_processor.postprocess_video(decode_whitened(pipe, latents), output_type="pil")[0]


def _clean(prompt: str) -> str:
    from diffusers.pipelines.wan.pipeline_wan import prompt_clean

    return prompt_clean(prompt)


def _pixels_per_token(pipe: Any) -> int:
    denoiser = pipe.transformer if pipe.transformer is not None else pipe.transformer_2
    return pipe.vae_scale_factor_spatial * denoiser.config.patch_size[1]


def _size_multiple(pipe: Any) -> int:
    """Whole tokens, and the multiple that every pipeline of Wan requires."""
    return math.lcm(_pixels_per_token(pipe), SIDES_OF_CLIPS)


def _calls_once(attention: Any) -> bool:
    """Not in Wan 2.1's image to video: it also attends to tokens of its image, which it splits off by 512 tokens of text."""
    return attention.add_k_proj is None


WAN = Family(
    name="wan",
    models=("WanTransformer3DModel",),
    pipelines=MappingProxyType({"WanPipeline": Uses(), "WanImageToVideoPipeline": Uses("WanImageToVideoPipeline", text=False)}),
    attentions=MappingProxyType({"blocks.*.attn2": Order.CROSS}),
    tokenizers=_tokenizers,
    encode=_encode,
    decode=_decode,
    pixels_per_token=_pixels_per_token,
    size_multiple=_size_multiple,
    frames_per_token=attrgetter("vae_scale_factor_temporal"),
    denoisers=("transformer", "transformer_2"),
    calls_once=_calls_once,
    folds_padding=True,
    clean=_clean,
    defaults=MappingProxyType(
        {
            "source": "the defaults of the family wan",
            "method": {"name": "vsf", "alpha": 1.7, "beta": 0.2},
            "width": 832,
            "height": 480,
            "num_frames": 81,
            "fps": 16,
            "max_sequence_length": 512,
            "vae_dtype": "float32",
        }
    ),
    video=True,
)
