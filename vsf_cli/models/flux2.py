"""Flux.2 klein: joint attention of image and text in two kinds of blocks, both of which are guided.

As in Flux.1, but the tokens of a text have rotary positions that count from 0: the negative prompt has those that it would have
alone. The text encoder is a causal language model, so that an encoding without padding is one with padding, cut.
"""

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from vsf_cli.models.decoding import decode_normalized
from vsf_cli.models.family import Arguments, Family, Order, PromptTokenizer, TextPart, Uses, prepend_text, shared_places
from vsf_cli.models.flux import grid_of_ids, pixels_per_packed_token
from vsf_cli.models.prompt_tokens import chat_template, template_tokens

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

__all__ = ["FLUX2"]

LAYERS = (9, 18, 27)
"""The language model's hidden states that are joined."""


def _tokenizers(pipe: Any, max_length: int) -> list[PromptTokenizer]:
    return [PromptTokenizer("qwen3", pipe.tokenizer, 0, max_length, chat_template(pipe.tokenizer, False))]


def _encode(pipe: Any, prompt: str) -> list[TextPart]:
    """Returns the hidden states behind the beginning of the template, which does not see the prompt."""
    import torch

    ids, is_word, start = template_tokens(pipe.tokenizer, chat_template(pipe.tokenizer, False), prompt, pipe)
    output = pipe.text_encoder(ids, torch.ones_like(ids), output_hidden_states=True, use_cache=False)
    joined = torch.cat([output.hidden_states[layer][0, start:] for layer in LAYERS], dim=-1)
    return [TextPart(joined, is_word, start)]


def _extend(arguments: Arguments, negative: "Tensor", positions: "Tensor") -> dict[str, Any]:
    import torch

    places, ids = shared_places(positions), arguments["txt_ids"]
    own = ids.new_zeros(*ids.shape[:-2], len(places), ids.shape[-1])
    own[..., 3] = places
    return {**prepend_text(arguments, negative, positions), "txt_ids": torch.cat([own, ids], dim=-2)}


def _decode(pipe: Any, latents: "Tensor", width: int, height: int) -> "list[Image.Image]":
    """Images from packed latents with shape (B, tokens, 4 C), as the pipeline makes them."""
    side = pixels_per_packed_token(pipe)
    packed = latents.transpose(1, 2).unflatten(2, (height // side, width // side))
    return decode_normalized(pipe, packed, pipe.vae.config.batch_norm_eps)


FLUX2 = Family(
    name="flux2",
    models=("Flux2Transformer2DModel",),
    pipelines=MappingProxyType({"Flux2KleinPipeline": Uses("Flux2KleinPipeline", "Flux2KleinInpaintPipeline", several=True)}),
    attentions=MappingProxyType(
        {"transformer_blocks.*.attn": Order.TEXT_FIRST, "single_transformer_blocks.*.attn": Order.TEXT_FIRST}
    ),
    tokenizers=_tokenizers,
    encode=_encode,
    decode=_decode,
    pixels_per_token=pixels_per_packed_token,
    size_multiple=pixels_per_packed_token,
    extend=_extend,
    grid=grid_of_ids,
    defaults=MappingProxyType(
        {
            "source": "the defaults of the family flux2; alpha and beta are starting points",
            "method": {"name": "vsf", "alpha": 3.5, "beta": 0.0},
            "num_inference_steps": 4,
            "guidance_scale": 1.0,
            "max_sequence_length": 512,
        }
    ),
)
