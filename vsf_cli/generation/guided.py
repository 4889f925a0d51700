"""Guides a diffusers pipeline by a negative prompt, for the length of a `with`."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch

from vsf_cli.errors import RequestError
from vsf_cli.methods import VSF, Method
from vsf_cli.models import Encoded, Family, Guidance, family_of
from vsf_cli.models.patching import patched
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
    negative_prompt: NegativePrompt,
    method: Method | None = None,
    max_sequence_length: int | None = None,
    cache_text: bool = False,
) -> Iterator[Applied]:
    """Guides a pipeline by a negative prompt, inside attention, for the length of a `with` block.

    ::

        with guided(pipe, negative_prompt="wheels", method=VSF(alpha=3, beta=0.3)):
            pipe("a bike", guidance_scale=0, num_inference_steps=8)

    Every call of the pipeline inside is guided. Outside, and after an exception, the pipeline is as it was: the same objects.

    Arguments:
        pipe: A diffusers pipeline of a family that is supported.
        negative_prompt: One prompt for every picture, or a list with one entry for each prompt of the call. An entry is a
            prompt, or a list of several; an empty one leaves its pictures unguided. A text is taken as it is; one with weights
            is a `Weighted`, by `parse_weights`. With `num_images_per_prompt` each entry
            comes that many times in a row, as diffusers orders its batch.
        method: The method; `VSF()` if None.
        max_sequence_length: That of the calls inside, for methods that pad the negative prompt; None means the pipeline's own
            default.
        cache_text: Whether the keys and values of the text, which in cross attention are the same at all steps, are computed
            once; with every method, `none` too.

    Yields:
        What was done.

    Raises:
        PatchError: If the pipeline cannot be guided, or is guided already.
        RequestError: If a negative prompt is too long, the list is empty, or the model's text changes from step to step and
            cannot be cached, the method names a block that the model has not, or knows no weights. Also in a call inside, if
            its `guidance_scale` is above 1 and the method is not for models that use CFG.
    """
    caching = family_of(pipe).caching_text(pipe) if cache_text else nullcontext()
    with caching, _applied(pipe, negative_prompt, method or VSF(), max_sequence_length) as applied:
        yield applied


@contextmanager
def _applied(pipe: Any, negative_prompt: NegativePrompt, method: Method, max_sequence_length: int | None) -> Iterator[Applied]:
    rows = _rows(negative_prompt)
    if not rows:
        raise RequestError("negative_prompt is an empty list: give one prompt, or one for each prompt of the call")
    if method.passes_negative_prompt and any(rows):
        raise RequestError(f"method {method.name} acts outside of attention: pass negative_prompt to the pipeline's own call")
    if not (method.guides_attention or method.flips_embedding) or not any(rows):
        yield Applied(method, 0, ())
        return

    family = family_of(pipe)
    guidance = Guidance(method)
    processors = {} if method.flips_embedding else family.processors(pipe, guidance)
    most = max_sequence_length or inspect.signature(type(pipe).__call__).parameters["max_sequence_length"].default

    blocks = max((processor.block for processor in processors.values()), default=method.last_block)
    if blocks < method.last_block:
        raise RequestError(f"guided_blocks names block {method.last_block}, but the model has {blocks}")
    encoded = _encoded(pipe, family, rows, method, most)

    if method.flips_embedding:
        if not all(rows):
            raise RequestError(f"{method.label} needs a negative prompt in every row: an empty one still takes attention")
        encoded = replace(encoded, embeddings=-getattr(method, "alpha", 1.0) * encoded.embeddings)
    patches = nullcontext() if method.flips_embedding else patched(processors)
    with patches, family.appending(pipe, guidance, encoded):
        yield Applied(method, len(processors), encoded.lengths)


def _encoded(pipe: Any, family: Family, rows: list[list[Weighted]], method: Method, most: int) -> Encoded:
    """The negative prompts of each row, with weights if one of them has any."""
    if not method.weighs_tokens and any(not prompt.plain for row in rows for prompt in row):
        raise RequestError(f"method {method.name} knows no weights of negative prompts: leave them out, or choose vsf")
    special = method.special_tokens

    def encode(row: list[Weighted]) -> Any:
        texts = [prompt.text for prompt in row]
        return family.encode_padded(pipe, texts, most) if method.padding else family.encode_negative(pipe, texts, special)

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
