"""Flux.2 klein and dev: joint attention of image and text in two kinds of blocks, both of which are guided.

As in Flux.1, but the tokens of a text have rotary positions that count from 0: the negative prompt has those that it would have
alone. The text encoder is a causal language model, so that an encoding without padding is one with padding, cut. Flux.2 dev
has the padding on the left, so that a text ends at the last position.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from vsf_cli.models.decoding import decode_normalized
from vsf_cli.models.family import Arguments, Family, Order, PromptTokenizer, TextPart, Uses, prepend_text, shared_places
from vsf_cli.models.flux import grid_of_ids, pixels_per_packed_token
from vsf_cli.models.prompt_tokens import chat_template, template_tokens

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

__all__ = ["FLUX2", "FLUX2_DEV"]

LAYERS, DEV_LAYERS = (9, 18, 27), (10, 20, 30)
"""The language model's hidden states that are joined, in klein and dev."""
FROM_END = 1 << 20
"""A position that stands for the end of the text with its padding, from which those of Flux.2 dev count down."""


def _tokenizers(pipe: Any, max_length: int) -> list[PromptTokenizer]:
    return [
        PromptTokenizer("qwen3", pipe.tokenizer, start=0, max_length=max_length, template=chat_template(pipe.tokenizer, False))
    ]


def _conversation(pipe: Any) -> Callable[[str], str]:
    """Returns a function that returns the text of Flux.2 dev for a prompt, without the beginning that its tokenizer adds."""
    from diffusers.pipelines.flux2.pipeline_flux2 import format_input

    tokenizer = pipe.tokenizer.tokenizer
    beginning = str(tokenizer.bos_token) if tokenizer.bos_token_id in tokenizer("").input_ids else ""

    def template(prompt: str) -> str:
        messages = format_input([prompt], pipe.system_message)
        (text,) = pipe.tokenizer.apply_chat_template(messages, add_generation_prompt=False, tokenize=False)
        return str(text).removeprefix(beginning)

    return template


def _dev_tokenizers(pipe: Any, max_length: int) -> list[PromptTokenizer]:
    left = pipe.tokenizer.tokenizer.padding_side == "left"
    return [
        PromptTokenizer(
            "mistral3", pipe.tokenizer.tokenizer, start=0, max_length=max_length, template=_conversation(pipe), from_end=left
        )
    ]


def _encode(pipe: Any, prompt: str) -> list[TextPart]:
    return [_joined(pipe, pipe.tokenizer, chat_template(pipe.tokenizer, False), prompt, LAYERS)]


def _encode_dev(pipe: Any, prompt: str) -> list[TextPart]:
    part = _joined(pipe, pipe.tokenizer.tokenizer, _conversation(pipe), prompt, DEV_LAYERS)
    left = pipe.tokenizer.tokenizer.padding_side == "left"
    return [replace(part, start=FROM_END - len(part.embeddings)) if left else part]


def _joined(pipe: Any, tokenizer: Any, template: Callable[[str], str], prompt: str, layers: tuple[int, ...]) -> TextPart:
    """Returns the hidden states behind the beginning of the template, which does not see the prompt."""
    import torch

    ids, is_word, start = template_tokens(tokenizer, template, prompt, pipe)
    masked = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    output = pipe.text_encoder(**masked, output_hidden_states=True, use_cache=False)
    return TextPart(torch.cat([output.hidden_states[layer][0, start:] for layer in layers], dim=-1), is_word, start)


def _extend(arguments: Arguments, negative: "Tensor", positions: "Tensor") -> dict[str, Any]:
    import torch

    places, ids = shared_places(positions), arguments["txt_ids"]
    own = ids.new_zeros(*ids.shape[:-2], len(places), ids.shape[-1])
    own[..., 3] = places.where(places < FROM_END // 2, places - FROM_END + ids.shape[-2])
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

FLUX2_DEV = replace(
    FLUX2,
    name="flux2-dev",
    pipelines=MappingProxyType({"Flux2Pipeline": Uses("Flux2Pipeline", several=True, needs="torchvision")}),
    tokenizers=_dev_tokenizers,
    encode=_encode_dev,
    # Its guidance is an input of the model, and there is no other.
    max_scale=math.inf,
    defaults=MappingProxyType(
        {
            "source": "the defaults of the family flux2-dev; alpha and beta are starting points",
            "method": {"name": "vsf", "alpha": 3.5, "beta": 0.0},
            "num_inference_steps": 28,
            "guidance_scale": 4.0,
            "max_sequence_length": 512,
        }
    ),
)
