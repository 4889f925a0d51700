"""Published settings of methods, by name."""

from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["VARIANTS", "resolved"]

VARIANTS: Mapping[str, tuple[str, Mapping[str, float]]] = MappingProxyType(
    {
        "vsf-strong": ("vsf", {"alpha": 2.58, "beta": 0.2}),
        "vsf-quality": ("vsf", {"alpha": 2.08, "beta": 0.2}),
        "nag-original": ("nag", {"scale": 4.0, "tau": 2.5, "alpha": 0.125}),
        "nag++": ("nag", {"scale": 11.0, "tau": 5.0, "alpha": 0.5}),
        "nag-strong": ("nag", {"scale": 10.0, "tau": 5.0, "alpha": 0.5}),
        "nag-quality": ("nag", {"scale": 3.0, "tau": 2.5, "alpha": 0.125}),
        "nag-flux": ("nag", {"scale": 4.0, "tau": 2.5, "alpha": 0.25}),
        "nag-wan": ("nag", {"scale": 10.0, "tau": 2.5, "alpha": 0.25}),
        "nag-comfy": ("nag", {"scale": 4.0, "tau": 1.5, "alpha": 0.5}),
    }
)
r"""Names for `--method`, with their method and its hyper-parameters.

`vsf-strong` and `vsf-quality` are the two settings of the published version of the paper, for Stable Diffusion 3.5 Large Turbo.
The paper does not state their numbers: those of the public code's test script are :math:`\alpha` 3.8 and 3.3 with
:math:`\beta` 0.2. In its layout the image also sees an unflipped copy of the negative prompt without the bias, so that what is
subtracted is about :math:`\alpha e^{-\beta} - 1`; in ours it is :math:`\alpha e^{-\beta}`, and the same :math:`\beta` wants
:math:`\alpha - e^\beta`, which is 2.58 and 2.08.

NAG's own code calls :math:`\phi + 1` its scale; here it is the paper's :math:`\phi`. `nag-original` and `nag++` are NAG as
published and as the paper tuned it anew. `nag-strong` and `nag-quality` are what the demonstration of the paper's public code
offers as 11 and 4. What is in use since: `nag-flux` are the defaults of NAG's own code for Flux, and of its nodes for ComfyUI
(5, 2.5, 0.25); `nag-wan` those of KJNodes for Wan and LTX-2 (11, 2.5, 0.25); and `nag-comfy` those of ComfyUI's own node since
February 2026 (5, 1.5, 0.5).
"""


def resolved(name: str) -> tuple[str, Mapping[str, float]]:
    """Returns the method and the hyper-parameters of a name; none if it is that of a method."""
    return VARIANTS.get(name, (name, {}))
