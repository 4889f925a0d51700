"""What a judge chose between, what it said, and the strip that shows it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from vsf_cli.config.strengths import numbers_of_strength
from vsf_cli.judges.judgement import Judgement
from vsf_cli.settings.request import Request, public_source

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Attempt", "Choice", "tried_strip"]

COLUMNS, MIN_SIDE = 6, 200
"""Of the strip: the most images in a row, and the side below which images are shown at twice their size."""


@dataclass(frozen=True)
class Attempt:
    """A candidate, and what the judge said.

    Arguments:
        request: The request of the candidate.
        judgement: The answer; None if the model made no image, but numbers that are none.
        frames: The image, or the frames of the video, if they are kept.
        needed: What has to stay.
    """

    request: Request
    judgement: Judgement | None
    frames: "tuple[Image.Image, ...]" = ()
    needed: tuple[str, ...] = ()

    @property
    def lost(self) -> tuple[str, ...]:
        """What has to stay and did not; nothing if the judge cannot tell."""
        if self.judgement is None or self.judgement.kept is None:
            return ()
        return tuple(thing for thing in self.needed if thing not in self.judgement.kept)

    @property
    def score(self) -> float:
        """How good it is where the judge is content with none."""
        if self.judgement is None:
            return -1.0
        one, scores = self.judgement, self.judgement.scores or {}
        kept = sum(thing in (one.kept or ()) for thing in self.needed) / len(self.needed) if self.needed else 0.0
        return scores.get("object", float(one.positive)) + scores.get("absent", float(one.negative)) + kept + one.quality

    @property
    def is_good(self) -> bool:
        """Whether the judge is content."""
        return self.judgement is not None and self.judgement.positive and self.judgement.negative and not self.lost

    @property
    def reason(self) -> str:
        """What the judge said, as a person reads it."""
        return ", ".join([self.judgement.reason if self.judgement else "no image", *(f"{thing} lost" for thing in self.lost)])

    def to_json(self) -> dict[str, Any]:
        """Returns plain values: what the candidate differs in, and the answer."""
        answer: dict[str, Any] = {"answer": asdict(self.judgement) if self.judgement else None}
        answer |= {"lost": list(self.lost)} if self.lost else {}
        request = self.request
        return {"seed": request.seed, "method": request.method, **numbers_of_strength(request.parameters), **answer}


@dataclass(frozen=True)
class Choice:
    """What was tried, and what was chosen.

    Arguments:
        request: The request that was chosen from.
        judge: The settings of the judge.
        attempts: The candidates that were judged, in their order.
        index: The position of the chosen one.
        content: Whether the judge is content with it.
        runs: How many images were looked at, in this run or in an earlier one: also those that tell only what has to stay.
    """

    request: Request
    judge: Mapping[str, Any]
    attempts: tuple[Attempt, ...]
    index: int
    content: bool
    runs: int

    @property
    def chosen(self) -> Attempt:
        """The chosen candidate."""
        return self.attempts[self.index]

    def to_json(self) -> dict[str, Any]:
        """Returns plain values without the path of a local model and the address of an endpoint, which may be private."""
        judge = {key: value for key, value in self.judge.items() if key != "base_url"}
        judge |= {"model": public_source(judge["model"])} if "model" in judge else {}
        asked = self.request.to_json()
        of_choice: dict[str, Any] = {key: asked[key] for key in ("strengths", "best_of") if key in asked}
        facts = {**of_choice, "judge": judge, "content": self.content, "runs": self.runs, "chosen": self.index + 1}
        return {**facts, "tried": [attempt.to_json() for attempt in self.attempts]}

    def label(self, attempt: Attempt) -> str:
        """Returns what a candidate differs in, as a person reads it."""
        asked, request = self.request, attempt.request
        contrasts = any(one.contrast is not None for one in asked.tried_strengths)
        names = ["alpha"] * bool(asked.strengths) + ["contrast"] * contrasts
        numbers = [f"{name} {request.guidance.parameters[name]:g}" for name in names if request.method == "vsf"]
        seeds = [f"seed {request.seed}"] if asked.best_of > 1 else []
        return ", ".join([*(["no guidance"] if request.method == "none" else numbers), *seeds]) or str(request.guidance)

    @property
    def summary(self) -> str:
        """One line for a person."""
        return f"{self.label(self.chosen)}: {self.chosen.reason}"


def tried_strip(choice: Choice) -> "Image.Image":
    """Returns all images that were judged, or the middle frames of videos, each with its strength and the answer."""
    from vsf_cli.media.montage import draw_montage

    shown, labels = [], []
    for number, attempt in enumerate(choice.attempts):
        if attempt.frames:
            mark = "chosen: " if number == choice.index else ""
            shown.append(attempt.frames[len(attempt.frames) // 2])
            labels.append(f"{mark}{choice.label(attempt)}: {attempt.reason}")
    return draw_montage(shown, labels, min(len(shown), COLUMNS), 2 if max(shown[0].size) < MIN_SIDE else 1)
