"""Guides a diffusers pipeline, or a denoiser of one's own loop, by a negative prompt, for the length of a `with`."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vsf_cli.errors import PatchError, RequestError
from vsf_cli.methods import VSF, Method
from vsf_cli.models import Family, family_of
from vsf_cli.models.guided_model import guided_denoisers
from vsf_cli.models.state import Encoded
from vsf_cli.prompts.prompt_weights import Weighted

__all__ = ["Applied", "guided"]

NegativePrompt = str | Weighted | Sequence[str | Weighted | Sequence[str | Weighted]]


@dataclass(frozen=True)
class Applied:
    """What was done to a model.

    Arguments:
        method: The method.
        blocks: How many attentions are guided; 0 if the negative prompt has no effect.
        tokens: How many tokens the negative prompt of each row has.
    """

    method: Method
    blocks: int
    tokens: tuple[int, ...]


def _rows(negative_prompt: NegativePrompt) -> list[list[Weighted]]:
    rows = [negative_prompt] if isinstance(negative_prompt, (str, Weighted)) else negative_prompt
    split = [[row] if isinstance(row, (str, Weighted)) else list(row) for row in rows]
    weighted = [[Weighted(prompt) if isinstance(prompt, str) else prompt for prompt in row] for row in split]
    return [[prompt for prompt in row if prompt.text.strip()] for row in weighted]


@contextmanager
def guided(
    pipe: Any,
    negative_prompt: NegativePrompt | None = None,
    method: Method | None = None,
    max_sequence_length: int | None = None,
    *,
    negative_prompt_embeds: Tensor | None = None,
) -> Iterator[Applied]:
    """Guides a pipeline by a negative prompt, inside attention, for the length of a `with` block.

    ::

        with guided(pipe, negative_prompt="wheels", method=VSF(alpha=3, beta=0.3)):
            pipe("a bike", guidance_scale=0, num_inference_steps=8)

    Every call of the pipeline inside is guided. Outside, and after an exception, the pipeline is as it was: the same objects.
    Copies of the model that are made inside are not guided.

    Arguments:
        pipe: A diffusers pipeline whose denoiser is of a family that is supported, or such a denoiser itself, for a loop
            of one's own.
        negative_prompt: One prompt for every image, or a list with one entry for each prompt of the call. An entry is a
            prompt, or a list of several; an empty one leaves its images unguided. A text is taken as it is; one with weights
            is a `Weighted`, by `parse_weights`. With `num_images_per_prompt` each entry
            comes that many times in a row, as diffusers orders its batch.
        method: The method; `VSF()` if None.
        max_sequence_length: That of the calls inside, for methods that pad the negative prompt; None means the pipeline's own
            default.
        negative_prompt_embeds: The negative prompt as the denoiser takes text, instead of a text, with shape (1 or B, tokens,
            width). A denoiser alone needs it.

    Yields:
        What was done.

    Raises:
        PatchError: If the model cannot be guided, or is guided already. Also in a call inside, if another pipeline makes it, or
            attention processors were set inside.
        RequestError: If a negative prompt is too long, the list is empty, there is no negative prompt or there are two, the
            method names a block that the model does not have, or takes no weights. Also in a call inside, if it uses CFG and
            the method is not for that, or the method has a window and the steps cannot be counted.
    """
    method = method or VSF()
    if (negative_prompt is None) == (negative_prompt_embeds is None):
        raise RequestError("give one of negative_prompt and negative_prompt_embeds")
    rows = None if negative_prompt is None else _rows(negative_prompt)
    _check_negative(rows, negative_prompt_embeds, method)
    acts = method.guides_attention or method.flips_embedding
    if not acts or (rows is not None and not any(rows)):
        yield Applied(method, 0, ())
        return

    family = family_of(pipe)
    denoisers = family.denoisers_of(pipe)
    owner = None if pipe is denoisers[0] else pipe
    if rows is None:
        assert negative_prompt_embeds is not None
        encoded = Encoded(negative_prompt_embeds, (negative_prompt_embeds.shape[1],) * len(negative_prompt_embeds))
    elif owner is None:
        raise PatchError(f"a {type(pipe).__name__} alone encodes no text: give negative_prompt_embeds, or guide its pipeline")
    else:
        encoded = _encoded(pipe, family, rows, method, max_sequence_length or _default_length(pipe))
    if method.flips_embedding:
        encoded = replace(encoded, embeddings=-getattr(method, "alpha", 1.0) * encoded.embeddings)
    with guided_denoisers(family, denoisers, method, encoded, owner) as blocks:
        yield Applied(method, blocks, encoded.lengths)


def _check_negative(rows: list[list[Weighted]] | None, embeds: Tensor | None, method: Method) -> None:
    if embeds is not None and (embeds.ndim != 3 or 0 in embeds.shape):
        raise RequestError(
            f"negative_prompt_embeds have shape {tuple(embeds.shape)}, but must have (1 or B, tokens, width), none of them 0"
        )
    if rows is not None and not rows:
        raise RequestError("negative_prompt is an empty list: give one prompt, or one for each prompt of the call")
    if method.passes_negative_prompt and (rows is None or any(rows)):
        raise RequestError(f"method {method.name} acts outside of attention: pass negative_prompt to the pipeline's own call")
    if method.flips_embedding and rows is not None and any(rows) and not all(rows):
        raise RequestError(f"{method.label} needs a negative prompt in every row: an empty one still takes attention")


def _default_length(pipe: Any) -> int:
    """The `max_sequence_length` that a pipeline's call has by default; 0 if it takes none."""
    parameter = inspect.signature(type(pipe).__call__).parameters.get("max_sequence_length")
    return 0 if parameter is None else int(parameter.default)


def _encoded(pipe: Any, family: Family, rows: list[list[Weighted]], method: Method, max_length: int) -> Encoded:
    """The negative prompts of each row, with weights if one of them has any."""
    if not method.weighs_tokens and any(not prompt.plain for row in rows for prompt in row):
        raise RequestError(f"method {method.name} knows no weights of negative prompts: leave them out, or choose vsf")
    special = method.special_tokens

    def encode(row: list[Weighted]) -> Any:
        texts = [prompt.text for prompt in row]
        return family.encode_padded(pipe, texts, max_length) if method.padding else family.encode_negative(pipe, texts, special)

    embeddings = [encode(row) if row else None for row in rows]
    example = next(tensor for tensor in embeddings if tensor is not None)
    padded = [example[:0] if tensor is None else tensor for tensor in embeddings]
    if all(prompt.plain for row in rows for prompt in row):
        return Encoded.stack(padded)
    weights = [[weight for prompt in row for weight in _weights(pipe, family, prompt, special)] for row in rows]
    return Encoded.stack(padded, [torch.tensor(row) for row in weights])


def _weights(pipe: Any, family: Family, prompt: Weighted, special_tokens: bool) -> list[float]:
    """The weight of each token of one negative prompt."""
    tokens = [token for token in family.tokens(pipe, "", [prompt.text], special_tokens, 1) if token.prompt == "negative"]
    ordered = sorted(tokens, key=lambda token: token.position)
    return [prompt.at(None if token.special else token.start) for token in ordered]
