"""The pipeline of a loaded model for a task: with a text alone, with an image, or with an image and a mask."""

import inspect
from typing import Any

from vsf_cli.errors import RequestError
from vsf_cli.models import FAMILIES, family_of
from vsf_cli.models.family import Uses
from vsf_cli.prompts.vocabulary import REAL_PRESET

__all__ = ["check_task", "pipeline_for"]

LATENT_CHANNELS = {"StableDiffusion3InpaintPipeline": (16, 33)}
"""The numbers of input channels of the denoisers that a pipeline takes, where it does not take all."""

STATE = ("_all_hooks", "_offload_device", "_offload_gpu_id", "_progress_bar_config")
"""The attributes of a pipeline for offloading and talk, which are not components."""


def check_task(pipeline: str, images: int, mask: bool, channels: int | None = None) -> str:
    """Returns the class of the pipeline that makes images with a text alone, with images, or with an image and a mask.

    `channels` is the number of input channels of the model's denoiser; None if it is not known.

    Raises:
        RequestError: If the model has none.
    """
    uses = next((family.pipelines[pipeline] for family in FAMILIES.values() if pipeline in family.pipelines), Uses())
    if images > 1 and (mask or not uses.several):
        with_mask = " with --mask" if mask else ""
        raise RequestError(f"a {pipeline} takes one --image{with_mask}, but there are {images}: leave the others out")
    name = uses.mask if mask else uses.image if images else pipeline if uses.text else None
    if name is None:
        raise RequestError(f"a {pipeline} {_what_it_lacks(uses, images, mask)}")
    if channels is not None and channels not in (legal := LATENT_CHANNELS.get(name, (channels,))):
        found = f"this model has {channels} latent channels, but {' or '.join(map(str, legal))} are needed for --mask"
        raise RequestError(f"{found}: leave it out, or choose another model, such as --preset {REAL_PRESET}")
    return name


def _what_it_lacks(uses: Uses, images: int, mask: bool) -> str:
    if mask:
        return "takes no --mask: leave it out, or choose another model"
    if images and uses.mask:
        return "redraws a part of an image: add --mask, white where it is redrawn"
    if images:
        return "takes no --image: leave it out, or choose another model"
    return f"makes no image without another one: add {'--image' if uses.image else '--image and --mask'}"


def pipeline_for(pipe: Any, images: int, mask: bool) -> Any:
    """Returns the pipeline of a task, which has the modules of a loaded one.

    Raises:
        RequestError: If the model has none.
    """
    own = next((kind.__name__ for kind in type(pipe).__mro__ if kind.__name__ in family_of(pipe).pipelines), "")
    channels = family_of(pipe).denoisers_of(pipe)[0].config.get("in_channels")
    if not own or (name := check_task(own, images, mask, channels)) == own:
        return pipe
    import diffusers

    kind = getattr(diffusers, name)
    parts = {**pipe.config, **pipe.components}
    names = [parameter for parameter in inspect.signature(kind.__init__).parameters if parameter in parts]
    other = kind(**{parameter: parts[parameter] for parameter in names})
    vars(other).update({key: value for key, value in vars(pipe).items() if key in STATE})
    return other
