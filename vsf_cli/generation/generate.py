"""One request: from a prompt to a picture, on a pipeline that is made ready."""

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vsf_cli.config.values import check_sides
from vsf_cli.errors import OutOfMemory, PictureError, RequestError
from vsf_cli.settings.request import Request, public_place

if TYPE_CHECKING:
    from PIL import Image

    from vsf_cli.maps.recorder import Recorder
    from vsf_cli.models import Family

__all__ = ["Progress", "Request", "Result", "alike", "check_size", "generate", "generate_together", "is_out_of_memory"]

Progress = Callable[[int, int], None]
"""Is told the steps done and the steps in all."""


@dataclass(frozen=True)
class Result:
    """A picture, or the frames of a clip, and what was done for it.

    Arguments:
        frames: The frames; a picture has one.
        request: What was asked, with the size that came out.
        blocks: How many attentions were guided.
        tokens: How many tokens the negative prompt has.
        seconds: The time from prompt to picture, loading apart.
        notes: What a person should know of it, such as a prompt that was cut.
    """

    frames: tuple["Image.Image", ...]
    request: Request
    blocks: int
    tokens: int
    seconds: float
    notes: tuple[str, ...] = ()

    @property
    def image(self) -> "Image.Image":
        """The picture, or the first frame of the clip."""
        return self.frames[0]


def generate(
    pipe: Any,
    request: Request,
    progress: Progress | None = None,
    recorder: "Recorder | None" = None,
) -> Result:
    """Makes the picture of a request.

    The same request on the same CPU and versions gives the same bits.

    Arguments:
        pipe: The pipeline, by `vsf_cli.loading.load`.
        request: What is asked.
        progress: Is told of every step.
        recorder: Keeps what the image attends to, around the request's own method.

    Raises:
        PatchError: If the model cannot be guided by the method.
        RequestError: If the size does not fit the model, or the negative prompt is too long.
        PictureError: If the picture is black or not a number.
        OutOfMemory: If the device's memory does not suffice.
    """
    (result,) = generate_together(pipe, [request], progress, recorder)
    return result


def alike(first: Request, second: Request) -> bool:
    """Whether two requests can be made together: they differ in prompt, negative prompt and seed alone."""
    return replace(second, prompt=first.prompt, seed=first.seed, negative=first.negative) == first


def generate_together(
    pipe: Any,
    requests: Sequence[Request],
    progress: Progress | None = None,
    recorder: "Recorder | None" = None,
) -> list[Result]:
    """Makes the pictures of requests that are `alike` in one pass through the model, each as `generate` would make it.

    Every picture has its own noise and its own negative prompt, so that it is the same to rounding, whatever stands beside it.

    Arguments:
        pipe: The pipeline, by `vsf_cli.loading.load`.
        requests: What is asked, at least one.
        progress: Is told of every step.
        recorder: Keeps what the image attends to.

    Raises:
        RequestError: If the requests are not alike; and as `generate`.
    """

    from vsf_cli.generation.guided import guided
    from vsf_cli.models import family_of

    request, family = requests[0], family_of(pipe)
    if not all(alike(request, other) for other in requests):
        raise RequestError("requests that are made together must differ in prompt, negative prompt and seed alone")
    check_size(request, family.size_multiple(pipe), getattr(pipe.transformer.config, "pos_embed_max_size", None))
    _check_frames(family, pipe, request)
    _check_steps(pipe, request)
    method = request.guidance
    started = time.monotonic()
    notes = [_notes(family, pipe, one) for one in requests]
    options = _call(family, requests, progress)
    negatives = [list(one.negatives) for one in requests]
    if method.passes_negative_prompt and any(negatives):
        options["negative_prompt"], negatives = [_joined(one) for one in requests], [[] for _ in requests]
    try:
        watching = nullcontext() if recorder is None else recorder.recording(pipe)
        with watching, guided(pipe, negatives, recorder or method, request.max_sequence_length) as applied:
            made = pipe(**options)[0]
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(f"out of memory at {request.num_inference_steps} steps of the picture") from error

    seconds = (time.monotonic() - started) / len(requests)
    results = []
    for number, (one, pixels) in enumerate(zip(requests, made, strict=True)):
        frames = _frames(pixels if family.video else pixels[None], one)
        done = replace(one, width=frames[0].width, height=frames[0].height)
        tokens = applied.tokens[number] if applied.tokens else 0
        results.append(Result(frames, done, applied.blocks if tokens else 0, tokens, seconds, notes[number]))
    return results


def _call(family: "Family", requests: Sequence[Request], progress: Progress | None) -> dict[str, Any]:
    """The arguments with which the pipeline is called for requests that are alike."""
    import torch

    request = requests[0]

    def after_step(_: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if progress is not None:
            progress(step + 1, request.num_inference_steps)
        return tensors

    return {
        "prompt": [one.prompt for one in requests],
        "num_inference_steps": request.num_inference_steps,
        "guidance_scale": request.guidance_scale,
        "width": request.width,
        "height": request.height,
        "max_sequence_length": request.max_sequence_length,
        "generator": [torch.Generator("cpu").manual_seed(one.seed) for one in requests],
        "callback_on_step_end": after_step,
        "output_type": "np",
        **({"num_frames": request.num_frames} if family.video else {}),
    }


def _joined(request: Request) -> str:
    """The negative prompts as one, for diffusers' own CFG."""
    return ", ".join(one.text for one in request.negatives)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice."""
    import torch

    if isinstance(error, (OutOfMemory, torch.OutOfMemoryError, MemoryError)):
        return True
    return any(said in str(error) for said in ("out of memory", "can't allocate memory"))


def _notes(family: "Family", pipe: Any, request: Request) -> tuple[str, ...]:
    """Says if the text encoder that takes most cuts the prompt, and refuses to cut a negative prompt for CFG."""
    tokenizer, most = family.main_tokenizer(pipe, request.max_sequence_length)

    def length(text: str) -> int:
        return len(tokenizer(text, truncation=False, verbose=False).input_ids)

    if request.guidance.passes_negative_prompt and (count := length(_joined(request))) > most:
        raise RequestError(f"the negative prompt has {count} tokens, but the text encoder takes {most}: shorten it")
    if (count := length(request.prompt)) > most:
        return (f"the prompt has {count} tokens, but the text encoder takes {most}: the rest has no effect",)
    return ()


def check_size(request: Request, step: int, most: int | None) -> None:
    """Refuses a size that is no multiple of what the model takes, or larger than the positions that it knows.

    Arguments:
        request: What is asked.
        step: What sides are multiples of, in pixels: of pictures the side of what one token covers.
        most: How many of them a side may have; None means any number.

    Raises:
        RequestError: If it does not fit.
    """
    check_sides(request.width, request.height, step)
    for name, side in (("width", request.width), ("height", request.height)):
        if side is not None and most is not None and side > step * most:
            raise RequestError(f"{name} is {side}, but this model can make {step * most} pixels at most")


def _check_frames(family: "Family", pipe: Any, request: Request) -> None:
    """Refuses a picture of a model of clips and the reverse, and a number of frames that its autoencoder would change."""
    if family.video != (request.num_frames is not None):
        wanted = "clips: use 'vsf video'" if family.video else "pictures: use 'vsf image'"
        raise RequestError(f"model {public_place(request.model)} makes {wanted}")
    step = family.frames_per_token(pipe)
    if request.num_frames is not None and request.num_frames % step != 1 % step:
        near = max(1, round((request.num_frames - 1) / step) * step + 1)
        raise RequestError(f"frames is {request.num_frames}, but must be 1 more than a multiple of {step}: try {near}")


def _check_steps(pipe: Any, request: Request) -> None:
    """Refuses a number of steps for which the scheduler has no sigmas: one that ends on a set sigma cannot make one step."""
    if getattr(pipe.scheduler.config, "shift_terminal", None) and request.num_inference_steps < 2:
        raise RequestError(f"steps is {request.num_inference_steps}, but this model's scheduler needs at least 2")


def _frames(pixels: Any, request: Request) -> tuple["Image.Image", ...]:
    """Pictures from values of 0 to 1 with shape (frames, height, width, 3)."""
    import numpy as np
    from PIL import Image

    asked = f"seed {request.seed}, {request.method}, {request.dtype}"
    if not np.isfinite(pixels).all():
        raise PictureError(f"the model gave no numbers ({asked}): try --dtype float32 or a smaller --alpha")
    if pixels.max() < 1 / 255:
        raise PictureError(f"the picture is all black ({asked}): try --dtype float32 or a smaller --alpha")
    return tuple(Image.fromarray(frame) for frame in (pixels[request.drop_frames :] * 255).round().astype("uint8"))
