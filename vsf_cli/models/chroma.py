"""Chroma: Flux's two kinds of blocks without CLIP, whose text has a mask.

The mask is 1 for a prompt's tokens and for its first padding, and for the image. The model adds its products of two tokens to
their logits, so that further padding is seen less. The negative prompt has no padding, and its tokens have the mask of others.
"""

from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from vsf_cli.errors import PatchError
from vsf_cli.models.family import Family, Order, PromptTokenizer, TextPart, Uses
from vsf_cli.models.flux import decode_packed, extend_with_ids, grid_of_ids, pixels_per_packed_token
from vsf_cli.models.prompt_tokens import token_ids, word_tokens

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CHROMA"]


def _tokenizers(pipe: Any, max_length: int) -> list[PromptTokenizer]:
    return [PromptTokenizer("t5", pipe.tokenizer, start=0, max_length=max_length)]


def _encode(pipe: Any, prompt: str) -> list[TextPart]:
    """Returns the embeddings of the T5, to which the pipeline hides the padding."""
    import torch

    if pipe.text_encoder is None:
        raise PatchError("the pipeline has no T5, so a negative prompt cannot be encoded")
    ids = token_ids(pipe.tokenizer, prompt, pipe)
    tokens: Tensor = pipe.text_encoder(ids, attention_mask=torch.ones_like(ids))[0][0]
    return [TextPart(tokens, word_tokens(pipe.tokenizer, ids))]


# ChromaInpaintPipeline of diffusers 0.42 asks the transformer for a setting that it does not have.
CHROMA = Family(
    name="chroma",
    models=("ChromaTransformer2DModel",),
    pipelines=MappingProxyType({"ChromaPipeline": Uses("ChromaImg2ImgPipeline")}),
    attentions=MappingProxyType(
        {"transformer_blocks.*.attn": Order.TEXT_FIRST, "single_transformer_blocks.*.attn": Order.TEXT_FIRST}
    ),
    tokenizers=_tokenizers,
    encode=_encode,
    decode=decode_packed,
    pixels_per_token=pixels_per_packed_token,
    size_multiple=pixels_per_packed_token,
    extend=partial(extend_with_ids, mask="attention_mask"),
    grid=grid_of_ids,
    defaults=MappingProxyType(
        {
            "source": "the defaults of the family chroma; alpha and beta are starting points",
            "method": {"name": "vsf", "alpha": 3.5, "beta": 0.0},
            "num_inference_steps": 16,
            "guidance_scale": 1.0,
            "max_sequence_length": 512,
        }
    ),
)
