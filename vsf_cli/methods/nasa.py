"""Negative-away steer attention."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from vsf_cli.config.option import option
from vsf_cli.methods.base import Method

if TYPE_CHECKING:
    from torch import Tensor

    from vsf_cli.methods.tokens import Context

__all__ = ["NASA"]


@dataclass(frozen=True)
class NASA(Method):
    r"""Negative-away steer attention: the attention to the negative prompt is subtracted, as much everywhere.

    .. math:: Z = Z^+ - \alpha \, Z^-

    where :math:`Z^+` is attention to [image, positive] and :math:`Z^-` to [image, negative]; in cross attention to the prompts
    alone.

    References:
        | VSF (Guo & Du, 2025), equation 3
        | SNOOPI: Supercharged One-step Diffusion Distillation with Proper Guidance (Nguyen et al., 2024)
        | https://arxiv.org/abs/2412.02687

    Arguments:
        alpha: The strength :math:`\alpha`, usually 0 to 1; 0 is no guidance.
        padding: Whether the negative prompt keeps its padding, as published.

    Raises:
        RequestError: If `alpha` is negative or not finite.
    """

    name: ClassVar[str] = "nasa"
    label: ClassVar[str] = "NASA"

    alpha: float = option(0.25, help="NASA's strength.", min=0, sweep=True, search=(0.0, 1.0))
    padding: bool = option(True, help="Whether NASA pads the negative prompt.")

    @property
    def off(self) -> str:
        return "nasa_alpha 0" if self.alpha == 0 else ""

    def guide(self, query: "Tensor", base: "Tensor", context: "Context") -> "Tensor":
        guided = base - self.alpha * self.attend_image_to_negative(query, context)
        return self.keep_unguided_rows(guided, base, context)
