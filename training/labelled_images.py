"""Pictures of which everything is known: renders, whole and damaged, and some worn as generated pictures are."""

import random
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from training.corrupt import KINDS, blur, erase, expose_twice, half_plane, patches, warp
from training.image_autoencoder import pixels
from training.labels import read_labels
from training.loop import render
from vsf_cli.toy.drawing import SIDE, draw
from vsf_cli.toy.drawing import shown as shown_by
from vsf_cli.toy.judge import CELLS, CLASSES, NOTHING, STATES
from vsf_cli.toy.scenes import OBJECTS, PARTS, Part, Scene, Split, sample_part_alone, sample_scene

__all__ = ["ABSENT", "DAMAGED", "NOT_ASKED", "Shown", "Wear", "show_damaged", "show_labelled", "show_whole", "upside_down"]

PART_ABSENT = 0.5
PART_HARMED = 0.6
HARMED = 0.5
REDUCED, REDUCED_SIDE = 0.2, 64
UPSIDE_DOWN, OVERLAID, NOISE, EMPTY, ALONE = 0.03, 0.03, 0.02, 0.03, 0.05
"""The shares of pictures that show no object, or not as it should be."""

PRESENT, ABSENT, DAMAGED = range(len(STATES))
NOT_ASKED = -100
"""What `F.cross_entropy` leaves out."""
LEAST_VISIBLE = 12
"""Pixels: of a part of which less is seen, nobody says that it is there."""
UNKNOWN = len(PARTS) + 1
LEAST_COVERED = 0.2
"""Of a place, for it to show a part."""


@dataclass
class Shown:
    """Pictures, and what a judge should say of them.

    Arguments:
        images: Pixels of -1 to 1, or packed as bytes, with shape (B, 3, side, side).
        objects: Indices of `CLASSES`, or `NOT_ASKED`, with shape (B,).
        parts: Indices of `STATES`, or `NOT_ASKED`, with shape (B, parts).
        quality: 0 to 1, or nan where it is not asked, with shape (B,).
        places: Which part each place shows, as 1 + its index of `PARTS`, 0 for none, or `UNKNOWN`; bytes with shape
            (B, cells, cells).
    """

    images: Tensor
    objects: Tensor
    parts: Tensor
    quality: Tensor
    places: Tensor

    @classmethod
    def join(cls, several: "list[Shown]") -> "Shown":
        """All of them in one."""
        return cls(*(torch.cat([getattr(one, field.name) for one in several]) for field in fields(cls)))

    def some(self, rng: random.Random, count: int) -> "Shown":
        """A draw of `count` pictures, about half of them mirrored; scenes are drawn in both directions anyway."""
        chosen = [rng.randrange(len(self.images)) for _ in range(count)]
        drawn = Shown(*(getattr(self, field.name)[chosen] for field in fields(self)))
        if drawn.images.dtype == torch.uint8:
            drawn.images = drawn.images.float() / 127.5 - 1
        mirrored = torch.tensor([rng.random() < 0.5 for _ in chosen])
        drawn.images[mirrored], drawn.places[mirrored] = drawn.images[mirrored].flip(-1), drawn.places[mirrored].flip(-1)
        return drawn

    def packed(self) -> dict[str, Tensor]:
        """Everything by its name, the images as bytes."""
        return vars(self) | {"images": ((self.images + 1) * 127.5).round().clamp(0, 255).byte().contiguous()}

    def what_places_show(self) -> Tensor:
        """What each place shows, as the judge counts it, with shape (B, cells, cells).

        0 is no part, then each part whole, then each part damaged; `NOT_ASKED` where the part is not asked for.
        """
        states, places = self.parts, self.places.flatten(1).long()
        nothing = torch.zeros_like(states)
        shown = torch.arange(1, len(PARTS) + 1).expand_as(states)
        classes = torch.where(states == PRESENT, shown, torch.where(states == DAMAGED, shown + len(PARTS), nothing))
        classes = torch.where(states == NOT_ASKED, NOT_ASKED, classes)
        # Of a picture that is spoilt as a whole, no place is asked for.
        spoilt = (states == NOT_ASKED).all(-1, keepdim=True)
        background, unknown = torch.where(spoilt, NOT_ASKED, 0), torch.full_like(states[:, :1], NOT_ASKED)
        return torch.cat([background, classes, unknown], dim=1).gather(1, places).view(-1, CELLS, CELLS)


def show_whole(scenes: list[Scene]) -> Shown:
    """Renders as they are; parts that the object cannot have are not asked for."""
    objects = torch.tensor([CLASSES.index(NOTHING if scene.color is None else scene.object) for scene in scenes])
    states = [[_state(scene, part) for part in PARTS] for scene in scenes]
    places = torch.from_numpy(np.stack([_places(scene) for scene in scenes]))
    return Shown(pixels(render(scenes)), objects, torch.tensor(states), torch.ones(len(scenes)), places)


def _places(scene: Scene) -> np.ndarray:
    """Which part covers most of each place, at least `LEAST_COVERED` of it; bytes as `Shown.places` takes them."""
    numbers = shown_by(scene)
    cell = numbers.shape[0] // CELLS
    parts = OBJECTS[scene.object]
    cells = numbers.reshape(CELLS, cell, CELLS, cell)
    shares = np.stack([(cells == 2 + index).mean((1, 3)) for index in range(len(parts))])
    indices = np.array([1 + PARTS.index(part) for part in parts], np.uint8)
    return np.where(shares.max(0) >= LEAST_COVERED, indices[shares.argmax(0)], 0).astype(np.uint8)


def _state(scene: Scene, part: str) -> int:
    if scene.color is None or part not in OBJECTS[scene.object]:
        return NOT_ASKED
    return PRESENT if scene.has(part) else ABSENT


def show_labelled(folder: Path) -> Shown:
    """Generated pictures that were labelled by eye, as `read_labels` reads them; several rows may be of one picture.

    The object is known of unguided ones, which show what their prompt says; guidance may spoil it. Of quality and of places
    the labels say nothing.
    """
    rows = read_labels(folder)
    files = sorted({row["file"] for row in rows})
    images = np.stack([np.asarray(Image.open(folder / file).convert("RGB")) for file in files])
    objects, parts = torch.full((len(files),), NOT_ASKED), torch.full((len(files), len(PARTS)), NOT_ASKED)
    for row in rows:
        index = files.index(row["file"])
        parts[index, PARTS.index(row["part"])] = STATES.index(row["label"])
        if row["method"] == "none":
            objects[index] = CLASSES.index(row["object"])
    nan, places = torch.full((len(files),), torch.nan), torch.full((len(files), CELLS, CELLS), UNKNOWN, dtype=torch.uint8)
    return Shown(pixels(images), objects, parts, nan, places)


Wear = Callable[[random.Random, list[Scene], Shown], None]
"""Wears some of the pictures as a model would; the scenes say what is whole in them."""


def show_damaged(rng: random.Random, split: Split, count: int, wear: Wear | None = None) -> Shown:
    """Pictures of a split, many of them damaged by a known amount, and some worn."""
    scenes = [sample_part_alone(rng) if rng.random() < ALONE else sample_scene(rng, split, PART_ABSENT) for _ in range(count)]
    shown = show_whole(scenes)
    shown.quality[[scene.color is None for scene in scenes]] = torch.nan
    whole = _harm_parts(rng, scenes, shown)
    if wear is not None:
        wear(rng, whole, shown)
    _show_what_is_wrong(rng, scenes, shown)
    _reduce(shown)
    _harm(shown)
    return shown


def _without(scene: Scene, part: Part) -> Scene:
    return replace(scene, parts=tuple(other for other in scene.parts if other != part))


def _harm_parts(rng: random.Random, scenes: list[Scene], shown: Shown) -> list[Scene]:
    """Harms one part of many pictures, and gives back what is left whole of each scene."""
    whole = list(scenes)
    for index, scene in enumerate(scenes):
        if scene.color is None or not scene.parts or rng.random() >= PART_HARMED:
            continue
        part = rng.choice(scene.parts)
        whole[index] = _without(scene, part)
        picture, state = _harm_part(rng, scene, part, shown.images[index : index + 1])
        shown.images[index] = picture[0]
        shown.parts[index, PARTS.index(part.name)] = state
    return whole


def _harm_part(rng: random.Random, scene: Scene, part: Part, picture: Tensor) -> tuple[Tensor, int]:
    """Melts, smears, bends, then fades or tears one part of a picture with shape (1, 3, side, side).

    Melting gives it the body's colour: its outline stays, which is a damaged part. What is left of a twentieth is gone, and
    nineteen twentieths are whole.
    """
    bare = pixels(render([_without(scene, part)]))
    region = _spread(_difference(picture, bare) > 0.2)
    if rng.random() < 0.2:
        return erase(picture, bare, torch.tensor(rng.uniform(0, 0.05))), ABSENT
    if rng.random() < 0.15 or not region.any():
        return erase(picture, bare, torch.tensor(rng.uniform(0.95, 1))), PRESENT

    ways = rng.sample(("melt", "smear", "bend", "fade", "tear", "cut"), rng.choice((1, 1, 2)))
    if "melt" in ways:
        color = str(scene.color) if rng.random() < 0.8 else rng.choice([other.color for other in scene.parts])
        melted = tuple(replace(other, color=color) if other == part else other for other in scene.parts)
        picture = pixels(render([replace(scene, parts=melted)]))
    if "smear" in ways:
        picture = torch.lerp(picture, blur(picture, torch.tensor([rng.uniform(0.7, 1)])), region)
    if "bend" in ways:
        picture = torch.lerp(picture, warp(picture, torch.tensor([rng.uniform(0.7, 1)])), region)
    if "fade" in ways:
        picture = erase(picture, bare, torch.tensor(rng.uniform(0.2, 0.7)))
    for way, field in (("tear", patches(1, SIDE, rng.randint(4, 14))), ("cut", half_plane(1, SIDE))):
        if way in ways:
            level = torch.quantile(field[region > 0], 1 - rng.uniform(0.15, 0.7))
            picture = erase(picture, bare, ((field - level) * 16 + 0.5).clamp(0, 1))
    visible = (_difference(picture, bare) > 0.15).sum() >= LEAST_VISIBLE
    return picture, DAMAGED if visible else ABSENT


def _difference(picture: Tensor, other: Tensor) -> Tensor:
    return (picture - other).abs().amax(1, keepdim=True)


def _spread(mask: Tensor) -> Tensor:
    return F.max_pool2d(mask.float(), 7, 1, 3)


def upside_down(scene: Scene, whole: bool) -> np.ndarray:
    """A scene turned over, or its object alone in front of the ground as it was; bytes with shape (side, side, 3)."""
    picture = np.asarray(draw(scene))
    if whole:
        return picture[::-1].copy()
    empty = np.asarray(draw(replace(scene, color=None, parts=())))
    object_only = np.asarray(Image.fromarray(shown_by(scene)).resize((SIDE, SIDE), Image.Resampling.NEAREST)) > 0
    return np.where(object_only[::-1, :, None], picture[::-1], empty)


def _show_what_is_wrong(rng: random.Random, scenes: list[Scene], shown: Shown) -> None:
    """Turns some pictures into what no prompt asks for: of quality 0, and of no object."""
    count = len(shown.images)
    overlaid = expose_twice(shown.images, torch.ones(count))
    for index in range(count):
        chance = rng.random()
        if chance < UPSIDE_DOWN:
            scene = scenes[index] if scenes[index].color else sample_scene(rng)
            shown.images[index] = pixels(upside_down(scene, rng.random() < 0.5)[None])[0]
        elif chance < UPSIDE_DOWN + OVERLAID:
            shown.images[index] = overlaid[index]
        elif chance < UPSIDE_DOWN + OVERLAID + NOISE:
            spread = rng.choice((0.0, rng.uniform(0.3, 1)))
            shown.images[index] = (torch.rand(3, 1, 1) * 2 - 1 + torch.randn(3, SIDE, SIDE) * spread).clamp(-1, 1)
        elif chance < UPSIDE_DOWN + OVERLAID + NOISE + EMPTY:
            empty = replace(sample_part_alone(rng), parts=())
            shown.images[index] = pixels(render([empty]))[0]
        else:
            continue
        shown.objects[index], shown.parts[index], shown.quality[index] = CLASSES.index(NOTHING), NOT_ASKED, 0.0


def _reduce(shown: Shown) -> None:
    """Reduces some pictures and enlarges them again, so that the frames of a small clip can be judged."""
    which = torch.rand(len(shown.images)) < REDUCED
    small = F.interpolate(shown.images[which], size=REDUCED_SIDE, mode="bilinear", antialias=True)
    shown.images[which] = F.interpolate(small, size=SIDE, mode="bilinear")


def _harm(shown: Shown) -> None:
    """Damages pictures in one or two ways. Who cannot see the object is not asked for it."""
    for harm in KINDS.values():
        which = torch.rand(len(shown.images)) < 1.3 * HARMED / len(KINDS)
        if which.sum() < 2:
            continue
        severity = torch.rand(int(which.sum()))
        shown.images[which] = harm(shown.images[which], severity)
        shown.quality[which] *= 1 - severity
    poor = shown.quality < 0.4
    shown.parts[poor] = NOT_ASKED
    real = shown.objects != CLASSES.index(NOTHING)
    shown.objects[(shown.quality < 0.25) & real] = NOT_ASKED
