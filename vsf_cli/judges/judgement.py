"""What a judge answers about an image or a video, and answers that are stored so that nobody pays for them twice."""

import hashlib
import json
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from PIL import Image

from vsf_cli.config.names import counted
from vsf_cli.errors import VSFError
from vsf_cli.judges.questions import Record
from vsf_cli.media.json_lines import append_line, read_lines

__all__ = [
    "EVEN",
    "CachedJudge",
    "Clip",
    "Describes",
    "Judge",
    "Judgement",
    "JudgesSeveral",
    "Outcome",
    "Pair",
    "answer_of",
    "frames_to_judge",
    "images_per_pass",
    "judge_clips",
    "judge_frames",
    "judge_several",
    "stored_judgements",
]

MAX_FRAMES = 9
"""The number of frames of a video that are judged, evenly spaced."""
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


Outcome = Judgement | VSFError
"""What comes of a question about an image: the answer, or why there is none."""
Pair = tuple[Image.Image, Record]
"""An image, and what is asked about it."""
Clip = tuple[Sequence[Image.Image], Record]
"""The frames of an image or a video, and what is asked about it."""


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


def frames_to_judge(frames: Sequence[Image.Image]) -> list[Image.Image]:
    """Returns the frames of a video that are judged, evenly spaced."""
    count = min(len(frames), MAX_FRAMES)
    indices = sorted({round(number * (len(frames) - 1) / max(1, count - 1)) for number in range(count)})
    return [frames[index] for index in indices]


def judge_frames(judge: Judge, frames: Sequence[Image.Image], record: Record) -> Judgement:
    """Returns the answer about an image, or about a video: the majority and the mean quality of its frames.

    A tie is a no.

    Raises:
        VSFError: If the judge cannot answer.
    """
    return answer_of(next(judge_clips(judge, [(frames, record)])))


def judge_clips(judge: Judge, clips: Sequence[Clip]) -> Iterator[Outcome]:
    """Yields the outcome of each image or video, by `judge_frames`, as soon as its frames have theirs.

    Frames of several clips are in one pass. A clip fails by its first frame that fails.

    Raises:
        VSFError: If the judge cannot answer about any image.
    """
    chosen = [[(frame, record) for frame in frames_to_judge(frames)] for frames, record in clips]
    outcomes = chain.from_iterable(judge_several(judge, [*chain(*chosen)]))
    own: Iterator[Outcome] = iter(())
    for pairs, (_, record) in zip(chosen, clips, strict=True):
        # What follows the frame by which the clip before failed. Behind the last clip, it is not asked for.
        deque(own, maxlen=0)
        own = islice(outcomes, len(pairs))
        yield _of_frames(own, record)


def _of_frames(outcomes: Iterable[Outcome], record: Record) -> Outcome:
    """Returns the outcome of an image or a video by those of its frames."""
    answers: list[Judgement] = []
    for outcome in outcomes:
        if isinstance(outcome, VSFError):
            return outcome
        answers.append(outcome)
    if len(answers) == 1:
        return answers[0]
    positive, negative = sum(one.positive for one in answers), sum(one.negative for one in answers)
    shown = Counter(thing for one in answers for thing in one.kept or ())
    kept = tuple(thing for thing in record.keep if 2 * shown[thing] > len(answers))
    return Judgement(
        2 * positive > len(answers),
        2 * negative > len(answers),
        sum(one.quality for one in answers) / len(answers),
        f"of {counted(len(answers), 'frame')} the object is in {positive}, the negative is missing in {negative}",
        None if any(one.kept is None for one in answers) else kept,
        _mean_scores([one.scores for one in answers]),
    )


def _mean_scores(scores: Sequence[Mapping[str, float] | None]) -> Mapping[str, float] | None:
    known = [one for one in scores if one is not None]
    if len(known) < len(scores):
        return None
    return {name: sum(one[name] for one in known) / len(known) for name in known[0]}


def stored_judgements(path: Path) -> Iterator[tuple[Mapping[str, Any], Judgement]]:
    """Yields the lines of a file of answers, each with its answer; a line without a key, or without an answer, is skipped."""
    for line in read_lines(path):
        try:
            judgement, _ = Judgement.read(line), line["key"]
        except (AttributeError, KeyError, TypeError):
            continue
        yield line, judgement


class CachedJudge:
    """A judge whose answers about pixels are stored in a file, so that an interrupted run does not pay for them twice.

    It can be asked about several images, whichever judge it is: those with a stored answer are in no pass.
    """

    def __init__(self, judge: Judge, path: Path) -> None:
        self.inner, self.path, self.lock = judge, path, threading.Lock()
        self.name, self.settings, self.workers, self.costly = judge.name, judge.settings, judge.workers, judge.costly
        self.known = {line["key"]: judgement for line, judgement in stored_judgements(path)}

    def check(self, record: Record, offline: bool) -> None:
        """Checks what the judge does."""
        self.inner.check(record, offline)

    @property
    def batch_size(self) -> int:
        """The most images of one pass of the judge."""
        return images_per_pass(self.inner)

    def judge(self, image: Image.Image, record: Record) -> Judgement:
        """Returns the stored answer about the same pixels and questions, or a new one."""
        ((outcome,),) = self.judge_several([(image, record)])
        return answer_of(outcome)

    def judge_several(self, pairs: Sequence[Pair]) -> Iterator[list[Outcome]]:
        """Yields the stored answer about each image, or a new one; all answers of a pass are stored before one is yielded."""
        keys = [self._key(image, record) for image, record in pairs]
        new = {key: pair for key, pair in zip(keys, pairs, strict=True) if key not in self.known}
        waiting, passes = iter(new), judge_several(self.inner, [*new.values()])
        failed: dict[str, VSFError] = {}
        for key in keys:
            while key not in self.known and key not in failed:
                for outcome in next(passes):
                    self._take(next(waiting), outcome, failed)
            yield [failed[key] if key in failed else self.known[key]]

    def _key(self, image: Image.Image, record: Record) -> str:
        questions = record.question_1, record.question_2, *record.keep
        question = json.dumps([dict(self.settings), *questions, image.size], sort_keys=True)
        return hashlib.sha256(question.encode() + image.tobytes()).hexdigest()

    def _take(self, key: str, outcome: Outcome, failed: dict[str, VSFError]) -> None:
        """Stores a new answer, or adds an error to those that failed."""
        if isinstance(outcome, VSFError):
            failed[key] = outcome
            return
        self.known[key] = outcome
        with self.lock:
            append_line(self.path, {"key": key, **asdict(outcome)})
