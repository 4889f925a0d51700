"""Texts are encoded once, and again as soon as anything differs."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor

from tests.conftest import random_pipeline
from vsf_cli.models.encoder_cache import caching_encoders


@pytest.fixture(scope="module")
def pipe() -> Any:
    return random_pipeline("sd3", torch.float32)


def encoded(pipe: Any, text: str = "a red bike") -> Tensor:
    with torch.no_grad():
        embeddings: Tensor = pipe.encode_prompt(text, text, text, do_classifier_free_guidance=False)[0]
    return embeddings


def counted(pipe: Any) -> list[int]:
    calls = list[int]()
    pipe.text_encoder_3.encoder.register_forward_hook(lambda *_: calls.append(1))
    return calls


def test_a_text_is_encoded_once(pipe: Any) -> None:
    calls, wanted = counted(pipe), encoded(pipe)
    calls.clear()
    with caching_encoders(pipe, 2):
        assert torch.equal(encoded(pipe), wanted) and torch.equal(encoded(pipe), wanted) and len(calls) == 1
        for text in ("wheels", "a hat", "a red bike"):
            encoded(pipe, text)
        assert len(calls) == 4, "the oldest of three texts was dropped"
    assert torch.equal(encoded(pipe), wanted) and len(calls) == 5


def test_what_a_caller_changes_is_its_own(pipe: Any) -> None:
    ids = torch.ones(1, 4, dtype=torch.long)
    with torch.no_grad(), caching_encoders(pipe):
        wanted = pipe.text_encoder_3(ids)[0].clone()
        pipe.text_encoder_3(ids)[0].mul_(0.5)
        pipe.text_encoder_3(ids)[0].mul_(0.5)
        assert torch.equal(pipe.text_encoder_3(ids)[0], wanted)


def test_other_weights_adapters_and_precisions_are_encoded_anew() -> None:
    pipe = random_pipeline("sd3", torch.float32)
    with caching_encoders(pipe):
        stock = encoded(pipe)
        inject_adapter_in_model(LoraConfig(r=2, target_modules=["fc1"], init_lora_weights=False), pipe.text_encoder, "x")
        adapted = encoded(pipe)
        assert not torch.equal(adapted, stock)
        pipe.set_adapters(["x"], [0.0])
        assert torch.equal(encoded(pipe), stock)
        pipe.set_adapters(["x"], [1.0])
        assert torch.equal(encoded(pipe), adapted)
        with torch.autocast("cpu", torch.bfloat16):
            assert not torch.equal(encoded(pipe).float(), adapted)
        assert torch.equal(encoded(pipe), adapted)
        with torch.no_grad():
            pipe.text_encoder.get_parameter(next(name for name, _ in pipe.text_encoder.named_parameters())).mul_(2)
        assert not torch.equal(encoded(pipe), adapted)
        assert encoded(pipe.to(torch.bfloat16)).dtype == torch.bfloat16


def test_gradients_are_those_of_each_call(pipe: Any) -> None:
    ids = torch.ones(1, 4, dtype=torch.long)
    with caching_encoders(pipe):
        with torch.no_grad():
            assert not pipe.text_encoder_3(ids)[0].requires_grad
        for _ in range(2):
            pipe.text_encoder_3(ids)[0].sum().backward()
