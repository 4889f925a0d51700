import pytest

from vsf_cli.config.names import check_choice, counted, meant, nearest
from vsf_cli.errors import RequestError
from vsf_cli.methods import METHODS

OPTIONS = ["--neg", "--steps", "--seeds", "--guidance", "--output", "--strength", "--image", "--alpha"]


@pytest.mark.parametrize(
    ("word", "legal", "name"),
    [
        ("NAG", METHODS, "nag"),
        ("Value Sign Flip", METHODS, "vsf"),
        ("normalized-attention-guidance", METHODS, "nag"),
        ("off", METHODS, "none"),
        ("nassa", METHODS, "nasa"),
        ("bf16", ("float32", "bfloat16", "float16"), "bfloat16"),
        ("FP16", ("float32", "bfloat16", "float16"), "float16"),
        ("jpg", ("png", "jpeg", "webp"), "jpeg"),
        ("--alhpa", OPTIONS, "--alpha"),
        ("--outdir", OPTIONS, "--output"),
        ("--batch-count", OPTIONS, "--seeds"),
        ("--denoising_strength", OPTIONS, "--strength"),
        ("--no", OPTIONS, "--neg"),
        ("--zebra", OPTIONS, None),
        ("--sampler", [*OPTIONS, "--scale"], None),
        ("--controlnet", [*OPTIONS, "--contrast"], None),
        ("--fp16", ["--dtype"], "--dtype"),
        ("--output-format", ["--output", "--format"], "--format"),
        ("txt2img", ["image", "video"], "image"),
        ("redo", ["again", "eval"], "again"),
        ("sd35", ("flux.1-dev", "sd3.5-large"), "sd3.5-large"),
    ],
)
def test_the_nearest_name_is_found_by_spelling_and_by_meaning(word: str, legal: list[str], name: str | None) -> None:
    assert meant(word, legal) == name
    assert nearest(word, legal) == (f" Did you mean '{name}'?" if name else "")


def test_what_is_called_so_elsewhere_is_meant_before_what_is_spelled_like_it() -> None:
    assert meant("--negative_prompts", ["--neg", "--negative-mask"], {"negative_prompts": "--neg"}) == "--neg"


def test_a_choice_that_is_not_legal_is_refused_with_the_nearest() -> None:
    check_choice("--exists", "skip", ("skip", "error"))
    with pytest.raises(RequestError, match=r"^--exists is 'Skip', but must be one of skip, error\. Did you mean 'skip'\?$"):
        check_choice("--exists", "Skip", ("skip", "error"))
    with pytest.raises(RequestError, match=r"one of skip, error$"):
        check_choice("--exists", "zebra", ("skip", "error"))


def test_numbers_have_their_nouns() -> None:
    assert [counted(number, "image") for number in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
