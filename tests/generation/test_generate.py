import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import random_pipeline
from vsf_cli.errors import OutOfMemory, PictureError, RequestError
from vsf_cli.generation.capture import check_capture
from vsf_cli.generation.generate import Request, can_batch_strengths, generate, generate_batch
from vsf_cli.models import FAMILIES
from vsf_cli.settings.presets import check_scale


@pytest.fixture(scope="module")
def pipe() -> Any:
    return random_pipeline("sd3", torch.float32)


def request(**options: Any) -> Request:
    return Request(
        **{
            "prompt": "a red bike",
            "model": "x",
            "seed": 1,
            "num_inference_steps": 2,
            "max_sequence_length": 12,
            "parameters": {"alpha": 3.0, "beta": 0.3},
            **options,
        }
    )


def test_the_same_request_gives_the_same_bits(pipe: Any) -> None:
    asked = request(negative=("wheels",))
    again = Request.from_json(asked.to_json())
    assert np.array_equal(np.asarray(generate(pipe, asked).image), np.asarray(generate(pipe, again).image))


def test_the_negative_and_the_seed_change_the_picture(pipe: Any) -> None:
    plain = np.asarray(generate(pipe, request()).image)
    assert (np.asarray(generate(pipe, request(negative=("wheels",))).image) != plain).any()
    assert (np.asarray(generate(pipe, request(seed=2)).image) != plain).any()


def test_several_negatives_join(pipe: Any) -> None:
    one = generate(pipe, request(negative=("wheels",)))
    two = generate(pipe, request(negative=("wheels", "a hat")))
    assert two.tokens > one.tokens == 5 and two.blocks == 3


def test_the_result_says_the_size_that_came_out(pipe: Any) -> None:
    assert (generate(pipe, request()).request.width, generate(pipe, request(width=32, height=16)).image.size) == (16, (32, 16))


def test_a_result_is_enlarged_behind_the_model(pipe: Any) -> None:
    plain, large = generate(pipe, request()), generate(pipe, request(upscale=3))
    size = tuple(3 * side for side in plain.image.size)
    assert large.image.size == size and large.image == plain.image.resize(size, Image.Resampling.LANCZOS)
    assert replace(large.request, upscale=1) == plain.request


def test_strengths_that_run_together_are_those_that_run_alone(pipe: Any) -> None:
    kept = {"negative": ("wheels", "a (hat:2)"), "keep": ("bell, flag",)}
    numbers = {"beta": 0.3, "stop": 0.5}
    asked = [
        request(**kept, parameters={"alpha": 3.0, "contrast": 0.5, **numbers}),
        request(negative=("wheels",), method="none", parameters={}, seed=2),
        request(**kept, parameters={"alpha": 0.5, "contrast": 1.0, **numbers}),
        request(negative=("wheels",), parameters={"alpha": 8.0, **numbers}),
    ]
    assert all(can_batch_strengths(asked[0], one) and can_batch_strengths(one, asked[0]) for one in asked)
    together = generate_batch(pipe, asked)
    for one, result in zip(asked, together, strict=True):
        alone = generate(pipe, one)
        gap = np.abs(np.asarray(result.image, int) - np.asarray(alone.image, int)).max()
        assert gap <= 1 and replace(result, frames=alone.frames, seconds=alone.seconds) == alone
    with pytest.raises(RequestError, match="differ in texts, seeds and alpha alone"):
        generate_batch(pipe, [asked[0], request(**kept, parameters={"alpha": 3.0, "beta": 0.4})])
    other = request(method="nag", parameters={})
    assert not any(can_batch_strengths(*pair) for one in asked for pair in ((one, other), (other, one)))


def test_progress_is_told_of_every_step(pipe: Any) -> None:
    seen: list[tuple[int, int]] = []
    generate(pipe, request(), lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]


@pytest.mark.parametrize(
    "options",
    [
        {"prompt": " "},
        {"seed": -1},
        {"seed": 2**64},
        {"num_inference_steps": 0},
        {"guidance_scale": float("nan")},
        {"width": 0},
        {"max_sequence_length": 1200},
        {"sigmas": (1.0, 0.5, 0.2)},
        {"sigmas": (0.5, 0.6)},
        {"sigmas": (0.5, 0.0)},
        {"sigmas": (1.5, 0.5)},
        {"timesteps": (999, 749, 249)},
        {"timesteps": (999, 0)},
        {"timesteps": (999, 749), "sigmas": (1.0, 0.5)},
        {"method": "nope"},
        {"parameters": {"gamma": 1.0}},
        {"negative": ("wheels",), "method": "cfg", "parameters": {}, "guidance_scale": 1.0},
    ],
)
def test_requests_that_are_not_legal_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        request(**options)


def test_a_scale_of_cfg_is_refused_where_the_method_has_no_use_for_it(pipe: Any) -> None:
    asked = request(negative=("wheels",), guidance_scale=4.0)
    for check in (check_scale, lambda one: generate(pipe, one), check_capture):
        with pytest.raises(RequestError, match="--guidance"):
            check(asked)
    check_scale(asked, FAMILIES["flux"])


def test_a_prompt_that_is_cut_is_said(pipe: Any) -> None:
    (note,) = generate(pipe, request(prompt="wheels " * 30)).notes
    assert "31 tokens" in note and "takes 12" in note
    assert generate(pipe, request()).notes == ()


def test_a_negative_is_not_cut_for_cfg_either(pipe: Any) -> None:
    with pytest.raises(RequestError, match="negative prompt has 31 tokens"):
        generate(pipe, request(negative=("wheels " * 30,), method="cfg", parameters={}, guidance_scale=4.0))


def test_an_infinite_number_survives_json() -> None:
    asked = request(parameters={"alpha": 3.0, "beta": float("inf")})
    assert Request.from_json(json.loads(json.dumps(asked.to_json(), allow_nan=False))) == asked


@pytest.mark.parametrize(
    ("lora", "public"),
    [
        ("owner/name:x.safetensors:0.5", "owner/name:x.safetensors:0.5"),
        ("owner/name", "owner/name"),
        ("/home/me/loras/x.safetensors:0.5", "x.safetensors:0.5"),
        ("me/x.safetensors", "x.safetensors"),
        ("low-noise=/home/me/x.safetensors:0.5", "low-noise=x.safetensors:0.5"),
        ("high-noise=owner/name:a/x.safetensors", "high-noise=owner/name:a/x.safetensors"),
        (r"C:\\me\\x.safetensors", "x.safetensors"),
    ],
)
def test_loras_are_named_without_the_places_of_this_machine(lora: str, public: str) -> None:
    assert request(loras=(lora,)).to_json()["loras"] == [public]


def test_an_unknown_key_of_a_request_is_refused() -> None:
    with pytest.raises(RequestError, match="unknown keys: future"):
        Request.from_json({**request().to_json(), "future": 1})


def test_cfg_uses_the_negative_prompt(pipe: Any) -> None:
    options = {"method": "cfg", "parameters": {}, "guidance_scale": 4.0}
    with_negative = generate(pipe, request(negative=("wheels",), **options))
    assert with_negative.blocks == 0
    assert (np.asarray(with_negative.image) != np.asarray(generate(pipe, request(**options)).image)).any()


@pytest.mark.parametrize(("side", "message"), [(17, "multiple of 4 for this model: try 16"), (128, "64 pixels at most")])
def test_a_size_that_the_model_cannot_make_is_refused(pipe: Any, side: int, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        generate(pipe, request(width=side, height=side))


@pytest.mark.parametrize(("value", "message"), [(float("nan"), "no numbers"), (-1.0, "all black")])
def test_a_picture_of_no_worth_is_an_error(pipe: Any, monkeypatch: pytest.MonkeyPatch, value: float, message: str) -> None:
    decode = pipe.vae.decode

    def spoiled(*args: Any, **kwargs: Any) -> Any:
        (picture,) = decode(*args, **kwargs)
        return (torch.full_like(picture, value),)

    monkeypatch.setattr(pipe.vae, "decode", spoiled)
    for changed, remedy in (
        ({"negative": ("wheels",)}, "a smaller --alpha"),
        ({"negative": ("wheels",), "method": "nag", "parameters": {}}, "a smaller --nag-scale"),
        ({"dtype": "bfloat16"}, "--dtype float32"),
        ({"negative": ("wheels",), "parameters": {"alpha": 0.0}}, "another seed"),
        ({"guidance_scale": 30.0}, "a smaller --guidance"),
        ({}, "another seed"),
    ):
        with pytest.raises(PictureError, match=rf"{message} .*: try {remedy}$"):
            generate(pipe, request(**changed))


def test_memory_that_does_not_suffice_has_its_own_error(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(pipe.vae, "decode", fail)
    with pytest.raises(OutOfMemory):
        generate(pipe, request())


def test_a_bug_keeps_its_own_error(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(pipe.vae, "decode", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        generate(pipe, request(negative=("wheels",)))
