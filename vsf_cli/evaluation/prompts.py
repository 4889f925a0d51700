"""Prompt sets: JSON lines, each a prompt, what is not wanted in it, and two questions that a judge answers."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any

from vsf_cli.errors import RequestError
from vsf_cli.toy.scenes import SINGULAR, article, pairs
from vsf_cli.toy.video_scenes import video_pairs

__all__ = ["BUILT_IN", "PromptSet", "Record", "load_prompts"]


@dataclass(frozen=True)
class Record:
    """A prompt of a set.

    Arguments:
        id: What names it in files; letters, digits, dots and dashes.
        prompt: What is wanted.
        negative: What is not wanted, although it belongs to the thing.
        question_1: Whether the main object is there, with or without the negative.
        question_2: Whether the negative is missing.
        category: What it is reported under; of scenes, the object.
    """

    id: str
    prompt: str
    negative: str
    question_1: str
    question_2: str
    category: str = ""


@dataclass(frozen=True)
class PromptSet:
    """Records with the name of their set, in a fixed order."""

    name: str
    records: tuple[Record, ...]

    @property
    def digest(self) -> str:
        """The SHA-256 of what is in it."""
        return hashlib.sha256(self.to_jsonl().encode()).hexdigest()

    def to_jsonl(self) -> str:
        """A line for each record."""
        return "".join(json.dumps(asdict(record), ensure_ascii=False) + "\n" for record in self.records)

    def first(self, limit: int | None) -> "PromptSet":
        """The first `limit` records.

        Raises:
            RequestError: If there are fewer, or none is asked for.
        """
        if limit is None:
            return self
        if not 1 <= limit <= len(self.records):
            raise RequestError(f"--limit is {limit}, but {self.name} has 1 to {len(self.records)} prompts")
        return PromptSet(self.name, self.records[:limit])


def load_prompts(name: str) -> PromptSet:
    """A prompt set by its name in `BUILT_IN`, or by the path of its file.

    Raises:
        RequestError: If there is no such set, or its file has lines that are not legal; all of them are said.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]()
    path = Path(name)
    if not path.is_file():
        raise RequestError(f"prompt set '{name}' is neither one of {', '.join(BUILT_IN)} nor a file")
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"prompt set {path} cannot be read: {error}") from error
    return PromptSet(path.stem, _parsed(str(path), text))


def _parsed(place: str, text: str) -> tuple[Record, ...]:
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
        raise RequestError(f"prompt set {place}: {'; '.join(errors[:5])}" + ("; ..." if len(errors) > 5 else ""))
    return tuple(records.values())


def _record(found: Any) -> Record:
    if not isinstance(found, dict):
        raise ValueError("it must be an object")
    known = [entry.name for entry in fields(Record)]
    kept = {name: found[name] for name in known if name in found}
    for name in known[:-1]:
        if not isinstance(kept.get(name), str) or not kept[name].strip():
            raise ValueError(f"'{name}' is missing, or no text; a record has {', '.join(known)}")
    if any(not (letter.isalnum() or letter in ".-_") for letter in kept["id"]) or kept["id"].startswith("."):
        raise ValueError(f"id '{kept['id']}' names files: use letters, digits, dots and dashes")
    return Record(**{**kept, "category": str(kept.get("category", ""))})


def _shipped(name: str) -> PromptSet:
    file = resources.files("vsf_cli.evaluation") / "data" / f"{name}.jsonl"
    return PromptSet(name, _parsed(name, file.read_text("utf-8")))


def _scenes(name: str, found: Sequence[tuple[str, str, str]]) -> PromptSet:
    return PromptSet(name, tuple(_scene(f"{name}-{number:03d}", *found[number]) for number in range(len(found))))


def _scene(id: str, prompt: str, object: str, part: str) -> Record:
    verb = "Is" if part in SINGULAR else "Are"
    first = f"Is {article(object)} shown, with or without the {part}?"
    return Record(id, prompt, part, first, f"{verb} the {part} missing?", object)


BUILT_IN = {
    "negation-200": lambda: _shipped("negation-200"),
    "scenes": lambda: _scenes("scenes", pairs("test", 200)),
    "scenes-dev": lambda: _scenes("scenes-dev", pairs("dev", 200)),
    "clips": lambda: _scenes("clips", video_pairs("test", 200)),
    "clips-dev": lambda: _scenes("clips-dev", video_pairs("dev", 200)),
}
"""The sets that ship with the package. Scenes and clips are for the embedded models: the test split of the vocabulary, which
training never saw, and the dev split, on which settings are chosen."""
