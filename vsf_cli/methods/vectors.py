"""Norms and directions of each token's output, over all heads together or in each head, in float32 or more."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["dot", "norm", "orthogonal_part", "widened"]


def widened(output: "Tensor") -> "Tensor":
    """Returns an output in float32, or as it is if that is wider."""
    return output if output.element_size() > 4 else output.float()


def norm(output: "Tensor") -> "Tensor":
    """Returns the L1 norm of each token over all heads, from shape (B, H, L, D) to (B, 1, L, 1)."""
    return widened(output).abs().sum((1, 3), keepdim=True).clamp_min(1e-7)


def dot(first: "Tensor", second: "Tensor", per_head: bool = False) -> "Tensor":
    """Returns the inner product of each token's outputs, from shape (B, H, L, D) to (B, 1 or H, L, 1)."""
    return (widened(first) * widened(second)).sum((3,) if per_head else (1, 3), keepdim=True)


def orthogonal_part(output: "Tensor", axis: "Tensor", per_head: bool = False) -> "Tensor":
    r"""Returns the part of each token's output that is orthogonal to another one: :math:`o - \frac{o \cdot a}{a \cdot a} a`.

    Arguments:
        output: The output, with shape (B, H, L, D).
        axis: The other one, with the same shape; where it is 0, all of the output is orthogonal to it.
        per_head: Whether each head is a vector of its own, and not a part of the token's.
    """
    import torch

    wide, along = widened(output), widened(axis)
    share = dot(wide, along, per_head) / dot(along, along, per_head).clamp_min(torch.finfo(along.dtype).tiny)
    return (wide - share * along).to(output.dtype)
