"""SDXL, and Stable Diffusion 1.5 and 2: the U-Net's cross attention of the image's tokens to the text.

The negative prompt follows the positive prompt and its padding (paper, equation 6). Its keys and values do not evolve. CLIP's
token for the beginning is the same in every prompt and takes most of the attention, so that presets leave special tokens out.
"""

from collections.abc import Sequence
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from vsf_cli.errors import PatchError
from vsf_cli.models.family import Arguments, Family, Order, PromptTokenizer, TextPart, Uses, append_text
from vsf_cli.models.prompt_tokens import token_ids, word_tokens

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

__all__ = ["UNET", "first_level"]


def _tokenizers(pipe: Any, max_length: int) -> list[PromptTokenizer]:
    return [PromptTokenizer("clip", pipe.tokenizer, start=0, max_length=pipe.tokenizer.model_max_length)]


def _encode(pipe: Any, prompt: str) -> list[TextPart]:
    """Returns the joined embeddings of both CLIP encoders of SDXL, or those of the one of the others.

    CLIP is causal, so that these are its embeddings with padding, cut. The pooled vector stays that of the positive prompt.
    """
    import torch

    if pipe.text_encoder is None:
        raise PatchError("the pipeline has no CLIP text encoder, so a negative prompt cannot be encoded")
    ids = token_ids(pipe.tokenizer, prompt, pipe)
    is_word = word_tokens(pipe.tokenizer, ids)
    if not hasattr(pipe, "text_encoder_2"):
        return [TextPart(pipe.text_encoder(ids)[0][0], is_word)]
    encoders = (pipe.text_encoder, ids), (pipe.text_encoder_2, token_ids(pipe.tokenizer_2, prompt, pipe))
    parts = [encoder(row, output_hidden_states=True).hidden_states[-2][0] for encoder, row in encoders]
    return [TextPart(torch.cat(parts, dim=-1), is_word)]


def _decode(pipe: Any, latents: "Tensor", width: int, height: int) -> "list[Image.Image]":
    """Images from latents with shape (B, C, h, w), as the pipeline makes them, but always in float32."""
    import torch

    vae, dtype = pipe.vae, pipe.vae.dtype
    vae.to(torch.float32)
    try:
        scaled = latents.to(pipe._execution_device, torch.float32) / vae.config.scaling_factor
        with torch.no_grad():
            return pipe.image_processor.postprocess(vae.decode(scaled).sample, output_type="pil")
    finally:
        vae.to(dtype)


def first_level(blocks: Sequence[str]) -> int:
    """Returns how often the image is halved before the first cross attention, by the names of the blocks."""
    return next(level for level, name in enumerate(blocks) if "CrossAttn" in name)


def _pixels_per_token(pipe: Any) -> int:
    return int(pipe.vae_scale_factor * 2 ** first_level(pipe.unet.config.down_block_types))


def _size_multiple(pipe: Any) -> int:
    return int(pipe.vae_scale_factor * 2 ** (len(pipe.unet.config.down_block_types) - 1))


def _grid(arguments: Arguments, unet: Any) -> tuple[int, int, int]:
    rows, columns = (side // 2 ** first_level(unet.config.down_block_types) for side in arguments["sample"].shape[-2:])
    return 1, rows, columns


UNET = Family(
    name="unet",
    models=("UNet2DConditionModel",),
    pipelines=MappingProxyType(
        {
            "StableDiffusionXLPipeline": Uses("StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline"),
            "StableDiffusionPipeline": Uses("StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"),
        }
    ),
    attentions=MappingProxyType({"*.attn2": Order.CROSS}),
    last="up_blocks.",
    tokenizers=_tokenizers,
    encode=_encode,
    decode=_decode,
    pixels_per_token=_pixels_per_token,
    size_multiple=_size_multiple,
    extend=partial(append_text, mask="encoder_attention_mask"),
    denoisers=("unet",),
    grid=_grid,
    defaults=MappingProxyType(
        {
            "source": "the defaults of the family unet; alpha and beta are starting points",
            "method": {"name": "vsf", "alpha": 2.0, "beta": 0.0, "special_tokens": False},
            "num_inference_steps": 4,
        }
    ),
)
