"""Questions about several images at once, for judges that can answer them in one pass through their model."""

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

from PIL import Image

from vsf_cli.errors import VSFError
from vsf_cli.judges.judgement import Judge, Judgement
from vsf_cli.judges.questions import Record

__all__ = ["JudgesSeveral", "Outcome", "Pair", "answer_of", "images_per_pass", "judge_several"]

Outcome = Judgement | VSFError
"""What comes of a question about an image: the answer, or why there is none."""
Pair = tuple[Image.Image, Record]
"""An image, and what is asked about it."""


@runtime_checkable
class JudgesSeveral(Protocol):
    """A judge that can answer about several images in one pass through its model."""

    @property
    def batch_size(self) -> int:
        """The most images of one pass."""

    def judge_several(self, pairs: Sequence[Pair]) -> Iterator[list[Outcome]]:
        """Yields the outcomes of each pass when it is done, in the order of the images.

        Raises:
            VSFError: If the judge cannot answer about any image, as one whose model cannot be loaded.
        """


def images_per_pass(judge: Judge) -> int:
    """Returns the most images of one pass through a judge's model; 1 if it is asked about one after the other."""
    return judge.batch_size if isinstance(judge, JudgesSeveral) else 1


def judge_several(judge: Judge, pairs: Sequence[Pair]) -> Iterator[list[Outcome]]:
    """Does what `JudgesSeveral.judge_several` does; asks other judges about one image after the other."""
    if isinstance(judge, JudgesSeveral):
        yield from judge.judge_several(pairs)
        return
    for image, record in pairs:
        try:
            outcome: Outcome = judge.judge(image, record)
        except VSFError as error:
            outcome = error
        yield [outcome]


def answer_of(outcome: Outcome) -> Judgement:
    """Returns the answer of an outcome, or raises its error."""
    if isinstance(outcome, VSFError):
        raise outcome
    return outcome
