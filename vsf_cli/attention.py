"""Exact attention with its log-sum-exp on every device, without a mask.

Notation, here and in `methods`: B batch, H heads, D head dimension, I image tokens, P positive text tokens, N negative text
tokens.

Two partial attentions over disjoint keys merge exactly when each comes with its log-sum-exp
:math:`L = \\log \\sum_j \\exp(q k_j^T / \\sqrt{D})`, since their softmax masses are in the ratio
:math:`e^{L_1} : e^{L_2}`. That is all that guidance inside attention needs, and it leaves the large call to the fastest kernel
that the device has.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["attention", "attention_with_lse", "available_paths", "masked_attention_with_lse", "merged", "scalar"]

FALLBACK_QUERIES = 1024
"""Queries whose logits the fallback holds at once: it bounds its memory."""

Path = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Attention :math:`\mathrm{softmax}(q k^T / \sqrt{D}) v`, by PyTorch's own choice of kernel.

    Arguments:
        query: Queries, with shape (B, H, Q, D).
        key: Keys, with shape (B, H, K, D).
        value: Values, with shape (B, H, K, D).
        mask: Which keys may be seen, as booleans that broadcast to (B, H, Q, K); None means all of them.

    Returns:
        The output, with shape (B, H, Q, D).
    """
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


def attention_with_lse(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    r"""Attention and its log-sum-exp, by the fastest exact path of the device.

    Arguments:
        query: Queries, with shape (B, H, Q, D).
        key: Keys, with shape (B, H, K, D), where K is at least 1.
        value: Values, with shape (B, H, K, D).

    Returns:
        The output, with shape (B, H, Q, D), and the log-sum-exp, with shape (B, H, Q), in float32 (float64 for float64).

    Raises:
        ValueError: If there is no key: the kernel of the CPU would kill the process.
    """
    if key.shape[2] == 0:
        raise ValueError(f"attention needs at least one key, but the keys have shape {tuple(key.shape)}")
    return _path_for(query)(query, key, value)


def masked_attention_with_lse(query: Tensor, key: Tensor, value: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Attention to the first keys of each row, for a few keys of which each row has its own number.

    Logits are held in full, with B H Q K entries: meant for the tokens of negative prompts.

    Arguments:
        query: Queries, with shape (B, H, Q, D).
        key: Keys, padded, with shape (B, H, K, D).
        value: Values, padded, with shape (B, H, K, D).
        lengths: How many keys each row has, 0 included, as integers with shape (B,).

    Returns:
        The output, with shape (B, H, Q, D), which is 0 where a row has no key, and the log-sum-exp, with shape (B, H, Q), which
        is minus infinity there.
    """
    wide = torch.float64 if query.dtype == torch.float64 else torch.float32
    seen = torch.arange(key.shape[2], device=key.device) < lengths.view(-1, 1, 1, 1)  # [B, 1, 1, K]
    logits = (query.to(wide) * query.shape[-1] ** -0.5) @ key.to(wide).transpose(-1, -2)  # [B, H, Q, K]
    logits = logits.masked_fill(~seen, -torch.inf)

    lse = logits.logsumexp(dim=-1)  # [B, H, Q]
    weights = torch.where(seen, (logits - lse.unsqueeze(-1)).exp(), 0.0)
    return (weights @ value.to(wide)).to(query.dtype), lse


def merged(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    r"""Two partial attentions as one, :math:`(1 - w) O_1 + w O_2`, in the memory of the first where that is possible.

    Reading and writing the first once, in its own dtype, is all that it costs: the shares are rounded to that dtype, which is
    an error of the size of the output's own rounding.

    Arguments:
        first: A partial attention, with shape (B, H, Q, D); it must not be needed any more.
        second: The other one, with the same shape.
        share: The share :math:`w` of the second, 0 to 1, with shape (B, H, Q).
    """
    weight = share.to(first.dtype).unsqueeze(-1)  # [B, H, Q, 1]
    if torch.is_grad_enabled() and (first.requires_grad or second.requires_grad or share.requires_grad):
        return torch.lerp(first, second, weight)
    return first.lerp_(second, weight)


def scalar(value: float, device: torch.device) -> Tensor:
    """A number as a tensor without axes, in the widest dtype of the device: it changes no other tensor's dtype."""
    return torch.tensor(value, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)


def available_paths() -> dict[str, bool]:
    """Which exact paths exist on this machine, by name, in the order in which they are preferred."""
    cuda = torch.cuda.is_available()
    return {
        "cuda-flash": cuda and torch.backends.cuda.is_flash_attention_available(),
        "cuda-efficient": cuda,
        "cuda-cudnn": cuda and torch.backends.cudnn.is_available() and torch.backends.cuda.cudnn_sdp_enabled(),
        "cpu-flash": hasattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu"),
        "fallback": True,
    }


def _path_for(query: Tensor) -> Path:
    # Shapes without numbers, by which costs are counted, go the way of the CPU.
    if query.device.type in ("cpu", "meta"):
        return _cpu_flash
    if query.device.type == "cuda":
        # Asked in the way that torch.compile can fold; `get_device_capability` would break the graph.
        ampere = torch.cuda.get_device_properties(query.device).major >= 8
        half, aligned = query.dtype in (torch.float16, torch.bfloat16), query.shape[-1] % 8 == 0
        if half and aligned and query.shape[-1] <= 256 and ampere:
            return _cuda_flash if torch.backends.cuda.is_flash_attention_available() else _cuda_cudnn
        if aligned and query.dtype != torch.float64 and (ampere or query.dtype != torch.bfloat16):
            return _cuda_efficient
    return _fallback


def _cpu_flash(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    output, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value)
    return output, lse


def _cuda_flash(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    output, lse, *_ = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)
    return output, lse


def _cuda_cudnn(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    output, lse, *_ = torch.ops.aten._scaled_dot_product_cudnn_attention(
        query.contiguous(), key.contiguous(), value.contiguous(), None, True
    )
    return output, lse.reshape(query.shape[:3])


def _cuda_efficient(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    output, lse, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, None, True)
    # The kernel pads its log-sum-exp to a multiple of 32 queries.
    return output, lse[:, :, : query.shape[2]]


def _fallback(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    wide = torch.float64 if query.dtype == torch.float64 else torch.float32
    transposed = key.to(wide).transpose(-1, -2) * query.shape[-1] ** -0.5
    lse = [(part.to(wide) @ transposed).logsumexp(dim=-1) for part in query.split(FALLBACK_QUERIES, dim=2)]
    return attention(query, key, value), torch.cat(lse, dim=2)
