"""Classifier-free guidance."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from vsf_cli.methods.none import NoGuidance

__all__ = ["CFG"]


@dataclass(frozen=True)
class CFG(NoGuidance):
    r"""Classifier-free guidance with a negative prompt, as diffusers has it: outside of attention, two calls a step.

    .. math:: u = f(p^-) + \lambda \, (f(p^+) - f(p^-))

    with :math:`\lambda` the pipeline's `guidance_scale`. For models that were not distilled.

    References:
        | VSF (Guo & Du, 2025), equation 2
        | Classifier-Free Diffusion Guidance (Ho & Salimans, 2022)
        | https://arxiv.org/abs/2207.12598
    """

    name: ClassVar[str] = "cfg"
    label: ClassVar[str] = "CFG"

    passes_negative_prompt: ClassVar[bool] = True

    @classmethod
    def search(cls) -> Mapping[str, tuple[float, float]]:
        return {"guidance": (1.1, 8.0)}
