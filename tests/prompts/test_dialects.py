"""The syntax of other programs in prompts: what reaches the model as plain text is said."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from vsf_cli.cli.app import app
from vsf_cli.prompts.dialects import dialect_warnings
from vsf_cli.prompts.texts import Texts


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("a red (car:1.5)", "'(car:1.5)'"),
        ("a red (old car: 0,8) on a road", "'(old car: 0,8)'"),
        ("a ((red)) car", "'((red))'"),
        ("a red car [wheels]", "'[wheels]'"),
        ("a {{red}} car", "'{red}'"),
        ("a (red)1.3 car", "'(red)1.3'"),
        ("a red++ car", "'red++'"),
        ("a car <lora:x:0.8>", "give LoRA files by --lora"),
        ("a car <lyco:x>", "give LoRA files by --lora"),
        ("[red:blue:0.5] car", "cannot change between steps"),
        ("a [red|blue] car", "cannot change between steps"),
        ("a {red|blue} car", "--sr"),
        ("a __color__ car", "--sr"),
        ("a red car --ar 16:9", "'--ar 16:9'"),
        ("a red car --no", "'--no'"),
        ("a red car BREAK a road", "'BREAK'"),
        ("a red car AND a road", "'AND'"),
        ("a red car::2 road", "whose parts have no weights"),
        ("embedding:easynegative, a car", "embeddings of other programs"),
        ('("a car", "a road").blend(0.5, 0.5)', "not blended"),
        ("a red car --no wheels", "is read as --neg 'wheels'"),
        ("a red car —NO wheels —ar 1:1", "is read as --neg 'wheels'"),
        ("a red car --negative_prompt wheels", "'--negative_prompt wheels'"),
        ("a red car\nNegative prompt: wheels\nSteps: 8, Seed: 1", "'Negative prompt:', which"),
        ("a red car Steps: 8, Seed: 1", "'Steps: 8'"),
        ("/imagine prompt: a car", "'/imagine'"),
        ("a red car ADDCOMM a road", "'ADDCOMM'"),
        ("a red car (wheels:-1", "'wheels:-1'"),
        ("a car:2, a road", "'car:2'"),
    ],
)
def test_the_syntax_of_others_in_a_prompt_is_said(prompt: str, message: str) -> None:
    assert any(message in warning for warning in dialect_warnings(Texts(prompt)))


@pytest.mark.parametrize(
    ("negative", "said"),
    [
        *[(text, True) for text in ("((wheels))", "[wheels]", "wheels:1,5", "(wheels:1,5)", "(a (hat:2):3)", "<lora:x:1>")],
        *[(text, True) for text in ("wheels:2:3", "wheels:inf", "wheels:1e3", "wheels：2", "（wheels：2）")],
        *[
            (text, False)
            for text in ("wheels", "wheels:2", "(red:2)(hat:3)", "((wheels:2))", "a hat (red)", r"\(wide:2\)", "at 12:30")
        ],
    ],
)
def test_the_syntax_of_others_in_a_negative_is_said(negative: str, said: bool) -> None:
    for texts in (Texts("a car", (negative,)), Texts("a car", ("wheels",), (negative,))):
        assert bool(list(dialect_warnings(texts))) == said


def test_each_of_several_kept_prompts_has_its_weight() -> None:
    assert not list(dialect_warnings(Texts("a car", ("wheels",), ("bells:3, legs", "(big:2) hands"))))
    assert list(dialect_warnings(Texts("a car", ("bells:3, legs",))))
    assert list(dialect_warnings(Texts("a car", ("wheels",), ("bells, ((legs))",))))


@pytest.mark.parametrize(
    "prompt",
    [
        *(
            "a car (old), red; fast",
            "A RED CAR AND A ROAD",
            "ratio 3:2 (16:9)",
            "a man -- tall",
            r"a \(red:1.2\) car",
            "f/1.8, 12:30",
        ),
        *(
            "a car (wheels:-1.5)",
            "a car (wheels:−1.5)",
            "a man — tall —who runs",
            "a poster, title: 1984",
            "a well-known car--red",
            'a sign that says "stop"',
            "a_b c__d",
            "what? [sic",
            "lunch BREAK",
            "a :) face",
        ),
    ],
)
def test_plain_text_is_not_said(prompt: str) -> None:
    assert list(dialect_warnings(Texts(prompt))) == []


@given(st.text("ab([{<:|-+_ 1.,\\>}])", max_size=60))
def test_any_text_is_looked_at(text: str) -> None:
    assert all(warning for warning in dialect_warnings(Texts(text, (text,), (text,))))


@pytest.mark.parametrize(
    "text", ["(" * 50_000 + "(x:-1)" + ")" * 50_000, "--no a" + " " * 90_000 + "b", "[" + ":" * 90_000, "a" * 90_000]
)
def test_long_texts_take_no_time(text: str) -> None:
    list(dialect_warnings(Texts(text, (text,))))


def test_commands_say_it() -> None:
    found = CliRunner().invoke(app, ["image", "a red (car:1.5)", "--no", "[wheels]", "--dry-run", "--json"])
    assert "prompt has '(car:1.5)'" in found.stderr and "negative has '[wheels]'" in found.stderr
    assert '"negative": ["[wheels]"]' in found.stdout
