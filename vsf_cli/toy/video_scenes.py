"""Scenes in motion, of the built-in video model, and captions of them.

Cars and bikes drive, boats sail and bob, planes fly, candles flicker, the tail of a cat swings, clouds drift.
"""

import math
import random
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from vsf_cli.toy import scenes
from vsf_cli.toy.drawing import draw
from vsf_cli.toy.scenes import OBJECTS, PARTS, Scene, Split, caption, sample_part_alone, sample_scene

__all__ = [
    "FPS",
    "FRAMES",
    "SIDE",
    "VERBS",
    "animate",
    "draw_video",
    "sample_part",
    "sample_video",
    "video_caption",
    "video_pairs",
    "video_vocabulary",
]

SIDE = 64
"""The side of the built-in model's frames, in pixels."""
FRAMES, FPS = 17, 8
SPAN = 0.22
"""The distance that a vehicle moves during a video, as a fraction of the side."""

VERBS = MappingProxyType({"car": "drives", "bike": "rides", "boat": "sails", "plane": "flies", "cake": "stands", "cat": "sits"})
"""The objects of videos, with their verbs."""

VERB_NAMED = 0.7
PART_ABSENT = 0.15
NO_PART_NAMED, PART_NAMED = 0.5, 0.8
"""The probability that a caption names no part, and that another caption names a given part.

If each part were named independently, an unnamed part would be absent more often than parts are. CFG amplifies that: an
unguided model would leave out half of the unnamed parts.
"""
PREPOSITIONS = frozenset({"on", "over", "at", "under"})


def sample_video(rng: random.Random, split: Split = "train", absent: float = PART_ABSENT) -> Scene:
    """Samples the first frame of a video of a split, in which each part is missing with the probability `absent`."""
    while True:
        scene = sample_scene(rng, split, absent)
        if scene.object in VERBS:
            return replace(scene, scale=0.8 * scene.scale)


def sample_part(rng: random.Random) -> Scene:
    """Samples a scene with one part of an object of videos and no object, which gives the word alone a meaning."""
    while True:
        scene = sample_part_alone(rng)
        if scene.object in VERBS:
            return replace(scene, scale=0.8 * scene.scale)


def animate(scene: Scene, frames: int = FRAMES) -> list[Scene]:
    """Returns the scene at each frame of a video. An object that faces left moves left."""
    moments = []
    for number in range(frames):
        moment, progress = number / FPS, number / max(1, frames - 1) - 0.5
        shift = (-1 if scene.mirrored else 1) * SPAN * progress
        x, y = scene.x + shift * (scene.object in ("car", "bike", "boat", "plane")), scene.y
        if scene.object == "boat":
            y += 0.02 * math.sin(math.tau * moment)
        if scene.object == "plane":
            y -= 0.08 * progress
        moments.append(replace(scene, x=x, y=y, moment=moment))
    return moments


def draw_video(scene: Scene, frames: int = FRAMES) -> np.ndarray:
    """Returns the frames of a video as bytes, with shape (frames, `SIDE`, `SIDE`, 3)."""
    return np.stack([np.asarray(draw(each, SIDE)) for each in animate(scene, frames)])


def video_caption(scene: Scene, rng: random.Random) -> str:
    """Returns the caption of a video's scene, often with the object's verb."""
    words = caption(scene, rng, 0.0 if rng.random() < NO_PART_NAMED else PART_NAMED).split()
    if scene.color is not None and rng.random() < VERB_NAMED:
        index = next((number for number, word in enumerate(words) if word in PREPOSITIONS), len(words))
        words.insert(index, VERBS[scene.object])
    return " ".join(words)


def video_vocabulary() -> list[str]:
    """Returns every word of any caption of a video, sorted."""
    known = {part for name in VERBS for part in OBJECTS[name]}
    unknown = {*OBJECTS, *PARTS} - {*VERBS, *known}
    return sorted({*scenes.vocabulary(), *VERBS.values()} - unknown)


def video_pairs(split: Split, count: int) -> list[tuple[str, str, str]]:
    """Returns the triples of `vsf_cli.toy.scenes.pairs` for videos.

    Raises:
        ValueError: If the split has fewer pairs.
    """
    return scenes.pairs(split, count, VERBS)
