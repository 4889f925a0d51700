"""Questions about videos: several frames are judged, and the majority counts."""

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice

from PIL import Image

from vsf_cli.config.names import counted
from vsf_cli.errors import VSFError
from vsf_cli.judges.judgement import Judge, Judgement
from vsf_cli.judges.questions import Record
from vsf_cli.judges.several import Outcome, answer_of, judge_several

__all__ = ["Clip", "frames_to_judge", "judge_clips", "judge_frames"]

Clip = tuple[Sequence[Image.Image], Record]
"""The frames of an image or a video, and what is asked about it."""
MAX_FRAMES = 9
"""The number of frames of a video that are judged, evenly spaced."""


def frames_to_judge(frames: Sequence[Image.Image], most: int = MAX_FRAMES) -> list[Image.Image]:
    """Returns the frames of a video that are judged, at most so many, evenly spaced."""
    count = min(len(frames), most)
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
        # Of a clip that failed by a frame, the others are passed over; of the last clip, they are not asked for.
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
