"""The tokens of prompts, as a person reads them."""

from dataclasses import dataclass

__all__ = ["Token"]


@dataclass(frozen=True)
class Token:
    """A token of a prompt, as a person reads it.

    Arguments:
        prompt: "positive" or "negative".
        encoder: The text encoder that it comes from: "clip" or "t5".
        position: Its place among the prompt's tokens as the transformer takes them, from 0.
        piece: The tokenizer's own writing of it.
        word: The word that it belongs to; empty for a special token, and for punctuation.
        start: Where the word begins, as characters of all prompts of its kind in a row.
        special: Whether it is a beginning, an end or padding.
    """

    prompt: str
    encoder: str
    position: int
    piece: str
    word: str
    start: int
    special: bool = False
