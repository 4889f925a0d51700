"""The built-in judges, which know what is in the scenes of the built-in models."""

import re
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from PIL import Image

from vsf_cli.errors import RequestError
from vsf_cli.judges.judgement import Judgement
from vsf_cli.judges.questions import Record
from vsf_cli.prompts.texts import Texts
from vsf_cli.toy.scenes import OBJECTS, PARTS

if TYPE_CHECKING:
    from vsf_cli.toy.judge import Judge, Verdict

__all__ = ["ScenesJudge", "SecondScenesJudge", "VideoScenesJudge"]


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


class ScenesJudge:
    """Judges by a network of `vsf_cli.toy`. A damaged part is not missing; of several unwanted parts, all have to be."""

    name = "scenes"
    instead = "mllm or vlm"
    workers = 1
    costly = False

    def check(self, record: Record, offline: bool) -> None:
        """Raises a `RequestError` if a record is not about a scene."""
        self._scene_of(record)

    @property
    def _known(self) -> Collection[str]:
        return OBJECTS

    def _scene_of(self, record: Record) -> tuple[str, tuple[str, ...]]:
        """Returns the object that a record is about, and its unwanted parts.

        The object is the record's category; without one, the first word of the prompt that is an object with these parts.

        Raises:
            RequestError: If the record is about something else.
        """
        texts = Texts(record.prompt, keep=(record.negative,)).kept
        named = [record.category.lower()] if record.category else _words(record.prompt)
        things = [name for name in named if name in self._known]
        for thing in things:
            if not _strange((*texts, *record.keep), thing):
                return thing, tuple(part for text in texts for part in _parts(text))
        about = f"{record.id}: " if record.id else ""
        if things:
            parts = ", ".join(OBJECTS[things[0]])
            what = f"knows {parts} of a {things[0]}, but not {', '.join(_strange((*texts, *record.keep), things[0]))}"
        else:
            what = f"knows a {', '.join(self._known)}, but '{record.category or record.prompt}' names none of them"
        raise RequestError(f"{about}judge {self.name} {what}: choose --judge {self.instead}")

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """The name, and the beginning of the SHA-256 of the weights: other weights give other answers."""
        return {"name": self.name, "weights": sha256(self._network.file().read_bytes()).hexdigest()[:12]}

    @property
    def _network(self) -> "type[Judge]":
        from vsf_cli.toy.networks import NETWORKS

        return NETWORKS[self.name]

    @cached_property
    def _judge(self) -> "Judge":
        return self._network.load()

    def judge(self, image: Image.Image, record: Record) -> Judgement:
        """Returns the answer about an image.

        Raises:
            RequestError: If the record is not about a scene.
        """
        thing, parts = self._scene_of(record)
        (verdict,) = self._judge.verdicts([image])
        states = [verdict.state(part) for part in parts]
        kept = tuple(text for text in record.keep if all(verdict.state(part) == "present" for part in _parts(text)))
        reason = ", ".join([verdict.object, *(f"{part} {state}" for part, state in zip(parts, states, strict=True))])
        scores = {"absent": round(min(_absence(verdict, part) for part in parts), 4)}
        absent = all(state == "absent" for state in states)
        return Judgement(verdict.object == thing, absent, round(verdict.quality, 4), reason, kept, scores)

    def things(self, image: Image.Image, record: Record) -> tuple[str, ...]:
        """Returns what else an image shows: the object's parts that nobody wants away."""
        thing, parts = self._scene_of(record)
        (verdict,) = self._judge.verdicts([image])
        return tuple(part for part in OBJECTS[thing] if part not in parts and verdict.state(part) == "present")


class SecondScenesJudge(ScenesJudge):
    """Judges by another network, which learned from other images: it tells how good what the first judge chose is."""

    name = "scenes-2"


class VideoScenesJudge(ScenesJudge):
    """Judges by a network that learned from frames of the built-in video model, which are soft, and knows its objects."""

    name = "scenes-video"
    instead = "scenes, mllm or vlm"

    @property
    def _known(self) -> Collection[str]:
        from vsf_cli.toy.video_scenes import VERBS

        return VERBS


def _parts(text: str) -> Sequence[str]:
    return [word for word in _words(text) if word in PARTS]


def _strange(texts: Sequence[str], thing: str) -> list[str]:
    """Returns the texts that name no part of a thing, or a part that it cannot have."""
    return [text for text in texts if not _parts(text) or not {*_parts(text)} <= {*OBJECTS[thing]}]


def _absence(verdict: "Verdict", part: str) -> float:
    from vsf_cli.toy.judge import STATES

    return verdict.parts[part][STATES.index("absent")]
