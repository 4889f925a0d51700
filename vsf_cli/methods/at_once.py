"""VSF by one call over all keys, which is the least work for short sequences and for cross attention on a CPU."""

from typing import TYPE_CHECKING

from vsf_cli.methods.tokens import Span

if TYPE_CHECKING:
    from torch import Tensor

    from vsf_cli.methods.tokens import AllTokens, Context, TextGroup, WholeAttention

__all__ = ["cross_at_once", "joint_at_once"]


def cross_at_once(queries: int, context: "Context", bias: "Tensor", alpha: "float | Tensor") -> "WholeAttention":
    """Returns the function of cross attention: the negative prompt's values are flipped where they stand.

    Arguments:
        queries: The number of the image's queries.
        context: The keys and values.
        bias: What is added to the logits of all keys, with shape (B or 1, H or 1, I or 1, keys).
        alpha: The flip strength.
    """
    import torch.nn.functional as F

    from vsf_cli.attention.exact import attention
    from vsf_cli.attention.lanes import are_worth_it, in_lanes, mask_in_lanes

    factors = F.pad(alpha * _flips(context.negative), (0, 0, context.base.key.shape[2], 0), value=1.0)

    def attend(query: "Tensor", key: "Tensor", value: "Tensor") -> "Tensor":
        return attention(query, key, value * factors, bias)

    if not are_worth_it(queries, bias.shape[-1]):
        return attend
    mask = mask_in_lanes(bias)

    def attend_in_lanes(query: "Tensor", key: "Tensor", value: "Tensor") -> "Tensor":
        return attention(query, in_lanes(key), in_lanes(value * factors), mask)

    return attend_in_lanes


def joint_at_once(tokens: "AllTokens", alpha: "float | Tensor", beta: "float | Tensor") -> "WholeAttention":
    """Returns the function of joint attention, with a dense mask, for all rows: flipped keys stand behind the others."""
    import torch
    import torch.nn.functional as F

    from vsf_cli.attention.exact import attention

    (negative,), key = tokens.groups, tokens.keys.key
    repeated = _widened(negative, key.shape[2])
    # A tensor of inference mode is of no use outside of it.
    size = "whole", torch.is_inference_mode_enabled(), key.dtype, *key.shape
    if size not in tokens.sized:
        context = tokens.make_context(tokens.keys)
        mask = _dense_mask(context, tokens.base, negative, repeated, beta)
        sides = negative.start - repeated.start, repeated.stop - negative.stop
        flips = F.pad(_flips(context.negative), (0, 0, *sides))
        tokens.sized[size] = mask, flips
    mask, flips = tokens.sized[size]
    factors = alpha * flips
    start, length = repeated.start, repeated.stop - repeated.start

    def attend(query: "Tensor", key: "Tensor", value: "Tensor") -> "Tensor":
        keys = torch.cat([key, key.narrow(2, start, length)], dim=2)
        values = torch.cat([value, factors * value.narrow(2, start, length)], dim=2)
        return attention(query, keys, values, mask)

    return attend


def _flips(group: "TextGroup") -> "Tensor":
    """Returns minus the weight of each of the negative prompt's values, with shape (B or 1, 1, N, 1)."""
    value = group.value
    weights = value.new_ones(1, value.shape[2]) if group.weights is None else group.weights.to(value)
    return -weights[:, None, :, None]


def _widened(negative: Span, tokens: int) -> Span:
    """Returns the positions of the tokens that follow a sequence once more: the negative prompt, and some for full lanes.

    Arguments:
        negative: The positions of the negative prompt in the sequence.
        tokens: The length of the sequence.
    """
    from vsf_cli.attention.lanes import missing

    length = negative.stop - negative.start
    length = min(tokens, length + missing(tokens + length))
    start = min(negative.start, tokens - length)
    return Span(start, start + length)


def _dense_mask(context: "Context", base: Span, negative: Span, repeated: Span, beta: "float | Tensor") -> "Tensor":
    r"""Returns what is added to the logits of all rows, and of all keys with the repeated ones behind them.

    It is :math:`-\beta` where the image sees the flipped keys, and minus infinity where a row does not see a key.

    Arguments:
        context: The keys and values.
        base, negative: The positions of image and positive prompt, and of the negative prompt, in the sequence.
        repeated: The positions of the tokens that follow the sequence, with values that are flipped.
        beta: The bias.
    """
    import torch

    assert context.whole is not None and context.image is not None
    rows, start = context.whole.key.shape[2], base.start
    keys = rows + repeated.stop - repeated.start
    flipped = slice(begin := rows + negative.start - repeated.start, begin + negative.stop - negative.start)
    dtype = torch.promote_types(context.whole.key.dtype, torch.float32)
    mask = torch.full((1, 1, rows, keys), -torch.inf, dtype=dtype)
    base.of(mask)[..., base.start : base.stop] = 0
    negative.of(mask)[..., start + context.images.start : start + context.images.stop] = 0
    negative.of(mask)[..., negative.start : negative.stop] = 0
    Span(start + context.image.start, start + context.image.stop).of(mask)[..., flipped] = -beta
    if (seen := context.negative.seen_after(0)) is None:
        return mask
    every = seen.new_ones(len(seen), 1, 1, keys)
    every[..., negative.start : negative.stop] = every[..., flipped] = seen
    return mask.masked_fill(~every, -torch.inf)
