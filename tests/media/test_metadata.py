import json
import re
from dataclasses import fields

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.media.drawn_requests import FIELDS, describe_request, lines, requests, text
from vsf_cli.generation.generate import Request
from vsf_cli.media.metadata import infotext, parse_infotext
from vsf_cli.settings.request import UNCHOSEN


@given(requests)
@settings(max_examples=60, deadline=None)
def test_a_request_survives_json(request_: Request) -> None:
    assert Request.from_json(json.loads(json.dumps(request_.to_json()))) == request_


def test_every_field_of_a_request_is_drawn() -> None:
    # Nobody chooses the image of a request that stands in metadata.
    assert {*FIELDS, "method", "parameters", *UNCHOSEN} == {entry.name for entry in fields(Request)}


hard = st.sampled_from(
    [
        'a "bike", red: fast',
        "Negative prompt: wheels",
        "Steps: 20, Sampler: x, Seed: 1",
        "emoji 🚲 and ümlaut",
        "back\\slash {braces}",
        "a\n\nblank line",
    ]
)


@given(prompt=st.one_of(lines, hard), negative=st.one_of(st.none(), text, hard), seed=st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_the_text_is_read_by_the_grammar_of_a1111(prompt: str, negative: str | None, seed: int) -> None:
    request = Request(
        prompt, "builtin:tiny-sd3-turbo", seed, (negative,) if negative else (), parameters={"alpha": 3, "beta": 1.5}
    )
    found_prompt, found_negative, parameters = parse_infotext(infotext(describe_request(request)))
    assert parameters["Steps"] == "8" and parameters["Seed"] == str(seed) and parameters["Size"] == "16x8"
    assert bool(found_negative) == bool(negative)
    assert (parameters.get("VSF alpha") == "3") == bool(negative)
    if prompt.isalnum():
        assert found_prompt == prompt


KEY = r"\w[\w \-/]+"
BARE, QUOTED = r"[^,\n:]*", r'"(?:[^"\\\n]|\\.)*"'
PAIR = rf"{KEY}: (?:{QUOTED}|{BARE})"
GRAMMAR = re.compile(
    rf"(?P<prompt>.*?)(?:\nNegative prompt: (?P<negative>.*?))?\n(?P<pairs>{PAIR}(?:, {PAIR})*)",
    re.DOTALL,
)
"""A1111's grammar as a whole, written from its description; not our own reader, which is lenient."""


@given(prompt=st.one_of(lines, hard), negative=st.one_of(st.none(), text, hard), seed=st.integers(0, 2**64 - 1))
@settings(max_examples=150, deadline=None)
def test_the_text_is_a_sentence_of_the_grammar_of_a1111(prompt: str, negative: str | None, seed: int) -> None:
    request = Request(prompt, "owner/a model, v1: x", seed, (negative,) if negative else (), parameters={"alpha": 3.25})
    found = GRAMMAR.fullmatch(infotext(describe_request(request)))
    assert found and "\n" not in found["pairs"]
    pairs = dict(re.findall(rf"({KEY}): ({QUOTED}|{BARE})(?:, |$)", found["pairs"]))
    assert pairs["Steps"] == "8" and pairs["Seed"] == str(seed) and pairs["Size"] == "16x8" and len(pairs) >= 3

    def kept(words: str) -> str:
        return "".join(re.findall(r"[^\W_]", re.sub(r"(?i)negative prompt|steps", "", words)))

    assert kept(found["prompt"]) == kept(prompt) and kept(found["negative"] or "") == kept(negative or "")


@given(prompt=st.one_of(lines, hard), negative=st.one_of(text, hard))
@settings(max_examples=150, deadline=None)
def test_the_text_is_read_by_the_scanner_of_civitai(prompt: str, negative: str) -> None:
    request = Request(prompt, "builtin:tiny-sd3-turbo", 1, (negative,), parameters={"alpha": 3.5, "beta": 0.1})
    written = infotext(describe_request(request))
    *before, last = written.split("\n")
    assert last.startswith("Steps: ") and sum(line.startswith("Steps: ") for line in written.split("\n")) == 1
    assert written.count("Negative prompt:") == 1
    assert all(line for line in before)
    for pair in last.split(", "):
        key, value = pair.split(": ")
        assert ":" not in value and '"' not in value, key


def test_our_text_does_not_mislead_about_cfg() -> None:
    request = Request("a bike", "owner/name", 1, ("wheels",), parameters={"alpha": 3.0, "beta": 0.3})
    written = infotext(describe_request(request))
    assert "CFG scale: 0," in written and "Guidance method: VSF" in written
