"""What a judge is asked about an image: a record with questions, made from the texts where nobody wrote any."""

import re
from dataclasses import asdict, dataclass
from typing import Any

from vsf_cli.prompts.prompt_weights import without_weights

__all__ = ["QUESTIONS", "Record", "named_things", "question_about", "question_about_things"]

MAX_THINGS, MAX_WORDS = 5, 3
"""How many things are to stay that a judge names, and the most words of one."""
QUESTIONS = ("question_1", "question_2")
PREPOSITIONS = re.compile(r" (?:of|on|in|at|with|from|for|to) ")
PLURALS = frozenset({"antennae", "children", "feet", "men", "mice", "people", "teeth", "women"})
SINGULARS = frozenset({"canvas", "chassis", "gas", "iris", "lens"})
"""Nouns whose ending does not tell their number."""


@dataclass(frozen=True)
class Record:
    """A prompt of a set.

    Arguments:
        id: Its id, which names files; letters, digits, dots and dashes.
        prompt: The prompt.
        negative: The negative prompt: a thing that usually belongs to the object.
        question_1: Asks whether the main object is shown, with or without the negative; "" makes it from the texts.
        question_2: Asks whether the negative is missing, so that yes means absent; "" makes it from the negative.
        category: The group in reports; for scenes, the object.
        keep: Things that must stay if the image without guidance shows them; for scenes, the object's other parts.
    """

    id: str
    prompt: str
    negative: str
    question_1: str = ""
    question_2: str = ""
    category: str = ""
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        things = _things(self.negative)
        shown = f"Does the picture show {_inside(self.prompt)}, with or without the {things}?"
        for name, question in zip(QUESTIONS, (shown, question_about(things, "missing")), strict=True):
            if not getattr(self, name).strip():
                object.__setattr__(self, name, question)

    def to_json(self) -> dict[str, Any]:
        """Returns plain values, without `keep` if it is empty, so that a set of version 0.1 has the same digest."""
        return {name: value for name, value in asdict(self).items() if name != "keep" or value}


def question_about(text: str, state: str) -> str:
    """Returns a question about what a text names, such as "Are the wheels missing?"."""
    things = _things(text)
    return f"{_verb_of(things)} the {things} {state}?"


def question_about_things(record: Record) -> str:
    """Returns the question what else an image shows."""
    shown = f"Besides {_inside(record.prompt)}, and besides the {_things(record.negative)}"
    return (
        f"{shown}: which {MAX_THINGS} things or parts does the picture show most clearly? Answer with nouns and commas alone."
    )


def named_things(answer: str, record: Record) -> tuple[str, ...]:
    """Returns the things that an answer names, without those of the prompt and the negative prompt."""
    known = {*re.findall(r"\w+", f"{record.prompt} {record.negative}".lower())}
    parts = (" ".join(re.findall(r"[^\W_]+", part.lower())) for part in re.split(r"[,;.\n]| and ", answer))
    names = dict.fromkeys(re.sub(r"^(?:an?|the) ", "", part) for part in parts)
    told = [name for name in names if name and len(name.split()) <= MAX_WORDS and not {*name.split()} <= known]
    return tuple(told[:MAX_THINGS])


def _verb_of(things: str) -> str:
    """Returns "Are" for "wheels of a car" and "hat and tie", and "Is" for "lens"."""
    noun = PREPOSITIONS.split(things)[0].rpartition(" ")[2].lower()
    by_ending = noun.endswith("s") and not noun.endswith(("ss", "us")) and noun not in SINGULARS
    return "Are" if " and " in things or noun in PLURALS or by_ending else "Is"


def _things(negative: str) -> str:
    """Returns a negative prompt as one phrase, without weights and articles: "a (wheel:1.5), the bell" is "wheel and bell"."""
    parts = (part.strip(" .") for part in without_weights(negative).split(","))
    names = (re.sub(r"^(?:an?|the) ", "", part, flags=re.IGNORECASE) for part in parts)
    return " and ".join(name for name in names if name)


def _inside(prompt: str) -> str:
    """Returns a prompt as a part of a sentence: without a full stop, and with its article in lower case."""
    return re.sub(r"^(?:An?|The)(?= )", lambda match: match[0].lower(), " ".join(prompt.split()).rstrip(" ."))
