"""One guided attention by itself: masks, grouped heads, scales, backends, and processors that cannot be guided."""

import dis
import gc
import math
import sys
from typing import Any

import pytest
import torch
from diffusers.models import attention_processor
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry
from torch import Tensor

from tests.conftest import random_pipeline
from tests.models.dense import beside
from vsf_cli.attention.exact import attention_with_lse
from vsf_cli.errors import PatchError
from vsf_cli.generation.guided import guided
from vsf_cli.methods import NAG, NASA, ONG, VSF, Method
from vsf_cli.models import Order
from vsf_cli.models.guided_attention import AttentionKind, RunningCall, guided_attention
from vsf_cli.models.interpose import attention_calls, is_twin, twin_class, twin_of
from vsf_cli.models.state import Encoded, GuidanceState

IMAGES, POSITIVES, NEGATIVES, KEPT = 6, 4, 3, 2
METHODS: list[Method] = [
    VSF(2.0, 0.3),
    VSF(2.0, 0.0, contrast=1.0),
    VSF(2.0, 0.3, tau=1.1, blend=0.6),
    VSF(2.0, 0.3, blend=0.6, orthogonal=True),
    NAG(4.0, 1.1, 0.7),
    NASA(0.3),
    ONG(1.5, per_head=True),
]


def running(method: Method) -> RunningCall:
    call = RunningCall()
    call.state = GuidanceState(method)
    groups = [Encoded(torch.zeros(1, length, 8), (length,)) for length in (NEGATIVES, kept_by(method)) if length]
    call.state.begin(groups, torch.zeros(1, POSITIVES, 8), 0.0)
    return call


def kept_by(method: Method) -> int:
    return KEPT if isinstance(method, VSF) else 0


def places(order: Order, kept: int) -> dict[str, list[int]]:
    counts = {"I": 0 if order is Order.CROSS else IMAGES, "P": POSITIVES, "N": NEGATIVES, "K": kept}
    found, start = {"I": list[int]()}, 0
    for part in order.value.split():
        found[part] = list(range(start, start + counts[part]))
        start += counts[part]
    return found


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    return (query @ key.mT / math.sqrt(query.shape[-1]) + bias).softmax(-1) @ value


def expected(order: Order, method: Method, query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """The rows of a batch, with what the model's own mask adds to all logits."""
    at = places(order, kept_by(method))
    base, own, joint = at["I"] + at["P"], at["I"] + at["N"], bool(at["I"])
    image = at["I"] if joint else list(range(query.shape[2]))

    def rows(some: list[int], keys: list[int]) -> Tensor:
        return attend(query[:, :, some], key[:, :, keys], value[:, :, keys], bias[:, :, some][..., keys])

    plain, output = rows(image, base), torch.zeros_like(query)
    if isinstance(method, VSF):
        shifted = bias[:, :, image][..., base + at["N"]].clone()
        shifted[..., len(base) :] -= method.beta
        values = torch.cat([value[:, :, base], -method.alpha * value[:, :, at["N"]]], 2)
        guided_rows = attend(query[:, :, image], key[:, :, base + at["N"]], values, shifted)
        weights = (query[:, :, image] @ key[:, :, base + at["N"]].mT / math.sqrt(8) + shifted).softmax(-1)
        share = weights[..., len(base) :].sum(-1, keepdim=True)
        saved = method.contrast * rows(image, at["K"])
        guided_rows = guided_rows + method.alpha * share * saved
        if method.orthogonal:
            guided_rows = (1 - share) * plain - method.alpha * share * beside(rows(image, at["N"]) - saved, plain)
        guided_rows = limit(guided_rows, plain, method.tau, method.blend)
    elif isinstance(method, NAG):
        guided_rows = limit(plain + method.scale * (plain - rows(image, own)), plain, method.tau, method.alpha)
    elif isinstance(method, ONG):
        guided_rows = plain - method.scale * beside(rows(image, own), plain)
    else:
        guided_rows = plain - 0.3 * rows(image, own)
    output[:, :, image] = guided_rows
    if joint:
        output[:, :, at["P"]], output[:, :, at["N"]] = rows(at["P"], base), rows(at["N"], own)
        output[:, :, at["K"]] = rows(at["K"], at["I"] + at["K"])
    return output


def limit(guided_rows: Tensor, plain: Tensor, tau: float, blend: float) -> Tensor:
    ratio = guided_rows.abs().sum((1, 3), keepdim=True) / plain.abs().sum((1, 3), keepdim=True)
    return blend * torch.where(ratio > tau, guided_rows * tau / ratio, guided_rows) + (1 - blend) * plain


def drawn(order: Order, heads: int = 2, kept: int = KEPT) -> list[Tensor]:
    torch.manual_seed(1)
    keys = POSITIVES + NEGATIVES + kept + (0 if order is Order.CROSS else IMAGES)
    queries = 9 if order is Order.CROSS else keys
    return [
        torch.randn(2, count, length, 8, dtype=torch.float64) for count, length in ((2, queries), (heads, keys), (heads, keys))
    ]


@pytest.mark.parametrize("kind", ["none", "keys", "keys, two axes", "rows", "added"])
@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("order", list(Order))
def test_the_models_own_mask_is_honoured(order: Order, method: Method, kind: str) -> None:
    query, key, value = drawn(order, kept=kept_by(method))
    shape = (2, 1, 1 if "keys" in kind else query.shape[2], key.shape[2])
    seen = torch.rand(shape, generator=torch.Generator().manual_seed(2)) > 0.4
    # Each group keeps a key that is seen: rows that see none are NaN in the stock model too.
    for part in places(order, kept_by(method)).values():
        seen[..., part[:1]] = True
    bias = torch.zeros(shape, dtype=torch.float64)
    bias = torch.randn(shape, dtype=torch.float64) if kind == "added" else bias.masked_fill(~seen, -torch.inf)
    mask = None if kind == "none" else bias if kind == "added" else seen[:, 0, 0] if "two" in kind else seen
    if kind == "none":
        bias = torch.zeros_like(bias)
    found = guided_attention(running(method), AttentionKind(order))(query, key, value, mask)
    assert found is not None
    wanted = expected(order, method, query, key, value, bias.expand(-1, -1, query.shape[2], -1))
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=0)


@pytest.mark.parametrize("order", list(Order))
def test_grouped_heads_and_another_scale(order: Order) -> None:
    query, key, value = drawn(order, heads=1)
    found = guided_attention(running(METHODS[0]), AttentionKind(order))(query, key, value, scale=0.2)
    repeated = key.repeat(1, 2, 1, 1), value.repeat(1, 2, 1, 1)
    bias = torch.zeros(2, 1, query.shape[2], key.shape[2], dtype=torch.float64)
    wanted = expected(order, METHODS[0], query * 0.2 * math.sqrt(8), *repeated, bias)
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=0)


def test_a_backend_is_called_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []

    def kernel(query: Tensor, key: Tensor, value: Tensor, return_lse: bool = False) -> Any:
        used.append(key.shape[1])
        output, lse = attention_with_lse(*(states.transpose(1, 2) for states in (query, key, value)))
        return (output.transpose(1, 2), lse) if return_lse else output.transpose(1, 2)

    name = AttentionBackendName.FLASH
    monkeypatch.setitem(_AttentionBackendRegistry._backends, name, kernel)
    monkeypatch.setitem(_AttentionBackendRegistry._supported_arg_names, name, {"query", "key", "value", "return_lse"})
    tensors = [tensor.float() for tensor in drawn(Order.TEXT_LAST)]
    attention = guided_attention(running(VSF(2.0, 0.3)), AttentionKind(Order.TEXT_LAST))
    assert torch.equal(attention(*tensors, backend=name), attention(*tensors))  # type: ignore[arg-type]
    assert used == [IMAGES + POSITIVES, IMAGES, IMAGES], "the base, and the rows of both groups to the image"


def test_autocast_is_that_of_the_stock_function() -> None:
    query, key, value = (tensor.float() for tensor in drawn(Order.TEXT_LAST))
    with torch.autocast("cpu", torch.bfloat16):
        found = guided_attention(running(VSF(2.0, 0.3)), AttentionKind(Order.TEXT_LAST))(query, key, value.bfloat16())
        wanted = torch.nn.functional.scaled_dot_product_attention(query, key, value.bfloat16())
    assert found is not None and found.dtype == wanted.dtype == torch.bfloat16 and found.shape == wanted.shape


def test_rows_that_do_not_fit_and_options_are_refused() -> None:
    query, key, value = drawn(Order.CROSS)
    attention = guided_attention(running(VSF()), AttentionKind(Order.CROSS))
    with pytest.raises(PatchError, match="has 8 keys, but its text 9 tokens"):
        attention(query, key[:, :, 1:], value[:, :, 1:])
    with pytest.raises(PatchError, match="a causal mask"):
        attention(query, key, value, is_causal=True)
    with pytest.raises(PatchError, match="not by the model's own call"):
        guided_attention(RunningCall(), AttentionKind(Order.CROSS))(query, key, value)


def test_a_twin_shares_the_state_of_its_processor() -> None:
    stock = attention_processor.JointAttnProcessor2_0()
    twin = twin_of(stock, twin_class(type(stock), lambda *_, **__: None))
    twin.something = 3
    assert stock.something == 3 and isinstance(twin, attention_processor.JointAttnProcessor2_0)
    assert is_twin(twin) and not is_twin(stock)


def test_the_module_of_a_twin_goes_with_it() -> None:
    kind = twin_class(attention_processor.JointAttnProcessor2_0, lambda *_, **__: None)
    name = kind.__call__.__globals__["__name__"]
    assert vars(sys.modules[name]) is kind.__call__.__globals__
    del kind
    gc.collect()
    assert name not in sys.modules


@pytest.mark.parametrize(
    ("name", "calls"),
    [("JointAttnProcessor2_0", 1), ("AttnProcessor2_0", 1), ("AttnProcessor", 0), ("SD3IPAdapterJointAttnProcessor2_0", 2)],
)
def test_calls_of_attention_are_counted(name: str, calls: int) -> None:
    assert attention_calls(getattr(attention_processor, name)) == calls


def test_a_processor_is_read_once_and_again_if_its_code_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Any] = []
    instructions = dis.get_instructions

    def recorded(code: Any) -> Any:
        read.append(code)
        return instructions(code)

    class Own(attention_processor.JointAttnProcessor2_0):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return super().__call__(*args, **kwargs)

    monkeypatch.setattr(dis, "get_instructions", recorded)
    assert [attention_calls(Own) for _ in range(3)] == [0, 0, 0] and len(read) == 1
    monkeypatch.setattr(Own, "__call__", attention_processor.JointAttnProcessor2_0.__call__)
    assert attention_calls(Own) == 1


def test_processors_that_cannot_be_guided_are_refused_by_name() -> None:
    pipe = random_pipeline("sd3")
    module = pipe.transformer.transformer_blocks[1].attn
    for processor, message in (
        (attention_processor.AttnProcessor(), "has a AttnProcessor, which calls no attention function"),
        (
            attention_processor.SD3IPAdapterJointAttnProcessor2_0(32, 32, 8, 4),
            "SD3IPAdapterJointAttnProcessor2_0, which calls attention more than once",
        ),
    ):
        module.set_processor(processor)
        with pytest.raises(PatchError, match=rf"transformer_blocks\.1\.attn .*{message}"), guided(pipe, "wheels"):
            pass
        assert module.processor is processor
