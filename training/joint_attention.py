"""The projections of Stable Diffusion 3's joint attention, for processors that write its attention out."""

from typing import Any

from torch import Tensor

__all__ = ["merge_heads", "project_image", "project_text"]

Projected = tuple[Tensor, Tensor, Tensor]


def project_image(attn: Any, states: Tensor) -> Projected:
    """Queries, keys and values of the image tokens, each with shape (B, H, I, D), from states with shape (B, I, H D)."""
    query, key, value = (_split_heads(attn, project(states)) for project in (attn.to_q, attn.to_k, attn.to_v))
    return _normalised(attn.norm_q, query), _normalised(attn.norm_k, key), value


def project_text(attn: Any, states: Tensor) -> Projected:
    """The same of the text tokens."""
    projections = (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
    query, key, value = (_split_heads(attn, project(states)) for project in projections)
    return _normalised(attn.norm_added_q, query), _normalised(attn.norm_added_k, key), value


def merge_heads(states: Tensor) -> Tensor:
    """States by heads, with shape (B, H, L, D), as states with shape (B, L, H D)."""
    return states.transpose(1, 2).flatten(2)


def _split_heads(attn: Any, states: Tensor) -> Tensor:
    return states.unflatten(-1, (attn.heads, -1)).transpose(1, 2)


def _normalised(norm: Any, states: Tensor) -> Tensor:
    return states if norm is None else norm(states)
