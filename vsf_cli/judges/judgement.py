"""What a judge answers about an image, and what a judge is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from PIL import Image

from vsf_cli.judges.questions import Record

__all__ = ["EVEN", "Describes", "Judge", "Judgement"]

EVEN = 0.5
"""The usual threshold of a probability: above it, the answer is yes."""


@dataclass(frozen=True)
class Judgement:
    """The answer of a judge about an image.

    Arguments:
        positive: Whether the main object is shown.
        negative: Whether the negative prompt is absent.
        quality: From 0 to 1, independent of what is missing.
        reason: An explanation for readers.
        kept: Which of the things that must stay are shown; None if the judge was not asked.
        scores: The probabilities behind the answers, "object" for `positive` and "absent" for `negative`; None without any.
    """

    positive: bool
    negative: bool
    quality: float
    reason: str = ""
    kept: tuple[str, ...] | None = None
    scores: Mapping[str, float] | None = None

    @classmethod
    def read(cls, line: Mapping[str, Any]) -> "Judgement":
        """Returns the answer in a line of a file; version 0.1 had no `kept`, and no `scores`."""
        kept = line.get("kept")
        answers = {name: line[name] for name in ("positive", "negative", "quality", "reason")}
        return cls(**answers, kept=None if kept is None else tuple(kept), scores=line.get("scores"))


class Judge(Protocol):
    """Judges images; called from several threads if `workers` is above 1."""

    name: str
    """The name of the judge, and of the file of its answers."""
    settings: Mapping[str, Any]
    """The settings that its answers depend on: with other settings, all images are judged again."""
    workers: int
    """The number of images that are judged at a time."""
    costly: bool
    """Whether its answers about single frames of a video are worth storing."""

    def judge(self, image: Image.Image, record: Record) -> Judgement:
        """Returns the answer about an image.

        Raises:
            VSFError: If the judge cannot answer.
        """

    def check(self, record: Record, offline: bool) -> None:
        """Checks before any work that the judge can answer.

        Raises:
            VSFError: If a package or the model is missing, or the judge does not know what the record is about.
        """


@runtime_checkable
class Describes(Protocol):
    """A judge that can also say what an image shows."""

    def things(self, image: Image.Image, record: Record) -> tuple[str, ...]:
        """Returns what an image shows besides the object and the negative prompt, each thing in a word or two."""
