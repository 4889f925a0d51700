"""Named settings of methods, as others have published them."""

from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["VARIANTS", "resolved"]

VARIANTS: Mapping[str, tuple[str, Mapping[str, float]]] = MappingProxyType(
    {
        "nag-original": ("nag", {"scale": 4.0, "tau": 2.5, "alpha": 0.125}),
        "nag++": ("nag", {"scale": 11.0, "tau": 5.0, "alpha": 0.5}),
        "nag-strong": ("nag", {"scale": 10.0, "tau": 5.0, "alpha": 0.5}),
        "nag-quality": ("nag", {"scale": 3.0, "tau": 2.5, "alpha": 0.125}),
    }
)
r"""Names that `--method` takes beside those of methods, with the method and its numbers.

`nag-original` and `nag++` are NAG as published and as the paper tuned it anew, by the paper's :math:`\phi`. `nag-strong` and
`nag-quality` are what the demonstration of the paper's public code offers as 11 and 4: it calls NAG's own code, whose scale is
:math:`\phi + 1`.
"""


def resolved(name: str) -> tuple[str, Mapping[str, float]]:
    """The method behind a name, and the numbers that the name stands for; those of a method's own name are none."""
    return VARIANTS.get(name, (name, {}))
