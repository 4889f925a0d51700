"""Trains the judges on images with known labels."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.labelled_images import UNLABELLED, Artifacts, LabelledImages, damaged_images
from training.loop import Budget, Checkpoint, autocast, minimize, steps
from vsf_cli.toy.judge import STATES, Judge
from vsf_cli.toy.networks import ConvolutionalJudge, TransformerJudge, VideoJudge
from vsf_cli.toy.scenes import PARTS

__all__ = ["RECIPES", "Recipe", "accuracy", "train_judge"]

CHUNK = 200
BATCH = 64
SHIFT = 2
"""Pixels: the largest shift of an image, less than the width of a place."""
PART_WEIGHT = 4.0
"""The weight of a place that shows a part, since most places show none."""


@dataclass(frozen=True)
class Recipe:
    """What a judge learns from, and for how long. No two judges share an image.

    Arguments:
        labels: Folders of `docs/labels`: images that were labelled by eye.
        labelled: The number of such images in a batch.
        scenes: The number of drawn scenes.
        seed: Of the first weights.
        first_scenes: The seed of the first drawn scenes; those that follow count up.
        rate: The learning rate.
        steps: How long it learns, if nobody says otherwise.
        start: The judge in the package whose weights it starts from.
        video: Whether it learns from frames of videos.
    """

    labels: tuple[str, ...]
    labelled: int
    scenes: int
    seed: int
    first_scenes: int
    rate: float
    steps: int
    start: type[Judge] | None = None
    video: bool = False


RECIPES: Mapping[type[Judge], Recipe] = MappingProxyType(
    {
        ConvolutionalJudge: Recipe(("train-former",), 12, 26_000, 2, 0, 1.5e-3, 5600),
        TransformerJudge: Recipe(("train-a", "train-b", "train-c"), 24, 16_000, 3_000, 3_000, 1e-3, 4500),
        VideoJudge: Recipe(("train-video",), 40, 4_800, 5_000, 5_000, 5e-4, 1000, ConvolutionalJudge, video=True),
    }
)


def _examples(kind: type[Judge], artifacts: Artifacts, folder: Path) -> LabelledImages:
    """Images of the train split. They are kept in `folder`, since making them takes half an hour."""
    recipe = RECIPES[kind]
    paths = [folder / f"{kind.name}-examples" / f"{number:03}.safetensors" for number in range(recipe.scenes // CHUNK)]
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(track(paths, "images for the judge", console=Console(stderr=True))):
        if not path.exists():
            torch.manual_seed(recipe.first_scenes + number)
            images = damaged_images(random.Random(f"{kind.name} {number}"), "train", CHUNK, artifacts, recipe.video)
            save_file(images.packed(), partial_path := path.with_suffix(".partial"))
            partial_path.replace(path)
    return LabelledImages.join([LabelledImages(**load_file(path)) for path in paths])


def _augment(images: Tensor) -> Tensor:
    """Images for training: shifted, brightened or darkened a little, with a little noise."""
    left, top = torch.randint(2 * SHIFT + 1, (2,)).tolist()
    side = images.shape[-1]
    images = F.pad(images, (SHIFT,) * 4, "replicate")[..., top : top + side, left : left + side]
    return images * (1 + 0.05 * torch.randn(len(images), 1, 1, 1)) + 0.03 * torch.randn(images.shape)


def _vary(labelled: LabelledImages) -> LabelledImages:
    """Labelled images, which are few, turned, zoomed and moved a little, in other colours. Their places have no labels."""
    images, count = labelled.images, len(labelled.images)
    angle, zoom = 0.15 * torch.randn(count), 1 + 0.08 * torch.randn(count)
    turn = torch.stack([torch.stack([angle.cos(), -angle.sin()], -1), torch.stack([angle.sin(), angle.cos()], -1)], 1)
    moved = torch.cat([turn * zoom.view(-1, 1, 1), 0.1 * torch.randn(count, 2, 1)], dim=-1)
    grid = F.affine_grid(moved, list(images.shape), align_corners=False)
    images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    order = torch.rand(count, 3).argsort(-1)
    order[torch.rand(count) < 0.4] = torch.arange(3)
    return replace(labelled, images=images.gather(1, order[:, :, None, None].expand_as(images)))


def train_judge(kind: type[Judge], artifacts: Artifacts, labelled: LabelledImages, folder: Path, budget: Budget) -> Judge:
    """Trains a judge on the train split, or continues from the checkpoint in `folder`.

    Arguments:
        kind: The network, which has a recipe.
        artifacts: Adds artifacts to some of the drawn images, so that they look like generated ones.
        labelled: Generated images that were labelled by eye.
        folder: The folder of its checkpoint.
        budget: The length of the training.

    Returns:
        The judge with averaged weights.
    """
    recipe = RECIPES[kind]
    torch.manual_seed(recipe.seed)
    model = kind()
    if recipe.start:
        model.load_state_dict(recipe.start.load().state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.rate, weight_decay=0.05)
    checkpoint = Checkpoint(folder / f"{kind.name}.safetensors", {"judge": model}, [optimizer], 0.995)
    examples = None if checkpoint.finished(budget) else _examples(kind, artifacts, folder)
    place_weights = torch.full((1 + 2 * len(PARTS),), PART_WEIGHT)
    place_weights[0] = 1.0

    def loss_of(batch: LabelledImages) -> tuple[Tensor, float]:
        with autocast():
            objects, parts, quality, places = (output.float() for output in model(_augment(batch.images)))
        known = ~batch.quality.isnan()
        loss = (
            F.cross_entropy(objects, batch.objects)
            + 3 * F.cross_entropy(parts.flatten(0, 1), batch.parts.flatten())
            + 2 * F.binary_cross_entropy_with_logits(quality[known], batch.quality[known])
            + 3 * F.cross_entropy(places, batch.place_classes(), place_weights)
        )
        return loss, 0.0

    for rng in steps(kind.name, checkpoint, budget):
        assert examples is not None
        samples = [examples.sample(rng, BATCH - recipe.labelled), _vary(labelled.sample(rng, recipe.labelled))]
        minimize(checkpoint, partial(loss_of, LabelledImages.join(samples)))

    model.load_state_dict(checkpoint.averaged("judge"), strict=False)
    return model.eval()


@torch.no_grad()
def accuracy(judge: Judge, labelled: LabelledImages) -> dict[str, float]:
    """The fraction of correct answers about objects, parts and each state, where labelled; and the mean error of quality."""
    # In batches: the activations of all images at once do not fit the caches.
    outputs = zip(*(judge(images) for images in labelled.images.float().split(BATCH)), strict=True)
    objects, parts, quality, _ = (torch.cat(batches) for batches in outputs)
    right = parts.argmax(-1) == labelled.parts
    has_label = labelled.parts != UNLABELLED
    result = {
        "objects": (objects.argmax(-1) == labelled.objects)[labelled.objects != UNLABELLED].float().mean().item(),
        "parts": right[has_label].float().mean().item(),
        "quality error": (quality.sigmoid() - labelled.quality).abs().nanmean().item(),
    }
    return result | {
        state: right[labelled.parts == index].float().mean().item()
        for index, state in enumerate(STATES)
        if (labelled.parts == index).any()
    }
