"""What one call over all keys needs, by which VSF guides short sequences and cross attention on a CPU."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from vsf_cli.methods.tokens import Context, Span

__all__ = ["dense_mask", "flips"]


def flips(context: "Context", alpha: "float | Tensor") -> "Tensor":
    """Returns the factors of all values, with shape (B or 1, 1, keys, 1): 1, and minus alpha for the negative prompt."""
    import torch

    negative, value = context.negative, context.base.value
    weights = value.new_ones(1, negative.key.shape[2]) if negative.weights is None else negative.weights.to(value)
    ones = value.new_ones(len(weights), context.base.key.shape[2])
    return torch.cat([ones, -alpha * weights], dim=1)[:, None, :, None].to(value)


def dense_mask(context: "Context", base: "Span", grouped: "Span", beta: "float | Tensor") -> "Tensor":
    r"""Returns what is added to the logits of all rows, and of all keys with the flipped negative prompt behind them.

    It is :math:`-\beta` where the image sees the flipped keys, and minus infinity where a row does not see a key.

    Arguments:
        context: The keys and values.
        base, grouped: The positions of image and positive prompt, and of the negative prompt, in the sequence.
        beta: The bias.
    """
    import torch

    from vsf_cli.methods.tokens import Span

    assert context.whole is not None and context.image is not None
    rows, flipped, start = context.whole.key.shape[2], context.negative.key.shape[2], base.start
    dtype = torch.promote_types(context.whole.key.dtype, torch.float32)
    mask = torch.full((1, 1, rows, rows + flipped), -torch.inf, dtype=dtype)
    base.of(mask)[..., base.start : base.stop] = 0
    grouped.of(mask)[..., start + context.images.start : start + context.images.stop] = 0
    grouped.of(mask)[..., grouped.start : grouped.stop] = 0
    Span(start + context.image.start, start + context.image.stop).of(mask)[..., rows:] = -beta
    if (seen := context.negative.seen_after(0)) is None:
        return mask
    every = seen.new_ones(len(seen), 1, 1, rows)
    every[..., grouped.start : grouped.stop] = seen
    return mask.masked_fill(~torch.cat([every, seen], dim=-1), -torch.inf)
