"""Families of models: the order of tokens in their attention, how a negative prompt joins their inputs, how they encode it.

The families are data, and importing them needs no torch.
"""

from vsf_cli.models.family import Family, Order
from vsf_cli.models.table import FAMILIES, family_of

__all__ = ["FAMILIES", "Family", "Order", "family_of"]
