"""Guidance methods: how the attention of image tokens to a positive and a negative prompt is combined.

Each method is a frozen dataclass. Its fields are its hyper-parameters: the keys of `[method]` in a preset, the options of the
command line, the entries of the metadata and the axes of a sweep all come from them. Only the arithmetic imports torch.

The letters of shapes are those of `vsf_cli.attention`.
"""

from functools import cache
from typing import Any

from vsf_cli.config.names import check_choice, nearest_or_all
from vsf_cli.config.option import Option
from vsf_cli.errors import RequestError
from vsf_cli.methods.angular import Angular
from vsf_cli.methods.base import Method
from vsf_cli.methods.cfg import CFG
from vsf_cli.methods.nag import NAG
from vsf_cli.methods.nasa import NASA
from vsf_cli.methods.none import NoGuidance
from vsf_cli.methods.ong import ONG
from vsf_cli.methods.tokens import AllTokens, Context, KeyValue, Span, TextGroup, WholeAttention
from vsf_cli.methods.variants import VARIANTS, resolved
from vsf_cli.methods.vsf import VSF
from vsf_cli.methods.wef import WEF

__all__ = [
    "CFG",
    "METHODS",
    "NAG",
    "NASA",
    "ONG",
    "VARIANTS",
    "VSF",
    "WEF",
    "AllTokens",
    "Angular",
    "Context",
    "KeyValue",
    "Method",
    "NoGuidance",
    "Span",
    "TextGroup",
    "WholeAttention",
    "method_named",
    "method_options",
    "resolved",
    "setting_name",
]

METHODS: dict[str, type[Method]] = {method.name: method for method in (NoGuidance, VSF, NASA, NAG, ONG, Angular, WEF, CFG)}


@cache
def method_options() -> dict[str, tuple[str, Option]]:
    """Returns the options of all methods by their keys, each with its method's name."""
    return {one.key: (name, one) for name, method in METHODS.items() for one in method.options()}


def setting_name(method: str, parameter: str) -> str:
    """Returns the key of a method's hyper-parameter, such as "nag_scale"; those of VSF have no prefix."""
    return parameter if METHODS[method].bare else f"{method}_{parameter}"


def method_named(name: str, parameters: dict[str, Any] | None = None) -> Method:
    """Returns a method with hyper-parameters.

    Raises:
        RequestError: If there is no such method, or it has no such hyper-parameter.
    """
    check_choice("method", name, METHODS)
    method, parameters = METHODS[name], parameters or {}
    legal = method.field_types()
    for key in parameters:
        if key not in legal:
            raise RequestError(f"method '{name}' has no '{key}'.{nearest_or_all(key, legal, 'Its numbers')}")
    return method(**parameters)
