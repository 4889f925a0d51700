import pytest

from vsf_cli.errors import RequestError
from vsf_cli.prompts.texts import Texts
from vsf_cli.prompts.vocabulary import check_vocabulary, hints

WORDS = {"a", "bike", "red", "wheels", "with", "on", "road"}


def test_known_words_pass_in_silence() -> None:
    assert check_vocabulary(Texts("A red bike, on a “road”… (+ 'bike')!", ("wheels",)), WORDS) == []


def test_an_unknown_word_of_the_prompt_is_named_with_the_known_ones() -> None:
    warning, advice = check_vocabulary(Texts("a shiny red bike"), WORDS)
    assert "shiny" in warning and "wheels" not in warning
    assert advice == "this model knows bike, red, road, wheels; for any word: --preset sd3.5-large-turbo"
    assert check_vocabulary(Texts("a rusty red bike"), WORDS)[1] == advice, "a batch tells it once"


@pytest.mark.parametrize("negative", ["wheel", "old wheels", "Räder", "🚲", "wheels 🚲", "!!!", "with a"])
def test_an_unknown_word_of_a_negative_is_refused(negative: str) -> None:
    with pytest.raises(RequestError, match=r"--preset sd3\.5-large-turbo"):
        check_vocabulary(Texts("a red bike", (negative,)), WORDS)


def test_a_near_word_is_suggested() -> None:
    with pytest.raises(RequestError, match=r"Did you mean 'wheels'"):
        check_vocabulary(Texts("a red bike", ("wheel",)), WORDS)


@pytest.mark.parametrize(("word", "near"), [("whele", "wheels"), ("rode", "road"), ("kite", ""), ("broad", "")])
def test_a_suggestion_is_a_slip_and_no_other_word(word: str, near: str) -> None:
    (warning, _) = check_vocabulary(Texts(f"a red {word}"), WORDS)
    assert warning.endswith(f"Did you mean '{near}'?" if near else "takes no notice.")


def test_a_double_negation_of_known_things_says_what_to_write() -> None:
    with pytest.raises(RequestError, match="write --neg 'wheels'"):
        check_vocabulary(Texts("a red bike", ("no wheels",)), WORDS)


def test_an_emoji_is_no_word_that_is_known() -> None:
    assert check_vocabulary(Texts("a red bike 🚲!"), WORDS)[0] == "this model does not know 🚲, and takes no notice."


@pytest.mark.parametrize("prompt", ["quantum foam", "a the on", "with a castle", "…", "🚲"])
def test_a_prompt_of_which_nothing_is_known_is_refused(prompt: str) -> None:
    with pytest.raises(RequestError, match="no word that this model knows"):
        check_vocabulary(Texts(prompt), WORDS)


@pytest.mark.parametrize(
    ("negative", "rest"), [("no wheels", "wheels"), ("without a hat", "hat"), ("Not any  glasses", "glasses")]
)
def test_a_double_negation_gets_a_hint(negative: str, rest: str) -> None:
    assert any(f"--neg '{rest}'" in hint for hint in hints([negative]))


def test_quality_words_get_one_hint() -> None:
    assert len(list(hints(["blurry, low quality", "ugly"]))) == 1
    assert list(hints(["blurry"], guides_attention=False)) == []


@pytest.mark.parametrize("negative", ["wheels", "nothing", "notebook", "a badge"])
def test_things_get_no_hint(negative: str) -> None:
    assert list(hints([negative])) == []
