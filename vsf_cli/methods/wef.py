"""Whole embedding flip."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from vsf_cli.methods.base import check_positive
from vsf_cli.methods.none import NoGuidance

if TYPE_CHECKING:
    pass

__all__ = ["WEF"]


@dataclass(frozen=True)
class WEF(NoGuidance):
    r"""Whole embedding flip: the negative prompt's embedding, flipped, joins the positive one before the model. An ablation.

    .. math:: e = [e^+ ; \; -\alpha \, e^-]

    Keys are flipped with it, so that the image attends to what is least like the negative prompt: the paper found no effect.

    References:
        | VSF (Guo & Du, 2025), section 4.8 and Figure 10

    Arguments:
        alpha: The strength :math:`\alpha \geq 0`.
        padding: Whether the negative prompt keeps its padding, as in the paper.

    Raises:
        RequestError: If `alpha` is negative or not finite.
    """

    name: ClassVar[str] = "wef"
    label: ClassVar[str] = "WEF"
    accepts_guidance_scale: ClassVar[bool] = False
    flips_embedding: ClassVar[bool] = True

    alpha: float = 1.0
    padding: bool = True

    def __post_init__(self) -> None:
        check_positive("alpha", self.alpha)
