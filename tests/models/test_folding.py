"""Folded padding: the whole transformer of Wan equals itself with all of its padding, and sees fewer keys."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.models.families import TINY, build_wan
from vsf_cli.errors import RequestError
from vsf_cli.generation.guided import guided
from vsf_cli.methods import NAG, NASA, VSF, Method, NoGuidance
from vsf_cli.models import folding
from vsf_cli.models.folding import Folding, repeated_tokens

KERNEL = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
LENGTH, WIDTH = 24, 16


def padded(*lengths: int) -> Tensor:
    """Random embeddings of so many tokens in each row, padded with zeros, with shape (rows, LENGTH, WIDTH)."""
    torch.manual_seed(5)
    text = torch.randn(len(lengths), LENGTH, WIDTH, dtype=torch.float64)
    for row, length in zip(text, lengths, strict=True):
        row[length:] = 0
    return text


def drawn(tokens: int) -> Tensor:
    torch.manual_seed(6)
    return torch.randn(1, tokens, WIDTH, dtype=torch.float64)


def output(model: Any, text: Tensor) -> Tensor:
    torch.manual_seed(7)
    latents = torch.randn(len(text), 4, 1, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        noise: Tensor = model(latents, torch.full((len(text),), 500), text, return_dict=False)[0]
    return noise


def test_each_call_counts_its_own_padding() -> None:
    model, long = build_wan().double(), padded(6)
    short = long[:, :16]
    with guided(model, method=VSF(2.0, 0.3), negative_prompt_embeds=drawn(2)):
        wanted = [output(model, text) for text in (long, short)]
    assert (wanted[0] - wanted[1]).abs().max() > 1e-4
    with guided(model, method=VSF(2.0, 0.3), negative_prompt_embeds=drawn(2), fold_padding=True):
        found = [output(model, text) for text in (long, short)]
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=0)


@pytest.mark.parametrize("lengths", [(6,), (3, 9), (23,)])
def test_without_guidance_it_is_the_stock_model(lengths: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    model, text, seen = build_wan().double(), padded(*lengths), list[int]()
    stock = output(model, text)

    def attend(query: Tensor, key: Tensor, *args: Any, **options: Any) -> Tensor:
        seen.append(key.shape[2])
        return attention(query, key, *args, **options)

    attention = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr("torch.nn.functional.scaled_dot_product_attention", attend)
    with guided(model, "", NoGuidance(), fold_padding=True):
        found = output(model, text)
    torch.testing.assert_close(found, stock, atol=1e-12, rtol=0)
    # The last row's length, and the padding as one token; a single token of padding stays as it is.
    assert max(lengths) + 1 in seen and (LENGTH in seen) == (max(lengths) == 23)
    assert torch.equal(output(model, text), stock), "and afterwards it is as before"


@pytest.mark.parametrize("method", [VSF(2.0, 0.3), VSF(2.0, 0.3, tau=1.5, blend=0.5), NAG(padding=False), NASA()], ids=str)
@pytest.mark.parametrize("kept", [False, True])
def test_every_method_is_as_without_it(method: Method, kept: bool) -> None:
    if kept and not method.keeps:
        pytest.skip("it keeps nothing")
    model, text = build_wan().double(), padded(3, 9)
    options: dict[str, Any] = {"negative_prompt_embeds": drawn(4)} | ({"keep_embeds": drawn(3)} if kept else {})
    with guided(model, method=method, **options):
        wanted = output(model, text)
    with guided(model, method=method, fold_padding=True, **options):
        found = output(model, text)
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=0)
    assert not torch.equal(found, output(model, text)), "it is guided"


def test_bfloat16_does_not_round_how_often_padding_counts() -> None:
    """log 490 is 6.194, but 6.188 in bfloat16: the padding would weigh less by 0.7 %."""
    text = torch.zeros(1, 512, WIDTH, dtype=torch.bfloat16)
    text[:, :22] = 1
    kept, bias = Folding().fold(text)
    assert bias is not None and kept.shape[1] == bias.shape[-1] == 23
    torch.testing.assert_close(bias.exp()[0, 0, 0, -1].item(), 490.0, rtol=1e-6, atol=0)
    assert (bias[..., :-1] == 0).all()


def test_what_is_repeated_is_found_bit_for_bit() -> None:
    text = padded(6)
    assert repeated_tokens(text) == LENGTH - 6
    text[0, 10, 3] = 1e-300
    assert repeated_tokens(text) == LENGTH - 11, "almost padding is none"
    assert repeated_tokens(drawn(8)) == 1
    assert repeated_tokens(torch.ones(2, 5, 3)) == 5, "whatever its value is"


def test_a_text_is_measured_once_until_it_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, text, folder = [], padded(6), Folding()

    def count(states: Tensor) -> int:
        calls.append(1)
        return repeated_tokens(states)

    monkeypatch.setattr(folding, "repeated_tokens", count)
    for _ in range(3):
        assert folder.fold(text)[0].shape[1] == 7
    text[0, 12] = 1
    assert folder.fold(text)[0].shape[1] == 14 and folder.fold(padded(4))[0].shape[1] == 5
    assert len(calls) == 3
    with torch.inference_mode():
        other = padded(6)
        folder.fold(other)
        other[0, 12] = 1
        assert folder.fold(other)[0].shape[1] == 14, "which counts no versions"


def test_a_window_leaves_the_other_steps_as_they_are() -> None:
    assert "wan" in TINY
    model, text = build_wan().double(), padded(6)
    stock = output(model, text)
    with guided(model, "", VSF(), fold_padding=True) as applied:
        torch.testing.assert_close(output(model, text), stock, atol=1e-12, rtol=0)
    assert applied.blocks == 0


def test_a_family_whose_text_evolves_is_refused() -> None:
    with (
        pytest.raises(RequestError, match="such as Wan"),
        guided(TINY["sd3"].model(), negative_prompt_embeds=drawn(4), fold_padding=True),
    ):
        pass
