"""Normalized attention guidance."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from vsf_cli.errors import RequestError
from vsf_cli.methods.base import Method, check_positive, norm

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

    scale: float = 4.0
    tau: float = 2.5
    alpha: float = 0.125
    padding: bool = True

    def __post_init__(self) -> None:
        check_positive("scale", self.scale)
        if not self.tau > 0:
            raise RequestError(f"tau is {self.tau:g}, but a ratio of norms is above 0")
        if not 0 <= self.alpha <= 1:
            raise RequestError(f"alpha is {self.alpha:g}, but a blend is 0 to 1")

    def guide(self, query: "Tensor", base: "Tensor", context: "Context") -> "Tensor":
        away = base + self.scale * (base - self.attend_image_to_negative(query, context))
        ratio = norm(away) / norm(base)
        limited = away * (ratio.clamp(max=self.tau) / ratio).to(away.dtype)
        return self.keep_unguided_rows(self.alpha * limited + (1 - self.alpha) * base, base, context)
