"""Orthogonal negative guidance."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from vsf_cli.config.option import option
from vsf_cli.methods.base import Method
from vsf_cli.methods.vectors import orthogonal_part

if TYPE_CHECKING:
    from torch import Tensor

    from vsf_cli.methods.tokens import Context

__all__ = ["ONG"]


@dataclass(frozen=True)
class ONG(Method):
    r"""Orthogonal negative guidance: what the attention to the negative prompt has beside that to the positive is subtracted.

    .. math:: O = O^+ - s \, \Big( O^- - \frac{O^- \cdot O^+}{O^+ \cdot O^+} \, O^+ \Big)

    where :math:`O^+` is attention to [image, positive] and :math:`O^-` to [image, negative]; in cross attention to the prompts
    alone. What the negative prompt has in common with the positive one stays.

    The paper is for joint attention. Its strength, and whether it projects the token's output over all heads or in each, could
    not be read: there is no public code. The default is all heads, as in NAG's norm.

    References:
        | Orthogonal Negative Guidance in Attention Feature Space for Text-to-Image Generation (Ko et al., 2026)
        | https://arxiv.org/abs/2605.29390

    Arguments:
        scale: The strength :math:`s`, 0 or more; 0 is no guidance.
        per_head: Whether the output of each head is projected by itself.
        padding: Whether the negative prompt keeps its padding, as with NAG.

    Raises:
        RequestError: If `scale` is negative or not finite.
    """

    name: ClassVar[str] = "ong"
    label: ClassVar[str] = "ONG"

    scale: float = option(1.0, help="ONG's strength.", min=0, sweep=True, search=(0.0, 2.0))
    per_head: bool = option(False, help="Whether ONG projects in each head.")
    padding: bool = option(True, help="Whether ONG pads the negative prompt.")

    @property
    def off(self) -> str:
        return "ong_scale 0" if self.scale == 0 else ""

    def guide(self, query: "Tensor", base: "Tensor", context: "Context") -> "Tensor":
        unwanted = orthogonal_part(self.attend_image_to_negative(query, context), base, self.per_head)
        return self.keep_unguided_rows(base - self.scale * unwanted, base, context)
