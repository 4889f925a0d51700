"""SANA-Sprint: cross attention of the image's tokens to the text; the attention among the image is a linear one.

The negative prompt follows the positive prompt and its masked padding (paper, equation 6). The text encoder reads an
instruction before a prompt, of which only the token for the beginning is kept; of a negative prompt not even that one.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from vsf_cli.models.family import Family, Order, PromptTokenizer, TextPart, Uses, append_text, call_parameters, pixels_per_patch
from vsf_cli.models.prompt_tokens import template_tokens

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

__all__ = ["SANA"]

MULTIPLE = 32
"""Its pipelines take only sides that are multiples of it, whatever the autoencoder is."""


def _instruction(pipe: Any) -> list[str]:
    return list(call_parameters(pipe)["complex_human_instruction"].default)


def _template(pipe: Any) -> Callable[[str], str]:
    instruction = "\n".join(_instruction(pipe))
    return lambda prompt: instruction + prompt


def _tokenizers(pipe: Any, max_length: int) -> list[PromptTokenizer]:
    template = _template(pipe)
    # The last token of the instruction, a space, is part of the prompt's first one.
    dropped = len(pipe.tokenizer(template("")).input_ids) - 2
    return [PromptTokenizer("gemma", pipe.tokenizer, start=-dropped, max_length=max_length + dropped, template=template)]


def _encode(pipe: Any, prompt: str) -> list[TextPart]:
    """Returns the last hidden states behind the instruction."""
    import torch

    ids, is_word, start = template_tokens(pipe.tokenizer, _template(pipe), prompt, pipe)
    return [TextPart(pipe.text_encoder(ids, attention_mask=torch.ones_like(ids))[0][0, start:], is_word)]


def _encode_padded(pipe: Any, prompts: Sequence[str], max_length: int) -> "Tensor":
    """The model masks the padding, so that there is none here."""
    import torch

    options = {"max_sequence_length": max_length, "complex_human_instruction": _instruction(pipe)}
    with torch.no_grad():
        states, mask = pipe.encode_prompt(", ".join(prompts), **options)
    return states[0][mask[0].bool()]


def _decode(pipe: Any, latents: "Tensor", width: int, height: int) -> "list[Image.Image]":
    """Images from the latents of the scheduler, whose standard deviation is its own."""
    import torch

    vae, scale = pipe.vae, pipe.scheduler.config.sigma_data * pipe.vae.config.scaling_factor
    with torch.no_grad():
        pixels = vae.decode(latents.to(pipe._execution_device, vae.dtype) / scale).sample
    return pipe.image_processor.postprocess(pixels, output_type="pil")


def _call(steps: int) -> Mapping[str, Any]:
    """Returns images of the size that was asked for, and the model's own second timestep in runs of two steps."""
    return {"use_resolution_binning": False, "intermediate_timesteps": 1.3 if steps == 2 else None}


SANA = Family(
    name="sana",
    models=("SanaTransformer2DModel",),
    pipelines=MappingProxyType({"SanaSprintPipeline": Uses("SanaSprintImg2ImgPipeline")}),
    attentions=MappingProxyType({"transformer_blocks.*.attn2": Order.CROSS}),
    tokenizers=_tokenizers,
    encode=_encode,
    encode_padded=_encode_padded,
    decode=_decode,
    pixels_per_token=pixels_per_patch,
    size_multiple=lambda pipe: math.lcm(pixels_per_patch(pipe), MULTIPLE),
    extend=partial(append_text, mask="encoder_attention_mask"),
    clean=lambda prompt: prompt.lower().strip(),
    call=_call,
    # Its guidance is an input of the model, and there is no other.
    max_scale=math.inf,
    max_length=300,
    defaults=MappingProxyType(
        {
            "source": "the defaults of the family sana; alpha and beta are starting points",
            "method": {"name": "vsf", "alpha": 2.0, "beta": 0.0},
            "num_inference_steps": 2,
            "guidance_scale": 4.5,
            "width": 1024,
            "height": 1024,
            "max_sequence_length": 300,
        }
    ),
)
