"""The paper's masked attention, literally: [I, P, N0, N1] with a dense mask (sections 3.2-3.3). The oracle of `VSF`."""

from typing import Any

import torch
from torch import Tensor


def dense_masked_attention(
    query: Tensor, key: Tensor, value: Tensor, images: int, positives: int, length: int, alpha: float, beta: float
) -> Tensor:
    """One sample's attention over [I, P, N0] with the negative's keys copied as N1 and its values times -alpha.

    All tensors have shape (H, I + P + N, D) with padding of N at the end; `length` tokens of N are real.
    """
    negatives = query.shape[1] - images - positives
    start = images + positives
    key = torch.cat([key, key[:, start:]], dim=1)
    value = torch.cat([value, -alpha * value[:, start:]], dim=1)

    image = slice(0, images)
    positive = slice(images, start)
    n0 = slice(start, start + length)
    n1 = slice(start + negatives, start + negatives + length)

    bias = torch.full((query.shape[1], key.shape[1]), -torch.inf, dtype=query.dtype)
    bias[image, image] = bias[image, positive] = 0
    bias[image, n1] = -beta
    bias[positive, image] = bias[positive, positive] = 0
    bias[start:, image] = bias[start:, n0] = 0
    logits = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5 + bias
    return torch.softmax(logits, dim=-1) @ value


class DenseProcessor:
    """A processor for SD3's joint attention, written without any of the package's code."""

    def __init__(self, lengths: list[int], alpha: float, beta: float) -> None:
        self.lengths, self.alpha, self.beta = lengths, alpha, beta

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, attention_mask: None = None
    ) -> Any:
        def heads(states: Tensor) -> Tensor:
            return states.view(*states.shape[:2], attn.heads, -1).transpose(1, 2)

        def norm(module: Any, states: Tensor) -> Tensor:
            return states if module is None else module(states)

        text, images = encoder_hidden_states, hidden_states.shape[1]
        assert text is not None
        query = norm(attn.norm_q, heads(attn.to_q(hidden_states)))
        key = norm(attn.norm_k, heads(attn.to_k(hidden_states)))
        value = heads(attn.to_v(hidden_states))
        query = torch.cat([query, norm(attn.norm_added_q, heads(attn.add_q_proj(text)))], dim=2)
        key = torch.cat([key, norm(attn.norm_added_k, heads(attn.add_k_proj(text)))], dim=2)
        value = torch.cat([value, heads(attn.add_v_proj(text))], dim=2)

        batch, negatives = len(text), max(self.lengths)
        lengths = [length for length in self.lengths for _ in range(batch // len(self.lengths))]
        positives = text.shape[1] - negatives
        rows = [
            dense_masked_attention(query[i], key[i], value[i], images, positives, lengths[i], self.alpha, self.beta)
            for i in range(batch)
        ]
        output = torch.stack(rows).transpose(1, 2).flatten(2)
        image, text = output[:, :images], output[:, images:]
        if not attn.context_pre_only:
            text = attn.to_add_out(text)
        return attn.to_out[0](image), text
