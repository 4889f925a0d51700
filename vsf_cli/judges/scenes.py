"""The built-in judge, which knows what is in the scenes of the built-in models."""

from collections.abc import Mapping
from functools import cached_property
from hashlib import sha256
from typing import Any

from PIL import Image

from vsf_cli.errors import RequestError
from vsf_cli.judges.judgement import Judgement
from vsf_cli.judges.questions import Record
from vsf_cli.toy.judge import FILE, STATES, Judge
from vsf_cli.toy.scenes import OBJECTS, PARTS

__all__ = ["ScenesJudge"]


class ScenesJudge:
    """Judges by `vsf_cli.toy.judge`: the record's category is the object, its negative the part.

    A damaged part is not missing.
    """

    name = "scenes"
    workers = 1
    costly = False

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """The name, and the beginning of the SHA-256 of the weights: other weights give other answers."""
        return {"name": self.name, "weights": sha256(FILE.read_bytes()).hexdigest()[:12]}

    @cached_property
    def _judge(self) -> Judge:
        return Judge.load()

    def judge(self, image: Image.Image, record: Record) -> Judgement:
        """Returns the answer about an image.

        Raises:
            RequestError: If the record is not about a scene.
        """
        thing, part = record.category.lower(), record.negative.lower()
        if part not in OBJECTS.get(thing, ()) or not {one.lower() for one in record.keep} <= {*PARTS}:
            raise RequestError(
                f"judge scenes knows the scenes of the built-in models, but {record.id} is about"
                f" {', '.join((record.negative, *record.keep))} of '{record.category}': choose --judge mllm or vlm"
            )
        (verdict,) = self._judge.verdicts([image])
        state = verdict.state(part)
        kept = tuple(one for one in record.keep if verdict.state(one.lower()) == "present")
        reason = f"{verdict.object}, {part} {state}"
        quality = round(verdict.quality, 4)
        scores = {"absent": round(verdict.parts[part][STATES.index("absent")], 4)}
        return Judgement(verdict.object == thing, state == "absent", quality, reason, kept, scores)
