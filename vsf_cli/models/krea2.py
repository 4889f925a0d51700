"""Krea 2: one sequence of text and image, whose text first goes through blocks of its own.

The negative prompt stands before the positive one. In the blocks of the text alone, prompts do not see each other. The rotary
positions of all text are zeros.
"""

from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from vsf_cli.models.decoding import decode_whitened
from vsf_cli.models.family import Arguments, Family, Order, PromptTokenizer, TextPart, Uses, prepend_text
from vsf_cli.models.prompt_tokens import template_tokens

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

__all__ = ["KREA2"]


def _template(pipe: Any) -> Callable[[str], str]:
    return lambda prompt: f"{pipe.prompt_template_encode_prefix}{prompt}{pipe.prompt_template_encode_suffix}"


def _tokenizers(pipe: Any, max_length: int) -> list[PromptTokenizer]:
    dropped = pipe.prompt_template_encode_start_idx
    return [
        PromptTokenizer("qwen3-vl", pipe.tokenizer, start=-dropped, max_length=max_length + dropped, template=_template(pipe))
    ]


def _encode(pipe: Any, prompt: str) -> list[TextPart]:
    """Returns hidden states of several layers, with shape (tokens, layers, width), behind the template's beginning."""
    import torch

    ids, is_word, start = template_tokens(pipe.tokenizer, _template(pipe), prompt, pipe)
    states = pipe.text_encoder(input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True).hidden_states
    stacked = torch.stack([states[layer][0, start:] for layer in pipe.text_encoder_select_layers], dim=1)
    return [TextPart(stacked, is_word)]


def _encode_padded(pipe: Any, prompts: Sequence[str], max_length: int) -> "Tensor":
    """The model masks the padding, so that there is none here."""
    import torch

    with torch.no_grad():
        states, mask = pipe.encode_prompt(", ".join(prompts), max_sequence_length=max_length)
    return states[0][mask[0]]


def _extend(arguments: Arguments, negative: "Tensor", positions: "Tensor") -> dict[str, Any]:
    import torch

    ids, extended = arguments["position_ids"], prepend_text(arguments, negative, positions, "encoder_attention_mask")
    return {**extended, "position_ids": torch.cat([ids.new_zeros(negative.shape[1], ids.shape[1]), ids])}


def _decode(pipe: Any, latents: "Tensor", width: int, height: int) -> "list[Image.Image]":
    frames = decode_whitened(pipe, pipe._unpack_latents(latents, height, width))
    return pipe.image_processor.postprocess(frames[:, :, 0], output_type="pil")


def _pixels_per_token(pipe: Any) -> int:
    return int(pipe.patch_size * pipe.vae_scale_factor)


def _grid(arguments: Arguments, denoiser: Any) -> tuple[int, int, int]:
    rows, columns = (int(1 + arguments["position_ids"][:, axis].max()) for axis in (1, 2))
    return 1, rows, columns


KREA2 = Family(
    name="krea2",
    models=("Krea2Transformer2DModel",),
    pipelines=MappingProxyType({"Krea2Pipeline": Uses()}),
    attentions=MappingProxyType({"transformer_blocks.*.attn": Order.TEXT_FIRST}),
    isolated=("text_fusion.refiner_blocks.*.attn",),
    tokenizers=_tokenizers,
    encode=_encode,
    encode_padded=_encode_padded,
    decode=_decode,
    pixels_per_token=_pixels_per_token,
    size_multiple=_pixels_per_token,
    extend=_extend,
    grid=_grid,
    # Its pipeline adds 1 to the scale.
    max_scale=0.0,
    defaults=MappingProxyType(
        {
            "source": "the defaults of the family krea2; alpha and beta are starting points",
            "method": {"name": "vsf", "alpha": 1.5, "beta": 0.0},
            "num_inference_steps": 8,
            "max_sequence_length": 512,
        }
    ),
)
