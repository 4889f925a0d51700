"""Published settings of methods, by name."""

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
r"""Names for `--method`, with their method and its hyper-parameters.

`nag-original` and `nag++` are NAG as published and as the paper tuned it anew, by the paper's :math:`\phi`. `nag-strong` and
`nag-quality` are what the demonstration of the paper's public code offers as 11 and 4: it calls NAG's own code, whose scale is
:math:`\phi + 1`.
"""


def resolved(name: str) -> tuple[str, Mapping[str, float]]:
    """Returns the method and the hyper-parameters of a name; none if it is that of a method."""
    return VARIANTS.get(name, (name, {}))
