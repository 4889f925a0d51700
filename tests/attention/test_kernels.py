"""Every path of exact attention that this machine has, through VSF's whole arithmetic, against the dense oracle in float64.

Inputs are random normal numbers, the same in every run. The tolerance is the largest difference from the oracle,
which is computed from the same rounded inputs: 1e-12 in float64, 5e-6 in float32, 4e-3 in float16 and 3e-2 in bfloat16: two
roundings of outputs that are 4 at most.
"""

import importlib.util
import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.contexts import attended, attended_groups, cross_context, joint_context
from tests.oracle import dense_masked_attention
from vsf_cli.attention import exact as module
from vsf_cli.attention import fused, merging
from vsf_cli.attention.merging import lerp_states
from vsf_cli.methods import VSF, KeyValue, TextGroup

TOLERANCES = {torch.float64: 1e-12, torch.float32: 5e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}
HALF, CUDA = (torch.float16, torch.bfloat16), torch.cuda.is_available()
TRITON = importlib.util.find_spec("triton") is not None

PATHS = {
    "cpu-flash": (module._cpu_flash, "cpu", tuple(TOLERANCES), True),
    "fallback": (module._fallback, "cuda" if CUDA else "cpu", tuple(TOLERANCES), True),
    "at-once": (module._fallback, "cuda" if CUDA else "cpu", tuple(TOLERANCES), True),
    "fused": (module._cuda_efficient if CUDA else module._cpu_flash, "cuda" if CUDA else "cpu", fused.DTYPES, TRITON),
    "cuda-flash": (module._cuda_flash, "cuda", HALF, CUDA),
    "cuda-cudnn": (module._cuda_cudnn, "cuda", HALF, CUDA),
    "cuda-efficient": (module._cuda_efficient, "cuda", (torch.float32, *HALF), CUDA),
}
CASES = [
    pytest.param(
        name,
        dtype,
        id=f"{name}-{str(dtype).removeprefix('torch.')}",
        marks=[] if exists else pytest.mark.skip("no CUDA, or no Triton"),
    )
    for name, (_, _, dtypes, exists) in PATHS.items()
    for dtype in dtypes
]
IMAGES, POSITIVES, HEADS = 67, 21, 2

Use = Callable[[str], str]
Check = Callable[[VSF, torch.dtype, str, tuple[int, ...], int], None]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Use:
    def choose(name: str) -> str:
        path, device = PATHS[name][:2]
        monkeypatch.setattr(module, "_path_for", lambda query: path)
        # On a CPU they run in Triton's interpreter.
        monkeypatch.setattr(fused, "DEVICES", (device,) if name == "fused" else ())
        monkeypatch.setattr(fused, "_usable", lambda device: name == "fused")
        if name == "fallback":
            # What needs the log-sum-exp, such as a map, gets it where there is no kernel for it, too.
            monkeypatch.setattr(module, "has_lse", lambda *_: True)
        return device

    return choose


def drawn(rows: int, tokens: int, dim: int, dtype: torch.dtype, device: str) -> list[Tensor]:
    """Queries, keys and values, the same in every run."""
    generator = torch.Generator().manual_seed(rows * tokens * dim)
    shape = (rows, HEADS, tokens, dim)
    return [torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype).to(device) for _ in range(3)]


def ragged(lengths: tuple[int, ...], device: str) -> Tensor | None:
    return None if len(set(lengths)) == 1 else torch.tensor(lengths, device=device)


def check_joint(method: VSF, dtype: torch.dtype, device: str, lengths: tuple[int, ...], dim: int) -> None:
    """The rows of image, positive and negative, those of padding left out, over a batch with a row for each length."""
    start = IMAGES + POSITIVES
    query, key, value = drawn(len(lengths), start + max(lengths), dim, dtype, device)
    stock = KeyValue(key[:, :, :start], value[:, :, :start])
    negative = TextGroup(key[:, :, start:], value[:, :, start:], lengths=ragged(lengths, device))
    context = joint_context(stock, IMAGES, negative)
    own = attended_groups(method, query[:, :, start:], context)
    assert own.dtype == dtype
    found = torch.cat([attended(method, query[:, :, :start], context), own], dim=2).cpu().double()

    for row, length in enumerate(lengths):
        inputs = (tensor[row].cpu().double() for tensor in (query, key, value))
        wanted = dense_masked_attention(*inputs, IMAGES, POSITIVES, length, method.alpha, method.beta)
        difference = (found[row] - wanted)[:, : start + length].abs().max().item()
        assert difference < TOLERANCES[dtype], (length, method.beta)


def check_cross(method: VSF, dtype: torch.dtype, device: str, lengths: tuple[int, ...], dim: int) -> None:
    """The rows of a clip, which attend to the text alone (equation 6)."""
    query, key, value = drawn(len(lengths), POSITIVES + max(lengths), dim, dtype, device)
    negative = TextGroup(key[:, :, POSITIVES:], value[:, :, POSITIVES:], lengths=ragged(lengths, device))
    positive = KeyValue(key[:, :, :POSITIVES], value[:, :, :POSITIVES])
    found = attended(method, query, cross_context(positive, negative))

    for row, length in enumerate(lengths):
        end = POSITIVES + length
        q, k, v = (tensor[row].cpu().double() for tensor in (query, key[:, :, :end], value[:, :, :end]))
        bias, sign = torch.zeros(end, dtype=torch.float64), torch.ones(end, 1, dtype=torch.float64)
        bias[POSITIVES:], sign[POSITIVES:] = -method.beta, -method.alpha
        wanted = (q @ k.mT / dim**0.5 + bias).softmax(-1) @ (sign * v)
        assert (found[row].cpu().double() - wanted).abs().max() < TOLERANCES[dtype], (length, method.beta)


@pytest.mark.parametrize(("path", "dtype"), CASES)
@pytest.mark.parametrize("dim", [64, 128])
@pytest.mark.parametrize("check", [check_joint, check_cross])
def test_every_row_equals_the_oracle(use: Use, check: Check, path: str, dtype: torch.dtype, dim: int) -> None:
    device = use(path)
    cases = itertools.product(((1,), (7,), (40,), (7, 0, 1, 40)), (0.0, 0.2, math.inf))
    # Triton's interpreter takes half a second for a case.
    for lengths, beta in zip(((7, 0, 1, 40), (1,), (40,)), (0.2, 0.0, math.inf), strict=True) if path == "fused" else cases:
        check(VSF(1.5, beta), dtype, device, lengths, dim)


def test_a_bias_of_zero_needs_no_mask_where_there_is_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KERNEL_DEVICES", ())
    assert isinstance(VSF(1.5, 0.0).on(torch.device("cpu")).beta, float)
    assert isinstance(VSF(1.5, 0.2).on(torch.device("cpu")).beta, Tensor)


@pytest.mark.parametrize("beta", [0.0, 0.2])
def test_without_a_kernel_for_it_no_logits_are_written_twice(monkeypatch: pytest.MonkeyPatch, beta: float) -> None:
    def refused(*_: Tensor) -> tuple[Tensor, Tensor]:
        raise AssertionError("the log-sum-exp was computed")

    monkeypatch.setattr(module, "_fallback", refused)
    monkeypatch.setattr(module, "_path_for", lambda query: refused)
    check_joint(VSF(1.5, beta), torch.float32, "cpu", (7,), 64)


def test_an_infinite_beta_leaves_the_stock_output_to_the_bit() -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 2, 30, 16) for _ in range(3))
    negative = TextGroup(torch.randn(1, 2, 3, 16), torch.randn(1, 2, 3, 16))
    found = attended(VSF(3.0, math.inf), query, cross_context(KeyValue(key, value), negative))
    assert torch.equal(found, module.attention_with_lse(query, key, value)[0])


def test_the_merge_takes_the_memory_of_the_first() -> None:
    torch.manual_seed(0)
    first, second, share = torch.randn(1, 2, 9, 8), torch.randn(1, 2, 9, 8), torch.rand(1, 2, 9)
    wanted, weight = first.double(), share.double().unsqueeze(-1)
    wanted = (1 - weight) * wanted + weight * second.double()
    whole = torch.empty(1, 2, 12, 8)
    there = lerp_states(first, second, share, out=whole[:, :, 1:10])
    assert there.data_ptr() == whole[:, :, 1:10].data_ptr()
    found = lerp_states(first, second, share)
    assert found.data_ptr() == first.data_ptr()
    for one in (found, whole[:, :, 1:10]):
        torch.testing.assert_close(one.double(), wanted, atol=1e-6, rtol=0)


def test_the_merge_as_one_kernel_gives_what_it_gives_in_parts() -> None:
    torch.manual_seed(0)
    whole, second = torch.randn(1, 2, 12, 8), torch.randn(1, 2, 9, 8)
    lses, bias = torch.randn(2, 1, 2, 9), torch.tensor(0.2, dtype=torch.float64)
    wanted = merging.merge_attention_states(whole.clone()[:, :, :9], second, *lses, bias)
    # Up to the code of the kernel, which is PyTorch's own and takes a C++ compiler 16 s.
    compiled = torch.compile(merging._merge, dynamic=True, backend="aot_eager")
    part = whole[:, :, :9]
    found = compiled(part, second, *lses, bias)
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)
    assert found.data_ptr() == whole.data_ptr(), "in the memory of the first"


def test_the_merge_can_be_differentiated() -> None:
    def vsf(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        context = cross_context(KeyValue(key[:, :, :5], value[:, :, :5]), TextGroup(key[:, :, 5:], value[:, :, 5:]))
        return attended(VSF(1.5, 0.2), query, context)

    def dense(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        logits = query @ key.mT / query.shape[-1] ** 0.5 - torch.tensor([0.0] * 5 + [0.2] * 2)
        return logits.softmax(-1) @ torch.cat([value[:, :, :5], -1.5 * value[:, :, 5:]], 2)

    torch.manual_seed(0)
    inputs = [torch.randn(1, 2, tokens, 8, dtype=torch.float64, requires_grad=True) for tokens in (6, 7, 7)]
    gradients = torch.autograd.grad(dense(*inputs).square().sum(), inputs)
    found = torch.autograd.grad(vsf(*inputs).square().sum(), inputs)
    for one, wanted in zip(found, gradients, strict=True):
        torch.testing.assert_close(one, wanted)


@pytest.mark.parametrize("backend", [None, "flash"])
def test_a_log_sum_exp_has_its_gradient(backend: str | None) -> None:
    """Which no kernel gives, nor a backend of diffusers."""
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 2, tokens, 8, dtype=torch.float64, requires_grad=True) for tokens in (6, 7, 7))
    output, lse = module.attention_with_lse(query, key, value, backend)
    logits = query @ key.mT / 8**0.5
    wanted = torch.autograd.grad(logits.logsumexp(-1).sin().sum() + (logits.softmax(-1) @ value).sum(), (query, key, value))
    for one, other in zip(torch.autograd.grad(lse.sin().sum() + output.sum(), (query, key, value)), wanted, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("added", [False, True])
def test_a_row_without_keys_has_no_gradient(added: bool) -> None:
    torch.manual_seed(0)
    states = [torch.randn(2, 2, 3, 8, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    seen = torch.tensor([[True, True, False], [False] * 3])[:, None, None]
    mask = torch.zeros(2, 1, 1, 3, dtype=torch.float64).masked_fill(~seen, -torch.inf) if added else seen
    output, _ = module.masked_attention_with_lse(*states, mask)
    for gradient in torch.autograd.grad(output.square().sum(), states):
        assert (gradient[1] == 0).all() and (gradient[0] != 0).any()
