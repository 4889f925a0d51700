"""Answers that are stored, so that nobody pays for them twice."""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from vsf_cli.errors import VSFError
from vsf_cli.judges.judgement import Judge, Judgement
from vsf_cli.judges.questions import Record
from vsf_cli.judges.several import Outcome, Pair, answer_of, images_per_pass, judge_several
from vsf_cli.media.json_lines import append_line, read_lines

__all__ = ["CachedJudge", "stored_judgements"]


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
