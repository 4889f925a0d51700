"""The answers of judges that choose between images, stored in the folder of a run, so that no image is judged twice."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vsf_cli.generation.asking import Answer, Verdicts
from vsf_cli.judges.questions import Record
from vsf_cli.judges.stored import stored_judgements
from vsf_cli.media.json_lines import append_line
from vsf_cli.settings.request import Request

__all__ = ["VERDICTS", "AnswerFile", "StoredVerdicts"]

VERDICTS = "verdicts.jsonl"


class AnswerFile:
    """The answers in a file, to which several processes may add. It is read once.

    Raises:
        MediaError: If the file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._answers: dict[str, Answer] = {}
        for line, judgement in stored_judgements(path):
            things = line.get("things")
            self._answers[line["key"]] = Answer(judgement, tuple(things) if isinstance(things, list) else None)

    def get(self, key: str) -> Answer | None:
        """Returns an answer; None if it is not known."""
        return self._answers.get(key)

    def add(self, key: str, answer: Answer) -> None:
        """Adds an answer, which is on the disk then."""
        self._answers[key] = answer
        append_line(self._path, {"key": key, **asdict(answer.judgement), "things": answer.things})


class StoredVerdicts(Verdicts):
    """The answers of a judge about images that depend on the same facts.

    Arguments:
        file: The answers.
        facts: What the images depend on beside their requests, such as the weights; and what the answers do, the judge.
    """

    def __init__(self, file: AnswerFile, facts: Mapping[str, Any]) -> None:
        self._file, self._facts = file, dict(facts)

    def _key(self, request: Request, record: Record) -> str:
        plain = {"request": request.to_json(), "record": record.to_json(), **self._facts}
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()

    def known(self, request: Request, record: Record) -> Answer | None:
        return self._file.get(self._key(request, record))

    def add(self, request: Request, record: Record, answer: Answer) -> None:
        self._file.add(self._key(request, record), answer)
