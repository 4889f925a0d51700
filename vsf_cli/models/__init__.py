"""Model families: how each projects and splits tokens, and how it encodes a negative prompt.

A family knows nothing of files, of presets or of the names of methods.
"""

from typing import Any

from vsf_cli.errors import PatchError
from vsf_cli.models.family import Encoded, Family, Guidance
from vsf_cli.models.sd3 import StableDiffusion3
from vsf_cli.models.wan import Wan

__all__ = ["FAMILIES", "Encoded", "Family", "Guidance", "family_of"]

FAMILIES: dict[str, Family] = {"sd3": StableDiffusion3(), "wan": Wan()}


def family_of(pipe: Any) -> Family:
    """The family of a diffusers pipeline.

    Raises:
        PatchError: If no family knows the pipeline's class.
    """
    name = type(pipe).__name__
    for family in FAMILIES.values():
        if name in family.pipelines:
            return family
    known = ", ".join(pipeline for family in FAMILIES.values() for pipeline in family.pipelines)
    raise PatchError(f"{name} is not supported: supported pipelines are {known}")
