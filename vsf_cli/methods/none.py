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

    def attend(self, query: "Tensor", context: "Context", out: "Tensor | None" = None) -> "Tensor":
        return self.attend_unguided(query, context, out)

    def guide(self, query: "Tensor", base: "Tensor", context: "Context") -> "Tensor":
        return base
