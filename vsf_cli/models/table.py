"""The supported families."""

from typing import Any

from vsf_cli.errors import PatchError
from vsf_cli.models.chroma import CHROMA
from vsf_cli.models.ernie_image import ERNIE_IMAGE
from vsf_cli.models.family import Family, check_kind
from vsf_cli.models.flux import FLUX
from vsf_cli.models.flux2 import FLUX2, FLUX2_DEV
from vsf_cli.models.krea2 import KREA2
from vsf_cli.models.ltx2 import LTX2
from vsf_cli.models.qwen_image import QWEN_IMAGE
from vsf_cli.models.sana import SANA
from vsf_cli.models.sd3 import SD3
from vsf_cli.models.unet import UNET
from vsf_cli.models.wan import WAN
from vsf_cli.models.z_image import Z_IMAGE

__all__ = ["FAMILIES", "family_of"]

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        *(SD3, FLUX, FLUX2, FLUX2_DEV, CHROMA, Z_IMAGE, QWEN_IMAGE),
        *(KREA2, ERNIE_IMAGE, SANA, UNET, WAN, LTX2),
    )
}


def family_of(pipe: Any) -> Family:
    """Returns the family of a denoiser, or of a diffusers pipeline by its denoiser, and its class if several have it.

    Raises:
        PatchError: If no family has the denoiser, or the pipeline is a modular one.
    """
    classes = {kind.__name__ for kind in type(pipe).__mro__}
    check_kind(pipe)
    for family in sorted(FAMILIES.values(), key=lambda family: classes.isdisjoint(family.pipelines)):
        if family.denoisers_of(pipe):
            return family
    known = ", ".join(dict.fromkeys(name for family in FAMILIES.values() for name in family.models))
    raise PatchError(f"{type(pipe).__name__} is not supported: supported are pipelines with a {known}")
