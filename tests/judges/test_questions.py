"""Questions that a prompt set leaves out."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from vsf_cli.errors import RequestError
from vsf_cli.evaluation.prompts import BUILT_IN, PromptSet, load_prompts
from vsf_cli.judges.questions import Record, named_things, question_about, question_about_things


@pytest.mark.parametrize(
    ("prompt", "negative", "first", "second"),
    [
        ("a bike", "wheels", "a bike, with or without the wheels?", "Are the wheels missing?"),
        ("A  house in\nthe snow.", "a chimney", "a house in the snow, with or without the chimney?", "Is the chimney missing?"),
        ("two cats", "(the tail:1.5), A bow", "two cats, with or without the tail and bow?", "Are the tail and bow missing?"),
        (
            "An Aston",
            "windows of the car",
            "an Aston, with or without the windows of the car?",
            "Are the windows of the car missing?",
        ),
        ("Anna in Paris", "glass", "Anna in Paris, with or without the glass?", "Is the glass missing?"),
        ("a man", "Teeth", "a man, with or without the Teeth?", "Are the Teeth missing?"),
    ],
)
def test_questions_are_made_from_the_texts(prompt: str, negative: str, first: str, second: str) -> None:
    record = Record("a", prompt, negative)
    assert (record.question_1, record.question_2) == (f"Does the picture show {first}", second)
    assert replace(record, question_1="", question_2=" ") == record
    own = Record("a", prompt, negative, "Is it there?", "Is it gone?")
    assert (own.question_1, own.question_2) == ("Is it there?", "Is it gone?")


@pytest.mark.parametrize(
    ("answer", "things"),
    [
        ("A bell, the wheels, Red handlebars and a sky.", ("bell", "red handlebars", "sky")),
        ("bike; bell\nbell, very long name of thing", ("bell",)),
        ("a, b, c, d, e, f", ("b", "c", "d", "e", "f")),
        ("", ()),
        ("...", ()),
    ],
)
def test_things_are_the_nouns_of_an_answer(answer: str, things: tuple[str, ...]) -> None:
    record = Record("x", "a red bike on a road", "wheels")
    assert named_things(answer, record) == things
    assert "Besides a red bike on a road, and besides the wheels" in question_about_things(record)


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_second_question_is_that_of_the_built_in_sets(name: str) -> None:
    """They were written by hand, or know the number of their parts."""
    for record in load_prompts(name).records:
        assert replace(record, question_2="").question_2 == record.question_2


def test_number_is_told_by_the_noun() -> None:
    many = ("wheels", "rotor blades", "antennae", "hat and tie", "legs of a chair", "glasses", "skis")
    one = ("lens", "camera lens", "glass", "cactus", "tail", "arm with rings", "green leaf")
    assert [question_about(things, "visible") for things in many] == [f"Are the {things} visible?" for things in many]
    assert [question_about(thing, "visible") for thing in one] == [f"Is the {thing} visible?" for thing in one]


def test_a_file_may_leave_questions_out(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    line = {"id": "a", "prompt": "a car", "negative": "wheels"}
    path.write_text(json.dumps(line), "utf-8")
    prompts = load_prompts(str(path))
    assert prompts.records == (Record("a", "a car", "wheels"),)
    path.write_text(prompts.to_jsonl(), "utf-8")
    assert load_prompts(str(path)) == prompts == PromptSet("mine", prompts.records), "a run has the questions that were asked"
    path.write_text(json.dumps({**line, "question_2": 3}), "utf-8")
    with pytest.raises(RequestError, match="line 1: 'question_2' is missing, or not a text"):
        load_prompts(str(path))
