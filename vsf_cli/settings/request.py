"""A request: everything that decides an image, and, in its fields, how each of these is set from outside."""

import math
import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

from vsf_cli.config.option import MODEL, SIZE, WHAT, Option, check_bounds, option, options_of, unlisted
from vsf_cli.config.values import SIDES_OF_CLIPS, check_sides, parse_size
from vsf_cli.errors import RequestError
from vsf_cli.loading.loras import Lora
from vsf_cli.loading.sources import BUILTIN
from vsf_cli.methods import METHODS, VARIANTS, Method, method_named
from vsf_cli.prompts.prompt_weights import Weighted, parse_weights

__all__ = ["ModelSettings", "Request", "public_place", "request_options"]

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
"""Width and height as one text, as `Request.size` has it."""


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """How a model is loaded and run: what a preset sets, and a request has.

    Arguments:
        num_inference_steps: Steps, at least 1.
        guidance_scale: The scale of diffusers' own CFG; 0 or 1 is none.
        width, height: Pixels; None means the model's own size.
        max_sequence_length: Tokens of the T5.
        num_frames: The frames of a video that are made; None for an image.
        drop_frames: How many of its first frames are left out of the file.
        fps: Frames in a second of a video, as its file is played.
        dtype: A dtype of torch.
        loras: LoRA files, each as `PATH_OR_ID[:weight_name][:SCALE]`; `builtin:NAME` ships with the package.
        revision: A branch, tag or commit of the hub.
        variant: The variant of the weights' files, such as "fp16".
        scheduler: The class of the scheduler, if not the model's own.
        flow_shift: How far its sigmas are shifted towards noise, if not as the model's own.
        vae_dtype: The dtype of the autoencoder, if another one.
        vae_tiling: Whether the autoencoder works tile by tile, which takes less memory, and changes the seams a little.
    """

    num_inference_steps: int = option(
        8, "--steps", "--num-inference-steps", help="Number of denoising steps.", panel=SIZE, min=1, sweep=True
    )
    guidance_scale: float = option(
        0.0,
        *("--guidance", "--cfg-scale"),
        help="Scale of CFG; 0 is none.",
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
    max_sequence_length: int = unlisted(256, min=1, max=512)
    num_frames: int | None = option(
        None,
        "--frames",
        help="Number of frames, rounded to 1 more than a multiple of 4.",
        panel=SIZE,
        min=1,
        sweep=True,
        video=True,
    )
    drop_frames: int = option(
        0, "--drop-frames", help="Number of first frames that are left out.", panel=SIZE, sweep=True, video=True, label=False
    )
    fps: int | None = option(
        None, "--fps", help="Frames per second of the file.", panel=SIZE, min=1, sweep=True, video=True, label=False
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
    scheduler: str | None = None
    flow_shift: float | None = option(
        None, "--shift", help="Shift of the flow-matching sigmas.", panel=SIZE, above=0, sweep=True, video=True
    )
    vae_dtype: str | None = None
    vae_tiling: bool = option(False, "--vae-tiling", help="Decode tile by tile, with less memory.", panel=MODEL)

    @property
    def size(self) -> str | None:
        """Width and height as one text; None means the model's own size."""
        return f"{self.width}x{self.height}" if self.width and self.height else None


@dataclass(frozen=True)
class Request(ModelSettings):
    """Everything that decides an image, as plain values: it can be written as JSON and read back.

    Arguments:
        prompt: What is wanted.
        model: `builtin:NAME`, a hub id, or a folder.
        seed: The seed of the noise, 0 to 2^64 - 1; it is drawn on the CPU, so that the device does not matter.
        negative: What is not wanted; none, one or several, with weights as `vsf_cli.prompts.prompt_weights` has them.
        method: A key of `vsf_cli.methods.METHODS`.
        parameters: The method's hyper-parameters.
        preset: The preset that the settings came from, for the record.
        others: As `ModelSettings` has them.

    Raises:
        RequestError: If a value is not legal.
    """

    prompt: str = option(MISSING, panel=WHAT, columns=("prompts", "text", "caption"), setting=False, in_name=False)
    model: str = option(MISSING, "-m", "--model", help="A hub id or a folder.", panel=MODEL)
    seed: int = option(
        MISSING,
        *("-s", "--seed"),
        type=str,
        help="7, or 1,2,3, or 1..8; random if not given.",
        panel=WHAT,
        metavar="SEEDS",
        setting=False,
        noise=False,
    )
    negative: tuple[str, ...] = option(
        (),
        *("-n", "--neg", "--negative-prompt", "--negative"),
        key="negative",
        help="What you don't want, such as wheels, or wheels:2.",
        panel=WHAT,
        columns=("negative_prompts",),
        setting=False,
        in_name=False,
    )
    method: str = option("vsf", "--method", help=f"One of {', '.join((*METHODS, *VARIANTS))}.", noise=False)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    preset: str | None = option(None, "--preset", help="A preset's name, or the path of its file.", panel=MODEL, identity=False)

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise RequestError("the prompt is empty: say what you want")
        if not 0 <= self.seed < 2**64:
            raise RequestError(f"seed is {self.seed}, but must be 0 to 2^64 - 1")
        check_bounds(self, options_of(Request))
        if self.num_frames is not None:
            check_sides(self.width, self.height, SIDES_OF_CLIPS)
        if not 0 <= self.drop_frames < (self.num_frames or 1):
            raise RequestError(f"--drop-frames is {self.drop_frames}, but must be 0 to {(self.num_frames or 1) - 1}")
        self._check_method()

    def _check_method(self) -> None:
        method, steps = self.guidance, self.num_inference_steps
        if not (method.weighs_tokens or method.name == "none") and not all(one.plain for one in self.negatives):
            raise RequestError(
                f"method {method.name} knows no weights of negatives, but one of {', '.join(self.negative)} has one: leave it"
                " out, or write \\: for a colon"
            )
        if not any(method.acts_at(step / steps) for step in range(steps)):
            raise RequestError(
                f"start {method.start:g} and stop {method.stop:g} leave none of {steps} steps guided: widen them"
            )
        if self.negative and self.guidance_scale > 1 and not method.accepts_guidance_scale:
            raise RequestError(
                f"--guidance is {self.guidance_scale:g}, but {method.label} is for models that run without CFG:"
                " pass --guidance 0, or --method cfg"
            )
        if self.negative and method.name == "cfg" and self.guidance_scale <= 1:
            raise RequestError(
                f"method cfg cannot use the negative prompt with --guidance {self.guidance_scale:g}:"
                " pass --guidance above 1, or --method vsf"
            )

    @property
    def guidance(self) -> Method:
        """The method."""
        return method_named(self.method, dict(self.parameters))

    @property
    def negatives(self) -> tuple[Weighted, ...]:
        """What is not wanted, with the weights that its texts say."""
        return tuple(map(parse_weights, self.negative))

    @property
    def loading(self) -> dict[str, Any]:
        """What decides which pipeline is loaded: the arguments of `vsf_cli.loading.pipelines.load`, but for the machine's."""
        names = "model", "dtype", "loras", "revision", "variant", "scheduler", "flow_shift", "vae_dtype", "vae_tiling"
        return {name: getattr(self, name) for name in names}

    def to_json(self) -> dict[str, Any]:
        """Plain values. A folder of this machine is named by its last part alone."""
        numbers = {
            key: value if isinstance(value, str) or math.isfinite(value) else str(value)
            for key, value in self.parameters.items()
        }
        # What was asked stands before how it is made.
        asked = dict.fromkeys(("prompt", "model", "seed", "negative", "method", "parameters"))
        plain = asked | asdict(self) | {"parameters": numbers, "negative": list(self.negative)}
        plain["model"] = public_place(self.model)
        plain["loras"] = [_public_lora(lora) for lora in self.loras]
        return plain

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "Request":
        """The request that was written.

        Raises:
            RequestError: If a key is not known or a value is not legal.
        """
        known = {entry.name for entry in fields(cls)}
        if unknown := sorted(set(plain) - known):
            raise RequestError(f"the request has unknown keys: {', '.join(unknown)}; it was written by a newer version")
        try:
            tuples = {key: tuple(plain[key]) for key in ("negative", "loras") if key in plain}
            kinds = METHODS[plain["method"]].field_types() if plain.get("method") in METHODS else {}
            numbers = {
                key: value if isinstance(value, bool) or kinds.get(key) is str else float(value)
                for key, value in plain.get("parameters", {}).items()
            }
            return cls(**{**plain, **tuples, "parameters": numbers})
        except (TypeError, ValueError, AttributeError) as error:
            raise RequestError(f"the request is not one that vsf wrote: {error}") from error


def public_place(place: str) -> str:
    """A hub id as it is; a place on this machine by its last part alone."""
    hub = re.fullmatch(r"(builtin:)?[\w.\-]+(/[\w.\-]+)?", place) and not place.lower().endswith(".safetensors")
    shipped = place.startswith(BUILTIN)
    return place if shipped or (hub and not Path(place).is_dir()) else re.split(r"[/\\]", place.rstrip("/\\"))[-1]


def _public_lora(text: str) -> str:
    """A LoRA's text with its place likewise."""
    try:
        place = Lora.parse(text).source
    except RequestError:
        return public_place(text)
    return text.replace(place, public_place(place), 1)


@cache
def request_options() -> tuple[Option, ...]:
    """The options of a request: its own, then those of the model's settings, in which `size` stands before the width."""
    shared = options_of(ModelSettings)
    place = next(number for number, one in enumerate(shared) if one.field == "width")
    return (*options_of(Request)[len(shared) :], *shared[:place], SIZE_OPTION, *shared[place:])
