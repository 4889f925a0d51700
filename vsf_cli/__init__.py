"""Negative guidance by value sign flip (VSF): say what you don't want, and few-step models obey."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vsf_cli.errors import VSFError
    from vsf_cli.generation.choosing import choose
    from vsf_cli.generation.generate import generate
    from vsf_cli.generation.guided import Applied, guided
    from vsf_cli.judges import judge_named
    from vsf_cli.methods import METHODS, VSF, Method, NoGuidance
    from vsf_cli.settings.request import Request

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "VSF",
    "Applied",
    "Method",
    "NoGuidance",
    "Request",
    "VSFError",
    "__version__",
    "choose",
    "generate",
    "guided",
    "judge_named",
]

_HOMES = {
    "Applied": "generation.guided",
    "METHODS": "methods",
    "Method": "methods",
    "NoGuidance": "methods",
    "Request": "settings.request",
    "VSF": "methods",
    "VSFError": "errors",
    "choose": "generation.choosing",
    "generate": "generation.generate",
    "guided": "generation.guided",
    "judge_named": "judges",
}


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    # Imported on first use: `vsf --help` must not wait for torch.
    if name not in _HOMES:
        raise AttributeError(f"module 'vsf_cli' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f"vsf_cli.{_HOMES[name]}"), name)
