"""No guidance."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from vsf_cli.methods.base import Method

if TYPE_CHECKING:
    from torch import Tensor

    from vsf_cli.methods.tokens import Context

__all__ = ["NoGuidance"]


@dataclass(frozen=True)
class NoGuidance(Method):
    """No guidance: the negative prompt has no effect. For comparison."""

    name: ClassVar[str] = "none"
    label: ClassVar[str] = "none"
    guides_attention: ClassVar[bool] = False
    accepts_guidance_scale: ClassVar[bool] = True

    def attend(self, query: "Tensor", positive_query: "Tensor | None", context: "Context") -> tuple["Tensor", "Tensor | None"]:
        import torch

        from vsf_cli.attention import attention

        # The very call of the unguided model, all rows at once: the same bits.
        rows = query if positive_query is None else torch.cat([query, positive_query], dim=2)
        output = attention(rows, context.stock.key, context.stock.value, backend=context.backend)
        images = query.shape[2]
        return output[:, :, :images], None if positive_query is None else output[:, :, images:]
