r"""The rows of the negative and the kept prompts, each attending to the image and to its own prompt.

.. math:: O_g = \mathrm{softmax}(q_g [k_I ; k_g]^T / \sqrt{D}) \, [v_I ; v_g] \quad \text{for each group } g

The rows are few and the image's keys are many: these are split over programs. `_join` joins the parts by their log-sum-exps,
with the prompt's own keys.
"""

import triton
import triton.language as tl
from torch import Tensor, float32
from torch.library import wrap_triton

from vsf_cli.attention.kernels.launching import key_tile, operator, size_class, tuned
from vsf_cli.attention.kernels.tiles import load_rows, product, sigmoid, softmax, store_rows

__all__ = ["attend_image_in_parts", "join_text"]

MAX_PARTS, MIN_KEYS = 16, 64
"""Over how many programs the image's keys are split for each head at most, and how many keys each of them has at least."""


@tuned("TILE", (64, 128))
@triton.jit(do_not_specialize=["rows", "images", "part", "size"])
def _image_parts(
    query, key, value, out, lse,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row, heads, rows, images, part, scale, size,
    D: tl.constexpr, WIDTH: tl.constexpr, KEYS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    batch, head = (tl.program_id(1) // heads).to(tl.int64), (tl.program_id(1) % heads).to(tl.int64)
    row, channel = tl.arange(0, KEYS), tl.arange(0, WIDTH)
    q = load_rows(query + batch * q_batch + head * q_head, row, row < rows, q_row, channel, D)
    largest = tl.full([KEYS], -float("inf"), tl.float32)
    total, result = tl.zeros([KEYS], tl.float32), tl.zeros([KEYS, WIDTH], tl.float32)
    start = tl.program_id(0) * part
    end = tl.minimum(start + part, images)
    for begin in range(start, end, TILE):
        token = begin + tl.arange(0, TILE)
        known = token < end
        k = load_rows(key + batch * k_batch + head * k_head, token, known, k_row, channel, D)
        v = load_rows(value + batch * v_batch + head * v_head, token, known, v_row, channel, D)
        logits = tl.where(known[None], product(q, tl.trans(k)) * scale, -float("inf"))
        larger = tl.maximum(largest, tl.max(logits, 1))
        weights, shrink = tl.exp(logits - larger[:, None]), tl.exp(largest - larger)
        total = total * shrink + tl.sum(weights, 1)
        result = result * shrink[:, None] + product(weights.to(v.dtype), v)
        largest = larger
    slot = (tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)).to(tl.int64) * rows
    store_rows(out + slot * D, row, row < rows, D, channel, result / total[:, None], D)
    tl.store(lse + slot + row, largest + tl.log(total), mask=row < rows)


@triton.jit(do_not_specialize=["rows", "negatives", "parts"])
def _join(
    query, key, value, lengths, kept_lengths, image, image_lse, out,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row, i_batch, i_head, i_part, i_row,
    l_batch, l_head, l_part, l_row, o_batch, o_head, o_row, heads, rows, negatives, parts, scale,
    D: tl.constexpr, WIDTH: tl.constexpr, KEYS: tl.constexpr, RAGGED: tl.constexpr, KEPT_RAGGED: tl.constexpr,
):  # fmt: skip
    batch, head = (tl.program_id(0) // heads).to(tl.int64), (tl.program_id(0) % heads).to(tl.int64)
    row, channel = tl.arange(0, KEYS), tl.arange(0, WIDTH)
    inside = row < rows
    q = load_rows(query + batch * q_batch + head * q_head, row, inside, q_row, channel, D)
    k = load_rows(key + batch * k_batch + head * k_head, row, inside, k_row, channel, D)
    v = load_rows(value + batch * v_batch + head * v_head, row, inside, v_row, channel, D)
    real = tl.load(lengths + batch) if RAGGED else negatives
    kept = tl.load(kept_lengths + batch) if KEPT_RAGGED else rows - negatives
    known = (row < real) | ((row >= negatives) & (row < negatives + kept))
    same = (row < negatives)[:, None] == (row < negatives)[None]
    attended, lse = softmax(product(q, tl.trans(k)) * scale, same & known[None])
    result = product(attended.to(v.dtype), v)
    for part in range(parts):
        place = image + batch * i_batch + head * i_head + part * i_part
        other = load_rows(place, row, inside, i_row, channel, D).to(tl.float32)
        sums = tl.load(image_lse + batch * l_batch + head * l_head + part * l_part + row * l_row, mask=inside, other=0.0)
        weight = sigmoid(sums - lse)
        result = (1 - weight)[:, None] * result + weight[:, None] * other
        larger = tl.maximum(lse, sums)
        lse = larger + tl.log(tl.exp(lse - larger) + tl.exp(sums - larger))
    store_rows(out + batch * o_batch + head * o_head, row, inside, o_row, channel, result, D)


@operator("attend_image_in_parts")
def attend_image_in_parts(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Returns attention to parts of the keys, with shape (B, H, parts, N, D), and log-sum-exps, (B, H, parts, N), in float32.

    Arguments:
        query: A few queries, with shape (B, H, N, D).
        key, value: Keys and values, with shape (B, H, I, D).
    """
    batch, heads, rows, size = query.shape
    images = key.shape[2]
    part = max(MIN_KEYS, -(-images // MAX_PARTS))
    parts = -(-images // part)
    out = query.new_empty(batch, heads, parts, rows, size, dtype=float32)
    lse = query.new_empty(batch, heads, parts, rows, dtype=float32)
    if not query.is_meta:
        wrap_triton(_image_parts)[(parts, batch * heads)](
            query, key, value, out, lse, *query.stride()[:3], *key.stride()[:3], *value.stride()[:3],
            heads, rows, images, part, size**-0.5, size_class(images),
            D=size, WIDTH=triton.next_power_of_2(size), KEYS=key_tile(rows),
        )  # fmt: skip
    return out, lse


@operator("join_text", "out")
def join_text(
    query: Tensor, key: Tensor, value: Tensor, lengths: Tensor | None, kept_lengths: Tensor | None,
    image: Tensor, image_lse: Tensor, out: Tensor, negatives: int,
) -> None:  # fmt: skip
    """Joins the prompts' attention to parts of the image with that to themselves, and writes it into `out`.

    Arguments:
        query, key, value, out: States of the negative and then the kept prompts, with shape (B, H, N, D).
        lengths, kept_lengths: How many negative and kept tokens of each row are real, with shape (B,); None means all.
        image: Attention to parts of the image, with shape (B, H, parts, N, D).
        image_lse: Its log-sum-exps, with shape (B, H, parts, N).
        negatives: The number of negative tokens.
    """
    batch, heads, rows, size = query.shape
    if not query.is_meta:
        wrap_triton(_join)[(batch * heads,)](
            query, key, value, *(query if one is None else one for one in (lengths, kept_lengths)), image, image_lse, out,
            *query.stride()[:3], *key.stride()[:3], *value.stride()[:3],
            *image.stride()[:4], *image_lse.stride(), *out.stride()[:3], heads, rows, negatives, image.shape[2], size**-0.5,
            D=size, WIDTH=triton.next_power_of_2(size), KEYS=key_tile(rows),
            RAGGED=lengths is not None, KEPT_RAGGED=kept_lengths is not None,
        )  # fmt: skip
