r"""Folds the padding of a text: m keys that are equal weigh as much as one of them with :math:`\log m` added to its logit.

It is exact where a token's key and value depend on its embedding alone, as in the cross attention of Wan, whose pipelines pad
the text to 512 tokens with zeros. Padding is found in the embeddings, and never assumed.
"""

import math
from weakref import ref

import torch
from torch import Tensor

__all__ = ["Folding"]


class Folding:
    """Folds the text of one call after another: the same text is measured once, since a GPU would be waited for."""

    def __init__(self) -> None:
        self._text: ref[Tensor] | None = None
        self._version: int | None = None
        self._repeated = 0

    def fold(self, text: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns a text without repeated tokens at its end, and what is added to each key's logit.

        Arguments:
            text: Embeddings, with shape (B, P, width).

        Returns:
            The embeddings, with shape (B, kept, width), and the bias, with shape (1, 1, 1, kept), in float32 (float64 for
            float64); None instead of a bias if no token at the end of all rows is repeated.
        """
        repeated = self._measure(text)
        if repeated < 2:
            return text, None
        kept = text.shape[1] - repeated + 1
        bias = torch.zeros(1, 1, 1, kept, dtype=torch.promote_types(text.dtype, torch.float32), device=text.device)
        bias[..., -1] = math.log(repeated)
        return text[:, :kept], bias

    def _measure(self, text: Tensor) -> int:
        """Returns how many tokens at the end of every row are equal to the last one, bit for bit."""
        version = None if text.is_inference() else text._version
        known = self._text() if self._text is not None else None
        if known is not text or version is None or version != self._version:
            self._repeated = repeated_tokens(text)
            self._text, self._version = ref(text), version
        return self._repeated


def repeated_tokens(text: Tensor) -> int:
    """Returns how many tokens at the end of every row of (B, P, width) are equal to the row's last one."""
    equal = (text == text[:, -1:]).all(-1).flip(1)  # [B, P], the last token first
    return int(equal.int().cumprod(1).sum(1).min())
