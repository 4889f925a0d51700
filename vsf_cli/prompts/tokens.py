"""The tokens of prompts."""

from dataclasses import dataclass

__all__ = ["Token"]


@dataclass(frozen=True)
class Token:
    """A token of a prompt, with its word.

    Arguments:
        prompt: "positive", "negative" or "kept".
        encoder: The text encoder that it comes from, such as "clip" or "t5".
        position: Its index in the text that the transformer gets, from 0; negative if it counts from the end.
        piece: Its spelling in the tokenizer's vocabulary.
        word: The word that it belongs to; empty for special tokens and punctuation.
        start: The index of the word's first character in all prompts of its kind, joined.
        special: Whether it is a beginning, an end or padding.
    """

    prompt: str
    encoder: str
    position: int
    piece: str
    word: str
    start: int
    special: bool = False

    @property
    def is_negative(self) -> bool:
        """Whether it is of the negative prompt."""
        return self.prompt == "negative"
