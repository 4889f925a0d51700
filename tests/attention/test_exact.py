import itertools
import subprocess
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from vsf_cli.attention import exact as module
from vsf_cli.attention import merging
from vsf_cli.attention.exact import attention, attention_with_lse, available_paths, masked_attention_with_lse

TOLERANCES = {torch.float64: 1e-12, torch.float32: 5e-6, torch.bfloat16: 2e-2, torch.float16: 3e-3}


def tensors(dtype: torch.dtype, queries: int = 37, keys: int = 21, dim: int = 16) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    return tuple(torch.randn(2, 3, length, dim, dtype=torch.float64).to(dtype) for length in (queries, keys, keys))


def expected(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    query, key, value = query.double(), key.double(), value.double()
    logits = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    return logits.softmax(-1) @ value, logits.logsumexp(-1)


@pytest.mark.parametrize("path", [attention_with_lse, module._fallback])
@pytest.mark.parametrize("dtype", list(TOLERANCES))
def test_output_and_lse_are_exact(path: module.Path, dtype: torch.dtype) -> None:
    inputs = tensors(dtype)
    output, lse = path(*inputs)
    wanted, wanted_lse = expected(*inputs)

    assert output.dtype == dtype
    assert lse.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(output.double(), wanted, atol=TOLERANCES[dtype], rtol=0)
    torch.testing.assert_close(lse.double(), wanted_lse, atol=min(1e-4, TOLERANCES[dtype]), rtol=0)


def test_fallback_splits_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUERY_CHUNK", 8)
    inputs = tensors(torch.float64)
    torch.testing.assert_close(module._fallback(*inputs)[1], expected(*inputs)[1])


def first_keys(*lengths: int, keys: int = 21) -> torch.Tensor:
    return (torch.arange(keys) < torch.tensor(lengths)[:, None])[:, None, None]


@pytest.mark.parametrize("dtype", list(TOLERANCES))
def test_masked_attention_sees_the_first_keys_of_each_row(dtype: torch.dtype) -> None:
    query, key, value = tensors(dtype)
    output, lse = masked_attention_with_lse(query, key, value, first_keys(21, 4))

    for row, length in ((0, 21), (1, 4)):
        wanted = expected(query[row], key[row, :, :length], value[row, :, :length])
        torch.testing.assert_close(output[row].double(), wanted[0], atol=TOLERANCES[dtype], rtol=0)
        torch.testing.assert_close(lse[row].double(), wanted[1], atol=1e-5, rtol=0)


def test_masked_attention_holds_the_logits_of_a_few_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = tensors(torch.float64)
    whole = masked_attention_with_lse(query, key, value, first_keys(21, 4))
    monkeypatch.setattr(module, "QUERY_CHUNK", 8)
    for part, wanted in zip(masked_attention_with_lse(query, key, value, first_keys(21, 4)), whole, strict=True):
        torch.testing.assert_close(part, wanted)


def test_masked_attention_takes_another_mask_for_each_query(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = tensors(torch.float64)
    added = torch.randn(1, 1, query.shape[2], key.shape[2], dtype=torch.float64)
    added[..., 3:5, 1:] = -torch.inf
    logits = query @ key.mT / query.shape[-1] ** 0.5 + added
    wanted = logits.softmax(-1) @ value, logits.logsumexp(-1)
    monkeypatch.setattr(module, "QUERY_CHUNK", 8)
    torch.testing.assert_close(masked_attention_with_lse(query, key, value, added), wanted)


def test_masked_attention_without_a_key_gives_zero_and_no_mass() -> None:
    query, key, value = tensors(torch.float32)
    output, lse = masked_attention_with_lse(query, key, value, first_keys(0, 2))
    assert torch.equal(output[0], torch.zeros_like(output[0]))
    assert (lse[0] == -torch.inf).all() and lse[1].isfinite().all()


def test_partial_attentions_merge_by_their_lse() -> None:
    query, key, value = tensors(torch.float64)
    first, first_lse = attention_with_lse(query, key[:, :, :8], value[:, :, :8])
    second, second_lse = attention_with_lse(query, key[:, :, 8:], value[:, :, 8:])
    share = torch.sigmoid(second_lse - first_lse).unsqueeze(-1)
    torch.testing.assert_close(first * (1 - share) + second * share, attention(query, key, value))


def test_no_keys_is_an_error_and_not_a_crash() -> None:
    query, key, value = tensors(torch.float32, keys=0)
    with pytest.raises(ValueError, match="at least one key"):
        attention_with_lse(query, key, value)


def test_strided_inputs_are_exact() -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(2, 9, 3, 16).transpose(1, 2) for _ in range(3)]
    torch.testing.assert_close(attention_with_lse(*inputs)[1].double(), expected(*inputs)[1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("dim", [8, 40, 64, 96, 128])
def test_head_dimensions_of_real_models(dim: int) -> None:
    inputs = tensors(torch.float32, dim=dim)
    torch.testing.assert_close(attention_with_lse(*inputs)[0].double(), expected(*inputs)[0], atol=5e-6, rtol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    ("dtype", "path"),
    list(itertools.product((torch.float16, torch.bfloat16), (module._cuda_flash, module._cuda_cudnn, module._cuda_efficient))),
)
def test_cuda_paths_are_exact(dtype: torch.dtype, path: module.Path) -> None:
    inputs = tuple(tensor.cuda() for tensor in tensors(dtype, queries=257, keys=65, dim=64))
    output, lse = path(*inputs)
    wanted, wanted_lse = expected(*inputs)
    torch.testing.assert_close(output.double(), wanted, atol=TOLERANCES[dtype], rtol=0)
    torch.testing.assert_close(lse.double(), wanted_lse, atol=1e-2, rtol=0)


@pytest.mark.parametrize("layout", ["heads first", "heads last", "padded"])
def test_a_backend_of_diffusers_gives_output_and_lse(monkeypatch: pytest.MonkeyPatch, layout: str) -> None:
    from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry

    def kernel(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, return_lse: bool = False) -> Any:
        output, lse = attention_with_lse(*(states.transpose(1, 2) for states in (query, key, value)))
        lse = {"heads first": lse, "heads last": lse.transpose(1, 2), "padded": torch.nn.functional.pad(lse, (0, 27))}[layout]
        return (output.transpose(1, 2), lse) if return_lse else output.transpose(1, 2)

    monkeypatch.setitem(_AttentionBackendRegistry._backends, AttentionBackendName.FLASH, kernel)
    names = {"query", "key", "value", "return_lse"}
    monkeypatch.setitem(_AttentionBackendRegistry._supported_arg_names, AttentionBackendName.FLASH, names)
    inputs = tensors(torch.float32)
    for found, wanted in zip(attention_with_lse(*inputs, backend="flash"), attention_with_lse(*inputs), strict=True):
        assert torch.equal(found, wanted)
    assert torch.equal(attention(*inputs, backend="flash"), attention_with_lse(*inputs)[0])


def test_every_backend_is_one_of_diffusers() -> None:
    from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry

    for name in module.BACKENDS:
        assert "return_lse" in _AttentionBackendRegistry._supported_arg_names[AttentionBackendName(name)]


@pytest.mark.parametrize(
    ("choice", "path"),
    [
        ("FLASH_ATTENTION", module._cuda_flash),
        ("CUDNN_ATTENTION", module._cuda_cudnn),
        ("EFFICIENT_ATTENTION", module._cuda_efficient),
        ("MATH", module._fallback),
    ],
)
def test_on_cuda_it_is_the_kernel_that_the_unguided_model_gets(
    monkeypatch: pytest.MonkeyPatch, choice: str, path: module.Path
) -> None:
    monkeypatch.setattr(module, "_cuda_choice", lambda device, dtype, head_dim: choice)
    query = SimpleNamespace(device=torch.device("cuda"), dtype=torch.bfloat16, shape=(1, 2, 3, 64))
    assert module._path_for(cast(torch.Tensor, query)) is path


def test_the_choice_of_a_kernel_is_pytorchs_own() -> None:
    assert module._cuda_choice(torch.device("cpu"), torch.float32, 64) == "FLASH_ATTENTION", "asked of the CPU"

    def choose(query: torch.Tensor) -> torch.Tensor:
        return query + (module._cuda_choice(query.device, query.dtype, query.shape[-1]) == "FLASH_ATTENTION")

    compiled = torch.compile(choose, backend="eager", fullgraph=True)
    assert torch.equal(compiled(torch.zeros(1, 1, 2, 64)), torch.ones(1, 1, 2, 64))


def test_paths_of_this_machine_are_named() -> None:
    assert available_paths()["fallback"] and available_paths()["cpu-flash"]


@pytest.mark.parametrize(
    "error", [RuntimeError("Failed to find C compiler"), subprocess.CalledProcessError(1, "gcc"), ImportError("no Triton")]
)
def test_a_merge_that_cannot_be_compiled_runs_as_it_is(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def fail(*_: Any) -> torch.Tensor:
        calls.append(1)
        raise error

    monkeypatch.setattr(torch, "compile", lambda *_, **__: fail)
    merge = merging._compiled_merge.__wrapped__()
    first, second = torch.randn(2, 1, 2, 3, 4)
    lse = torch.randn(2, 1, 2, 3)
    wanted = merging._merge(first.clone(), second, lse[0], lse[1], 0.5)
    for _ in range(2):
        assert torch.equal(merge(first.clone(), second, lse[0], lse[1], 0.5), wanted)
    assert len(calls) == 1, "it is tried once"


def test_memory_that_does_not_suffice_is_no_failure_of_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: fail)
    with pytest.raises(torch.OutOfMemoryError):
        merging._compiled_merge.__wrapped__()()
