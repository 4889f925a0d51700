"""Asks a judge about every image of a run. Each answer is written at once, so that no image is judged twice."""

import hashlib
import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from PIL import Image

from vsf_cli.config.names import counted
from vsf_cli.errors import MediaError, ModelError, VSFError
from vsf_cli.evaluation.prompts import Record
from vsf_cli.evaluation.runs import Run, Sample
from vsf_cli.media.reading import read_frames

__all__ = ["EVEN", "Answers", "CachedJudge", "Judge", "Judgement", "answer_key", "in_threads", "judge_all", "judge_frames"]

Item = TypeVar("Item")

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


def judge_frames(judge: Judge, frames: Sequence[Image.Image], record: Record) -> Judgement:
    """Returns the answer about an image, or about a video: the majority and the mean quality of its frames.

    A tie is a no.
    """
    count = min(len(frames), MAX_FRAMES)
    indices = sorted({round(number * (len(frames) - 1) / max(1, count - 1)) for number in range(count)})
    answers = [judge.judge(frames[index], record) for index in indices]
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


class CachedJudge:
    """A judge whose answers about pixels are stored in a file, so that an interrupted run does not pay for them twice."""

    def __init__(self, judge: Judge, path: Path) -> None:
        self.inner, self.path, self.lock = judge, path, threading.Lock()
        self.name, self.settings, self.workers, self.costly = judge.name, judge.settings, judge.workers, judge.costly
        self.known: dict[str, Judgement] = {}
        for line in _lines(path):
            try:
                key = line.pop("key")
                self.known[key] = Judgement.read(line)
            except (TypeError, KeyError, AttributeError):
                continue

    def judge(self, image: Image.Image, record: Record) -> Judgement:
        """Returns the stored answer about the same pixels and questions, or a new one."""
        questions = record.question_1, record.question_2, *record.keep
        question = json.dumps([dict(self.settings), *questions, image.size], sort_keys=True)
        key = hashlib.sha256(question.encode() + image.tobytes()).hexdigest()
        if key not in self.known:
            self.known[key] = answer = self.inner.judge(image, record)
            with self.lock:
                _append(self.path, {"key": key, **asdict(answer)})
        return self.known[key]


AnswerKey = tuple[str, str, int, str]


def answer_key(sample: Sample) -> AnswerKey:
    """Returns the key of an answer: record, variant, seed, and the SHA-256 of the file, since it may be made again.

    Raises:
        MediaError: If the file cannot be read.
    """
    try:
        digest = hashlib.sha256(sample.path.read_bytes()).hexdigest()
    except OSError as error:
        message = f"{sample.path} cannot be read: {error.strerror}; run 'vsf eval run' again, it makes it anew"
        raise MediaError(message) from error
    return sample.record.id, sample.variant, sample.seed, digest


class Answers:
    """The file of the answers of all judges of one name: a line each, of which the last may be incomplete.

    Every method raises `MediaError` if the file cannot be read or written.
    """

    def __init__(self, run: Run, judge: str) -> None:
        self.path = run.folder / f"judgements-{judge}.jsonl"
        self.lock = threading.Lock()

    def read(self) -> dict[str, dict[AnswerKey, Judgement]]:
        """Returns the last answer about each image, by the judge's settings as JSON; the judge that was used last is last."""
        answers: dict[str, dict[AnswerKey, Judgement]] = {}
        for line in _lines(self.path):
            try:
                judgement = Judgement.read(line)
                key = line["record"], line["arm"], line["seed"], line["sha256"]
                settings = _settings_key(line["judge"])
                answers[settings] = answers.pop(settings, {})
                answers[settings][key] = judgement
            except (KeyError, TypeError, ValueError):
                continue
        return answers

    def of(self, judge: Judge) -> dict[AnswerKey, Judgement]:
        """Returns the answers of a judge with these settings."""
        return self.read().get(_settings_key(judge.settings), {})

    def add(self, judge: Judge, key: AnswerKey, judgement: Judgement) -> None:
        """Adds an answer to the file."""
        line = dict(zip(("record", "arm", "seed", "sha256"), key, strict=True))
        with self.lock:
            _append(self.path, {**line, **asdict(judgement), "judge": dict(judge.settings)})


def _settings_key(settings: Mapping[str, Any]) -> str:
    return json.dumps(dict(settings), sort_keys=True)


def _lines(path: Path) -> Iterator[Any]:
    """Yields the lines of a JSON lines file; incomplete lines are skipped."""
    try:
        text = path.read_text("utf-8", errors="replace") if path.is_file() else ""
    except OSError as error:
        raise MediaError(f"{path} cannot be read: {error.strerror}") from error
    for line in text.split("\n"):
        try:
            yield json.loads(line)
        except ValueError:
            continue


def _append(path: Path, line: Mapping[str, Any]) -> None:
    """Appends a line of JSON to a file whose last line may be incomplete, and waits until it is on the disk."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        incomplete = path.is_file() and path.read_bytes()[-1:] not in (b"", b"\n")
        with path.open("ab") as file:
            file.write(b"\n" * incomplete + json.dumps(dict(line), ensure_ascii=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise MediaError(f"{path} cannot be written: {error.strerror}") from error


def judge_all(
    run: Run, judge: Judge, progress: Callable[[int, int], object] | None = None
) -> Iterator[tuple[Sample, VSFError | None]]:
    """Judges all images of a run that have no answer yet, and stores each answer.

    Yields:
        Each image that was judged, with its error if it failed.

    Raises:
        MediaError: If answers or images cannot be read, or an answer cannot be written.
        ModelError: If the model of the judge cannot be loaded.
    """
    answers = Answers(run, judge.name)
    known = answers.of(judge)
    pending = [(sample, key) for sample in run.samples() if (key := answer_key(sample)) not in known]
    framewise = CachedJudge(judge, run.folder / f"frames-{judge.name}.jsonl") if judge.costly else judge

    def judge_sample(sample: Sample, key: AnswerKey) -> None:
        frames = read_frames(sample.path)
        answers.add(judge, key, judge_frames(judge if len(frames) == 1 else framewise, frames, sample.record))

    for (sample, _), error in in_threads(judge.workers, lambda one: judge_sample(*one), pending, progress):
        yield sample, error


def in_threads(
    workers: int,
    work: Callable[[Item], object],
    items: Sequence[Item],
    progress: Callable[[int, int], object] | None = None,
) -> Iterator[tuple[Item, VSFError | None]]:
    """Does the work of a judge for each item in several threads.

    Yields:
        Each item that is done, with its error if it failed.

    Raises:
        MediaError: If a file cannot be read or written.
        ModelError: If the model of the judge cannot be loaded.
    """
    with ThreadPoolExecutor(workers) as pool:
        waiting = {pool.submit(work, item): item for item in items}
        try:
            for done, future in enumerate(as_completed(waiting), 1):
                error = future.exception()
                if error is not None and (not isinstance(error, VSFError) or isinstance(error, (MediaError, ModelError))):
                    raise error
                if progress is not None:
                    progress(done, len(items))
                yield waiting[future], error
        finally:
            pool.shutdown(cancel_futures=True)
