"""Prompt sets: JSON lines, each with a prompt, its negative prompt, questions for a judge, and what must stay."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any

from vsf_cli.errors import RequestError
from vsf_cli.judges.questions import QUESTIONS, Record
from vsf_cli.prompts.texts import decode_text
from vsf_cli.toy.scenes import OBJECTS, article, pairs
from vsf_cli.toy.video_scenes import video_pairs

__all__ = ["BUILT_IN", "PromptSet", "load_prompts"]


@dataclass(frozen=True)
class PromptSet:
    """A named set of records in a fixed order."""

    name: str
    records: tuple[Record, ...]

    @property
    def digest(self) -> str:
        """The SHA-256 of its records."""
        return hashlib.sha256(self.to_jsonl().encode()).hexdigest()

    def to_jsonl(self) -> str:
        """Returns the records as JSON lines."""
        return "".join(json.dumps(record.to_json(), ensure_ascii=False) + "\n" for record in self.records)

    def first(self, limit: int | None) -> "PromptSet":
        """Returns the first `limit` records; all if it is None.

        Raises:
            RequestError: If there are fewer, or `limit` is below 1.
        """
        if limit is None:
            return self
        if not 1 <= limit <= len(self.records):
            raise RequestError(f"--limit is {limit}, but {self.name} has 1 to {len(self.records)} prompts")
        return PromptSet(self.name, self.records[:limit])


def load_prompts(name: str) -> PromptSet:
    """Returns a prompt set by its name in `BUILT_IN`, or by the path of its file.

    Raises:
        RequestError: If there is no such set, or its file has lines that are not legal.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]()
    path = Path(name)
    if not os.path.isfile(path):
        raise RequestError(f"prompt set '{name}' is neither one of {', '.join(BUILT_IN)} nor a file")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RequestError(f"prompt set {path} cannot be read: {error.strerror}") from error
    return PromptSet(path.stem, _parsed(str(path), decode_text(f"prompt set {path}", data)))


def _parsed(source: str, text: str) -> tuple[Record, ...]:
    errors: list[str] = []
    records: dict[str, Record] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = _record(json.loads(line))
        except (ValueError, RecursionError) as error:
            errors.append(f"line {number}: {error}")
            continue
        if record.id in records:
            errors.append(f"line {number}: id '{record.id}' is there twice")
        records[record.id] = record
    if not errors and not records:
        errors.append("it has no prompts")
    if errors:
        raise RequestError(f"prompt set {source}: {'; '.join(errors[:5])}" + ("; ..." if len(errors) > 5 else ""))
    return tuple(records.values())


def _record(value: Any) -> Record:
    if not isinstance(value, dict):
        raise ValueError("it must be an object")
    known = [entry.name for entry in fields(Record)]
    entries = {**dict.fromkeys(QUESTIONS, ""), **{name: value[name] for name in known if name in value}}
    for name in known[:-2]:
        if not isinstance(entries.get(name), str) or not (entries[name].strip() or name in QUESTIONS):
            raise ValueError(f"'{name}' is missing, or not a text; a record has {', '.join(known)}")
    if any(not (letter.isalnum() or letter in ".-_") for letter in entries["id"]) or entries["id"].startswith("."):
        raise ValueError(f"id '{entries['id']}' names files: use letters, digits, dots and dashes")
    return Record(**{**entries, "category": str(entries.get("category", "")), "keep": _kept(entries.get("keep", []))})


def _kept(things: Any) -> tuple[str, ...]:
    if not isinstance(things, list) or not all(isinstance(thing, str) and thing.strip() for thing in things):
        raise ValueError(f"'keep' is {things!r}, but must be a list of texts")
    return tuple(things)


def _shipped(name: str) -> PromptSet:
    file = resources.files("vsf_cli.evaluation") / "data" / f"{name}.jsonl"
    return PromptSet(name, _parsed(name, file.read_text("utf-8")))


def _scenes(name: str, triples: Sequence[tuple[str, str, str]]) -> PromptSet:
    return PromptSet(name, tuple(_scene(f"{name}-{number:03d}", *triple) for number, triple in enumerate(triples)))


def _scene(id: str, prompt: str, object: str, part: str) -> Record:
    first = f"Is {article(object)} shown, with or without the {part}?"
    others = tuple(name for name in OBJECTS[object] if name != part)
    return Record(id, prompt, part, first, category=object, keep=others)


BUILT_IN = {
    "negation-200": lambda: _shipped("negation-200"),
    "scenes": lambda: _scenes("scenes", pairs("test", 200)),
    "scenes-600": lambda: _scenes("scenes-600", pairs("test", 600)),
    "scenes-dev": lambda: _scenes("scenes-dev", pairs("dev", 200)),
    "clips": lambda: _scenes("clips", video_pairs("test", 200)),
    "clips-dev": lambda: _scenes("clips-dev", video_pairs("dev", 200)),
}
"""The sets of the package. Scenes and clips (videos) are for the built-in models: the test split of the vocabulary, which
training never saw, and the dev split, on which settings are chosen. The first 200 of the 600 scenes are those of `scenes`."""
