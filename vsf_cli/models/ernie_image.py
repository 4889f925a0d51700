"""ERNIE-Image: one sequence of image and text.

The negative prompt stands at its end, at the distance from the image that it would have alone: the image's position is the
number of the text's tokens. (The model's factors are no plain rotation: the same distance from another position is not quite
the same.) The model knows neither these positions nor that the image sees more than its text. The token for a text's beginning
is the same in every prompt, since the text encoder is causal, so that presets leave special tokens out.
"""

from collections.abc import Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from vsf_cli.errors import PatchError
from vsf_cli.models.decoding import decode_normalized
from vsf_cli.models.family import Arguments, Family, Order, PromptTokenizer, TextPart, Uses, pixels_per_patch
from vsf_cli.models.prompt_tokens import token_ids, word_tokens

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from vsf_cli.models.state import Encoded

__all__ = ["ERNIE_IMAGE"]


def _tokenizers(pipe: Any, max_length: int) -> list[PromptTokenizer]:
    return [PromptTokenizer("mistral", pipe.tokenizer, start=0, max_length=pipe.tokenizer.model_max_length)]


def _encode(pipe: Any, prompt: str) -> list[TextPart]:
    """Returns the hidden states of the last layer but one."""
    if pipe.text_encoder is None:
        raise PatchError("the pipeline has no text encoder, so a negative prompt cannot be encoded")
    ids = token_ids(pipe.tokenizer, prompt, pipe)
    states = pipe.text_encoder(input_ids=ids, output_hidden_states=True).hidden_states[-2][0]
    return [TextPart(states, word_tokens(pipe.tokenizer, ids))]


def _encode_padded(pipe: Any, prompts: Sequence[str], max_length: int) -> "Tensor":
    """The pipeline has no padding either."""
    states: Tensor = pipe.encode_prompt(", ".join(prompts), pipe._execution_device)[0]
    return states


def _extend(arguments: Arguments, negative: "Tensor", positions: "Tensor") -> dict[str, Any]:
    """Returns the arguments with the negative prompt behind the text and its padding, whose length stays what it is."""
    import torch

    return {**arguments, "text_bth": torch.cat([arguments["text_bth"], negative], dim=1)}


def _rotate(angles: "Tensor", args: Sequence[Any], groups: "Sequence[Encoded]", denoiser: Any) -> "Tensor":
    """Returns the angles of image and text, and those of the negative prompt at its distance from the image."""
    import torch

    places = torch.cat([_places_before_end(one) for one in groups], dim=1).to(angles.device)
    ids = args[0][:, -places.shape[1] :].clone()
    # The first position is that of the image.
    ids[..., 0] = args[0][:, :1, 0] + places
    embedder = denoiser.pos_embed
    return torch.cat([angles[:, : -places.shape[1]], type(embedder).forward(embedder, ids)], dim=1)


def _places_before_end(group: "Encoded") -> "Tensor":
    """Returns the position of each token, counted from the end of its own text, with shape (B, N): -1 is the last token's."""
    import torch

    if group.positions is None:
        return group.places - torch.tensor(group.lengths)[:, None]
    counted = group.positions.clone()
    for row, own in zip(counted, group.positions.tolist(), strict=True):
        end = 0
        for index in reversed(range(len(own))):
            if index + 1 == len(own) or own[index + 1] <= own[index]:
                end = own[index] + 1
            row[index] -= end
    return counted


def _decode(pipe: Any, latents: "Tensor", width: int, height: int) -> "list[Image.Image]":
    # The pipeline's own constant, which is not the autoencoder's.
    return decode_normalized(pipe, latents, 1e-5)


ERNIE_IMAGE = Family(
    name="ernie-image",
    models=("ErnieImageTransformer2DModel",),
    pipelines=MappingProxyType({"ErnieImagePipeline": Uses()}),
    attentions=MappingProxyType({"layers.*.self_attention": Order.TEXT_LAST}),
    tokenizers=_tokenizers,
    encode=_encode,
    encode_padded=_encode_padded,
    decode=_decode,
    pixels_per_token=pixels_per_patch,
    size_multiple=pixels_per_patch,
    extend=_extend,
    text=lambda arguments: arguments.get("text_bth"),
    inside=MappingProxyType({"pos_embed.forward": _rotate}),
    masks_negative=True,
    # Else a language model rewrites the prompt, by chance.
    call=lambda steps: {"use_pe": False},
    defaults=MappingProxyType(
        {
            "source": "the defaults of the family ernie-image; alpha and beta are starting points",
            "method": {"name": "vsf", "alpha": 2.0, "beta": 0.0, "special_tokens": False},
            "num_inference_steps": 8,
            "guidance_scale": 1.0,
            "width": 1024,
            "height": 1024,
        }
    ),
)
