"""Stable Diffusion 3 and 3.5: joint attention of image and text.

The negative prompt follows the positive prompt, and evolves through every block as N(0) of the paper (section 3.2). The second
attention of blocks in SD3.5-Medium is not guided, since it has no text.
"""

from operator import attrgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from vsf_cli.errors import PatchError
from vsf_cli.models.decoding import decode_scaled
from vsf_cli.models.family import Family, Order, PromptTokenizer, TextPart, Uses, pixels_per_patch
from vsf_cli.models.prompt_tokens import token_ids, word_tokens

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

__all__ = ["SD3"]


def _tokenizers(pipe: Any, max_length: int) -> list[PromptTokenizer]:
    clip = PromptTokenizer("clip", pipe.tokenizer, start=0, max_length=pipe.tokenizer_max_length)
    # The denoiser gets the tokens of CLIP with their padding, and then those of the T5.
    t5 = PromptTokenizer("t5", pipe.tokenizer_3, start=pipe.tokenizer_max_length, max_length=max_length)
    return [clip] if pipe.text_encoder_3 is None else [clip, t5]


def _encode(pipe: Any, prompt: str) -> list[TextPart]:
    """Returns the joined embeddings of both CLIP encoders, and those of the T5.

    Here the T5 sees the prompt alone. In the pipeline it sees padding, too, since it has no attention mask, so that the same
    words get other embeddings there.
    """
    import torch
    import torch.nn.functional as F

    if pipe.text_encoder is None or pipe.text_encoder_2 is None:
        raise PatchError("the pipeline has no CLIP text encoders, so a negative prompt cannot be encoded")
    width = pipe.transformer.config.joint_attention_dim
    ids = [token_ids(tokenizer, prompt, pipe) for tokenizer in (pipe.tokenizer, pipe.tokenizer_2)]
    encoders = zip((pipe.text_encoder, pipe.text_encoder_2), ids, strict=True)
    joined = torch.cat([encoder(row, output_hidden_states=True).hidden_states[-2][0] for encoder, row in encoders], dim=-1)
    parts = [TextPart(F.pad(joined, (0, width - joined.shape[-1])), word_tokens(pipe.tokenizer, ids[0]))]
    if pipe.text_encoder_3 is not None:
        t5_ids = token_ids(pipe.tokenizer_3, prompt, pipe)
        parts.append(TextPart(pipe.text_encoder_3(t5_ids)[0][0].to(joined), word_tokens(pipe.tokenizer_3, t5_ids)))
    return parts


def _decode(pipe: Any, latents: "Tensor", width: int, height: int) -> "list[Image.Image]":
    return decode_scaled(pipe, latents)


SD3 = Family(
    name="sd3",
    models=("SD3Transformer2DModel",),
    pipelines=MappingProxyType(
        {"StableDiffusion3Pipeline": Uses("StableDiffusion3Img2ImgPipeline", "StableDiffusion3InpaintPipeline")}
    ),
    attentions=MappingProxyType({"transformer_blocks.*.attn": Order.TEXT_LAST}),
    tokenizers=_tokenizers,
    encode=_encode,
    decode=_decode,
    pixels_per_token=pixels_per_patch,
    size_multiple=pixels_per_patch,
    # The last block has no output for the text.
    drops_text=attrgetter("context_pre_only"),
    defaults=MappingProxyType(
        {"source": "the defaults of the family sd3", "method": {"name": "vsf", "alpha": 3.0, "beta": 0.3}}
    ),
)
