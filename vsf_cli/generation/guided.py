"""Guides a diffusers pipeline, or a denoiser of one's own loop, by a negative prompt, for the length of a `with`.

A call of the pipeline draws several images at once. What belongs to one of them, such as its negative prompts, is a row. The
negative prompts of all rows are one group of texts, the kept prompts (what must stay) another: no text sees the other group.
"""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial, wraps
from typing import Any, ParamSpec

import torch
from torch import Tensor

from vsf_cli.errors import PatchError, RequestError
from vsf_cli.loading.sources import vocabulary_of
from vsf_cli.methods import VSF, Method, NoGuidance
from vsf_cli.models import Family, family_of
from vsf_cli.models.family import EncodedText, call_parameters, unwrap
from vsf_cli.models.guided_model import guided_denoisers
from vsf_cli.models.state import Encoded
from vsf_cli.prompts.dialects import without_syntax
from vsf_cli.prompts.prompt_weights import Weighted
from vsf_cli.prompts.texts import Texts
from vsf_cli.prompts.vocabulary import unknown_words

__all__ = ["Applied", "guided"]

Prompts = str | Weighted | Sequence[str | Weighted | Sequence[str | Weighted]]
Rows = list[list[Weighted]]


@dataclass(frozen=True)
class Applied:
    """How a model is guided.

    Arguments:
        method: The method.
        blocks: The number of guided attentions; 0 if the negative prompt has no effect.
        tokens: The number of tokens of each row's negative prompt.
        kept_tokens: That of each row's kept prompt; none if there are no kept prompts.
    """

    method: Method
    blocks: int
    tokens: tuple[int, ...] = ()
    kept_tokens: tuple[int, ...] = ()


def _rows(prompts: Prompts, name: str) -> Rows:
    rows = [[_weighted(prompt, name) for prompt in _listed(row, name)] for row in _listed(prompts, name)]
    return [[prompt for prompt in row if prompt.text.strip()] for row in rows]


def _listed(entry: Any, name: str) -> Sequence[Any]:
    """Returns a list, or a list of one prompt."""
    return entry if isinstance(entry, Sequence) and not isinstance(entry, str) else [_weighted(entry, name)]


def _weighted(prompt: Any, name: str) -> Weighted:
    if not isinstance(prompt, (str, Weighted)):
        found = f"'{prompt}'" if isinstance(prompt, (int, float)) else f"a {type(prompt).__name__}"
        raise RequestError(
            f"{name} has {found}, but must be a text, or a list with a text, or a list of texts, for each prompt"
        )
    return Weighted(prompt) if isinstance(prompt, str) else prompt


class _Block(AbstractContextManager["Applied"]):
    """A block of `guided`, which says so if it ends without having begun: then nothing was guided."""

    def __init__(self, block: AbstractContextManager[Applied]) -> None:
        self._block, self._begun = block, False

    def __enter__(self) -> Applied:
        self._begun = True
        return self._block.__enter__()

    def __exit__(self, *error: Any) -> bool | None:
        return self._block.__exit__(*error)

    def __del__(self) -> None:
        if not self._begun:
            warnings.warn("guided(...) had no effect: write `with guided(...):`", RuntimeWarning, stacklevel=2)


Parameters = ParamSpec("Parameters")


def _watched(make: Callable[Parameters, AbstractContextManager[Applied]]) -> Callable[Parameters, _Block]:
    @wraps(make)
    def watched(*args: Parameters.args, **kwargs: Parameters.kwargs) -> _Block:
        return _Block(make(*args, **kwargs))

    return watched


@_watched
@contextmanager
def guided(
    pipe: Any,
    negative_prompt: Prompts | None = None,
    method: Method | None = None,
    max_sequence_length: int | None = None,
    *,
    keep: Prompts | None = None,
    negative_prompt_embeds: Tensor | EncodedText | None = None,
    keep_embeds: Tensor | EncodedText | None = None,
    fold_padding: bool = False,
) -> Iterator[Applied]:
    """Guides a pipeline by a negative prompt, inside attention, for the length of a `with` block.

    `with guided(pipe, "wheels", VSF(alpha=3, beta=0.3)): pipe("a bike", guidance_scale=0, num_inference_steps=8)`

    Afterwards the pipeline holds the same objects as before. Copies made inside are not guided. Gradients are exact.

    Arguments:
        pipe: A diffusers pipeline whose denoiser is of a supported family, or such a denoiser itself.
        negative_prompt: One prompt for every image, or a list with one entry for each prompt of the call. An entry is a
            prompt, or a list of several; an empty one leaves its images unguided. `parse_weights` makes one with weights.
        method: The method; `VSF()` if None.
        max_sequence_length: That of the calls inside, for methods that pad; None: the default. Another one is warned of.
        keep: What must stay although it is like the negative prompt, in the same forms; VSF alone has a use for it.
        negative_prompt_embeds, keep_embeds: Those of `encode_texts`, or whole texts with shape (1 or B, tokens, width).
        fold_padding: Whether padding is one key: exact to rounding, and less work; for Wan, also without a negative prompt.

    Yields:
        The method, the number of guided attentions, and the number of tokens of each negative prompt.

    Raises:
        PatchError: If the model cannot be guided, or is guided already, or was replaced inside; in a call inside, if another
            pipeline makes it, attention processors were set inside, or other code checkpoints it.
        RequestError: If a negative prompt is too long, missing or not a text, or the method does not fit the model; in a call
            inside, if it uses CFG and the method does not, or has a `negative_prompt` of its own, or steps cannot be counted.
    """
    method = VSF() if method is None else method
    negative = _given(negative_prompt, negative_prompt_embeds, "negative_prompt")
    kept = _given(keep, keep_embeds, "keep")
    _check(negative, kept, method)
    guides = not _is_empty(negative) and (method.guides_attention or method.flips_embedding)
    if not guides and not fold_padding:
        yield Applied(method, 0)
        return
    family = family_of(pipe)
    owner, denoisers = None if family.owns(pipe) else pipe, family.denoisers_of(pipe)
    groups, padded = _groups(pipe, family, method, max_sequence_length, negative, kept) if guides else ([], None)
    with guided_denoisers(family, denoisers, method if guides else NoGuidance(), groups, owner, fold_padding, padded) as blocks:
        yield Applied(method, blocks if guides else 0, **_numbers_of_tokens(groups))
    _check_models(family.denoisers_of(pipe), denoisers)


def _numbers_of_tokens(groups: Sequence[Encoded]) -> dict[str, tuple[int, ...]]:
    """Returns those of `Applied`: of the negative prompts and, if there are any, of the kept ones."""
    return dict(zip(("tokens", "kept_tokens"), (group.lengths for group in groups), strict=False))


def _groups(
    pipe: Any,
    family: Family,
    method: Method,
    max_length: int | None,
    negative: Rows | Encoded | None,
    kept: Rows | Encoded | None,
) -> tuple[list[Encoded], int | None]:
    """Returns the negative prompts, and the kept ones if they have an effect; and the length to which they are padded."""
    owner, length = None if family.owns(pipe) else pipe, _length(pipe, family, max_length)
    _warn_of_words(owner, negative, kept)
    encode = partial(_encode, owner, family, method, length)
    keeps_something = not _is_empty(kept) and method.contrast != 0
    groups = [encode(negative, method.special_tokens), *([encode(kept, False)] if keeps_something else [])]
    return groups, length if method.padding and not isinstance(negative, Encoded) else None


def _warn_of_words(pipe: Any, negative: Rows | Encoded | None, kept: Rows | Encoded | None) -> None:
    """Warns of words that are not in the vocabulary of a pipeline's folder, if there is one there."""
    folder = getattr(pipe, "name_or_path", None)
    vocabulary = vocabulary_of(folder) if folder and os.path.isdir(folder) else None
    if vocabulary is None:
        return
    given = (group if isinstance(group, list) else [] for group in (negative, kept))
    texts = Texts("", *(tuple(without_syntax(one.text) for row in rows for one in row) for rows in given))
    for _, _, message in unknown_words(texts, vocabulary):
        warnings.warn(f"{message} What is unknown acts as a word without a meaning", stacklevel=6)


def _given(prompts: Prompts | None, embeds: Tensor | EncodedText | None, name: str) -> Rows | Encoded | None:
    """Returns the prompts of a group, or their embeddings, whichever is given."""
    if prompts is not None and embeds is not None:
        raise RequestError(f"give one of {name} and {name}_embeds")
    if embeds is not None:
        return _checked(embeds, f"{name}_embeds")
    if prompts is None:
        return None
    rows = _rows(prompts, name)
    if not rows:
        raise RequestError(f"{name} is an empty list: give one prompt, or one for each prompt of the call")
    return rows


def _checked(given: Any, name: str) -> Encoded:
    embeds = given.embeddings[None] if isinstance(given, EncodedText) else given
    if not isinstance(embeds, Tensor) or not embeds.is_floating_point():
        raise RequestError(f"{name} are a {getattr(embeds, 'dtype', type(embeds).__name__)}, but must be a tensor of floats")
    if embeds.ndim < 3 or 0 in embeds.shape:
        raise RequestError(f"{name} have shape {tuple(embeds.shape)}, but must have (1 or B, tokens, width), none of them 0")
    if not embeds.isfinite().all():
        raise RequestError(f"{name} have numbers that are not finite, of which the image would be black")
    positions = given.positions[None] if isinstance(given, EncodedText) else None
    seen = embeds.shape[1] if positions is None else int((positions >= 0).sum())
    return Encoded(embeds, (seen,) * len(embeds), None, positions)


def _is_empty(given: Rows | Encoded | None) -> bool:
    return given is None or not (isinstance(given, Encoded) or any(given))


def _check(negative: Rows | Encoded | None, kept: Rows | Encoded | None, method: Method) -> None:
    if not isinstance(method, Method):
        raise RequestError(f"method is {method!r:.60}, but must be made of one of the methods, such as VSF(alpha=3.0)")
    if negative is None:
        raise RequestError("give one of negative_prompt and negative_prompt_embeds")
    if method.passes_negative_prompt and not _is_empty(negative):
        raise RequestError(f"method {method.name} acts outside of attention: pass negative_prompt to the pipeline's own call")
    if method.flips_embedding and not isinstance(negative, Encoded) and any(negative) and not all(negative):
        raise RequestError(f"{method.label} needs a negative prompt in every row: an empty one still takes attention")
    if _is_empty(kept):
        return
    if _is_empty(negative):
        raise RequestError("keep says what must stay beside a negative prompt, and there is none: give one, or leave keep out")
    if (method.guides_attention or method.flips_embedding) and not method.keeps:
        raise RequestError(f"{method} has no use for what is to be kept: choose VSF, or leave keep out")


def _check_models(models: Sequence[Any], guided_models: Sequence[Any]) -> None:
    if any(unwrap(model) not in map(unwrap, guided_models) for model in models):
        raise PatchError("the pipeline got another model inside the `with`, without guidance: change it before the `with`")


def _length(pipe: Any, family: Family, length: Any) -> int:
    """Returns a given `max_sequence_length`, or the default of a pipeline's call; 0 if it takes none."""
    if length is not None and not (isinstance(length, int) and 0 < length <= family.max_length):
        raise RequestError(f"max_sequence_length is {length!r:.20}, but must be 1 to {family.max_length}")
    if length is not None:
        return length
    parameter = call_parameters(pipe).get("max_sequence_length")
    return 0 if parameter is None else int(parameter.default)


def _encode(
    pipe: Any, family: Family, method: Method, max_length: int, given: Rows | Encoded | None, special_tokens: bool
) -> Encoded:
    """Returns the embeddings of each row's prompts, with weights if one of them has any."""
    if isinstance(given, Encoded):
        encoded = given
    else:
        encoded = _encode_text(pipe, family, method, max_length, given or [], special_tokens)
    if method.flips_embedding:
        return replace(encoded, embeddings=-getattr(method, "alpha", 1.0) * encoded.embeddings)
    return encoded


def _encode_text(pipe: Any, family: Family, method: Method, max_length: int, rows: Rows, special_tokens: bool) -> Encoded:
    if pipe is None:
        raise PatchError("a denoiser alone encodes no text: give negative_prompt_embeds, or guide its pipeline")
    if not method.weighs_tokens and any(not prompt.plain for row in rows for prompt in row):
        raise RequestError(f"method {method.name} knows no weights of negative prompts: leave them out, or choose vsf")

    encoded = [_encode_row(pipe, family, method, max_length, row, special_tokens) if row else None for row in rows]
    example = next(one for one in encoded if one is not None)
    nothing = EncodedText(example.embeddings[:0], example.positions[:0])
    embeddings, positions = zip(*(nothing if one is None else one for one in encoded), strict=True)
    return Encoded.stack(embeddings, _row_weights(pipe, family, rows, special_tokens), positions)


def _encode_row(
    pipe: Any, family: Family, method: Method, max_length: int, row: list[Weighted], special_tokens: bool
) -> EncodedText:
    texts = [prompt.text for prompt in row]
    if not method.padding:
        return family.encode_texts(pipe, texts, special_tokens)
    padded = family.encode_padded(pipe, texts, max_length)
    return EncodedText(padded, torch.arange(len(padded)))


def _row_weights(pipe: Any, family: Family, rows: Rows, special: bool) -> list[Tensor] | None:
    """Returns the weights of each row's tokens; None if no prompt has any."""
    if all(prompt.plain for row in rows for prompt in row):
        return None
    return [torch.tensor([weight for prompt in row for weight in _weights(pipe, family, prompt, special)]) for row in rows]


def _weights(pipe: Any, family: Family, prompt: Weighted, special_tokens: bool) -> list[float]:
    """Returns the weight of each token of one negative prompt."""

    def place(index: int) -> int:
        return len(family.encoded_text(pipe, prompt.text[:index]))

    parts = tuple((place(start), place(end), weight) for start, end, weight in prompt.parts)
    tokens = [token for token in family.tokens(pipe, "", [prompt.text], special_tokens, 1) if token.is_negative]
    ordered = sorted(tokens, key=lambda token: token.position)
    return [replace(prompt, parts=parts).at(None if token.special else token.start) for token in ordered]
