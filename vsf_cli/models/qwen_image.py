"""Qwen-Image: joint attention of image and text, as in Stable Diffusion 3, with rotary positions.

The tokens of a text have positions that count from the end of the image's: the negative prompt has those that it would have
alone. The text encoder is a causal language model, so that an encoding without padding is one with padding, cut.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from vsf_cli.models.decoding import decode_whitened
from vsf_cli.models.family import Arguments, Family, Order, PromptTokenizer, TextPart, Uses, prepend_text, shared_places
from vsf_cli.models.flux import pixels_per_packed_token, unpacked, uses_true_cfg
from vsf_cli.models.prompt_tokens import template_tokens

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from vsf_cli.models.state import Encoded

__all__ = ["QWEN_IMAGE"]


EDITS: Mapping[str, Any] = MappingProxyType({"text": False, "needs": "torchvision"})


def _template(pipe: Any) -> Callable[[str], str]:
    """The negative prompt of a model that edits images is encoded without an image."""
    return str(pipe.prompt_template_encode).replace("<|vision_start|><|image_pad|><|vision_end|>", "").format


def _tokenizers(pipe: Any, max_length: int) -> list[PromptTokenizer]:
    dropped, edits = pipe.prompt_template_encode_start_idx, hasattr(pipe, "processor")
    return [
        PromptTokenizer(
            "qwen2.5-vl",
            pipe.tokenizer,
            start=-dropped,
            max_length=max_length + dropped,
            template=_template(pipe),
            from_end=edits,
        )
    ]


def _encode(pipe: Any, prompt: str) -> list[TextPart]:
    """Returns the last hidden states behind the beginning of the template, which does not see the prompt."""
    import torch

    ids, is_word, start = template_tokens(pipe.tokenizer, _template(pipe), prompt, pipe)
    output = pipe.text_encoder(input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True)
    return [TextPart(output.hidden_states[-1][0, start:], is_word, start - pipe.prompt_template_encode_start_idx)]


def _rotate(
    frequencies: tuple["Tensor", "Tensor"], args: Sequence[Any], groups: "Sequence[Encoded]", denoiser: Any
) -> tuple["Tensor", "Tensor"]:
    """Returns the frequencies of image and text, those of the text for the negative prompt at its own positions first."""
    import torch

    image, text = frequencies
    places = shared_places(torch.cat([one.places for one in groups], dim=1))
    return image, torch.cat([text[places], text[: len(text) - len(places)]])


def _decode(pipe: Any, latents: "Tensor", width: int, height: int) -> "list[Image.Image]":
    """Images from packed latents with shape (B, tokens, 4 C), as the pipeline makes them."""
    frames = decode_whitened(pipe, unpacked(pipe, latents, width, height))
    return pipe.image_processor.postprocess(frames[:, :, 0], output_type="pil")


def _grid(arguments: Arguments, denoiser: Any) -> tuple[int, int, int]:
    """The first of an image's shapes is that of the image which is made; others are those of images that are edited."""
    frames, rows, columns = arguments["img_shapes"][0][0]
    return frames, rows, columns


QWEN_IMAGE = Family(
    name="qwen-image",
    models=("QwenImageTransformer2DModel",),
    pipelines=MappingProxyType(
        {
            "QwenImagePipeline": Uses("QwenImageImg2ImgPipeline", "QwenImageInpaintPipeline"),
            "QwenImageEditPipeline": Uses("QwenImageEditPipeline", "QwenImageEditInpaintPipeline", **EDITS),
            "QwenImageEditPlusPipeline": Uses("QwenImageEditPlusPipeline", several=True, **EDITS),
        }
    ),
    attentions=MappingProxyType({"transformer_blocks.*.attn": Order.TEXT_FIRST}),
    tokenizers=_tokenizers,
    encode=_encode,
    decode=_decode,
    pixels_per_token=pixels_per_packed_token,
    size_multiple=pixels_per_packed_token,
    extend=partial(prepend_text, mask="encoder_hidden_states_mask"),
    inside=MappingProxyType({"pos_embed.forward": _rotate}),
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
