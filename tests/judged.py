"""Images that say how they were made, and judges that read it, for tests of what is chosen and of passes."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

from PIL import Image

from vsf_cli.errors import ModelError, PictureError, VSFError
from vsf_cli.generation.generate import Result
from vsf_cli.judges.judgement import Judgement
from vsf_cli.judges.passes import Passes
from vsf_cli.judges.questions import Record
from vsf_cli.judges.several import Outcome, Pair
from vsf_cli.settings.request import Request

__all__ = ["Maker", "Seer", "SeerOfSeveral", "Together", "from_two_on"]


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


class SeerOfSeveral(Seer):
    """A `Seer` that answers about several images in one pass; `passes` has the strength and the seed of each."""

    batch_size = 8

    def judge_several(self, pairs: Sequence[Pair]) -> Iterator[list[Outcome]]:
        self.passes = [*getattr(self, "passes", ()), []]
        for image, record in pairs:
            answer = self.judge(image, record)
            self.passes[-1].append(self.asked[-1][:2])
            yield [answer]


class Together:
    """A judge of several images in one pass, whose answers have the value of the first pixel as their quality.

    Arguments:
        size: The most images of one pass.
        fits: The images for which memory suffices.
        fails: Values of images that cannot be judged.
        ends: The value of an image at which somebody presses Ctrl-C.
        loads: Whether the model can be loaded.
    """

    name, workers, costly = "together", 1, True
    settings: ClassVar[dict[str, Any]] = {"name": "together"}

    def __init__(
        self, size: int, fits: int = 99, fails: tuple[int, ...] = (), ends: int | None = None, loads: bool = True
    ) -> None:
        self._passes, self._fits, self._fails, self._ends, self._loads = Passes(size), fits, fails, ends, loads
        self.passes: list[list[int]] = []
        self.loaded = 0

    @property
    def batch_size(self) -> int:
        return self._passes.size

    def judge_several(self, pairs: Sequence[Pair]) -> Iterator[list[Outcome]]:
        self.loaded += 1
        if not self._loads:
            raise ModelError("model 'x' is not here")
        yield from self._passes.made(self._pass, pairs)

    def _pass(self, pairs: Sequence[Pair]) -> list[Judgement]:
        values: list[int] = [image.convert("L").getpixel((0, 0)) for image, _ in pairs]  # type: ignore[misc]
        self.passes.append(values)
        if len(values) > self._fits:
            raise MemoryError
        if {*values} & {*self._fails}:
            raise VSFError("busy")
        if self._ends in values:
            raise KeyboardInterrupt
        return [Judgement(True, value % 2 == 0, float(value), scores={"absent": value / 255}) for value in values]

    def judge(self, image: Image.Image, record: Record) -> Judgement:
        raise AssertionError("it is asked about several images")

    def check(self, record: Record, offline: bool) -> None:
        pass
