"""Generates the image or video of a request on a loaded pipeline."""

import inspect
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

from vsf_cli.config.names import counted
from vsf_cli.errors import OutOfMemory, PictureError, RequestError, is_out_of_memory
from vsf_cli.generation.limits import check_limits
from vsf_cli.loading.tasks import pipeline_for
from vsf_cli.media.inputs import fitted, read_input, read_mask
from vsf_cli.media.sound import Sound
from vsf_cli.methods import VSF, Method, NoGuidance
from vsf_cli.models.family import call_parameters
from vsf_cli.prompts.prompt_weights import Weighted
from vsf_cli.settings.presets import check_scale
from vsf_cli.settings.request import Request

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from vsf_cli.generation.choice import Choice
    from vsf_cli.generation.guided import Applied
    from vsf_cli.maps.recorder import Recorder
    from vsf_cli.models import Family

__all__ = [
    "DEFAULT_FPS",
    "OWN_FIELDS",
    "Progress",
    "Request",
    "Result",
    "can_batch",
    "can_batch_strengths",
    "enlarged",
    "generate",
    "generate_batch",
    "passes",
    "prepare",
]

Entry = TypeVar("Entry")
DEFAULT_FPS = 16
DEFAULT_STRENGTH = 0.6
"""How much of an image is redrawn where no mask says what."""
OWN_FIELDS = ("prompt", "negative", "keep", "seed")
"""The fields of requests that may differ between the images of one pass through the model."""
Progress = Callable[[int, int], None]
"""Called with the number of finished steps and of all steps."""


@dataclass(frozen=True)
class Result:
    """An image, or the frames of a video, and how it was generated.

    Arguments:
        frames: The frames; an image has one.
        request: The request, with the size of the result.
        blocks: The number of guided attentions.
        tokens, kept_tokens: The number of tokens of the negative and of the kept prompts.
        seconds: The time from prompt to image, without loading.
        notes: Warnings, such as that the prompt was cut.
        sound: The sound of a video, if the model makes one.
        choice: What was tried, if a judge chose it.
    """

    frames: tuple["Image.Image", ...]
    request: Request
    blocks: int
    tokens: int
    seconds: float
    notes: tuple[str, ...] = ()
    kept_tokens: int = 0
    sound: Sound | None = None
    choice: "Choice | None" = None

    @property
    def image(self) -> "Image.Image":
        """The image, or the first frame of the video."""
        return self.frames[0]

    def chosen_as(self, other: "Result") -> "Result":
        """Returns it with the choice of another result of the same request, its notes and its time."""
        seconds = self.seconds + other.seconds
        return replace(self, choice=other.choice, seconds=seconds, notes=tuple(dict.fromkeys((*self.notes, *other.notes))))


def generate(pipe: Any, request: Request, progress: Progress | None = None, recorder: "Recorder | None" = None) -> Result:
    """Returns the image or video of a request by a pipeline of `vsf_cli.loading.load`.

    The same request on the same CPU with the same versions gives the same bits. A recorder records the attention of the
    request's method.

    Raises:
        PatchError: If the model cannot be guided by the method.
        RequestError: If the size does not fit the model, or the negative prompt is too long.
        PictureError: If the image is black or not a number.
        OutOfMemory: If the device has too little memory.
    """
    (result,) = generate_batch(pipe, [request], progress, recorder)
    return result


def can_batch(first: Request, second: Request) -> bool:
    """Returns whether two requests can run in one batch: they differ only in their texts and seeds, and have no image."""
    return _differ_in(OWN_FIELDS, first, second)


def can_batch_strengths(first: Request, second: Request) -> bool:
    """Returns whether two requests can run in one batch where strengths of VSF may differ, and no guidance is one, too."""
    methods = first.guidance, second.guidance
    alike = {_of_strength_one(method) for method in methods if isinstance(method, VSF)}
    strengths = len(alike) == 1 and all(isinstance(method, (VSF, NoGuidance)) for method in methods)
    return can_batch(first, second) or (strengths and _differ_in((*OWN_FIELDS, "method", "parameters"), first, second))


def passes(
    entries: Sequence[Entry],
    request_of: Callable[[Entry], Request],
    joins: Callable[[Request, Request], bool] = can_batch,
    most: float = math.inf,
) -> Iterator[list[Entry]]:
    """Yields neighbours whose requests can be made in one pass, at most so many at a time."""
    group: list[Entry] = []
    for entry in entries:
        if group and (len(group) >= most or not joins(request_of(group[0]), request_of(entry))):
            yield group
            group = []
        group.append(entry)
    if group:
        yield group


def _differ_in(names: Sequence[str], first: Request, second: Request) -> bool:
    """Returns whether two requests without an image differ in some fields alone."""
    others = [entry.name for entry in fields(Request) if entry.name not in names]
    return not first.image and all(getattr(first, name) == getattr(second, name) for name in others)


def generate_batch(
    pipe: Any, requests: Sequence[Request], progress: Progress | None = None, recorder: "Recorder | None" = None
) -> list[Result]:
    """Returns the results of at least one request in one pass through the model.

    Each has its own noise, its own negative prompt and its own strength, so that it equals, up to rounding, the result of
    `generate`.

    Raises:
        RequestError: If two requests do not pass `can_batch_strengths`. Other errors are those of `generate`.
    """
    from vsf_cli.models import family_of

    if wrong := [one for one in requests if not isinstance(one, Request)]:
        raise RequestError(f"a request is {wrong[0]!r:.60}, but must be a Request, such as Request(prompt, model, seed)")
    if any(one.chooses for one in requests):
        raise RequestError("a request that chooses between images is for vsf_cli.choose, which takes a judge")
    family = family_of(pipe)
    pipe, requests = prepare(pipe, requests)
    _check_batch(family, pipe, requests)
    started = time.monotonic()
    notes = [_notes(family, pipe, request) for request in requests]
    output, applied = _run(family, pipe, requests, progress, recorder)
    seconds = (time.monotonic() - started) / len(requests)
    results = []
    for index, (request, pixels) in enumerate(zip(requests, output[0], strict=True)):
        frames = _frames(pixels if family.video else pixels[None], request)
        sized = replace(request, width=frames[0].width // request.upscale, height=frames[0].height // request.upscale)
        tokens, kept = (counts[index] if counts else 0 for counts in (applied.tokens, applied.kept_tokens))
        sound = _sound(family.sound(pipe, output), index, request)
        results.append(Result(frames, sized, applied.blocks if tokens else 0, tokens, seconds, notes[index], kept, sound))
    return results


def prepare(pipe: Any, requests: Sequence[Request]) -> tuple[Any, list[Request]]:
    """Returns the pipeline that makes requests with a loaded model, and the requests with the strength that it uses.

    Raises:
        RequestError: If the model takes no image, no mask or no strength, but one is given.
    """
    pipe = pipeline_for(pipe, len(requests[0].image), requests[0].mask is not None)
    return pipe, [_with_strength(pipe, request) for request in requests]


def _with_strength(pipe: Any, request: Request) -> Request:
    """Returns a request with its strength; a model that edits an image has none."""
    takes_strength = bool(request.image) and "strength" in call_parameters(pipe)
    if request.strength is not None and not takes_strength:
        raise RequestError("this model edits --image as a whole: leave --strength out")
    if request.strength is not None or not takes_strength:
        return request
    return replace(request, strength=DEFAULT_STRENGTH if request.mask is None else 1.0)


def _check_batch(family: "Family", pipe: Any, requests: Sequence[Request]) -> None:
    """Checks that the model can make the requests, and that they can run in one batch."""
    request = requests[0]
    if len(requests) > 1 and not all(can_batch_strengths(request, other) for other in requests):
        raise RequestError("requests that are made together must differ in texts, seeds and alpha alone, and have no image")
    check_scale(request, family)
    check_limits(request, family, pipe)


def _run(
    family: "Family", pipe: Any, requests: Sequence[Request], progress: Progress | None, recorder: "Recorder | None"
) -> tuple[Any, "Applied"]:
    """Calls the pipeline; returns its output, and what was done to the model."""
    from vsf_cli.generation.guided import guided

    request = requests[0]
    method, rows = _shared_method(requests)
    options = {**_call(pipe, requests, progress), **family.call(request.num_inference_steps)}
    negatives, kept = [negative for negative, _ in rows], [keep for _, keep in rows]
    if method.passes_negative_prompt and any(negatives):
        if "negative_prompt" not in call_parameters(pipe):
            raise RequestError(f"a {type(pipe).__name__} takes no negative prompt for CFG: choose another method")
        options["negative_prompt"], negatives = [_joined(one) for one in requests], [[] for _ in requests]
        options[family.cfg_argument] = options.pop("guidance_scale")
    try:
        recording = nullcontext() if recorder is None else recorder.recording(pipe)
        folds, length = request.fold_padding, request.max_sequence_length
        with recording, guided(pipe, negatives, recorder or method, length, keep=kept, fold_padding=folds) as applied:
            return pipe(**options), applied
    except ValueError as error:
        if not request.image:
            raise
        raise RequestError(f"{type(pipe).__name__} cannot use --image {', '.join(request.image)}: {error}") from error
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(f"out of memory at {counted(request.num_inference_steps, 'step')} of the image") from error


def _shared_method(requests: Sequence[Request]) -> tuple[Method, list[tuple[list[Weighted], list[Weighted]]]]:
    r"""Returns the method of requests that run together, and the negative and the kept prompts of each.

    Where strengths differ, those are weights: :math:`\alpha w (O_2 - c \, O_3)` is :math:`w (\alpha O_2 - \alpha c \, O_3)`.
    """
    texts = [(list(one.negatives), list(one.kept)) for one in requests]
    methods = [one.guidance for one in requests]
    if all(method == methods[0] for method in methods):
        return methods[0], texts
    rows: list[tuple[list[Weighted], list[Weighted]]] = []
    for method, (negative, kept) in zip(methods, texts, strict=True):
        if isinstance(method, VSF):
            own = [one.times(method.alpha * method.contrast) for one in kept]
            rows.append(([one.times(method.alpha) for one in negative], own))
        else:
            rows.append(([], []))
    return _of_strength_one(next(method for method in methods if isinstance(method, VSF))), rows


def _of_strength_one(method: VSF) -> VSF:
    """Returns a method whose strength is in the weights of its prompts."""
    return replace(method, alpha=1.0, contrast=1.0)


def _call(pipe: Any, requests: Sequence[Request], progress: Progress | None) -> dict[str, Any]:
    import torch

    request = requests[0]

    def after_step(_: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if progress is not None:
            progress(step + 1, getattr(pipe, "num_timesteps", request.num_inference_steps))
        return tensors

    names = ["num_inference_steps", "guidance_scale", "width", "height", "max_sequence_length"]
    parameters = call_parameters(pipe)
    names = [name for name in [*names, "num_frames"] if name in parameters]
    return {
        "prompt": [one.prompt for one in requests],
        **{name: getattr(request, name) for name in names},
        **_images(pipe, request),
        **_clock(pipe, request),
        "generator": [torch.Generator("cpu").manual_seed(one.seed) for one in requests],
        "callback_on_step_end": after_step,
        "output_type": "np",
    }


def _images(pipe: Any, request: Request) -> dict[str, Any]:
    """Returns the arguments of a call for images, which fit the request's size unless the model edits them as they are."""
    if not request.image:
        return {}
    image, mask = read_input(request.image[0]), None if request.mask is None else read_mask(request.mask)
    size = request.width or image.width, request.height or image.height
    if request.num_frames is not None:
        if "image_crf" in call_parameters(pipe) and find_spec("av") is None:
            raise RequestError('this model compresses --image, for which it needs av: pip install "vsf-cli[edit]"')
        return {"image": fitted(image, size)}
    if request.strength is None:
        return _edited(pipe, request)
    masked = {} if mask is None else {"mask_image": fitted(mask, size)}
    return {"image": fitted(image, size), "strength": request.strength, **masked}


def _edited(pipe: Any, request: Request) -> dict[str, Any]:
    """Returns the arguments for images that a model edits as they are. Flux.1 Kontext needs the area of the result, too."""
    images = [read_input(path) for path in request.image]
    area = {"max_area": request.width * request.height} if request.width and request.height else {}
    own = {name: value for name, value in area.items() if name in call_parameters(pipe)}
    return {"image": images if len(images) > 1 else images[0], **own}


def _clock(pipe: Any, request: Request) -> dict[str, Any]:
    """Returns the arguments of a pipeline's call that say when frames are, and how much noise each step begins with."""
    parameters = call_parameters(pipe)
    schedule = {name: list(levels) for name in ("sigmas", "timesteps") if (levels := getattr(request, name))}
    for name in schedule:
        if name not in parameters or name not in inspect.signature(pipe.scheduler.set_timesteps).parameters:
            taker = f"a {type(pipe).__name__} with a {type(pipe.scheduler).__name__}"
            raise RequestError(f"the settings have {name}, which {taker} does not take: leave them out of the preset")
    return {**({"frame_rate": float(request.fps or DEFAULT_FPS)} if "frame_rate" in parameters else {}), **schedule}


def _joined(request: Request) -> str:
    """Returns the negative prompts as one text for diffusers' own CFG."""
    return ", ".join(one.text for one in request.negatives)


def _notes(family: "Family", pipe: Any, request: Request) -> tuple[str, ...]:
    """Returns a warning if the prompt is cut by the text encoder with the longest input.

    Raises:
        RequestError: If a negative prompt for CFG would be cut.
    """
    main = family.main_tokenizer(pipe, request.max_sequence_length)
    if request.guidance.passes_negative_prompt and (count := main.count(_joined(request))) > main.max_length:
        raise RequestError(f"the negative prompt has {count} tokens, but the text encoder takes {main.max_length}: shorten it")
    if (count := main.count(request.prompt)) > main.max_length:
        return (f"the prompt has {count} tokens, but the text encoder takes {main.max_length}: the rest has no effect",)
    return ()


def _frames(pixels: Any, request: Request) -> tuple["Image.Image", ...]:
    """Returns images from values of 0 to 1 with shape (frames, height, width, 3)."""
    import numpy as np
    from PIL import Image

    label = _label(request)
    if not np.isfinite(pixels).all():
        raise PictureError(f"the model gave no numbers ({label}): {_remedy(request)}")
    if pixels.max() < 1 / 255:
        raise PictureError(f"the image is all black ({label}): {_remedy(request)}")
    frames = [Image.fromarray(frame) for frame in (pixels[request.drop_frames :] * 255).round().astype("uint8")]
    return tuple(enlarged(frame, request.upscale) for frame in frames)


def enlarged(image: "Image.Image", times: int) -> "Image.Image":
    """Returns an image that is `times` as wide and high."""
    from PIL.Image import Resampling

    return image if times == 1 else image.resize((times * image.width, times * image.height), Resampling.LANCZOS)


def _sound(sounds: "tuple[torch.Tensor, int] | None", index: int, request: Request) -> Sound | None:
    """Returns the sound of one video, between its first frame that is kept and its end."""
    import numpy as np

    if sounds is None:
        return None
    samples, fps = sounds[0][index].float().cpu().numpy(), request.fps or DEFAULT_FPS
    if not np.isfinite(samples).all():
        raise PictureError(f"the model gave no numbers for the sound ({_label(request)}): {_remedy(request)}")
    return Sound(samples, sounds[1]).until((request.num_frames or 1) / fps).after(request.drop_frames / fps)


def _remedy(request: Request) -> str:
    """Returns what to try where numbers have become too large."""
    method, ways = request.guidance, ["--dtype float32"] if request.dtype != "float32" else []
    if request.negative:
        # The first option of a method is its strength.
        ways += [f"a smaller {one.flag}" for one in method.options()[:1] if getattr(method, one.field) > 0]
    if request.guidance_scale > 1 and (method.accepts_guidance_scale or not request.negative):
        ways.append("a smaller --guidance")
    return f"try {' or '.join(ways or ['another seed'])}"


def _label(request: Request) -> str:
    return f"seed {request.seed}, {request.method}, {request.dtype}"
