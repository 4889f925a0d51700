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

from vsf_cli.errors import MediaError, VSFError
from vsf_cli.evaluation.prompts import Record
from vsf_cli.evaluation.runs import Picture, Run
from vsf_cli.media import read_frames

__all__ = ["Answers", "Judge", "Judgement", "append_line", "judge_all", "judge_frames"]

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


class Answers:
    """The answers of a judge on disk: a line each, of which the last may be torn."""

    def __init__(self, run: Run, judge: str) -> None:
        self.path = run.folder / f"judgements-{judge}.jsonl"
        self.lock = threading.Lock()

    def read(self) -> dict[tuple[str, str, int], dict[str, Any]]:
        """The last answer about each picture, by record, arm and seed.

        Raises:
            MediaError: If the file cannot be read.
        """
        found = {}
        try:
            text = self.path.read_text("utf-8", errors="replace") if self.path.is_file() else ""
        except OSError as error:
            raise MediaError(f"{self.path} cannot be read: {error.strerror}") from error
        for line in text.split("\n"):
            try:
                answer = json.loads(line)
                found[answer["record"], answer["arm"], answer["seed"]] = answer
            except (ValueError, KeyError, TypeError):
                continue
        return found

    def add(self, answer: Mapping[str, Any]) -> None:
        """Keeps an answer.

        Raises:
            MediaError: If it cannot be written.
        """
        with self.lock:
            append_line(self.path, answer)


def append_line(path: Path, line: Mapping[str, Any]) -> None:
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
        MediaError: If answers cannot be read or written.
    """
    answers = Answers(run, judge.name)
    known, pictures = answers.read(), run.pictures()
    asked = [
        (picture, digest)
        for picture in pictures
        if not _same(known.get((picture.record.id, picture.arm, picture.seed)), judge, digest := _digest(picture.path))
    ]

    def look(picture: Picture, digest: str) -> None:
        judgement = judge_frames(judge, read_frames(picture.path), picture.record)
        place = {"record": picture.record.id, "arm": picture.arm, "seed": picture.seed}
        answers.add({**place, **asdict(judgement), "sha256": digest, "judge": dict(judge.settings)})

    with ThreadPoolExecutor(judge.workers) as pool:
        waiting = {pool.submit(look, picture, digest): picture for picture, digest in asked}
        try:
            for done, future in enumerate(as_completed(waiting), 1):
                error = future.exception()
                if error is not None and (not isinstance(error, VSFError) or isinstance(error, MediaError)):
                    raise error
                if progress is not None:
                    progress(done, len(asked))
                yield waiting[future], error
        finally:
            pool.shutdown(cancel_futures=True)


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise MediaError(f"{path} cannot be read: {error.strerror}; run 'vsf eval run' again, it makes it anew") from error


def _same(answer: Mapping[str, Any] | None, judge: Judge, digest: str) -> bool:
    return answer is not None and answer.get("sha256") == digest and answer.get("judge") == dict(judge.settings)
