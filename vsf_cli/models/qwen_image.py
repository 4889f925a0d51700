"""Qwen-Image: joint attention of image and text, as in Stable Diffusion 3, with rotary positions.

The tokens of a text have positions that count from the end of the image's: the negative prompt has those that it would have
alone. The text encoder is a causal language model, so that an encoding without padding is one with padding, cut.
"""

from collections.abc import Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from vsf_cli.errors import PatchError
from vsf_cli.models.family import Arguments, Family, Order, PromptTokenizer, TextPart, prepend_text
from vsf_cli.models.flux import unpacked, uses_true_cfg
from vsf_cli.models.prompt_tokens import template_tokens

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

__all__ = ["QWEN_IMAGE", "decoded"]


def _tokenizers(pipe: Any, max_length: int) -> list[PromptTokenizer]:
    dropped, template = pipe.prompt_template_encode_start_idx, pipe.prompt_template_encode.format
    return [PromptTokenizer("qwen2.5-vl", pipe.tokenizer, -dropped, max_length + dropped, template)]


def _encode(pipe: Any, prompt: str) -> list[TextPart]:
    """Returns the last hidden states behind the beginning of the template, which does not see the prompt."""
    import torch

    if pipe.text_encoder is None:
        raise PatchError("the pipeline has no text encoder, so a negative prompt cannot be encoded")
    ids, is_word, start = template_tokens(pipe.tokenizer, pipe.prompt_template_encode.format, prompt, pipe)
    output = pipe.text_encoder(input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True)
    return [TextPart(output.hidden_states[-1][0, start:], is_word, start - pipe.prompt_template_encode_start_idx)]


def _encode_padded(pipe: Any, prompts: Sequence[str], max_length: int) -> "Tensor":
    """The pipeline pads a prompt only to the length of others in its batch."""
    import torch

    with torch.no_grad():
        return pipe.encode_prompt(", ".join(prompts), max_sequence_length=max_length)[0][0]


def _extend(arguments: Arguments, negative: "Tensor", positions: "Tensor") -> dict[str, Any]:
    import torch

    extended, mask = prepend_text(arguments, negative, positions), arguments.get("encoder_hidden_states_mask")
    if mask is not None:
        extended["encoder_hidden_states_mask"] = torch.cat([mask.new_ones(negative.shape[:2]), mask], dim=1)
    return extended


def _rotate(frequencies: tuple["Tensor", "Tensor"], places: "Tensor") -> tuple["Tensor", "Tensor"]:
    """Returns the frequencies of image and text, those of the text for the negative prompt at its own positions first."""
    import torch

    image, text = frequencies
    return image, torch.cat([text[places], text[: len(text) - len(places)]])


def _decode(pipe: Any, latents: "Tensor", width: int, height: int) -> "list[Image.Image]":
    """Images from packed latents with shape (B, tokens, 4 C), as the pipeline makes them."""
    return decoded(pipe, unpacked(pipe, latents, width, height))


def decoded(pipe: Any, latents: "Tensor") -> "list[Image.Image]":
    """Returns images from latents with shape (B, C, 1, h, w)."""
    import torch

    vae = pipe.vae
    mean, std = (
        torch.tensor(numbers).view(1, -1, 1, 1, 1).to(pipe._execution_device, vae.dtype)
        for numbers in (vae.config.latents_mean, vae.config.latents_std)
    )
    with torch.no_grad():
        frames = vae.decode(latents.to(vae.dtype) * std + mean, return_dict=False)[0]
    return pipe.image_processor.postprocess(frames[:, :, 0], output_type="pil")


def _pixels_per_token(pipe: Any) -> int:
    return int(2 * pipe.vae_scale_factor)


def _grid(arguments: Arguments, denoiser: Any) -> tuple[int, int, int]:
    """The first of an image's shapes is that of the image which is made; others are those of images that are edited."""
    frames, rows, columns = arguments["img_shapes"][0][0]
    return frames, rows, columns


QWEN_IMAGE = Family(
    name="qwen-image",
    models=("QwenImageTransformer2DModel",),
    pipelines=("QwenImagePipeline",),
    attentions=MappingProxyType({"transformer_blocks.*.attn": Order.TEXT_FIRST}),
    tokenizers=_tokenizers,
    encode=_encode,
    encode_padded=_encode_padded,
    decode=_decode,
    pixels_per_token=_pixels_per_token,
    size_multiple=_pixels_per_token,
    extend=_extend,
    rotary="pos_embed",
    rotate=_rotate,
    grid=_grid,
    runs_cfg=uses_true_cfg,
    cfg_argument="true_cfg_scale",
    defaults=MappingProxyType(
        {
            "source": "the defaults of the family qwen-image; alpha and beta are starting points",
            "method": {"name": "vsf", "alpha": 3.0, "beta": 0.0},
            "num_inference_steps": 8,
            "max_sequence_length": 512,
        }
    ),
)
