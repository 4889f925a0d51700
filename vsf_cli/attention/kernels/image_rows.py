r"""The image's rows, guided by a few keys, in one pass over queries and outputs.

.. math::
    w = \mathrm{sigmoid}(L_N - \beta - L_1) , \quad
    O = (1 - w) \, O_1 - \alpha \, w \left( A(q, N) - c \, A(q, K) \right)

where :math:`O_1` and :math:`L_1` are the unguided attention and its log-sum-exp, and A is attention to the negative prompts N
or to the kept prompts K, which follow them. All other rows keep :math:`O_1`.
"""

import triton
import triton.language as tl
from torch import Tensor
from torch.library import wrap_triton

from vsf_cli.attention.kernels.launching import key_tile, operator, size_class, tuned
from vsf_cli.attention.kernels.tiles import load_rows, product, sigmoid, softmax, store_rows

__all__ = ["guide_image"]


@tuned("ROWS", (64, 128), restored="out")
@triton.jit(do_not_specialize=["rows", "start", "stop", "negatives", "count", "size"])
def _image_rows(
    query, base, base_lse, key, value, weights, lengths, kept_lengths, alpha, beta, contrast, out,
    q_batch, q_head, q_row, b_batch, b_head, b_row, l_batch, l_head, l_row, k_batch, k_head, k_row, v_batch, v_head, v_row,
    o_batch, o_head, o_row, heads, rows, start, stop, negatives, count, scale, size,
    D: tl.constexpr, WIDTH: tl.constexpr, KEYS: tl.constexpr, KEPT: tl.constexpr, WEIGHTED: tl.constexpr,
    RAGGED: tl.constexpr, KEPT_RAGGED: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    batch, head = (tl.program_id(1) // heads).to(tl.int64), (tl.program_id(1) % heads).to(tl.int64)
    row, channel, token = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, WIDTH), tl.arange(0, KEYS)
    inside, known = row < rows, token < count
    q = load_rows(query + batch * q_batch + head * q_head, row, inside, q_row, channel, D)
    k = load_rows(key + batch * k_batch + head * k_head, token, known, k_row, channel, D)
    v = load_rows(value + batch * v_batch + head * v_head, token, known, v_row, channel, D)
    logits = product(q, tl.trans(k)) * scale

    real = tl.load(lengths + batch) if RAGGED else negatives
    attended, lse = softmax(logits, (token < real)[None])
    first = tl.load(base_lse + batch * l_batch + head * l_head + row * l_row, mask=inside, other=0.0).to(tl.float32)
    weight = sigmoid(lse - tl.load(beta).to(tl.float32) - first)
    weight = tl.where((row >= start) & (row < stop), weight, 0.0)
    if KEPT:
        real = tl.load(kept_lengths + batch) if KEPT_RAGGED else count - negatives
        kept, _ = softmax(logits, ((token >= negatives) & (token < negatives + real))[None])
        attended -= tl.load(contrast).to(tl.float32) * kept
    if WEIGHTED:
        attended *= tl.load(weights + batch * count + token, mask=known, other=0.0).to(tl.float32)[None]
    added = product(attended.to(v.dtype), v)

    before = load_rows(base + batch * b_batch + head * b_head, row, inside, b_row, channel, D).to(tl.float32)
    strength = tl.load(alpha).to(tl.float32) * weight
    merged = (1 - weight)[:, None] * before - strength[:, None] * added
    store_rows(out + batch * o_batch + head * o_head, row, inside, o_row, channel, merged, D)


@operator("guide_image", "out")
def guide_image(
    query: Tensor, base: Tensor, base_lse: Tensor, key: Tensor, value: Tensor, weights: Tensor | None, lengths: Tensor | None,
    kept_lengths: Tensor | None, alpha: Tensor, beta: Tensor, contrast: Tensor, out: Tensor, start: int, stop: int,
    negatives: int,
) -> None:  # fmt: skip
    """Writes the guided output into `out`, which may be `base`.

    Arguments:
        query, base, out: Queries, unguided and guided output, with shape (B, H, rows, D); the image's are `start` to `stop`.
        base_lse: The log-sum-exp of the unguided attention, with shape (B, H, rows).
        key, value: The negative and then the kept prompts, with shape (B, H, count, D), `negatives` of them negative.
        weights: The weight of each of these tokens, with shape (B, count), contiguous; None means 1.
        lengths, kept_lengths: How many negative and kept tokens of each row are real, with shape (B,); None means all.
        alpha, beta, contrast: The letters of the equation, without axes.
    """
    batch, heads, rows, size = query.shape
    count = key.shape[2]

    def grid(meta: dict[str, int]) -> tuple[int, int]:
        return triton.cdiv(rows, meta["ROWS"]), batch * heads

    if not query.is_meta:
        wrap_triton(_image_rows)[grid](
            query, base, base_lse, key, value,
            *(query if one is None else one for one in (weights, lengths, kept_lengths)), alpha, beta, contrast, out,
            *query.stride()[:3], *base.stride()[:3], *base_lse.stride(), *key.stride()[:3], *value.stride()[:3],
            *out.stride()[:3], heads, rows, start, stop, negatives, count, size**-0.5, size_class(rows),
            D=size, WIDTH=triton.next_power_of_2(size), KEYS=key_tile(count), KEPT=count > negatives,
            WEIGHTED=weights is not None, RAGGED=lengths is not None, KEPT_RAGGED=kept_lengths is not None,
        )  # fmt: skip
