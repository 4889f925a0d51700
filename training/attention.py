"""Attention for training: processors that take a mask of the text's tokens, and three functions that they can call.

Shapes: B batch, H heads, L tokens, D head dimension. A mask (`attended`) has shape (B, L) and is true where a token is a key.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor, nn

__all__ = ["ATTENTIONS", "FluxTrainingProcessor", "SD3TrainingProcessor", "WanTrainingProcessor", "prepare"]

Attention = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""Takes query, key and value with shape (B, H, L, D) and `attended`; returns the output with shape (B, H, L, D)."""

MASKED = -1e4
"""The bias of the logits of tokens that are not attended to. It is finite, so that no row can become NaN."""


def written_attention(query: Tensor, key: Tensor, value: Tensor, attended: Tensor | None = None) -> Tensor:
    """Attention as two matrix products. On a CPU its gradient is twice as fast as that of PyTorch's fused kernel.

    The models normalise queries and keys, so that the exponential needs no maximum. Its sum is one more column of the
    values; tokens that are not attended to are zero there.
    """
    scaled = (query * query.shape[-1] ** -0.5).to(value.dtype)
    weights = (scaled @ key.to(value.dtype).transpose(-1, -2)).exp()
    columns = torch.cat([value, torch.ones_like(value[..., :1])], dim=-1)
    if attended is not None:
        columns = columns * attended[:, None, :, None].to(columns.dtype)
    sums = weights @ columns
    return sums[..., :-1] / sums[..., -1:]


def fused_attention(query: Tensor, key: Tensor, value: Tensor, attended: Tensor | None = None) -> Tensor:
    """PyTorch's attention, on contiguous inputs.

    On transposed inputs with a mask, compiled, its backward pass reads the gradient with wrong strides: an illegal memory
    access (PyTorch 2.11, H200).
    """
    query, key, value = (part.to(value.dtype).contiguous() for part in (query, key, value))
    mask = None
    if attended is not None:
        mask = torch.zeros_like(attended, dtype=value.dtype).masked_fill(~attended, MASKED)[:, None, None]
        mask = mask.expand(-1, query.shape[1], query.shape[2], -1)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


ATTENTIONS: Mapping[str, Attention] = MappingProxyType(
    {
        "fused": fused_attention,
        # Outside of compiled blocks.
        "eager": torch.compiler.disable(fused_attention),
        "written": written_attention,
    }
)


def _split(states: Tensor, heads: int) -> Tensor:
    return states.unflatten(-1, (heads, -1)).transpose(1, 2)


def _join(output: Tensor) -> Tensor:
    return output.transpose(1, 2).flatten(2)


class SD3TrainingProcessor:
    """Joint attention of Stable Diffusion 3: the image's tokens first, then the text's."""

    def __init__(self, attention: Attention) -> None:
        self.attention = attention

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, attention_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        image = [_split(to(hidden_states), attn.heads) for to in (attn.to_q, attn.to_k, attn.to_v)]
        to_text = (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
        text = [_split(to(encoder_hidden_states), attn.heads) for to in to_text]
        query = torch.cat([attn.norm_q(image[0]), attn.norm_added_q(text[0])], dim=2)
        key = torch.cat([attn.norm_k(image[1]), attn.norm_added_k(text[1])], dim=2)
        output = _join(self.attention(query, key, torch.cat([image[2], text[2]], dim=2), attention_mask))
        images = hidden_states.shape[1]
        text_output = output[:, images:]
        return attn.to_out[0](output[:, :images]), text_output if attn.context_pre_only else attn.to_add_out(text_output)


class FluxTrainingProcessor:
    """Attention of Flux's double and single blocks: the text's tokens first, then the image's."""

    def __init__(self, attention: Attention) -> None:
        self.attention = attention

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        query, key, value = (_split(to(hidden_states), attn.heads) for to in (attn.to_q, attn.to_k, attn.to_v))
        query, key = attn.norm_q(query), attn.norm_k(key)
        if encoder_hidden_states is not None:
            to_text = (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
            text = [_split(to(encoder_hidden_states), attn.heads) for to in to_text]
            query = torch.cat([attn.norm_added_q(text[0]), query], dim=2)
            key = torch.cat([attn.norm_added_k(text[1]), key], dim=2)
            value = torch.cat([text[2], value], dim=2)
        query, key = (apply_rotary_emb(part, image_rotary_emb, sequence_dim=2) for part in (query, key))
        output = _join(self.attention(query, key, value, attention_mask))
        if encoder_hidden_states is None:
            return output
        length = encoder_hidden_states.shape[1]
        return attn.to_out[0](output[:, length:]), attn.to_add_out(output[:, :length])


class WanTrainingProcessor:
    """Self attention and cross attention of Wan."""

    def __init__(self, attention: Attention) -> None:
        self.attention = attention

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key = attn.norm_q(attn.to_q(hidden_states)), attn.norm_k(attn.to_k(source))
        query, key, value = (_split(part, attn.heads) for part in (query, key, attn.to_v(source)))
        if rotary_emb is not None:
            query, key = _rotate(query, *rotary_emb), _rotate(key, *rotary_emb)
        projected: Tensor = attn.to_out[0](_join(self.attention(query, key, value, None)))
        return projected


def _rotate(states: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Wan's rotary positions, in which neighbouring channels are a pair; the positions have shape (1, L, 1, D)."""
    first, second = states.unflatten(-1, (-1, 2)).unbind(-1)
    cosine, sine = cosines[..., 0::2].transpose(1, 2), sines[..., 1::2].transpose(1, 2)
    return torch.stack([first * cosine - second * sine, first * sine + second * cosine], -1).flatten(-2).type_as(states)


def prepare(blocks: list[nn.Module], processor: Any, attention: str, compiled: bool) -> None:
    """Sets the processors of training in blocks, and compiles the blocks.

    Arguments:
        blocks: The blocks of a transformer.
        processor: The class of the processor.
        attention: A key of `ATTENTIONS`.
        compiled: Whether to compile.
    """
    for block in blocks:
        for module in block.children():
            set_processor: Any = getattr(module, "set_processor", None)
            if set_processor is not None:
                set_processor(processor(ATTENTIONS[attention]))
        if compiled:
            # The forward alone: hooks around the block need not be compiled.
            block.forward = torch.compile(block.forward, dynamic=False)
