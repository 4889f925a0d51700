"""The scenes of the built-in models: objects, their parts, colours and grounds, and captions of them.

A scene is one object in front of a ground and a sky. It records the visible parts of the object, so that guidance can be
measured. Captions never say that something is missing, so that a model trained on them fails at negation as large models do.
"""

import hashlib
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

__all__ = [
    "COLORS",
    "GROUNDS",
    "OBJECTS",
    "PARTS",
    "SINGULAR",
    "SKIES",
    "Part",
    "Scene",
    "Split",
    "article",
    "caption",
    "pairs",
    "plain_prompt",
    "sample_part_alone",
    "sample_scene",
    "split_of",
    "vocabulary",
]

Split = Literal["train", "dev", "test"]

OBJECTS: MappingProxyType[str, tuple[str, ...]] = MappingProxyType(
    {
        "bike": ("wheels", "basket", "flag"),
        "person": ("umbrella", "hat", "glasses"),
        "car": ("wheels", "windows", "lights"),
        "house": ("roof", "door", "windows", "chimney"),
        "tree": ("leaves", "apples"),
        "snowman": ("hat", "scarf", "carrot"),
        "boat": ("sail", "flag"),
        "cat": ("ears", "tail", "bow"),
        "plane": ("wings", "propeller", "windows"),
        "clock": ("hands", "bells", "legs"),
        "cake": ("candles", "cherries"),
        "flower": ("petals", "leaves", "pot"),
    }
)
"""The objects, each with its possible parts."""

PARTS = tuple(sorted({part for parts in OBJECTS.values() for part in parts}))
"""Every part of any object, sorted."""

COLORS: MappingProxyType[str, tuple[int, int, int]] = MappingProxyType(
    {
        "red": (214, 40, 40),
        "orange": (244, 132, 22),
        "yellow": (250, 208, 34),
        "green": (36, 138, 62),
        "blue": (36, 92, 220),
        "purple": (130, 48, 176),
        "pink": (246, 120, 178),
        "brown": (116, 68, 36),
        "white": (252, 252, 252),
    }
)
"""The colours of bodies and parts, as sRGB of 0 to 255."""

GROUNDS: MappingProxyType[str, tuple[int, int, int]] = MappingProxyType(
    {
        "grass": (148, 192, 112),
        "road": (132, 136, 146),
        "sand": (230, 206, 156),
        "snow": (214, 226, 238),
        "water": (92, 166, 206),
    }
)
"""The grounds that an object stands on, with their colours."""

SKIES: MappingProxyType[str, tuple[int, int, int]] = MappingProxyType(
    {"day": (192, 222, 246), "sunset": (250, 202, 164), "night": (48, 54, 104)}
)

NATURAL = MappingProxyType({"leaves": "green", "carrot": "orange", "apples": "red", "cherries": "red"})

SINGULAR = frozenset(part for part in PARTS if not part.endswith("s"))
"""The parts that captions name with an article."""

FILLERS = ("a", "an", "the", "with", "and", "on", "at", "over", "under", "sun", "clouds")

MAX_WORDS = 18
"""The words that fit into the text encoders, which also take tokens for beginning and end."""

PART_ABSENT = 0.2
PART_NAMED = 0.45
PART_COLORED = 0.75
"""How often the colour of a named part is named: binding colours draws attention from the word to its region."""


@dataclass(frozen=True)
class Part:
    """A visible part of an object, with the name of its colour."""

    name: str
    color: str


@dataclass(frozen=True)
class Scene:
    """The description of an image, or of a frame of a video, in the training set.

    Arguments:
        object: A key of `OBJECTS`.
        color: The body's colour; None draws the parts alone, without the object.
        parts: The visible parts.
        ground: A key of `GROUNDS`.
        sky: A key of `SKIES`.
        sun: Whether the sun is in the sky.
        clouds: Whether clouds are in the sky.
        x, y: The object's displacement, as a fraction of the image's side.
        scale: The object's size; 1 fills about four fifths of the side.
        mirrored: Whether the object faces left.
        jitter: A seed for shades, the positions of sun and clouds, and the height of the horizon.
        moment: Seconds since the start of a video; clouds, flames and tails move with it.
    """

    object: str
    color: str | None
    parts: tuple[Part, ...]
    ground: str
    sky: str = "day"
    sun: bool = False
    clouds: bool = False
    x: float = 0.0
    y: float = 0.0
    scale: float = 1.0
    mirrored: bool = False
    jitter: int = 0
    moment: float = 0.0

    def has(self, part: str) -> bool:
        """Whether the scene shows the part."""
        return any(own.name == part for own in self.parts)


def split_of(name: str, color: str, ground: str) -> Split:
    """Returns the split of a combination of object, colour and ground: 7 of 10 are train, 1 dev, 2 test."""
    digest = hashlib.sha256(f"{name}/{color}/{ground}".encode()).digest()
    return ("dev", "test", "test", *["train"] * 7)[digest[0] % 10]  # type: ignore[return-value]


def _pick_part(rng: random.Random, name: str, body: str | None) -> Part:
    natural = NATURAL.get(name)
    if natural is not None and natural != body and rng.random() < 0.5:
        return Part(name, natural)
    return Part(name, rng.choice([color for color in COLORS if color != body]))


def _surroundings(rng: random.Random) -> dict[str, object]:
    return {
        "sky": rng.choices(("day", "sunset", "night"), (0.6, 0.2, 0.2))[0],
        "sun": rng.random() < 0.25,
        "clouds": rng.random() < 0.25,
        "x": rng.uniform(-0.05, 0.05),
        "y": rng.uniform(-0.03, 0.03),
        "scale": rng.uniform(0.88, 1.08),
        "mirrored": rng.random() < 0.5,
        "jitter": rng.getrandbits(30),
    }


def sample_scene(rng: random.Random, split: Split = "train", absent: float = PART_ABSENT) -> Scene:
    """Samples a scene of a split, in which each part is missing with the probability `absent`."""
    while True:
        name, color, ground = rng.choice(list(OBJECTS)), rng.choice(list(COLORS)), rng.choice(list(GROUNDS))
        if split_of(name, color, ground) == split:
            break

    parts = tuple(_pick_part(rng, part, color) for part in OBJECTS[name] if rng.random() >= absent)
    return Scene(name, color, parts, ground, **_surroundings(rng))  # type: ignore[arg-type]


def sample_part_alone(rng: random.Random) -> Scene:
    """Samples a scene with one part and no object, which gives the word alone a meaning."""
    name = rng.choice(list(OBJECTS))
    part = _pick_part(rng, rng.choice(OBJECTS[name]), None)
    return Scene(name, None, (part,), rng.choice(list(GROUNDS)), **_surroundings(rng))  # type: ignore[arg-type]


def article(words: str) -> str:
    """Returns words with their indefinite article."""
    return ("an " if words[0] in "aeiou" else "a ") + words


def _part_phrase(part: Part, colored: bool) -> str:
    words = f"{part.color} {part.name}" if colored else part.name
    return article(words) if part.name in SINGULAR else words


def _surrounding_phrases(scene: Scene, rng: random.Random) -> Iterator[str]:
    if rng.random() < 0.6:
        ground = _ground_phrase(scene.ground)
        yield f"over {ground}" if scene.object == "plane" and rng.random() < 0.5 else f"on {ground}"
    if scene.sky != "day" and rng.random() < 0.6:
        yield f"at {scene.sky}"
    if scene.clouds and rng.random() < 0.5:
        yield "under clouds"
    elif scene.sun and rng.random() < 0.5:
        yield "under the sun"


def caption(scene: Scene, rng: random.Random, named: float = PART_NAMED) -> str:
    """Returns a caption of a scene. It names each visible part with the probability `named`, but at most two."""
    if scene.color is None:
        (part,) = scene.parts
        phrase = _part_phrase(part, rng.random() < PART_COLORED)
        return phrase if rng.random() < 0.6 else phrase.removeprefix("a ").removeprefix("an ")

    body = f"{scene.color} {scene.object}" if rng.random() < 0.6 else scene.object
    named_parts = [part for part in scene.parts if rng.random() < named]
    rng.shuffle(named_parts)

    phrases = [article(body)]
    if named_parts:
        # A longer caption would not fit the encoders.
        phrases.append("with " + " and ".join(_part_phrase(part, rng.random() < PART_COLORED) for part in named_parts[:2]))
    for phrase in _surrounding_phrases(scene, rng):
        if len(" ".join([*phrases, phrase]).split()) <= MAX_WORDS:
            phrases.append(phrase)
    return " ".join(phrases)


def vocabulary() -> list[str]:
    """Returns every word of any caption, sorted."""
    return sorted({*OBJECTS, *COLORS, *GROUNDS, *PARTS, *FILLERS, "sunset", "night"})


def plain_prompt(name: str, color: str, ground: str, verb: str = "") -> str:
    """Returns a prompt that names an object, its colour and its ground, and no part."""
    return " ".join([article(f"{color} {name}"), *verb.split(), "on", _ground_phrase(ground)])


def _ground_phrase(ground: str) -> str:
    return article(ground) if ground == "road" else ground


def pairs(split: Split, count: int, verbs: Mapping[str, str] | None = None) -> list[tuple[str, str, str]]:
    """Returns different triples of a prompt of a split, its object, and a part that it does not name, in a fixed order.

    Raises:
        ValueError: If the split has fewer pairs of a prompt and a part.
    """
    triples = [
        (plain_prompt(name, color, ground, verb) + sky, name, part)
        for sky in ("", " at sunset", " at night")
        for name, verb in (verbs or dict.fromkeys(OBJECTS, "")).items()
        for color in COLORS
        for ground in GROUNDS
        if split_of(name, color, ground) == split
        for part in OBJECTS[name]
    ]
    if count > len(triples):
        raise ValueError(f"the {split} split has {len(triples)} pairs, which is fewer than {count}")
    random.Random(f"{split} {'clips' if verbs else 'pairs'}").shuffle(triples)
    return triples[:count]
