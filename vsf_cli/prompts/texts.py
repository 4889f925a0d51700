"""The texts of one image: what is wanted, what is not, and what must stay. And files of text, as editors save them."""

import codecs
import re
from dataclasses import dataclass

from vsf_cli.errors import RequestError

__all__ = ["Texts", "decode_text"]


@dataclass(frozen=True)
class Texts:
    """The texts of one image.

    Arguments:
        prompt: The prompt.
        negative: The negative prompts.
        keep: The kept prompts.
    """

    prompt: str
    negative: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()

    @property
    def kept(self) -> tuple[str, ...]:
        """The kept prompts, each by itself: several may stand in one text, between commas that are no decimal ones."""
        parts = (part.strip() for text in self.keep for part in re.split(r"(?<!\d),|,(?!\d)", text))
        return tuple(filter(None, parts))

    @property
    def all(self) -> tuple[str, ...]:
        """All texts, the prompt first."""
        return self.prompt, *self.negative, *self.keep


def decode_text(source: str, data: bytes) -> str:
    """Returns the text of a file: UTF-8, or UTF-16 with the mark that Windows and spreadsheets write before it.

    Raises:
        RequestError: If it is in another encoding.
    """
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(f"{source} is not UTF-8: {error.reason} at byte {error.start}; save it as UTF-8") from error
