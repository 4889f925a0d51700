"""Answers that are stored, so that nobody pays for them twice."""

import hashlib
import json
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
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
            judgement, key = Judgement.read(line), line["key"]
        except (KeyError, TypeError):
            continue
        if isinstance(key, str):
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
        """Yields the stored answers about images, and new ones of as many as the judge takes in one pass."""
        keyed = deque((self._key(image, record), (image, record)) for image, record in pairs)
        while keyed:
            keys: list[str] = []
            new: dict[str, Pair] = {}
            while keyed and (keyed[0][0] in self.known or keyed[0][0] in new or len(new) < self.batch_size):
                key, pair = keyed.popleft()
                keys.append(key)
                if key not in self.known:
                    new[key] = pair
            failed = self._ask(new)
            yield [failed[key] if key in failed else self.known[key] for key in keys]

    def _ask(self, new: Mapping[str, Pair]) -> dict[str, VSFError]:
        """Asks about images, stores the answers of each pass together when it is done, and returns the errors."""
        waiting, failed = iter(new), dict[str, VSFError]()
        for outcomes in judge_several(self.inner, [*new.values()]) if new else ():
            answered = dict(zip(islice(waiting, len(outcomes)), outcomes, strict=True))
            failed |= {key: outcome for key, outcome in answered.items() if isinstance(outcome, VSFError)}
            self._store({key: outcome for key, outcome in answered.items() if isinstance(outcome, Judgement)})
        return failed

    def _key(self, image: Image.Image, record: Record) -> str:
        questions = record.question_1, record.question_2, *record.keep
        question = json.dumps([dict(self.settings), *questions, image.size], sort_keys=True)
        return hashlib.sha256(question.encode() + image.tobytes()).hexdigest()

    def _store(self, answers: Mapping[str, Judgement]) -> None:
        self.known |= answers
        with self.lock:
            append_line(self.path, *({"key": key, **asdict(answer)} for key, answer in answers.items()))
