r"""Attention of many rows to a few keys: the prompt's, those of the negative prompt flipped, and those of the kept prompt.

.. math::
    p = \mathrm{softmax}([s_P + b ; \; s_N - \beta]) , \quad
    O = p_P V_P - \alpha \, p_N V_N + \alpha \, c \, \Big(\sum_N p_N\Big) \, \mathrm{softmax}(s_K) \, V_K

where s are the logits :math:`q k^T / \sqrt{D}`, and b is a bias for each key of the prompt.
"""

import triton
import triton.language as tl
from torch import Tensor
from torch.library import wrap_triton

from vsf_cli.attention.kernels.launching import key_tile, operator, size_class, tuned
from vsf_cli.attention.kernels.tiles import load_rows, product, softmax, store_rows

__all__ = ["attend_few_keys"]


@tuned("ROWS", (64, 128))
@triton.jit(do_not_specialize=["rows", "positives", "negatives", "count", "size"])
def _few_keys(
    query, key, value, bias, weights, lengths, kept_lengths, alpha, beta, contrast, out,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row, b_batch, b_key, o_batch, o_head, o_row,
    heads, rows, positives, negatives, count, scale, size, D: tl.constexpr, WIDTH: tl.constexpr, KEYS: tl.constexpr,
    BIASED: tl.constexpr, GUIDED: tl.constexpr, KEPT: tl.constexpr, WEIGHTED: tl.constexpr, RAGGED: tl.constexpr,
    KEPT_RAGGED: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    batch, head = (tl.program_id(1) // heads).to(tl.int64), (tl.program_id(1) % heads).to(tl.int64)
    row, channel, token = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, WIDTH), tl.arange(0, KEYS)
    inside, known, end = row < rows, token < count, positives + negatives
    q = load_rows(query + batch * q_batch + head * q_head, row, inside, q_row, channel, D)
    k = load_rows(key + batch * k_batch + head * k_head, token, known, k_row, channel, D)
    v = load_rows(value + batch * v_batch + head * v_head, token, known, v_row, channel, D)
    logits = product(q, tl.trans(k)) * scale

    added = tl.zeros([KEYS], tl.float32)
    if BIASED:
        added += tl.load(bias + batch * b_batch + token * b_key, mask=token < positives, other=0.0).to(tl.float32)
    if GUIDED:
        flipped = token >= positives
        added = tl.where(flipped, -tl.load(beta).to(tl.float32), added)
        real = tl.load(lengths + batch) if RAGGED else negatives
        attended, _ = softmax(logits + added[None], (token < positives + real)[None])
        strength = tl.load(alpha).to(tl.float32)
        share = tl.sum(tl.where(flipped[None], attended, 0.0), 1)
        attended = tl.where(flipped[None], -strength * attended, attended)
        if KEPT:
            real = tl.load(kept_lengths + batch) if KEPT_RAGGED else count - end
            kept, _ = softmax(logits, ((token >= end) & (token < end + real))[None])
            attended += (strength * tl.load(contrast).to(tl.float32) * share)[:, None] * kept
        if WEIGHTED:
            weight = tl.load(weights + batch * (count - positives) + token - positives, mask=flipped & known, other=1.0)
            attended *= weight.to(tl.float32)[None]
    else:
        attended, _ = softmax(logits + added[None], known[None])
    result = product(attended.to(v.dtype), v)
    store_rows(out + batch * o_batch + head * o_head, row, inside, o_row, channel, result, D)


@operator("attend_few_keys")
def attend_few_keys(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, weights: Tensor | None, lengths: Tensor | None,
    kept_lengths: Tensor | None, alpha: Tensor | None, beta: Tensor | None, contrast: Tensor | None,
    positives: int, negatives: int,
) -> Tensor:  # fmt: skip
    """Returns the output, with shape (B, H, Q, D) and heads after tokens in memory.

    Arguments:
        query: Queries, with shape (B, H, Q, D).
        key, value: Keys and values, with shape (B, H, K, D): `positives`, `negatives`, and the kept prompts'.
        bias: What is added to the logits of the positive keys, with shape (B, positives); None means 0.
        weights: The weight of each other key, with shape (B, K - positives), contiguous; None means 1.
        lengths, kept_lengths: How many negative and kept tokens of each row are real, with shape (B,); None means all.
        alpha, beta, contrast: The letters of the equation, without axes; None if there is no other key.
    """
    batch, heads, rows, size = query.shape
    count = key.shape[2]
    out = query.new_empty(batch, rows, heads, size).transpose(1, 2)
    optional = (query if one is None else one for one in (bias, weights, lengths, kept_lengths, alpha, beta, contrast))

    def grid(meta: dict[str, int]) -> tuple[int, int]:
        return triton.cdiv(rows, meta["ROWS"]), batch * heads

    if not query.is_meta:
        wrap_triton(_few_keys)[grid](
            query, key, value, *optional, out, *query.stride()[:3], *key.stride()[:3], *value.stride()[:3],
            *((0, 0) if bias is None else bias.stride()), *out.stride()[:3],
            heads, rows, positives, negatives, count, size**-0.5, size_class(rows),
            D=size, WIDTH=triton.next_power_of_2(size), KEYS=key_tile(count), BIASED=bias is not None, GUIDED=count > positives,
            KEPT=count > positives + negatives, WEIGHTED=weights is not None, RAGGED=lengths is not None,
            KEPT_RAGGED=kept_lengths is not None,
        )  # fmt: skip
    return out
