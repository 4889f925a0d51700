"""VSF as the paper evaluates it: one call over all keys, with a dense mask. It is only for comparison."""

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from vsf_cli.methods import VSF, Context

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["MaskedVSF", "forget_mask"]


@dataclass(frozen=True)
class MaskedVSF(VSF):
    r"""VSF with a dense mask: the image and the positive prompt attend to [image, positive, flipped negative] in one call.

    The mask is minus infinity where the positive prompt would see the flipped tokens, and :math:`-\beta` where the image does.
    It is made once per size and cached, as in the paper's code. Flash attention on a GPU takes no mask. The negative's own
    rows, which are few, attend to [image, negative] in a separate call.

    References:
        | VSF (Guo & Du, 2025), sections 3.2-3.3
        | https://arxiv.org/abs/2508.10931
    """

    def on(self, device: "torch.device") -> "MaskedVSF":
        """Returns the method itself: its numbers are part of the key of the cached mask."""
        return self

    def added_pairs(self, queries: int, images: int, positives: int, negatives: int) -> int:
        return (queries + (positives if images else 0)) * negatives

    def attend(self, query: "Tensor", context: Context, out: "Tensor | None" = None) -> "Tensor":
        import torch

        from vsf_cli.attention.exact import attention

        keys = context.base.join(context.negative.times(-self.alpha))
        rows, base = query.shape[2], context.base.key.shape[2]
        images = (0, rows) if context.image is None else (context.image.start, context.image.stop)
        # Compiled blocks do not contain it, or each would make its own mask at every step.
        mask = torch.compiler.disable(_mask)(rows, images, base, keys.key.shape[2] - base, self.beta, query.dtype, query.device)
        output = attention(query, keys.key, keys.value, mask)
        return output if out is None else out.copy_(output)


def forget_mask() -> None:
    """Frees the mask, which would otherwise count as memory of the next method that is measured."""
    _mask.cache_clear()


@lru_cache(maxsize=1)
def _mask(
    rows: int, images: tuple[int, int], base: int, negatives: int, beta: float, dtype: "torch.dtype", device: "torch.device"
) -> "Tensor":
    """Returns the mask that is added to the logits, (rows, base + negatives); `images` are the bounds of the image rows."""
    import torch

    mask = torch.zeros(rows, base + negatives, dtype=dtype, device=device)
    mask[:, base:] = -torch.inf
    mask[slice(*images), base:] = -beta
    return mask
