"""Exact attention with its log-sum-exp on every device. Letters as in `vsf_cli.attention`."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend

from vsf_cli.attention.lanes import are_worth_it, in_lanes, mask_in_lanes

__all__ = [
    "BACKENDS",
    "KERNEL_DEVICES",
    "attention",
    "attention_with_lse",
    "available_paths",
    "has_lse",
    "masked_attention_with_lse",
    "scalar",
]

QUERY_CHUNK = 1024
"""How many queries have their logits in memory at once, where no kernel avoids logits."""

FEW = 128
"""Up to how many keys a copy of them in full lanes is worth it, on a CPU."""

KERNEL_DEVICES = ("cpu", "cuda", "meta")
"""The devices whose kernels give a log-sum-exp. Meta tensors, by which costs are counted, take a path of CUDA."""

BACKENDS = frozenset(
    {
        "flash",
        "flash_hub",
        "_flash_3",
        "flash_4_hub",
        "aiter_fa2_hub",
        "sage",
        "sage_hub",
        "_sage_qk_int8_pv_fp8_cuda",
        "_sage_qk_int8_pv_fp8_cuda_sm90",
        "_sage_qk_int8_pv_fp16_cuda",
        "_sage_qk_int8_pv_fp16_triton",
    }
)
"""The attention backends of diffusers that return a log-sum-exp. PyTorch's own are called directly."""

Path = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, backend: str | None = None) -> Tensor:
    r"""Attention :math:`\mathrm{softmax}(q k^T / \sqrt{D}) v`, by PyTorch's own choice of kernel, or by a backend of diffusers.

    Arguments:
        query: Queries, with shape (B, H, Q, D), which is that of the output too.
        key, value: Keys and values, with shape (B, H, K, D).
        mask: Which keys may be seen, as booleans that broadcast to (B, H, Q, K), or what is added to the logits; None: all.
        backend: One of `BACKENDS`, for calls without a mask; None means PyTorch's own.
    """
    if backend is not None and mask is None:
        return _dispatched(query, key, value, backend, False).transpose(1, 2)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


def attention_with_lse(query: Tensor, key: Tensor, value: Tensor, backend: str | None = None) -> tuple[Tensor, Tensor]:
    r"""Attention and its log-sum-exp, by the fastest exact path of the device.

    Arguments:
        query: Queries, with shape (B, H, Q, D).
        key, value: Keys and values, with shape (B, H, K, D), where K is at least 1.
        backend: One of `BACKENDS`, which the model uses; None means PyTorch's own.

    Returns:
        The output, with shape (B, H, Q, D), and the log-sum-exp, with shape (B, H, Q), in float32 (float64 for float64).

    Raises:
        ValueError: If there is no key: the kernel of the CPU would kill the process.
    """
    if key.shape[2] == 0:
        raise ValueError(f"attention needs at least one key, but the keys have shape {tuple(key.shape)}")
    if not has_lse(query, key, backend):
        return _fallback(query, key, value)
    if backend is not None:
        output, lse = _dispatched(query, key, value, backend, True)
        return output.transpose(1, 2), _by_heads(lse, query)
    return _path_for(query)(query, key, value)


def has_lse(query: Tensor, key: Tensor, backend: str | None = None) -> bool:
    """Whether a kernel returns the log-sum-exp of these queries and keys; without one, all logits are computed a second time.

    No kernel has a derivative of it.
    """
    if torch.is_grad_enabled() and (query.requires_grad or key.requires_grad):
        return False
    return backend is not None or _path_for(query) is not _fallback


def masked_attention_with_lse(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Attention to a few keys of which each row sees some.

    It is for the few tokens of negative prompts: the logits of `QUERY_CHUNK` queries are in memory at once.

    Arguments:
        query: Queries, with shape (B, H, Q, D).
        key, value: Keys and values, with shape (B, H, K, D).
        mask: Which keys are seen, as booleans with shape (B or 1, H or 1, Q or 1, K), or what is added to the logits.

    Returns:
        The output, with shape (B, H, Q, D), which is 0 where a query sees no key, and the log-sum-exp, with shape (B, H, Q),
        which is minus infinity there.
    """
    queries = query.split(QUERY_CHUNK, dim=2)
    masks = [mask] * len(queries) if mask.shape[2] == 1 else mask.split(QUERY_CHUNK, dim=2)
    parts = [_masked(part, key, value, seen) for part, seen in zip(queries, masks, strict=True)]
    if len(parts) == 1:
        return parts[0]
    return torch.cat([output for output, _ in parts], dim=2), torch.cat([lse for _, lse in parts], dim=2)


def _masked(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    wide = torch.float64 if query.dtype == torch.float64 else torch.float32
    # Autocast would multiply in half precision.
    with torch.autocast(query.device.type, enabled=False):
        return _masked_wide(query, key.to(wide), value.to(wide), mask)


def _masked_wide(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    logits = (query.to(key) * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)  # [B, H, Q, K]
    hidden, logits = (~mask, logits) if mask.dtype == torch.bool else (mask == -torch.inf, logits + mask)
    # Where a query sees no key, this keeps gradients from what is not a number: minus infinity less itself.
    logits = logits.masked_fill(hidden, -torch.inf)
    lse = logits.logsumexp(dim=-1)  # [B, H, Q]
    weights = (logits - lse.masked_fill(lse == -torch.inf, 0.0).unsqueeze(-1)).exp()
    return (weights @ value).to(query.dtype), lse


def scalar(value: float, device: torch.device) -> Tensor:
    """A number as a tensor without axes, as wide as the device allows; it does not change the dtype of other tensors."""
    return torch.tensor(value, dtype=torch.float64 if device.type in KERNEL_DEVICES else torch.float32, device=device)


def available_paths() -> dict[str, bool]:
    """Which exact paths exist on this machine, by name."""
    cuda = torch.cuda.is_available()
    return {
        "cuda-flash": cuda and torch.backends.cuda.is_flash_attention_available(),
        "cuda-cudnn": cuda and torch.backends.cudnn.is_available() and torch.backends.cuda.cudnn_sdp_enabled(),
        "cuda-efficient": cuda,
        "cpu-flash": hasattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu"),
        "fallback": True,
    }


def _path_for(query: Tensor) -> Path:
    if query.device.type == "cpu":
        return _cpu_flash
    if query.device.type == "meta":
        return _cuda_cudnn
    if query.device.type == "cuda":
        return _CUDA_PATHS.get(_cuda_choice(query.device, query.dtype, query.shape[-1]), _fallback)
    return _fallback


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _cuda_choice(device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    """The kernel that PyTorch chooses for these queries in the unguided model; the fastest one depends on the GPU."""
    allowed = (getattr(torch.backends.cuda, f"{kernel}_sdp_enabled")() for kernel in ("flash", "cudnn", "mem_efficient"))
    return _choice(device, dtype, head_dim, *allowed)


@lru_cache(maxsize=64)
def _choice(device: torch.device, dtype: torch.dtype, head_dim: int, *allowed: bool) -> str:
    probe = torch.empty(1, 1, 128, head_dim, dtype=dtype, device=device)
    return SDPBackend(torch._fused_sdp_choice(probe, probe, probe)).name


def _cpu_flash(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    count = key.shape[2]
    # Compiled code would be compiled again for other numbers of keys.
    if torch.compiler.is_compiling() or count > FEW or not are_worth_it(query.shape[2], count):
        return kernel(query, key, value)
    mask = mask_in_lanes(query.new_zeros(1, 1, 1, count))
    return kernel(query, in_lanes(key), in_lanes(value), attn_mask=mask)


def _cuda_flash(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    output, lse, *_ = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)
    return output, lse


def _cuda_cudnn(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    # It takes heads behind tokens as they are: a contiguous copy of each would take a third of guidance's time.
    output, lse, *_ = torch.ops.aten._scaled_dot_product_cudnn_attention(query, key, value, None, True)
    return output, lse.reshape(query.shape[:3])


def _cuda_efficient(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    output, lse, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, None, True)
    # The kernel pads its log-sum-exp to a multiple of 32 queries.
    return output, lse[:, :, : query.shape[2]]


_CUDA_PATHS: dict[str, Path] = {
    "FLASH_ATTENTION": _cuda_flash,
    "CUDNN_ATTENTION": _cuda_cudnn,
    "EFFICIENT_ATTENTION": _cuda_efficient,
}


def _dispatched(query: Tensor, key: Tensor, value: Tensor, backend: str, with_lse: bool) -> Any:
    """A backend of diffusers, which has heads after tokens. Returns the output with shape (B, Q, H, D), and its log-sum-exp."""
    from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn

    states = (tensor.transpose(1, 2) for tensor in (query, key, value))
    options = {"return_lse": True} if with_lse else None
    return dispatch_attention_fn(*states, attention_kwargs=options, backend=AttentionBackendName(backend))


def _by_heads(lse: Tensor, query: Tensor) -> Tensor:
    """A log-sum-exp with shape (B, H, Q): some kernels pad it, or have the heads last."""
    heads, queries = query.shape[1:3]
    if lse.shape[1] != heads or lse.shape[2] < queries:
        lse = lse.transpose(1, 2)
    return lse[:, :, :queries].float()


def _fallback(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    wide = torch.float64 if query.dtype == torch.float64 else torch.float32
    transposed = key.to(wide).transpose(-1, -2) * query.shape[-1] ** -0.5
    with torch.autocast(query.device.type, enabled=False):
        lse = [(part.to(wide) @ transposed).logsumexp(dim=-1) for part in query.split(QUERY_CHUNK, dim=2)]
    return attention(query, key, value), torch.cat(lse, dim=2)
