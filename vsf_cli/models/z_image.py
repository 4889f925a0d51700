"""Z-Image: one sequence of image and text, whose text first goes through blocks of its own.

There each prompt is a text by itself, padded by a learned token. Behind them the negative prompt joins the sequence at its end,
at the distance from the image that it would have alone.
"""

from collections.abc import Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from vsf_cli.errors import PatchError
from vsf_cli.models.decoding import decode_scaled
from vsf_cli.models.family import Arguments, Family, Order, PromptTokenizer, TextPart, Uses
from vsf_cli.models.flux import pixels_per_packed_token
from vsf_cli.models.prompt_tokens import chat_template, template_tokens

if TYPE_CHECKING:
    from torch import Tensor

    from vsf_cli.models.state import Encoded

__all__ = ["Z_IMAGE"]

MULTIPLE = 32
"""The numbers of tokens of a text and of an image are multiples of it, by padding."""


def _tokenizers(pipe: Any, max_length: int) -> list[PromptTokenizer]:
    return [
        PromptTokenizer("qwen3", pipe.tokenizer, start=0, max_length=max_length, template=chat_template(pipe.tokenizer, True))
    ]


def _encode(pipe: Any, prompt: str) -> list[TextPart]:
    """Returns the hidden states of the last layer but one, of the whole template."""
    import torch

    ids, is_word, start = template_tokens(pipe.tokenizer, chat_template(pipe.tokenizer, True), prompt, pipe)
    states = pipe.text_encoder(ids, torch.ones_like(ids), output_hidden_states=True).hidden_states[-2][0]
    return [TextPart(states, torch.cat([is_word.new_zeros(start), is_word]), beginning=start)]


def _text(arguments: Arguments) -> "Tensor | None":
    texts = arguments["cap_feats"]
    if not texts or arguments.get("controlnet_block_samples") is not None or isinstance(texts[0], list):
        raise PatchError("Z-Image with a ControlNet or with images of reference cannot be guided")
    return texts[0].new_empty(len(texts), _padded(max(map(len, texts))), texts[0].shape[-1])


def _padded(length: int) -> int:
    return length + -length % MULTIPLE


def _add_texts(parts: Any, args: Sequence[Any], groups: "Sequence[Encoded]", denoiser: Any) -> Any:
    """Returns the parts of images and texts, with the negative prompts as further texts."""
    _, texts, _, _, ids, _, paddings = parts
    for row in range(len(texts)):
        for text, _ in (text for group in groups for text in group.texts(row)):
            own = denoiser._pad_with_ids(text, (_padded(len(text)), 1, 1), (1, 0, 0), text.device)
            for of_all, of_text in zip((texts, ids, paddings), own[:3], strict=True):
                of_all.append(of_text)
    return parts


def _join(output: Any, args: Sequence[Any], groups: "Sequence[Encoded]", denoiser: Any) -> Any:
    """Returns the sequence of image and text, its frequencies and its mask, with the negative prompt at the end."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    sequence, frequencies, mask, noise = output
    texts, lengths = args[4], args[6]
    number, rows = len(sequence), []
    for row in range(len(sequence)):
        for group in groups:
            states, rotary = [texts[:0, 0]], [frequencies[:0, 0]]
            for _, places in group.texts(row):
                seen = (places >= 0).nonzero()[:, 0]
                states.append(texts[number, seen.to(texts.device)])
                rotary.append(_rotary(denoiser, 1 + seen + lengths[row] - lengths[number]))
                number += 1
            rows.append((torch.cat(states), torch.cat(rotary)))
    padded = [
        torch.cat([pad_sequence(list(part[n :: len(groups)]), batch_first=True) for n in range(len(groups))], dim=1)
        for part in zip(*rows, strict=True)
    ]
    sequence, frequencies = (torch.cat(pair, dim=1) for pair in zip((sequence, frequencies), padded, strict=True))
    if mask is not None:
        mask = torch.cat([mask, mask.new_ones(padded[0].shape[:2])], dim=1)
    return sequence, frequencies, mask, noise


def _rotary(denoiser: Any, places: "Tensor") -> "Tensor":
    """Returns the frequencies at positions with shape (tokens,); those below 0 turn the other way."""
    import torch

    ids = torch.stack([places.abs(), *[torch.zeros_like(places)] * 2], dim=-1).to(denoiser.device)
    turned = denoiser.rope_embedder(ids)
    return torch.where((places < 0).to(turned.device)[:, None], turned.conj(), turned)


def _grid(arguments: Arguments, denoiser: Any) -> tuple[int, int, int]:
    _, frames, height, width = arguments["x"][0].shape
    return frames // arguments.get("f_patch_size", 1), *(side // arguments.get("patch_size", 2) for side in (height, width))


Z_IMAGE = Family(
    name="z-image",
    models=("ZImageTransformer2DModel",),
    pipelines=MappingProxyType({"ZImagePipeline": Uses("ZImageImg2ImgPipeline", "ZImageInpaintPipeline")}),
    attentions=MappingProxyType({"layers.*.attention": Order.TEXT_LAST}),
    tokenizers=_tokenizers,
    encode=_encode,
    decode=lambda pipe, latents, width, height: decode_scaled(pipe, latents),
    pixels_per_token=pixels_per_packed_token,
    size_multiple=pixels_per_packed_token,
    extend=lambda arguments, negative, positions: dict(arguments),
    text=_text,
    inside=MappingProxyType({"patchify_and_embed": _add_texts, "_build_unified_sequence": _join}),
    hides_tokens=True,
    grid=_grid,
    # Its pipeline adds 1 to the scale.
    max_scale=0.0,
    defaults=MappingProxyType(
        {
            "source": "the defaults of the family z-image; alpha and beta are starting points",
            "method": {"name": "vsf", "alpha": 2.0, "beta": 0.0},
            "num_inference_steps": 9,
            "max_sequence_length": 512,
        }
    ),
)
