"""Images with known labels: renders, whole and damaged, some with the artifacts of generated images."""

import random
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from training.corrupt import CORRUPTIONS, blur, erase, expose_twice, half_plane, patches, warp
from training.image_autoencoder import pixels
from training.labels import read_labels, read_pictures
from training.loop import render
from vsf_cli.toy.drawing import SIDE, draw, part_map
from vsf_cli.toy.judge import CELLS, CLASSES, NOTHING, STATES
from vsf_cli.toy.scenes import OBJECTS, PARTS, Part, Scene, Split, sample_part_alone, sample_scene
from vsf_cli.toy.video_scenes import sample_video

__all__ = [
    "ABSENT",
    "DAMAGED",
    "UNLABELLED",
    "Artifacts",
    "LabelledImages",
    "damaged_images",
    "read_labelled_images",
    "upside_down",
    "whole_images",
]

PART_ABSENT = 0.5
PART_CORRUPTED = 0.6
CORRUPTED = 0.5
REDUCED, REDUCED_SIDE = 0.2, 64
UPSIDE_DOWN, OVERLAID, NOISE, EMPTY, ALONE = 0.03, 0.03, 0.02, 0.03, 0.05
"""The fractions of images without an object, or with a faulty one."""

PRESENT, ABSENT, DAMAGED = range(len(STATES))
UNLABELLED = -100
"""`F.cross_entropy` ignores this class."""
MIN_VISIBLE = 12
"""Pixels. A part with fewer visible pixels counts as absent."""
UNKNOWN = len(PARTS) + 1
MIN_COVERED = 0.2
"""A place shows a part if the part covers at least this fraction of it."""


@dataclass
class LabelledImages:
    """Images with the labels that a judge should give them.

    Arguments:
        images: Pixels of -1 to 1, or packed as bytes, with shape (B, 3, side, side).
        objects: Indices of `CLASSES`, or `UNLABELLED`, with shape (B,).
        parts: Indices of `STATES`, or `UNLABELLED`, with shape (B, parts).
        quality: 0 to 1, or nan where it is unknown, with shape (B,).
        places: The part of each place, as 1 + its index in `PARTS`, 0 for none, or `UNKNOWN`; bytes with shape
            (B, cells, cells).
    """

    images: Tensor
    objects: Tensor
    parts: Tensor
    quality: Tensor
    places: Tensor

    @classmethod
    def join(cls, records: "list[LabelledImages]") -> "LabelledImages":
        """One record with the images of all records."""
        return cls(*(torch.cat([getattr(one, field.name) for one in records]) for field in fields(cls)))

    def sample(self, rng: random.Random, count: int) -> "LabelledImages":
        """`count` images drawn at random, about half of them mirrored: scenes exist in both directions."""
        chosen = [rng.randrange(len(self.images)) for _ in range(count)]
        drawn = LabelledImages(*(getattr(self, field.name)[chosen] for field in fields(self)))
        if drawn.images.dtype == torch.uint8:
            drawn.images = drawn.images.float() / 127.5 - 1
        mirrored = torch.tensor([rng.random() < 0.5 for _ in chosen])
        drawn.images[mirrored], drawn.places[mirrored] = drawn.images[mirrored].flip(-1), drawn.places[mirrored].flip(-1)
        return drawn

    def packed(self) -> dict[str, Tensor]:
        """All tensors by name, the images as bytes."""
        return vars(self) | {"images": ((self.images + 1) * 127.5).round().clamp(0, 255).byte().contiguous()}

    def place_classes(self) -> Tensor:
        """The class of each place, as the judge numbers them, with shape (B, cells, cells).

        0 is no part, then each part whole, then each part damaged; `UNLABELLED` where the part has no label.
        """
        states, places = self.parts, self.places.flatten(1).long()
        nothing = torch.zeros_like(states)
        whole = torch.arange(1, len(PARTS) + 1).expand_as(states)
        classes = torch.where(states == PRESENT, whole, torch.where(states == DAMAGED, whole + len(PARTS), nothing))
        classes = torch.where(states == UNLABELLED, UNLABELLED, classes)
        # In an image that is spoilt as a whole, no place is labelled.
        spoilt = (states == UNLABELLED).all(-1, keepdim=True)
        background, unknown = torch.where(spoilt, UNLABELLED, 0), torch.full_like(states[:, :1], UNLABELLED)
        return torch.cat([background, classes, unknown], dim=1).gather(1, places).view(-1, CELLS, CELLS)


def whole_images(scenes: list[Scene]) -> LabelledImages:
    """Undamaged renders. Parts that the object cannot have are unlabelled."""
    objects = torch.tensor([CLASSES.index(NOTHING if scene.color is None else scene.object) for scene in scenes])
    states = [[_state(scene, part) for part in PARTS] for scene in scenes]
    places = torch.from_numpy(np.stack([_places(scene) for scene in scenes]))
    return LabelledImages(pixels(render(scenes)), objects, torch.tensor(states), torch.ones(len(scenes)), places)


def _places(scene: Scene) -> np.ndarray:
    """The part that covers most of each place, if at least `MIN_COVERED` of it, as `LabelledImages.places` takes it."""
    numbers = part_map(scene)
    cell = numbers.shape[0] // CELLS
    parts = OBJECTS[scene.object]
    cells = numbers.reshape(CELLS, cell, CELLS, cell)
    coverage = np.stack([(cells == 2 + index).mean((1, 3)) for index in range(len(parts))])
    indices = np.array([1 + PARTS.index(part) for part in parts], np.uint8)
    return np.where(coverage.max(0) >= MIN_COVERED, indices[coverage.argmax(0)], 0).astype(np.uint8)


def _state(scene: Scene, part: str) -> int:
    if scene.color is None or part not in OBJECTS[scene.object]:
        return UNLABELLED
    return PRESENT if scene.has(part) else ABSENT


def read_labelled_images(folder: Path) -> LabelledImages:
    """Generated images that were labelled by eye, as `read_labels` reads them. Several rows may belong to one image.

    The object is the one that was seen, if the table has a column `shown`. Otherwise that of unguided images is that of their
    prompt; guidance may have spoilt it in the others. Quality and places have no labels. Each frame of a video is an image with
    the labels of the video. Images are bytes.
    """
    rows = read_labels(folder)
    files = sorted({row["file"] for row in rows})
    frames = [read_pictures(folder / file) for file in files]
    objects, parts = torch.full((len(files),), UNLABELLED), torch.full((len(files), len(PARTS)), UNLABELLED)
    for row in rows:
        index = files.index(row["file"])
        parts[index, PARTS.index(row["part"])] = STATES.index(row["label"])
        if shown := row.get("shown", "yes" if row["method"] == "none" else ""):
            objects[index] = CLASSES.index(row["object"] if shown == "yes" else NOTHING)
    counts = torch.tensor([len(each) for each in frames])
    images = torch.from_numpy(np.stack([np.asarray(frame) for each in frames for frame in each])).permute(0, 3, 1, 2)
    nan, places = torch.full((len(images),), torch.nan), torch.full((len(images), CELLS, CELLS), UNKNOWN, dtype=torch.uint8)
    return LabelledImages(images, objects.repeat_interleave(counts), parts.repeat_interleave(counts, 0), nan, places)


Artifacts = Callable[[random.Random, list[Scene], LabelledImages], None]
"""Adds the artifacts of a model to some of the images, in place. The scenes list the parts that are whole."""


def damaged_images(
    rng: random.Random, split: Split, count: int, artifacts: Artifacts | None = None, video: bool = False
) -> LabelledImages:
    """Images of a split: many are damaged by a known amount, and some have the artifacts of a model.

    With `video`, they are frames of videos, of a smaller size.
    """
    sample = sample_video if video else sample_scene
    scenes = [sample_part_alone(rng) if rng.random() < ALONE else sample(rng, split, PART_ABSENT) for _ in range(count)]
    labelled = whole_images(scenes)
    labelled.quality[[scene.color is None for scene in scenes]] = torch.nan
    whole = _corrupt_parts(rng, scenes, labelled)
    if artifacts is not None:
        artifacts(rng, whole, labelled)
    _replace_by_nothing(rng, scenes, labelled)
    _reduce(labelled, 1.0 if video else REDUCED)
    _corrupt(labelled)
    return labelled


def _without(scene: Scene, part: Part) -> Scene:
    return replace(scene, parts=tuple(other for other in scene.parts if other != part))


def _corrupt_parts(rng: random.Random, scenes: list[Scene], labelled: LabelledImages) -> list[Scene]:
    """Corrupts one part of many images, in place, and returns the scenes without those parts."""
    whole = list(scenes)
    for index, scene in enumerate(scenes):
        if scene.color is None or not scene.parts or rng.random() >= PART_CORRUPTED:
            continue
        part = rng.choice(scene.parts)
        whole[index] = _without(scene, part)
        image, state = _corrupt_part(rng, scene, part, labelled.images[index : index + 1])
        labelled.images[index] = image[0]
        labelled.parts[index, PARTS.index(part.name)] = state
    return whole


def _corrupt_part(rng: random.Random, scene: Scene, part: Part, image: Tensor) -> tuple[Tensor, int]:
    """An image with shape (1, 3, side, side) with one part corrupted, and the state of the part.

    The part is melted, smeared, bent, faded, torn or cut. Melting gives it another colour and keeps its outline: the part is
    damaged. A part of which at most a twentieth is left is absent, and one of which nineteen twentieths are left is present.
    """
    bare = pixels(render([_without(scene, part)]))
    region = _spread(_difference(image, bare) > 0.2)
    if rng.random() < 0.2:
        return erase(image, bare, torch.tensor(rng.uniform(0, 0.05))), ABSENT
    if rng.random() < 0.15 or not region.any():
        return erase(image, bare, torch.tensor(rng.uniform(0.95, 1))), PRESENT

    effects = rng.sample(("melt", "smear", "bend", "fade", "tear", "cut"), rng.choice((1, 1, 2)))
    if "melt" in effects:
        color = str(scene.color) if rng.random() < 0.8 else rng.choice([other.color for other in scene.parts])
        melted = tuple(replace(other, color=color) if other == part else other for other in scene.parts)
        image = pixels(render([replace(scene, parts=melted)]))
    if "smear" in effects:
        image = torch.lerp(image, blur(image, torch.tensor([rng.uniform(0.7, 1)])), region)
    if "bend" in effects:
        image = torch.lerp(image, warp(image, torch.tensor([rng.uniform(0.7, 1)])), region)
    if "fade" in effects:
        image = erase(image, bare, torch.tensor(rng.uniform(0.2, 0.7)))
    for effect, field in (("tear", patches(1, SIDE, rng.randint(4, 14))), ("cut", half_plane(1, SIDE))):
        if effect in effects:
            level = torch.quantile(field[region > 0], 1 - rng.uniform(0.15, 0.7))
            image = erase(image, bare, ((field - level) * 16 + 0.5).clamp(0, 1))
    visible = (_difference(image, bare) > 0.15).sum() >= MIN_VISIBLE
    return image, DAMAGED if visible else ABSENT


def _difference(image: Tensor, other: Tensor) -> Tensor:
    return (image - other).abs().amax(1, keepdim=True)


def _spread(mask: Tensor) -> Tensor:
    return F.max_pool2d(mask.float(), 7, 1, 3)


def upside_down(scene: Scene, whole: bool) -> np.ndarray:
    """A scene upside down, or its object alone upside down on an upright ground, as bytes with shape (side, side, 3)."""
    image = np.asarray(draw(scene))
    if whole:
        return image[::-1].copy()
    empty = np.asarray(draw(replace(scene, color=None, parts=())))
    object_only = np.asarray(Image.fromarray(part_map(scene)).resize((SIDE, SIDE), Image.Resampling.NEAREST)) > 0
    return np.where(object_only[::-1, :, None], image[::-1], empty)


def _replace_by_nothing(rng: random.Random, scenes: list[Scene], labelled: LabelledImages) -> None:
    """Replaces some images, in place, by images that match no prompt: quality 0, and no object."""
    count = len(labelled.images)
    overlaid = expose_twice(labelled.images, torch.ones(count))
    for index in range(count):
        chance = rng.random()
        if chance < UPSIDE_DOWN:
            scene = scenes[index] if scenes[index].color else sample_scene(rng)
            labelled.images[index] = pixels(upside_down(scene, rng.random() < 0.5)[None])[0]
        elif chance < UPSIDE_DOWN + OVERLAID:
            labelled.images[index] = overlaid[index]
        elif chance < UPSIDE_DOWN + OVERLAID + NOISE:
            spread = rng.choice((0.0, rng.uniform(0.3, 1)))
            labelled.images[index] = (torch.rand(3, 1, 1) * 2 - 1 + torch.randn(3, SIDE, SIDE) * spread).clamp(-1, 1)
        elif chance < UPSIDE_DOWN + OVERLAID + NOISE + EMPTY:
            empty = replace(sample_part_alone(rng), parts=())
            labelled.images[index] = pixels(render([empty]))[0]
        else:
            continue
        labelled.objects[index], labelled.parts[index], labelled.quality[index] = CLASSES.index(NOTHING), UNLABELLED, 0.0


def _reduce(labelled: LabelledImages, fraction: float) -> None:
    """Reduces some images and enlarges them again, in place, so that the judge also learns frames of small videos."""
    which = torch.rand(len(labelled.images)) < fraction
    small = F.interpolate(labelled.images[which], size=REDUCED_SIDE, mode="bilinear", antialias=True)
    labelled.images[which] = F.interpolate(small, size=SIDE, mode="bilinear")


def _corrupt(labelled: LabelledImages) -> None:
    """Damages images by one or two corruptions, in place. An object that is no longer visible has no label."""
    for corrupt in CORRUPTIONS.values():
        which = torch.rand(len(labelled.images)) < 1.3 * CORRUPTED / len(CORRUPTIONS)
        if which.sum() < 2:
            continue
        severity = torch.rand(int(which.sum()))
        labelled.images[which] = corrupt(labelled.images[which], severity)
        labelled.quality[which] *= 1 - severity
    poor = labelled.quality < 0.4
    labelled.parts[poor] = UNLABELLED
    real = labelled.objects != CLASSES.index(NOTHING)
    labelled.objects[(labelled.quality < 0.25) & real] = UNLABELLED
