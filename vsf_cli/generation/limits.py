"""What a model cannot make, by its configuration: the same before it is loaded and after."""

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from vsf_cli.config.values import check_sides
from vsf_cli.errors import RequestError
from vsf_cli.settings.effects import unfolded
from vsf_cli.settings.request import Request, public_source

if TYPE_CHECKING:
    from vsf_cli.models import Family

__all__ = ["check_configured", "check_limits"]


def check_configured(request: Request, family: "Family", pipe: Any) -> None:
    """Checks what `check_limits` does before a model is loaded, by its `vsf_cli.loading.configurations.configured_pipe`."""
    # What a configuration does not say is known when the model is loaded.
    with suppress(AttributeError, TypeError, StopIteration):
        check_limits(request, family, pipe)


def check_limits(request: Request, family: "Family", pipe: Any) -> None:
    """Checks that a model can make a request.

    Raises:
        RequestError: If the size, the length, the steps or a block does not fit the model.
    """
    config = next(model.config for name in family.denoisers if (model := getattr(pipe, name, None)) is not None)
    multiple = family.size_multiple(pipe)
    _check_size(request, multiple, getattr(config, "pos_embed_max_size", None))
    if request.max_sequence_length > family.max_length:
        raise RequestError(
            f"max_sequence_length is {request.max_sequence_length}, but this model takes {family.max_length} at most"
        )
    if message := unfolded(request, family):
        raise RequestError(message)
    _check_guidance(request, family, config)
    _check_frames(request, family, pipe)
    if positions := getattr(config, "rope_max_seq_len", None):
        _check_positions(request, family, pipe, positions)
    _check_steps(request, pipe)
    blocks = _count_blocks(config)
    if blocks is not None and request.negative and request.guidance.last_block > blocks:
        raise RequestError(f"guided_blocks names block {request.guidance.last_block}, but the model has {blocks}")


def _check_size(request: Request, multiple: int, max_count: int | None) -> None:
    """Checks that both sides are multiples of `multiple` pixels, and at most `max_count` of them; None means any number."""
    check_sides(request.width, request.height, multiple)
    for name, side in (("width", request.width), ("height", request.height)):
        if side is not None and max_count is not None and side > multiple * max_count:
            raise RequestError(f"{name} is {side}, but this model can make {multiple * max_count} pixels at most")


def _check_guidance(request: Request, family: "Family", config: Any) -> None:
    """Checks that a model whose guidance is an input, and no CFG, has that input."""
    is_input = family.embeds_scale and not request.guidance.accepts_guidance_scale
    if is_input and request.guidance_scale > 1 and getattr(config, "guidance_embeds", None) is False:
        raise RequestError(
            f"guidance is {request.guidance_scale:g}, but this model has no such input, and would take no notice: leave it out,"
            " or pass 0"
        )


def _check_frames(request: Request, family: "Family", pipe: Any) -> None:
    """Checks that a video model makes a video and an image model an image, and that the autoencoder takes the frames."""
    if family.video != (request.num_frames is not None):
        wanted = "videos: use 'vsf video'" if family.video else "images: use 'vsf image'"
        raise RequestError(f"model {public_source(request.model)} makes {wanted}")
    step = family.frames_per_token(pipe)
    if request.num_frames is not None and request.num_frames % step != 1 % step:
        near = max(1, round((request.num_frames - 1) / step) * step + 1)
        raise RequestError(f"frames is {request.num_frames}, but must be 1 more than a multiple of {step}: try {near}")


def _check_positions(request: Request, family: "Family", pipe: Any, positions: int) -> None:
    """Checks that each axis of a video has no more tokens than the model has positions."""
    step, side = family.frames_per_token(pipe), family.pixels_per_token(pipe)
    if request.num_frames is not None and (request.num_frames - 1) // step + 1 > positions:
        most = (positions - 1) * step + 1
        time = f", which are {most / request.fps:.3g} s at {request.fps} fps" if request.fps else ""
        raise RequestError(
            f"frames is {request.num_frames}, but this model can make {most} at most{time}: pass fewer --frames or --seconds"
        )
    for name, length in (("width", request.width), ("height", request.height)):
        if length is not None and length > positions * side:
            raise RequestError(f"{name} is {length}, but this model can make {positions * side} pixels at most")


def _check_steps(request: Request, pipe: Any) -> None:
    """Checks that the scheduler has sigmas for the steps: one with a terminal sigma cannot make a single step."""
    config = pipe.scheduler.config
    # A shift that takes the place of one by the image's size has no terminal sigma.
    shifted = request.flow_shift is not None and getattr(config, "use_dynamic_shifting", False)
    if getattr(config, "shift_terminal", None) and not shifted and request.num_inference_steps < 2:
        raise RequestError(f"steps is {request.num_inference_steps}, but this model's scheduler needs at least 2")


def _count_blocks(config: Any) -> int | None:
    """Returns the number of a denoiser's blocks; None if its configuration does not say it, as that of a U-Net."""
    counts = [getattr(config, name, None) for name in ("num_layers", "n_layers", "num_single_layers")]
    return sum(count for count in counts if count is not None) if any(counts) else None
