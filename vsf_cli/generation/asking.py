"""Who is asked about the images of a request, what, and the answers that are known."""

import os
from dataclasses import dataclass
from functools import lru_cache

from vsf_cli.errors import RequestError
from vsf_cli.judges import judge_named
from vsf_cli.judges.judgement import Describes, Judge, Judgement
from vsf_cli.judges.questions import Record
from vsf_cli.settings.request import Request

__all__ = ["Answer", "Verdicts", "check_choice_of", "judge_of", "record_of"]

ENDPOINT = "OPENAI_API_KEY", "OPENAI_BASE_URL"
"""The variables on which a judge depends."""


class Verdicts:
    """The answers of a judge that are known. Here none are; a batch stores them."""

    def known(self, request: Request, record: Record) -> "Answer | None":
        """Returns the known answer about the image of a request; None if there is none."""
        return None

    def add(self, request: Request, record: Record, answer: "Answer") -> None:
        """Stores an answer."""


@dataclass(frozen=True)
class Answer:
    """What a judge says of an image: its judgement and, if it was asked, what else the image shows."""

    judgement: Judgement
    things: tuple[str, ...] | None = None


def record_of(request: Request) -> Record:
    """Returns what a judge is asked about the image of a request."""
    negative = ", ".join(one.text for one in request.negatives)
    kept = () if request.keeps_what_is_seen else tuple(one.text for one in request.kept)
    return Record("", request.prompt, negative, keep=kept)


def judge_of(request: Request, device: str) -> Judge:
    """Returns the judge of a request, which runs on a device if it is a model of its own. The last one stays loaded.

    Raises:
        RequestError: If there is no such judge, or it lacks a package or a key.
    """
    own = device if request.judge == "vlm" else None
    return _judge(request.judge or "", request.judge_model, request.judge_threshold, own, *map(os.environ.get, ENDPOINT))


@lru_cache(maxsize=1)
def _judge(name: str, model: str | None, threshold: float | None, device: str | None, *_: str | None) -> Judge:
    return judge_named(name, {"model": model, "threshold": threshold, "device": device})


def check_choice_of(request: Request, judge: Judge, offline: bool) -> None:
    """Checks before any work that a judge can choose between the images of a request.

    Raises:
        VSFError: If it cannot.
    """
    if request.keeps_what_is_seen and not isinstance(judge, Describes):
        raise RequestError(f"judge {judge.name} cannot say what an image shows, as --keep auto needs: name things with --keep")
    judge.check(record_of(request), offline)
