"""Two attentions over different keys as one, by their log-sum-exps."""

import logging
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._triton import has_triton

from vsf_cli.errors import is_out_of_memory

__all__ = ["lerp_states", "merge_attention_states"]

LOG = logging.getLogger(__name__)


def lerp_states(first: Tensor, second: Tensor, weight: Tensor, out: Tensor | None = None) -> Tensor:
    r"""Two partial attentions as one, :math:`(1 - w) O_1 + w O_2`.

    It reads and writes each row once, in its own dtype. The weights are rounded to that dtype, which is an error of the size of
    the output's own rounding.

    Arguments:
        first, second: The attentions, with shape (B, H, Q, D); without `out` the memory of the first is overwritten.
        weight: The share of attention :math:`w` of the second, 0 to 1, with shape (B, H, Q).
        out: Where the result is written, with the same shape as the first.
    """
    wide = weight.to(first.dtype).unsqueeze(-1)  # [B, H, Q, 1]
    differentiable = torch.is_grad_enabled() and (first.requires_grad or second.requires_grad or weight.requires_grad)
    if out is None:
        return torch.lerp(first, second, wide) if differentiable else first.lerp_(second, wide)
    # The compiler takes no `out` that is a part of another tensor, and writes into it all the same.
    if differentiable or torch.compiler.is_compiling():
        return out.copy_(torch.lerp(first, second, wide))
    return torch.lerp(first, second, wide, out=out)


def merge_attention_states(
    first: Tensor, second: Tensor, first_lse: Tensor, second_lse: Tensor, bias: float | Tensor = 0.0, out: Tensor | None = None
) -> Tensor:
    r"""Two partial attentions as one, by :math:`w = \mathrm{sigmoid}(L_2 - \beta - L_1)`; on CUDA as one kernel.

    Arguments:
        first, second: The attentions, with shape (B, H, Q, D); without `out` the memory of the first is overwritten.
        first_lse, second_lse: Their log-sum-exps, with shape (B, H, Q).
        bias: The bias :math:`\beta` of the second's logits, in nats; a tensor without axes keeps compiled code.
        out: Where the result is written, with the same shape as the first.
    """
    # Where blocks are compiled, it is compiled with them.
    alone = first.device.type == "cuda" and not torch.compiler.is_compiling()
    merge = _compiled_merge() if alone and has_triton() else _merge
    return merge(first, second, first_lse, second_lse, bias, out)


def _merge(
    first: Tensor, second: Tensor, first_lse: Tensor, second_lse: Tensor, bias: float | Tensor, out: Tensor | None = None
) -> Tensor:
    return lerp_states(first, second, torch.sigmoid(second_lse - bias - first_lse), out)


@lru_cache(maxsize=1)
def _compiled_merge() -> Callable[..., Tensor]:
    """The merge as one kernel that reads and writes each row once: five launches less in every block.

    Where it cannot be compiled, as without a C compiler, it runs as it is.
    """
    compiled, failures = torch.compile(_merge, dynamic=True), list[Exception]()

    def merge(*arguments: Any) -> Tensor:
        if not failures:
            try:
                return compiled(*arguments)
            except Exception as error:
                # A compiler fails with errors of many classes; where it is not the compiler, the calls fail as well.
                if is_out_of_memory(error):
                    raise
                failures.append(error)
                LOG.info("the kernel that merges attention cannot be compiled, and five calls take its place: %s", error)
        return _merge(*arguments)

    return merge
