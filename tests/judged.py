"""Images that say how they were made, and a judge that reads it, for tests of what is chosen."""

from collections.abc import Callable
from typing import Any, ClassVar

from PIL import Image

from vsf_cli.errors import PictureError
from vsf_cli.generation.generate import Result
from vsf_cli.judges.judgement import Judgement
from vsf_cli.judges.questions import Record
from vsf_cli.settings.request import Request

__all__ = ["Maker", "Seer", "from_two_on"]


class Maker:
    """Makes images that say by which request they were made."""

    def __init__(self, broken: Callable[[Request], bool] = lambda _: False) -> None:
        self.passes: list[list[Request]] = []
        self._broken = broken

    def __call__(self, _: Any, requests: Any, *__: Any) -> list[Result]:
        self.passes.append([*requests])
        if any(map(self._broken, requests)):
            raise PictureError("no numbers")
        return [Result((picture(one),), one, 1, 1, 0.5) for one in requests]


def picture(one: Request) -> Image.Image:
    alpha = 0.0 if one.method == "none" else one.guidance.parameters["alpha"]
    return Image.new("RGB", (4, 4), (round(10 * alpha), one.seed % 256, len(one.keep)))


class Seer:
    """A judge that is asked about the pixels of `picture`."""

    name, workers, costly = "seer", 1, True
    settings: ClassVar[dict[str, Any]] = {"name": "seer"}

    def __init__(self, answer: Callable[[float, int], tuple[bool, bool, float]], shown: tuple[str, ...] = ()) -> None:
        self.asked: list[tuple[float, int, tuple[str, ...]]] = []
        self._answer, self._shown = answer, shown

    def judge(self, image: Image.Image, record: Record) -> Judgement:
        red, seed, _ = image.getpixel((0, 0))  # type: ignore[misc]
        self.asked.append((red / 10, seed, record.keep))
        positive, negative, quality = self._answer(red / 10, seed)
        kept = tuple(thing for thing in record.keep if thing in self._shown and red < 50)
        return Judgement(positive, negative, quality, f"at {red / 10:g}", kept)

    def things(self, image: Image.Image, record: Record) -> tuple[str, ...]:
        return self._shown

    def check(self, record: Record, offline: bool) -> None:
        pass


def from_two_on(alpha: float, seed: int) -> tuple[bool, bool, float]:
    return True, alpha >= 2, 0.9
