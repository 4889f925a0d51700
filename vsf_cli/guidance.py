"""Guides a diffusers pipeline by a negative prompt, for the length of a `with`."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from vsf_cli.errors import RequestError
from vsf_cli.families import Encoded, Guidance, family_of
from vsf_cli.methods import VSF, Method
from vsf_cli.patch import patched

__all__ = ["Applied", "guided"]

NegativePrompt = str | Sequence[str | Sequence[str]]


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


def _rows(negative_prompt: NegativePrompt) -> list[list[str]]:
    rows = [negative_prompt] if isinstance(negative_prompt, str) else negative_prompt
    split = [[row] if isinstance(row, str) else list(row) for row in rows]
    return [[prompt for prompt in row if prompt.strip()] for row in split]


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
            prompt, or a list of several; an empty one leaves its pictures unguided. With `num_images_per_prompt` each entry
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
            cannot be cached. Also in a call inside, if its `guidance_scale` is above 1 and the method is not for models that
            use CFG.
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

    def encode(row: list[str]) -> Any:
        padded = method.padding
        return family.encode_padded(pipe, row, most) if padded else family.encode_negative(pipe, row, method.special_tokens)

    embeddings = [encode(row) if row else None for row in rows]
    example = next(tensor for tensor in embeddings if tensor is not None)
    encoded = Encoded.stack([example[:0] if tensor is None else tensor for tensor in embeddings])

    if method.flips_embedding:
        if not all(rows):
            raise RequestError(f"{method.label} needs a negative prompt in every row: an empty one still takes attention")
        encoded = Encoded(-getattr(method, "alpha", 1.0) * encoded.embeddings, encoded.lengths)
    patches = nullcontext() if method.flips_embedding else patched(processors)
    with patches, family.appending(pipe, guidance, encoded):
        yield Applied(method, len(processors), encoded.lengths)
