"""VSF as the paper evaluates it: one call over all keys, with a dense mask. For comparison alone."""

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
    r"""VSF by a dense mask: the image and the positive prompt attend to [image, positive, flipped negative] in one call.

    The mask is minus infinity where the positive prompt would see the flipped tokens, and :math:`-\beta` where the image does.
    It is made once for a size and kept, as in the paper's code. A mask shuts out flash attention on a GPU. The negative's own
    rows, which are few, see [image, negative] in a call of their own.

    References:
        | VSF (Guo & Du, 2025), sections 3.2-3.3
        | https://arxiv.org/abs/2508.10931
    """

    def on(self, device: "torch.device") -> "MaskedVSF":
        """As it is: the mask is kept by its numbers."""
        return self

    def attend(self, query: "Tensor", context: Context, out: "Tensor") -> None:
        import torch

        from vsf_cli.attention import attention

        keys = context.base.join(context.negative.flipped(self.alpha))
        rows, base = query.shape[2], context.base.key.shape[2]
        start, end, _ = context.image_rows.indices(rows)
        # Compiled blocks leave it out: each would make a mask of its own at every step.
        mask = torch.compiler.disable(_mask)(
            rows, (start, end), base, keys.key.shape[2] - base, self.beta, query.dtype, query.device
        )
        out.copy_(attention(query, keys.key, keys.value, mask))


def forget_mask() -> None:
    """Gives the memory of the mask back, which else counts as that of whatever is measured next."""
    _mask.cache_clear()


@lru_cache(maxsize=1)
def _mask(
    rows: int,
    images: tuple[int, int],
    base: int,
    negatives: int,
    beta: float,
    dtype: "torch.dtype",
    device: "torch.device",
) -> "Tensor":
    """What is added to the logits, with shape (rows, base + negatives); `images` are the image rows' first and end."""
    import torch

    mask = torch.zeros(rows, base + negatives, dtype=dtype, device=device)
    mask[:, base:] = -torch.inf
    mask[slice(*images), base:] = -beta
    return mask
