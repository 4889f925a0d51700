"""Words for people: the name that somebody meant by another one, and numbers with their nouns."""

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType

from vsf_cli.errors import RequestError

__all__ = [
    "BUILT_IN_JUDGES",
    "VIDEO_JUDGE",
    "check_choice",
    "counted",
    "meant",
    "nearest",
    "nearest_or_all",
    "of_other_kind",
]

BUILT_IN_JUDGES = ("scenes", "scenes-2", "scenes-video")
"""The judges of the built-in models' scenes, which have no options."""
VIDEO_JUDGE = "scenes-video"

MEANINGS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "batch_count": ("seeds",),
        "angular_guidance": ("angular",),
        "bf16": ("bfloat16", "dtype"),
        "cfg": ("guidance", "cfg"),
        "checkpoint": ("model",),
        "ckpt": ("model",),
        "classifier_free_guidance": ("cfg",),
        "controlnet": (),
        "denoise": ("strength",),
        "denoising_strength": ("strength",),
        "exclude": ("neg",),
        "force": ("exists",),
        "fp16": ("float16", "dtype"),
        "fp32": ("float32", "dtype"),
        "generate": ("image",),
        "gpu": ("cuda", "device"),
        "half": ("float16",),
        "height": ("size",),
        "init_image": ("image",),
        "input": ("image",),
        "iterations": ("steps",),
        "jpg": ("jpeg",),
        "length": ("seconds", "frames"),
        "list": ("presets",),
        "meta": ("info",),
        "metadata": ("info",),
        "models": ("presets",),
        "n": ("seeds",),
        "n_iter": ("seeds",),
        "negative_away_steer_attention": ("nasa",),
        "no": ("neg", "none"),
        "normalized_attention_guidance": ("nag",),
        "num_images": ("seeds",),
        "num_images_per_prompt": ("seeds",),
        "off": ("none",),
        "orthogonal_negative_guidance": ("ong",),
        "out": ("output",),
        "out_dir": ("output",),
        "outdir": ("output",),
        "output_dir": ("output",),
        "output_format": ("format",),
        "overwrite": ("exists",),
        "precision": ("dtype",),
        "quality": ("crf",),
        "redo": ("again",),
        "remake": ("again",),
        "replace": ("overwrite",),
        "reproduce": ("again",),
        "resolution": ("size",),
        "resume": ("retry-failed",),
        "sample_steps": ("steps",),
        "sampler": ("scheduler",),
        "sampling_steps": ("steps",),
        "scheduler": (),
        "silent": ("quiet",),
        "txt2img": ("image",),
        "txt2vid": ("video",),
        "unwanted": ("neg",),
        "value_sign_flip": ("vsf",),
        "weight": ("alpha",),
        "width": ("size",),
        "without": ("neg",),
    }
)
"""What other tools call things, in snake case, with our names for them: the first one that is legal is meant."""


def _plain(name: str) -> str:
    return name.strip().lstrip("-").lower().replace("-", "_").replace(" ", "_")


def _letters(name: str) -> str:
    return re.sub(r"[\W_]", "", name)


def meant(word: str, legal: Iterable[str], aliases: Mapping[str, str] = MappingProxyType({})) -> str | None:
    """Returns the legal name that a word means; None if none is like it.

    `aliases` has names by other words for them, in snake case.
    """
    plain, names = _plain(word), {_plain(name): name for name in legal}
    for same in (plain, _plain(aliases.get(plain, "")), *map(_plain, MEANINGS.get(plain, ()))):
        if same in names:
            return names[same]
    if plain in MEANINGS:  # What is spelled alike means something else.
        return None
    begun = [name for name in names if len(plain) > 2 and _letters(name).startswith(_letters(plain))]
    matches = difflib.get_close_matches(plain, names, 1) or begun
    return names[matches[0]] if matches else None


def nearest(word: str, legal: Iterable[str], aliases: Mapping[str, str] = MappingProxyType({})) -> str:
    """Returns " Did you mean ...?" if a legal name is like a word, else ""; the arguments are those of `meant`."""
    name = meant(word, legal, aliases)
    return f" Did you mean '{name}'?" if name else ""


def nearest_or_all(word: str, legal: Collection[str], what: str) -> str:
    """Returns what `nearest` does; if no legal name is like a word, all of them, after what they are, such as "Methods"."""
    return nearest(word, legal) or f" {what}: {', '.join(legal) or 'none'}"


def check_choice(flag: str, value: str, legal: Collection[str]) -> None:
    """Raises a `RequestError` if a value is not one of the legal ones; it names the nearest."""
    if value not in legal:
        near = nearest(value, legal)
        raise RequestError(f"{flag} is '{value}', but must be one of {', '.join(legal)}{near and f'.{near}'}")


def counted(number: int, noun: str) -> str:
    """Returns a number with its noun, such as "1 image" or "2 images"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def of_other_kind(judge: str, video: bool) -> str:
    """Returns a warning if a built-in judge of images is asked about videos, or that of videos about images; else ""."""
    if judge not in BUILT_IN_JUDGES or (judge == VIDEO_JUDGE) == video:
        return ""
    learned, asked, other = ("images", "videos", VIDEO_JUDGE) if video else ("videos", "images", "scenes")
    return f"judge {judge} learned from {learned} and is asked about {asked}, which --judge {other} knows better"
