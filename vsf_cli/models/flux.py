"""Flux.1: joint attention of image and text in two kinds of blocks, both of which are guided.

In the first blocks text and image have weights of their own; in the others they are one sequence. The negative prompt stands
before the positive one, and evolves through all of them. Its rotary positions are zeros, as those of all text.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from vsf_cli.errors import PatchError
from vsf_cli.models.decoding import decode_scaled
from vsf_cli.models.family import Arguments, Family, Order, PromptTokenizer, TextPart, Uses, prepend_text
from vsf_cli.models.prompt_tokens import token_ids, word_tokens

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

__all__ = [
    "FLUX",
    "decode_packed",
    "extend_with_ids",
    "grid_of_ids",
    "pixels_per_packed_token",
    "unpacked",
    "uses_true_cfg",
]


def _tokenizers(pipe: Any, max_length: int) -> list[PromptTokenizer]:
    return [PromptTokenizer("t5", pipe.tokenizer_2, start=0, max_length=max_length)]


def _encode(pipe: Any, prompt: str) -> list[TextPart]:
    """Returns the embeddings of the T5. CLIP's pooled vector, which modulates all rows, stays that of the positive prompt."""
    if pipe.text_encoder_2 is None:
        raise PatchError("the pipeline has no T5, so a negative prompt cannot be encoded")
    ids = token_ids(pipe.tokenizer_2, prompt, pipe)
    return [TextPart(pipe.text_encoder_2(ids)[0][0], word_tokens(pipe.tokenizer_2, ids))]


def extend_with_ids(arguments: Arguments, negative: "Tensor", positions: "Tensor", mask: str = "") -> dict[str, Any]:
    """Returns the arguments of `prepend_text`, and positions of zeros for the negative prompt."""
    import torch

    ids = arguments["txt_ids"]
    zeros = ids.new_zeros(*ids.shape[:-2], negative.shape[1], ids.shape[-1])
    return {**prepend_text(arguments, negative, positions, mask), "txt_ids": torch.cat([zeros, ids], dim=-2)}


def unpacked(pipe: Any, latents: "Tensor", width: int, height: int) -> "Tensor":
    """Returns latents with shape (B, C, h, w) from packed ones, whose tokens are squares of 2 x 2."""
    return pipe._unpack_latents(latents, height, width, pipe.vae_scale_factor)


def decode_packed(pipe: Any, latents: "Tensor", width: int, height: int) -> "list[Image.Image]":
    """Returns images from packed latents, which have one scale and one shift."""
    return decode_scaled(pipe, unpacked(pipe, latents, width, height))


def pixels_per_packed_token(pipe: Any) -> int:
    """Returns the side in pixels of a token that is a square of 2 x 2 latents."""
    return int(2 * pipe.vae_scale_factor)


def grid_of_ids(arguments: Arguments, denoiser: Any) -> tuple[int, int, int]:
    """Returns the frames, rows and columns of image tokens, from their positions; images that are edited have other times."""
    ids = arguments["img_ids"].flatten(0, -2)
    rows, columns = (int(1 + ids[ids[:, 0] == 0, axis].max()) for axis in (1, 2))
    return 1, rows, columns


def uses_true_cfg(pipe: Any, variables: Mapping[str, Any]) -> bool:
    """Returns whether a running pipeline, whose `guidance_scale` is an input of the model, uses classifier-free guidance."""
    return bool(variables.get("do_true_cfg"))


FLUX = Family(
    name="flux",
    models=("FluxTransformer2DModel",),
    pipelines=MappingProxyType(
        {
            "FluxPipeline": Uses("FluxImg2ImgPipeline", "FluxInpaintPipeline"),
            "FluxKontextPipeline": Uses("FluxKontextPipeline", "FluxKontextInpaintPipeline"),
            "FluxFillPipeline": Uses(mask="FluxFillPipeline", text=False),
        }
    ),
    attentions=MappingProxyType(
        {"transformer_blocks.*.attn": Order.TEXT_FIRST, "single_transformer_blocks.*.attn": Order.TEXT_FIRST}
    ),
    tokenizers=_tokenizers,
    encode=_encode,
    decode=decode_packed,
    pixels_per_token=pixels_per_packed_token,
    size_multiple=pixels_per_packed_token,
    extend=extend_with_ids,
    grid=grid_of_ids,
    runs_cfg=uses_true_cfg,
    cfg_argument="true_cfg_scale",
    defaults=MappingProxyType(
        {
            "source": "the defaults of the family flux; alpha and beta are starting points",
            "method": {"name": "vsf", "alpha": 3.5, "beta": 0.1},
            "num_inference_steps": 4,
            "max_sequence_length": 256,
        }
    ),
)
