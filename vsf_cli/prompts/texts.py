"""The texts of one image: what is wanted, what is not, and what must stay."""

from dataclasses import dataclass

__all__ = ["Texts"]


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
    def all(self) -> tuple[str, ...]:
        """All texts, the prompt first."""
        return self.prompt, *self.negative, *self.keep
