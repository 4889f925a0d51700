"""Wrong uses of the library are refused in one line of ours, and what is public can be found."""

import pydoc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vsf_cli
from tests.conftest import random_pipeline
from vsf_cli import METHODS, VSF, Request, generate, guided
from vsf_cli.errors import RequestError
from vsf_cli.methods import CFG, NAG, NASA, WEF

NAN = float("nan")


@pytest.fixture(scope="module")
def pipe() -> Any:
    return random_pipeline("sd3", torch.float32)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (None, "give one of negative_prompt and negative_prompt_embeds"),
        (NAN, "negative_prompt has 'nan', but must be a text"),
        (["wheels", NAN], "negative_prompt has 'nan'"),
        (["wheels", None], "negative_prompt has a NoneType"),
        ([["wheels", 3]], "negative_prompt has '3'"),
        ({"wheels": 1}, "negative_prompt has a dict"),
        (np.array(["wheels"]), "negative_prompt has a ndarray"),
        (torch.zeros(1, 2, 128), "negative_prompt has a Tensor"),
        ([], "negative_prompt is an empty list"),
    ],
    ids=lambda value: None if isinstance(value, str) else type(value).__name__,
)
def test_a_negative_prompt_that_is_no_text_is_refused(pipe: Any, prompts: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message), guided(pipe, prompts):
        pass


def test_what_is_kept_is_text_too(pipe: Any) -> None:
    with pytest.raises(RequestError, match="keep has 'nan', but must be a text"), guided(pipe, "wheels", keep=["a hat", NAN]):  # type: ignore[list-item]
        pass


@pytest.mark.parametrize(
    ("embeds", "message"),
    [
        (np.zeros((1, 2, 128)), "are a float64, but must be a tensor of floats"),
        ([[0.0]], "are a list, but must be a tensor"),
        (torch.zeros(1, 2, 128, dtype=torch.long), "are a torch.int64, but must be a tensor of floats"),
        (torch.full((1, 2, 128), NAN), "have numbers that are not finite"),
        (torch.zeros(2, 128), r"have shape \(2, 128\)"),
    ],
    ids=["array", "list", "integers", "not a number", "two axes"],
)
def test_embeddings_that_are_none_are_refused(pipe: Any, embeds: Any, message: str) -> None:
    with pytest.raises(RequestError, match=f"negative_prompt_embeds {message}"), guided(pipe, negative_prompt_embeds=embeds):
        pass


@pytest.mark.parametrize("method", [VSF, "vsf", NAN, 3.0, 0, ""], ids=repr)
def test_a_method_that_is_none_is_refused(pipe: Any, method: Any) -> None:
    refused = pytest.raises(RequestError, match=r"method is .*, but must be made of .* such as VSF\(alpha=3\.0\)")
    with refused, guided(pipe, "wheels", method):
        pass


@pytest.mark.parametrize("value", [NAN, "3", None, True, [1.0], -1.0], ids=repr)
@pytest.mark.parametrize("method", [VSF, NAG, NASA, WEF])
def test_a_strength_that_is_no_number_is_refused(method: Any, value: Any) -> None:
    with pytest.raises(RequestError, match=r"alpha is .*, but must be"):
        method(alpha=value)
    assert method(alpha=np.float32(0.5)).alpha == 0.5


def test_every_number_and_switch_of_a_method_has_its_type() -> None:
    for method in METHODS.values():
        for one in method.options():
            with pytest.raises(RequestError, match=f"{one.key} is .*, but must be (a number|true or false|a text)"):
                method(**{one.field: object()})


OPTIONS = {"guidance_scale": 0.0, "num_inference_steps": 1, "width": 16, "height": 16, "output_type": "latent"}
EMBEDS = {"negative_prompt_embeds": torch.zeros(1, 20, 128), "negative_pooled_prompt_embeds": torch.zeros(1, 128)}


@pytest.mark.parametrize("given", [{"negative_prompt": "a hat"}, {"negative_prompt_2": ["a hat"]}, EMBEDS], ids=list)
@pytest.mark.parametrize("method", [VSF(), NAG(), WEF()], ids=str)
def test_a_negative_prompt_of_the_call_is_not_lost(pipe: Any, given: dict[str, Any], method: Any) -> None:
    with (
        pytest.raises(RequestError, match="where it has no effect without CFG: give it to guided"),
        guided(pipe, "wheels", method),
    ):
        pipe("a bike", max_sequence_length=12, **given, **OPTIONS)


def test_a_negative_prompt_of_the_call_that_is_empty_or_acts_is_none_of_ours(pipe: Any) -> None:
    with guided(pipe, "wheels"):
        pipe("a bike", negative_prompt="", max_sequence_length=12, **OPTIONS)
    with guided(pipe, "", CFG()):
        pipe("a bike", negative_prompt="a hat", max_sequence_length=12, **{**OPTIONS, "guidance_scale": 2.0})


def test_a_call_of_another_length_than_the_padding_is_warned_of_once(pipe: Any) -> None:
    wanted = r"the call has max_sequence_length=12, but NAG pads the negative prompt to 9: give guided\(\) the same"
    with pytest.warns(UserWarning, match=wanted) as warned, guided(pipe, "wheels", NAG(), 9):
        pipe("a bike", max_sequence_length=12, **{**OPTIONS, "num_inference_steps": 2})
    assert len(warned) == 1
    with guided(pipe, "wheels", NAG(), 12):
        pipe("a bike", max_sequence_length=12, **OPTIONS)
    with guided(pipe, "wheels", NAG(padding=False), 9):
        pipe("a bike", max_sequence_length=12, **OPTIONS)


def test_words_that_a_models_vocabulary_lacks_are_warned_of(tmp_path: Path) -> None:
    pipe = random_pipeline("sd3", torch.float32)
    pipe.register_to_config(_name_or_path=str(tmp_path))
    with guided(pipe, "feathers"):
        pass
    (tmp_path / "vocabulary.txt").write_text("a\nhat\nwheels\nbells\n")
    with guided(pipe, ["a hat", ["wheels", ""]], keep="bells, hat"):
        pass
    with pytest.warns(UserWarning) as warned, guided(pipe, ["feathers", "wheel"], keep="belts"):
        pass
    assert [str(one.message).partition(" has words that this model does not know: ")[::2] for one in warned] == [
        ("negative 'feathers'", "feathers. What is unknown acts as a word without a meaning"),
        ("negative 'wheel'", "wheel. Did you mean 'wheels'? What is unknown acts as a word without a meaning"),
        ("kept 'belts'", "belts. Did you mean 'bells'? What is unknown acts as a word without a meaning"),
    ]
    assert {one.filename for one in warned} == {__file__}


def test_what_is_public_is_listed_and_documented() -> None:
    assert set(vsf_cli.__all__) <= set(dir(vsf_cli))
    page = pydoc.plain(pydoc.render_doc(vsf_cli))
    assert all(name in page for name in ("guided(", "class VSF(", "generate(", "class Request("))


@pytest.mark.parametrize("length", [-1, 0, 2.5, "x", 10**6])
def test_a_length_that_no_text_encoder_takes_is_refused(pipe: Any, length: Any) -> None:
    with (
        pytest.raises(RequestError, match=r"max_sequence_length is .*, but must be 1 to 512"),
        guided(pipe, "wheels", NAG(), length),
    ):
        pass


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"negative": "wheels"}, "negative is 'wheels', but must be a list of texts"),
        ({"keep": "bells"}, "keep is 'bells', but must be a list of texts"),
        ({"seed": "1"}, "seed is '1', but must be a whole number"),
        ({"seed": 1.5}, "seed is '1.5', but must be a whole number"),
        ({"prompt": ["a bike"]}, "prompt is"),
        ({"method": VSF()}, "method is"),
        ({"num_inference_steps": 2.5}, "num_inference_steps is '2.5'"),
        ({"width": 32}, "width is 32 and height None: give both, or neither"),
    ],
)
def test_a_field_of_another_type_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        Request(**{"prompt": "a bike", "model": "owner/name", "seed": 1, **fields})


def test_a_list_of_texts_is_one_and_a_text_is_no_request(pipe: Any) -> None:
    request: Any = Request("a bike", "owner/name", 1, ["wheels"])  # type: ignore[arg-type]
    assert request == Request("a bike", "owner/name", 1, ("wheels",)) and hash(request.negative)
    with pytest.raises(RequestError, match="a request is 'a red bike', but must be a Request"):
        generate(pipe, "a red bike")  # type: ignore[arg-type]
