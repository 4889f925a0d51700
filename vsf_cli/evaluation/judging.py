"""Asks a judge about every picture of a run; each answer is kept at once, so that none is asked for twice."""

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from vsf_cli.errors import MediaError, ModelError, VSFError
from vsf_cli.evaluation.prompts import Record
from vsf_cli.evaluation.runs import Picture, Run
from vsf_cli.media.reading import read_frames

__all__ = ["Answers", "Judge", "Judgement", "Kept", "judge_all", "judge_frames", "place_of"]

MOST_FRAMES = 9
"""Of a clip, that many frames are judged, evenly spaced."""


@dataclass(frozen=True)
class Judgement:
    """What a judge says of a picture.

    Arguments:
        positive: Whether the main object is there.
        negative: Whether what was not wanted is missing.
        quality: From 0 to 1, whatever is missing.
        reason: The judge's words.
    """

    positive: bool
    negative: bool
    quality: float
    reason: str = ""


class Judge(Protocol):
    """Looks at pictures. May be asked from several threads, if `workers` is above 1."""

    name: str
    """Of the judge; its answers are kept in a file of that name."""
    settings: Mapping[str, Any]
    """What its answers depend on: other settings are another judge, whose answers are asked for anew."""
    workers: int
    """How many pictures it looks at at a time."""
    costly: bool
    """Whether each of its answers is worth keeping at once, those about single frames too."""

    def judge(self, image: Image.Image, record: Record) -> Judgement:
        """Looks at a picture.

        Raises:
            VSFError: If it cannot answer.
        """
        ...


def judge_frames(judge: Judge, frames: Sequence[Image.Image], record: Record) -> Judgement:
    """What a judge says of a picture or clip: of several frames the majority and the mean quality.

    A tie is a no.
    """
    count = min(len(frames), MOST_FRAMES)
    places = sorted({round(place * (len(frames) - 1) / max(1, count - 1)) for place in range(count)})
    found = [judge.judge(frames[place], record) for place in places]
    if len(found) == 1:
        return found[0]
    positive, negative = sum(one.positive for one in found), sum(one.negative for one in found)
    return Judgement(
        2 * positive > len(found),
        2 * negative > len(found),
        sum(one.quality for one in found) / len(found),
        f"of {len(found)} frames the object is in {positive}, the negative is missing in {negative}",
    )


class Kept:
    """A judge that keeps its answers about pixels in a file, so that what was cut off is not paid for twice."""

    def __init__(self, judge: Judge, path: Path) -> None:
        self.inner, self.path, self.lock = judge, path, threading.Lock()
        self.name, self.settings, self.workers, self.costly = judge.name, judge.settings, judge.workers, judge.costly
        self.known: dict[str, Judgement] = {}
        for found in _lines(path):
            try:
                key = found.pop("key")
                self.known[key] = Judgement(**found)
            except (TypeError, KeyError, AttributeError):
                continue

    def judge(self, image: Image.Image, record: Record) -> Judgement:
        """What it said before of the same pixels and questions, or says now."""
        said = json.dumps([dict(self.settings), record.question_1, record.question_2, image.size], sort_keys=True)
        key = hashlib.sha256(said.encode() + image.tobytes()).hexdigest()
        if key not in self.known:
            self.known[key] = found = self.inner.judge(image, record)
            with self.lock:
                _append(self.path, {"key": key, **asdict(found)})
        return self.known[key]


Place = tuple[str, str, int, str]


def place_of(picture: Picture) -> Place:
    """What an answer is about: the record, the arm, the seed, and the SHA-256 of the file, since it may be made anew.

    Raises:
        MediaError: If the file cannot be read.
    """
    try:
        digest = hashlib.sha256(picture.path.read_bytes()).hexdigest()
    except OSError as error:
        raise MediaError(
            f"{picture.path} cannot be read: {error.strerror}; run 'vsf eval run' again, it makes it anew"
        ) from error
    return picture.record.id, picture.arm, picture.seed, digest


class Answers:
    """The answers of the judges of one name on disk: a line each, of which the last may be torn."""

    def __init__(self, run: Run, judge: str) -> None:
        self.path = run.folder / f"judgements-{judge}.jsonl"
        self.lock = threading.Lock()

    def read(self) -> dict[str, dict[Place, Judgement]]:
        """The last answer about each picture, by the settings of the judge, as JSON; the judge that was asked last stands last.

        Raises:
            MediaError: If the file cannot be read.
        """
        found: dict[str, dict[Place, Judgement]] = {}
        for line in _lines(self.path):
            try:
                judgement = Judgement(*(line[name] for name in ("positive", "negative", "quality", "reason")))
                place = line["record"], line["arm"], line["seed"], line["sha256"]
                key = _key(line["judge"])
                found[key] = found.pop(key, {})
                found[key][place] = judgement
            except (KeyError, TypeError, ValueError):
                continue
        return found

    def of(self, judge: Judge) -> dict[Place, Judgement]:
        """The answers of a judge with these settings.

        Raises:
            MediaError: If the file cannot be read.
        """
        return self.read().get(_key(judge.settings), {})

    def add(self, judge: Judge, place: Place, judgement: Judgement) -> None:
        """Keeps an answer.

        Raises:
            MediaError: If it cannot be written.
        """
        told = dict(zip(("record", "arm", "seed", "sha256"), place, strict=True))
        with self.lock:
            _append(self.path, {**told, **asdict(judgement), "judge": dict(judge.settings)})


def _key(settings: Mapping[str, Any]) -> str:
    return json.dumps(dict(settings), sort_keys=True)


def _lines(path: Path) -> Iterator[Any]:
    """What the lines of a file say; those that are torn are passed over."""
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
    """Writes a line of JSON behind those of a file, of which the last may be torn, and waits until it is on the disk.

    Raises:
        MediaError: If it cannot be written.
    """
    try:
        torn = path.is_file() and path.read_bytes()[-1:] not in (b"", b"\n")
        with path.open("ab") as file:
            file.write(b"\n" * torn + json.dumps(dict(line), ensure_ascii=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise MediaError(f"{path} cannot be written: {error.strerror}") from error


def judge_all(
    run: Run, judge: Judge, progress: Callable[[int, int], object] | None = None
) -> Iterator[tuple[Picture, VSFError | None]]:
    """Has all pictures of a run judged that the judge has not seen, and keeps each answer.

    Yields:
        Each picture that was looked at, with what failed.

    Raises:
        MediaError: If answers or pictures cannot be read, or answers not written.
        ModelError: If the judge's own model cannot be loaded.
    """
    answers = Answers(run, judge.name)
    known = answers.of(judge)
    asked = [(picture, place) for picture in run.pictures() if (place := place_of(picture)) not in known]
    framewise = Kept(judge, run.folder / f"frames-{judge.name}.jsonl") if judge.costly else judge

    def look(picture: Picture, place: Place) -> None:
        frames = read_frames(picture.path)
        answers.add(judge, place, judge_frames(judge if len(frames) == 1 else framewise, frames, picture.record))

    with ThreadPoolExecutor(judge.workers) as pool:
        waiting = {pool.submit(look, picture, place): picture for picture, place in asked}
        try:
            for done, future in enumerate(as_completed(waiting), 1):
                error = future.exception()
                if error is not None and (not isinstance(error, VSFError) or isinstance(error, (MediaError, ModelError))):
                    raise error
                if progress is not None:
                    progress(done, len(asked))
                yield waiting[future], error
        finally:
            pool.shutdown(cancel_futures=True)
