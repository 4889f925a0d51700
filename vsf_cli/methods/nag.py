"""Normalized attention guidance."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from vsf_cli.config.option import option
from vsf_cli.methods.base import Method
from vsf_cli.methods.vectors import norm

if TYPE_CHECKING:
    from torch import Tensor

    from vsf_cli.methods.tokens import Context

__all__ = ["NAG"]


@dataclass(frozen=True)
class NAG(Method):
    r"""Normalized attention guidance: extrapolation away from the negative prompt, held to a norm, and blended.

    .. math::
        \tilde Z = Z^+ + \phi \, (Z^+ - Z^-) , \quad
        \hat Z = \tilde Z \, \min(r, \tau) / r , \; r = \|\tilde Z\|_1 / \|Z^+\|_1 , \quad
        Z = a \hat Z + (1 - a) Z^+

    with the norm of a token over all heads together.

    References:
        | VSF (Guo & Du, 2025), equations 4 and 5
        | Normalized Attention Guidance (Chen et al., 2025)
        | https://arxiv.org/abs/2505.21179

    Arguments:
        scale: :math:`\phi`, 0 or more; 0 is no guidance. NAG's own code calls :math:`\phi + 1` its scale.
        tau: The greatest ratio of norms :math:`\tau`, above 0; infinity does not limit it.
        alpha: The blend :math:`a`, 0 to 1; 0 is no guidance.
        padding: Whether the negative prompt keeps its padding, as published.

    Raises:
        RequestError: If a number is out of its range.
    """

    name: ClassVar[str] = "nag"
    label: ClassVar[str] = "NAG"

    scale: float = option(4.0, help="NAG's phi.", min=0, sweep=True, search=(0.0, 16.0))
    tau: float = option(2.5, help="NAG's limit on norm growth.", above=0, finite=False, sweep=True, search=(1.0, 8.0))
    alpha: float = option(0.125, help="NAG's blend.", min=0, max=1, sweep=True, search=(0.0, 1.0))
    padding: bool = option(True, help="Whether NAG pads the negative prompt.")

    @property
    def off(self) -> str:
        return "nag_alpha 0" if self.alpha == 0 else "nag_scale 0" if self.scale == 0 and self.tau >= 1 else ""

    def guide(self, query: "Tensor", base: "Tensor", context: "Context") -> "Tensor":
        away = base + self.scale * (base - self.attend_image_to_negative(query, context))
        ratio = norm(away) / norm(base)
        limited = away * (ratio.clamp(max=self.tau) / ratio).to(away.dtype)
        return self.keep_unguided_rows(self.alpha * limited + (1 - self.alpha) * base, base, context)
