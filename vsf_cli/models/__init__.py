"""Families of models: where the rows of their attention stand, how their inputs take a negative prompt, how they encode it.

The families are data, and reading them needs no torch.
"""

from vsf_cli.models.family import Family, Order
from vsf_cli.models.table import FAMILIES, family_of

__all__ = ["FAMILIES", "Family", "Order", "family_of"]
