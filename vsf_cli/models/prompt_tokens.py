"""The tokens of prompts: their ids and their words."""

import re
import string
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vsf_cli.errors import PatchError, RequestError
from vsf_cli.prompts.tokens import Token

if TYPE_CHECKING:
    from torch import Tensor

    from vsf_cli.models.family import PromptTokenizer

__all__ = ["chat_template", "prompt_tokens", "template_tokens", "token_ids", "word_tokens"]

MARKS = re.escape(string.punctuation + "\u201c\u201d\u201e\u2018\u2019\u2026\u3001\u3002\uff0c\uff01\uff1f")
WORD = re.compile(rf"[^\s{MARKS}]+(?:['\u2019-][^\s{MARKS}]+)*")
"""A word: anything but spaces and punctuation, with apostrophes and hyphens inside it."""


def token_ids(tokenizer: Any, prompt: str, pipe: Any, max_length: int | None = None) -> "Tensor":
    """Returns the token ids of a negative prompt without padding, with shape (1, tokens).

    `max_length` is how many the text encoder takes; None means as many as the tokenizer says.

    Raises:
        RequestError: If the text encoder takes fewer.
    """
    ids: Tensor = tokenizer(prompt, return_tensors="pt").input_ids
    longest = min(tokenizer.model_max_length, max_length or tokenizer.model_max_length)
    if ids.shape[-1] > longest:
        raise RequestError(
            f"negative prompt '{prompt}' has {ids.shape[-1]} tokens, but the text encoder takes {longest}: shorten it, or give"
            " several"
        )
    return ids.to(pipe._execution_device)


def chat_template(tokenizer: Any, enable_thinking: bool) -> Callable[[str], str]:
    """Returns a function that returns the text of a conversation with a prompt as its only message."""
    options = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": enable_thinking}
    return lambda prompt: str(tokenizer.apply_chat_template([{"role": "user", "content": prompt}], **options))


def template_tokens(tokenizer: Any, template: Callable[[str], str], prompt: str, pipe: Any) -> tuple["Tensor", "Tensor", int]:
    """Returns the token ids of a prompt in its template, with shape (1, tokens), and where the prompt begins.

    Between them stands which tokens are of the prompt, with shape (tokens,), from its beginning on.

    Raises:
        PatchError: If the pipeline was loaded without its text encoder.
        RequestError: If the text encoder takes fewer.
    """
    import torch

    if pipe.text_encoder is None:
        raise PatchError("the pipeline has no text encoder, so a negative prompt cannot be encoded")
    text = template(prompt)
    ids = token_ids(tokenizer, text, pipe)
    first = _place(template)
    spans = tokenizer(text, return_offsets_mapping=True).offset_mapping
    inside = [first < end and start < first + len(prompt) for start, end in spans]
    begin = inside.index(True)
    return ids, torch.tensor(inside[begin:], device=ids.device), begin


def _place(template: Callable[[str], str]) -> int:
    """Returns where a prompt begins in its template, which may have the prompt's words itself."""
    return template("\0").index("\0")


def prompt_tokens(one: "PromptTokenizer", prompt: str, text: str, max_length: int | None = None) -> list[Token]:
    """Returns the tokens of a text; all tokens of a word have the same `start`.

    Arguments:
        one: The tokenizer.
        prompt: "positive", "negative" or "kept".
        text: The text.
        max_length: The maximum number of tokens, the end included; None means no limit.
    """
    # Words are searched in the text, since some tokenizers join them with punctuation.
    tokenizer, whole = one.tokenizer, one.whole(text)
    offset = _place(one.template) if one.template else 0
    encoding = tokenizer(whole, truncation=max_length is not None, max_length=max_length, verbose=False)
    words = [match.span() for match in WORD.finditer(text)]
    tokens, special_ids = [], _special_ids(tokenizer)
    for position, number in enumerate(encoding.input_ids):
        chars = encoding.token_to_chars(position)
        first, last = (chars.start - offset, chars.end - offset) if chars else (0, 0)
        special = number in special_ids or (one.template is not None and not (last > 0 and first < len(text)))
        start, end = next((word for word in words if chars and word[0] < last and first < word[1]), (first, first))
        name = "" if special else text[start:end].lower()
        tokens.append(Token(prompt, one.name, position, tokenizer.convert_ids_to_tokens(number), name, start, special))
    return tokens


def word_tokens(tokenizer: Any, ids: "Tensor") -> "Tensor":
    """Returns which tokens are neither beginning, end nor padding, with shape (tokens,)."""
    import torch

    return ~torch.isin(ids[0], torch.tensor(sorted(_special_ids(tokenizer)), device=ids.device))


def _special_ids(tokenizer: Any) -> set[int]:
    return {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id} - {None}
