"""Whole embedding flip."""

from dataclasses import dataclass
from typing import ClassVar

from vsf_cli.config.option import option
from vsf_cli.methods.none import NoGuidance

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

    alpha: float = option(1.0, help="Strength of WEF, whole-embedding flip.", min=0, sweep=True, search=(0.0, 3.0))
    padding: bool = option(True, help="Whether WEF pads the negative prompt.")
