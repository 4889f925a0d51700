"""A request: all that decides an image or video, in fields that carry their options.

`vsf_cli.config.option.Option` says what the details of a field mean, such as `noise=False`.
"""

import math
import os
import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field
from functools import cache, cached_property
from itertools import pairwise
from types import NoneType
from typing import Any, get_args, get_type_hints

from vsf_cli.config.names import BUILT_IN_JUDGES, counted
from vsf_cli.config.option import (
    CHOICE,
    IMAGE,
    JUDGE,
    KEEP,
    MODEL,
    NEGATIVE,
    SIZE,
    WHAT,
    Need,
    Option,
    as_field,
    check_bounds,
    fits,
    idle,
    option,
    options_of,
    type_name,
    unlisted,
)
from vsf_cli.config.strengths import AUTO, Strength, parse_strengths
from vsf_cli.config.values import SIDES_OF_CLIPS, check_sides, parse_size
from vsf_cli.errors import RequestError
from vsf_cli.loading.loras import Lora
from vsf_cli.loading.runtime import check_dtype
from vsf_cli.loading.schedulers import check_scheduler
from vsf_cli.loading.sources import BUILTIN
from vsf_cli.methods import METHODS, VARIANTS, Method, method_named
from vsf_cli.prompts.prompt_weights import Weighted, parse_weights
from vsf_cli.prompts.texts import Texts

__all__ = ["UNCHOSEN", "ModelSettings", "Request", "public_source", "request_options"]

SIZE_OPTION = Option(
    field="size",
    key="size",
    type=str,
    names=("--size",),
    help="Width and height in pixels.",
    panel=SIZE,
    metavar="WxH",
    parse=parse_size,
    in_name=False,
)
"""Width and height as one text, as in `Request.size`."""


RENAMED = {"mask": "attention_mask"}
"""The names of hyper-parameters, by those that earlier files have."""


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """The settings of a model, which presets and requests have.

    Arguments:
        guidance_scale: The scale of diffusers' own CFG; 0 or 1 is none.
        width, height: Pixels; None means the model's own size.
        max_sequence_length: The number of tokens of the text encoder with the longest input.
        num_frames: The number of frames that are generated; None for an image.
        loras: LoRA files, each as `PATH_OR_ID[:weight_name][:SCALE]`; `builtin:NAME` is a built-in one.
        revision: A branch, tag or commit of the hub.
        variant: The variant of the weights' files, such as "fp16".
        sigmas, timesteps: The noise level or the timestep at which each step begins, for a model that was distilled at some;
            empty means the scheduler's own.
        scheduler: The class of the scheduler; None means the model's own, as for `flow_shift` and `vae_dtype`.
        upscale: How many times larger the result is than what the model makes, by Lanczos' filter.
        vae_tiling: Whether the autoencoder decodes tile by tile, which changes the seams a little.
        fold_padding: Whether the padding of the text is one key in attention: exact to rounding, and less work.
    """

    num_inference_steps: int = option(
        8,
        *("--steps", "--num-inference-steps"),
        help="Number of denoising steps.",
        panel=SIZE,
        min=1,
        sweep=True,
        columns=("sampling_steps",),
    )
    guidance_scale: float = option(
        0.0,
        *("--guidance", "--cfg-scale"),
        help="Scale of CFG; 0 or 1 is none.",
        min=0,
        sweep=True,
        columns=("cfg", "cfgs"),
        noise=False,
    )
    width: int | None = option(
        None, "-W", "--width", help="Pixels; with --height.", panel=SIZE, min=1, setting=False, in_name=False, label=False
    )
    height: int | None = option(
        None, "-H", "--height", help="Pixels; with --width.", panel=SIZE, min=1, setting=False, in_name=False, label=False
    )
    max_sequence_length: int = unlisted(256, min=1, max=1024)
    num_frames: int | None = option(
        None,
        "--frames",
        help="Number of frames, rounded to what the model can make.",
        panel=SIZE,
        min=1,
        sweep=True,
        video=True,
    )
    drop_frames: int = option(
        0,
        "--drop-frames",
        help="Number of first frames that are left out.",
        panel=SIZE,
        min=0,
        sweep=True,
        video=True,
        label=False,
    )
    fps: int | None = option(
        None, "--fps", help="Frames per second of the file.", panel=SIZE, min=1, sweep=True, video=True, label=False
    )
    upscale: int = option(
        1,
        "--upscale",
        help="How many times the result is enlarged.",
        panel=SIZE,
        min=1,
        max=8,
        rare=True,
        newer=True,
        label=False,
    )
    dtype: str = option("float32", "--dtype", help="float32, bfloat16 or float16.", panel=MODEL)
    loras: tuple[str, ...] = option(
        (),
        "--lora",
        help="A LoRA file: PATH_OR_ID[:weight_name][:SCALE].",
        panel=MODEL,
        metavar="LORA",
        setting=False,
        in_name=False,
    )
    revision: str | None = unlisted(None, identity=False)
    variant: str | None = None
    sigmas: tuple[float, ...] = ()
    timesteps: tuple[int, ...] = ()
    scheduler: str | None = None
    flow_shift: float | None = option(
        None, "--shift", help="Shift of the flow-matching sigmas.", panel=SIZE, above=0, sweep=True, video=True
    )
    vae_dtype: str | None = None
    vae_tiling: bool = option(False, "--vae-tiling", help="Decode tile by tile, with less memory.", panel=MODEL)
    fold_padding: bool = option(
        False, "--fold-padding", help="Attend to padding once: exact, and faster.", panel=MODEL, video=True, newer=True
    )

    @property
    def size(self) -> str | None:
        """Width and height as one text; None means the model's own size."""
        return f"{self.width}x{self.height}" if self.width and self.height else None


def _of_choice(default: Any, *names: str, **details: Any) -> Any:
    """Returns the field of an option of a choice between images."""
    shared = {"panel": JUDGE, "in_name": False, "newer": True, "noise": False, "label": False, "needs": (CHOICE,)}
    return option(default, *names, **{**shared, **details})


@dataclass(frozen=True)
class Request(ModelSettings):
    """All that decides an image or video, as plain values that can be written as JSON.

    Arguments:
        prompt: The prompt.
        model: `builtin:NAME`, a hub id, or a folder.
        seed: The seed of the noise, 0 to 2^64 - 1. Noise is drawn on the CPU, so that it does not depend on the device.
        negative: The negative prompts, with weights as in `vsf_cli.prompts.prompt_weights`.
        keep: What must stay although it is like the negative prompts; several in one text stand between commas.
        image: The path of an image to start from or, for models that edit, of the image that is edited; some take several.
        mask: The path of an image that is white where `image` is redrawn; None means everywhere.
        strength: The part of the steps that run: 1 leaves nothing of `image`. None: 0.6, or 1 with a mask.
        method: A key of `vsf_cli.methods.METHODS`.
        parameters: The method's hyper-parameters.
        preset: The name of the preset that the settings came from.
        strengths: The strengths that are tried upwards, such as "none,1,2,4@0.9", by `vsf_cli.config.strengths`; "" for none.
        best_of: How many seeds are tried, from `seed` on.
        judge: The name of the judge that chooses between the images, with its model and its threshold; None if nobody does.

    Raises:
        RequestError: If a value is not legal.
    """

    prompt: str = option(MISSING, panel=WHAT, columns=("prompts", "text", "caption"), setting=False, in_name=False)
    model: str = option(MISSING, "-m", "--model", help="A hub id or a folder.", panel=MODEL)
    seed: int = option(
        MISSING,
        *("-s", "--seed"),
        type=str,
        help="Seed of the noise; -1 draws one.",
        panel=WHAT,
        metavar="SEEDS",
        setting=False,
        noise=False,
    )
    negative: tuple[str, ...] = option(
        (),
        *("-n", "--neg", "--negative-prompt", "--negative"),
        # As Midjourney has it; a column named "no" has numbers.
        aliases=("--no",),
        key="negative",
        help="What you don't want: wheels; wheels:2 doubles its strength.",
        panel=WHAT,
        columns=("negative_prompts",),
        setting=False,
        in_name=False,
    )
    keep: tuple[str, ...] = option(
        (),
        "--keep",
        help="What must stay, such as bells, legs; auto: what a judge sees besides.",
        panel=WHAT,
        setting=False,
        in_name=False,
        newer=True,
        noise=False,
        needs=(NEGATIVE,),
    )
    image: tuple[str, ...] = option(
        (),
        "--image",
        help="An image to start from, or to edit; some models take several.",
        panel=WHAT,
        metavar="FILE",
        of_run=True,
        in_name=False,
        newer=True,
        label=False,
    )
    mask: str | None = option(
        None,
        "--mask",
        help="An image that is white where --image is redrawn.",
        panel=WHAT,
        metavar="FILE",
        of_run=True,
        in_name=False,
        newer=True,
        label=False,
        needs=(IMAGE,),
    )
    strength: float | None = option(
        None,
        "--strength",
        help="How much of --image is redrawn. Without it: 0.6, or 1 with --mask.",
        panel=WHAT,
        above=0,
        max=1,
        sweep=True,
        of_run=True,
        newer=True,
        columns=("denoising_strength",),
        needs=(IMAGE,),
    )
    method: str = option(
        "vsf",
        "--method",
        help=f"One of {', '.join((*METHODS, *VARIANTS))}.",
        noise=False,
        needs=(Need("uses_method", NEGATIVE.words),),
    )
    parameters: Mapping[str, Any] = field(default_factory=dict)
    preset: str | None = option(None, "--preset", help="A preset's name, or the path of its file.", panel=MODEL, identity=False)
    strengths: str = unlisted("", newer=True, noise=False)
    best_of: int = _of_choice(
        1,
        "--best-of",
        help="How many seeds may be tried, until the judge is content.",
        panel=WHAT,
        min=1,
        max=100,
        needs=(NEGATIVE,),
    )
    judge: str | None = _of_choice(
        None,
        "--judge",
        help=f"Who looks at the images of --alpha auto and --best-of: {', '.join(BUILT_IN_JUDGES)}, vlm, mllm, or clip.",
    )
    judge_model: str | None = _of_choice(
        None, "--judge-model", help="For mllm, a name at the endpoint; for vlm and clip, a hub id or a folder."
    )
    judge_threshold: float | None = _of_choice(
        None, "--judge-threshold", help="For vlm: the probability above which a thing is absent.", min=0, max=1
    )

    def __post_init__(self) -> None:
        for name, kind in _types().items():
            value = getattr(self, name)
            if isinstance(value, list):
                value = tuple(value)
                object.__setattr__(self, name, value)
            if not _holds(kind, value):
                raise RequestError(f"{name} is {str(value)[:60]!r}, but must be {type_name(kind)}")
        if not self.prompt.strip():
            raise RequestError("the prompt is empty: say what you want")
        self._check_texts()
        check_dtype(self.dtype)
        check_scheduler(self.scheduler)
        if not 0 <= self.seed < 2**64:
            raise RequestError(f"seed is {self.seed}, but must be 0 to 2^64 - 1")
        if not self.model.strip():
            raise RequestError("the model is empty: name a hub id or a folder")
        if (self.width is None) != (self.height is None):
            raise RequestError(
                f"width is {self.width} and height {self.height}: give both, or neither for the model's own size"
            )
        check_bounds(self, options_of(Request))
        if self.num_frames is not None:
            check_sides(self.width, self.height, SIDES_OF_CLIPS)
        if self.drop_frames >= (self.num_frames or 1):
            raise RequestError(f"--drop-frames is {self.drop_frames}, but must be 0 to {(self.num_frames or 1) - 1}")
        self._check_needs()
        self._check_image()
        self._check_schedule()
        self._check_method()

    def _check_texts(self) -> None:
        for name, texts in (("prompt", [self.prompt]), ("negative", self.negative), ("keep", self.keep)):
            for text in texts:
                if "\0" in text:
                    raise RequestError(f"{name} has a NUL character, which no video's metadata can hold: leave it out")
                try:
                    text.encode()
                except UnicodeEncodeError as error:
                    shown = text.encode(errors="backslashreplace").decode()[:80]
                    raise RequestError(f"{name} '{shown}' is not UTF-8: change the encoding of the terminal or file") from error

    def _check_needs(self) -> None:
        """Refuses what has no default, and would have no effect."""
        given = [one for one in options_of(Request) if not one.video and getattr(self, one.field) not in (None, ())]
        for _, message in idle([one for one in given if one.default in (None, ())], self):
            raise RequestError(message)

    def _check_image(self) -> None:
        if self.steps_run < 1:
            none = f"strength {self.strength:g} leaves none of {counted(self.num_inference_steps, 'step')}"
            raise RequestError(f"{none}: pass a larger --strength, or more --steps")

    @property
    def steps_run(self) -> int:
        """The number of steps that run: `strength` leaves the first ones out."""
        return int(self.num_inference_steps * (1 if self.strength is None else self.strength) + 1e-6)

    def _check_schedule(self) -> None:
        if self.sigmas and self.timesteps:
            raise RequestError("the settings have both sigmas and timesteps: keep one of them in the preset")
        steps = self.num_inference_steps
        for name, most in (("sigmas", 1), ("timesteps", 999)):
            levels: tuple[float, ...] = getattr(self, name)
            if levels and (count := len(levels)) != steps:
                at = f"the model was distilled at the noise of {counted(count, 'step')}"
                raise RequestError(f"steps is {steps}, but {at}: pass --steps {count}")
            if not all(0 < next <= level <= most for level, next in pairwise((*levels, *levels[-1:]))):
                raise RequestError(
                    f"{name} are {', '.join(f'{level:g}' for level in levels)}, but must fall from {most} at most, above 0"
                )

    def _check_method(self) -> None:
        method, steps = self.guidance, self.steps_run
        self._check_kept(method)
        self._check_choice(method)
        if not (method.weighs_tokens or method.name == "none") and not all(one.plain for one in self.negatives):
            weighted = f"method {method.name} knows no weights of negatives, but one of {', '.join(self.negative)} has one"
            raise RequestError(f"{weighted}: leave it out, or write \\: for a colon")
        if not any(method.acts_at(step / steps) for step in range(steps)):
            raise RequestError(
                f"start {method.start:g} and stop {method.stop:g} leave none of {counted(steps, 'step')} guided: widen them"
            )
        if self.negative and method.name == "cfg" and self.guidance_scale <= 1:
            unused = f"method cfg cannot use the negative prompt with --guidance {self.guidance_scale:g}"
            raise RequestError(f"{unused}: pass --guidance above 1, or --method vsf")

    def _check_kept(self, method: Method) -> None:
        if self.keep and not method.keeps and method.name != "none":
            instead = "leave its ablations out" if method.name == "vsf" else "pass --method vsf"
            raise RequestError(f"{method} has no use for --keep: leave it out, or {instead}")

    def _check_choice(self, method: Method) -> None:
        """Refuses strengths that cannot be tried, and a choice that nobody makes."""
        try:
            tried = self.tried_strengths
        except ValueError as error:
            raise RequestError(f"strengths: {error}") from error
        if tried and (method.name != "vsf" or not self.negative):
            raise RequestError(f"--alpha auto is for VSF and a negative prompt, but the method is {method.name}: leave it out")
        if any(one.contrast is not None for one in tried) and not self.keep:
            raise RequestError(f"{self.strengths} has contrasts, which need {KEEP.words}")
        for one in tried:
            if one.alpha is not None:
                method_named(method.name, {**method.parameters, **one.numbers})
        if not self.keeps_what_is_seen and any(one.text.lower() == AUTO for one in self.kept):
            raise RequestError(f"--keep is {', '.join(self.keep)}, but auto, by which a judge says what stays, stands alone")
        if self.chooses and not self.judge:
            raise RequestError("nobody chooses between the images: name a judge with --judge")

    @property
    def tried_strengths(self) -> tuple[Strength, ...]:
        """The strengths that are tried, in their order."""
        return parse_strengths(self.strengths) if self.strengths else ()

    @property
    def numbers(self) -> dict[str, Any]:
        """The hyper-parameters as a person gives them: an alpha that is chosen is `auto`, with what is tried."""
        return {**self.parameters, **({"alpha": f"{AUTO}:{self.strengths}"} if self.strengths else {})}

    @property
    def keeps_what_is_seen(self) -> bool:
        """Whether the judge says what has to stay: what else the image without guidance shows."""
        return self.keep == (AUTO,)

    @property
    def chooses(self) -> bool:
        """Whether a judge looks at images, of which one is chosen."""
        return bool(self.strengths) or self.best_of > 1 or self.keeps_what_is_seen

    @cached_property
    def guidance(self) -> Method:
        """The method with its hyper-parameters."""
        return method_named(self.method, dict(self.parameters))

    @property
    def uses_method(self) -> bool:
        """Whether the method decides anything: without a negative prompt, only whether there is CFG."""
        with_cfg = self.guidance.accepts_guidance_scale and self.guidance_scale > 1
        return bool(self.negative) or self.method == "none" or with_cfg

    @property
    def negatives(self) -> tuple[Weighted, ...]:
        """The negative prompts with their weights."""
        return tuple(map(parse_weights, self.negative))

    @property
    def kept(self) -> tuple[Weighted, ...]:
        """The kept prompts with their weights, each by itself."""
        return tuple(map(parse_weights, Texts(self.prompt, keep=self.keep).kept))

    @property
    def loading(self) -> dict[str, Any]:
        """The arguments of `vsf_cli.loading.pipelines.load`, except the runtime."""
        names = "model", "dtype", "loras", "revision", "variant", "scheduler", "flow_shift", "vae_dtype", "vae_tiling"
        return {name: getattr(self, name) for name in names}

    def to_json(self) -> dict[str, Any]:
        """Returns plain values; local paths are cut to their last part."""
        numbers = {
            key: value if isinstance(value, str) or math.isfinite(value) else str(value)
            for key, value in self.parameters.items()
        }
        first = dict.fromkeys(("prompt", "model", "seed", "negative", "keep", "method", "parameters"))
        plain = first | asdict(self) | {"parameters": numbers, "negative": list(self.negative), "keep": list(self.keep)}
        plain["model"] = public_source(self.model)
        plain["image"] = [_last_part(path) for path in self.image]
        plain["mask"] = self.mask and _last_part(self.mask)
        plain["loras"] = [_public_lora(lora) for lora in self.loras]
        # Files from before these fields have no such keys.
        schedule = {name: list(levels) for name in ("sigmas", "timesteps") if (levels := plain.pop(name))}
        choice = {name: value for name, default in UNCHOSEN.items() if (value := plain.pop(name)) != default}
        if self.judge_model:
            choice["judge_model"] = public_source(self.judge_model)
        return {**plain, **schedule, **choice}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "Request":
        """Returns the request of `to_json`.

        Raises:
            RequestError: If a key is not known or a value is not legal.
        """
        types = _types()
        if unknown := sorted(set(plain) - types.keys()):
            raise RequestError(f"the request has unknown keys: {', '.join(unknown)}; it was written by a newer version")
        for key, value in plain.items():
            if not (isinstance(value, tuple) or _holds(types[key], value)):
                raise RequestError(f"{key} is {str(value)[:60]!r}, but must be {type_name(types[key])}")
        if missing := [key for key in ("prompt", "model", "seed") if key not in plain]:
            raise RequestError(f"the request has no '{missing[0]}', and so is not one that vsf wrote")
        values = {key: as_field(types[key], value) for key, value in plain.items()}
        return cls(**{**values, "parameters": _parameters(plain)})


UNCHOSEN: Mapping[str, Any] = {
    one.field: one.default
    for one in options_of(Request)
    if one.field in ("strengths", "best_of", "judge", "judge_model", "judge_threshold")
}
"""The fields of a choice, as they are where nobody chooses."""


@cache
def _types() -> dict[str, Any]:
    return get_type_hints(Request)


def _holds(kind: Any, value: Any) -> bool:
    """Returns whether a value is legal for a field, as `fits` does; a tuple is one, too, and None where the field may be."""
    if value is None:
        return NoneType in get_args(kind)
    return fits(kind, list(value) if isinstance(value, tuple) else value)


def _parameters(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the hyper-parameters of `to_json`, where infinity is a text."""
    method = METHODS.get(plain.get("method", "vsf"))
    types = method.field_types() if method else {}
    numbers: dict[str, Any] = {}
    for name, value in plain.get("parameters", {}).items():
        key = RENAMED.get(name, name)
        kind = types.get(key, float)
        number = float(value) if kind is float and isinstance(value, str) and value.strip("+-") in ("inf", "nan") else value
        if not fits(kind, number):
            raise RequestError(f"{name} is {str(value)[:60]!r}, but must be {type_name(kind)}")
        numbers[key] = float(number) if kind is float else number
    return numbers


def public_source(source: str) -> str:
    """Returns a hub id as it is, and only the last part of a path on this machine."""
    hub = re.fullmatch(r"(builtin:)?[\w.\-]+(/[\w.\-]+)?", source) and not source.lower().endswith(".safetensors")
    if source.startswith(BUILTIN) or (hub and not os.path.isdir(source)):
        return source
    return _last_part(source.rstrip("/\\"))


def _last_part(path: str) -> str:
    return re.split(r"[/\\]", path)[-1]


def _public_lora(text: str) -> str:
    try:
        source = Lora.parse(text).source
    except RequestError:
        return public_source(text)
    return text.replace(source, public_source(source), 1)


@cache
def request_options() -> tuple[Option, ...]:
    """Returns the options of a request: its own, then those of `ModelSettings`, with `size` before the width."""
    shared = options_of(ModelSettings)
    index = next(index for index, one in enumerate(shared) if one.field == "width")
    return (*options_of(Request)[len(shared) :], *shared[:index], SIZE_OPTION, *shared[index:])
