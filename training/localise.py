"""Measures how well attention maps find a part: `python -m training.localise`.

The regions of a drawn scene's parts are known. The scene is noised to each sigma of the model's steps, and the model makes
one step without guidance. The maps of the part's word are compared with the part's region: the weight `w` that a negative
prompt of that word would have, the word's logits as a negative, its logits as a word of the positive prompt, and random
numbers.
"""

import argparse
import json
import random
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from training.command import at_least, run, say
from training.flow import FlowModel
from training.image_autoencoder import normalised_latents, pixels
from training.image_flow import IMAGE_MODELS, load_tokenizers
from training.loop import render
from training.train_images import SHIPPED
from vsf_cli.errors import RequestError
from vsf_cli.generation.guided import guided
from vsf_cli.loading.pipelines import load
from vsf_cli.maps.data import Maps, Selection
from vsf_cli.maps.recorder import Recorder
from vsf_cli.media.metadata import versions
from vsf_cli.methods import NoGuidance
from vsf_cli.models import family_of
from vsf_cli.settings.presets import Preset, load_preset
from vsf_cli.toy.drawing import part_map
from vsf_cli.toy.image_recipe import IMAGE_TOKENS_SIDE
from vsf_cli.toy.scenes import OBJECTS, Scene, Split, plain_prompt, sample_scene

__all__ = ["Question", "area", "localise", "main", "sample_questions"]

MAPS = ("share", "negative", "positive", "chance")
COVERED = 0.25
"""The fraction of a token that a part has to cover for the token to be in its region."""


@dataclass(frozen=True)
class Question:
    """A scene, and one of its parts to localise.

    Arguments:
        scene: The scene.
        part: The part.
        region: Whether each image token shows it, with shape (rows, columns).
    """

    scene: Scene
    part: str
    region: np.ndarray

    @property
    def prompt(self) -> str:
        """A prompt that does not name the part."""
        return plain_prompt(self.scene.object, str(self.scene.color), self.scene.ground)

    @property
    def naming(self) -> str:
        """A prompt that names the part."""
        return self.prompt.replace(" on ", f" with {self.part} on ", 1)


def sample_questions(split: Split, count: int, side: int) -> list[Question]:
    """Scenes of a split, each with a part that covers at least one of side x side tokens, but not half of them."""
    rng = random.Random(f"{split} regions")
    result: list[Question] = []
    while len(result) < count:
        scene = replace(sample_scene(rng, split, absent=0.0), sky="day")
        part = rng.choice(OBJECTS[scene.object])
        labels = part_map(scene)
        cell = labels.shape[0] // side
        covered = labels == 2 + OBJECTS[scene.object].index(part)
        region = covered.reshape(side, cell, side, cell).mean((1, 3)) >= COVERED
        if 0 < region.sum() < region.size / 2:
            result.append(Question(scene, part, region))
    return result


def area(values: np.ndarray, region: np.ndarray) -> float:
    """The area under the ROC curve: how often a token inside has a larger value than one outside. A tie is a half."""
    inside, outside = values[region][:, None], values[~region][None]
    return float((inside > outside).mean() + (inside == outside).mean() / 2)


def _points(values: np.ndarray, region: np.ndarray) -> float:
    """Whether the greatest value is in the region."""
    return float(region.ravel()[values.argmax()])


@torch.no_grad()
def _record(
    pipe: Any, model: FlowModel, preset: Preset, question: Question, prompt: str, latents: Tensor, noise: Tensor
) -> Maps:
    """The maps of one question, each step from the true scene at that step's noise."""
    family = family_of(pipe)
    special = bool(preset.method.get("special_tokens", True))
    tokens = family.tokens(pipe, prompt, [question.part], special, preset.max_sequence_length)
    recorder = Recorder(NoGuidance(), Selection(words=(question.part,)).tokens(tokens))
    recorder.special_tokens = special
    others = [None] * sum(name.startswith("text_encoder_") for name in pipe.components)
    text = pipe.encode_prompt(prompt, *others, max_sequence_length=preset.max_sequence_length)[0]
    with recorder.recording(pipe), guided(pipe, question.part, recorder):
        for sigma in pipe.scheduler.sigmas[:-1]:
            model.velocity(pipe.transformer, torch.lerp(latents, noise, sigma), sigma[None], text)
    return recorder.maps()


def localise(pipe: Any, preset: Preset, questions: list[Question]) -> Iterator[dict[str, np.ndarray]]:
    """The maps of each question, by name, with the axes (step, block, row, column)."""
    model = IMAGE_MODELS[family_of(pipe).name](load_tokenizers(SHIPPED), pipe.transformer.config.num_attention_heads)
    _set_sigmas(pipe, preset.num_inference_steps)
    chance = np.random.default_rng(0)
    for number, question in enumerate(questions):
        with torch.no_grad():
            latents = normalised_latents(pipe.vae, pixels(render([question.scene])))
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(number))
        plain = _record(pipe, model, preset, question, question.prompt, latents, noise)
        naming = _record(pipe, model, preset, question, question.naming, latents, noise)
        maps = {
            "share": plain.share,
            "negative": plain.word(question.part),
            "positive": naming.word(question.part, "positive"),
        }
        yield {name: values[:, :, 0, 0] for name, values in maps.items()} | {
            "chance": chance.random(maps["share"][:, :, 0, 0].shape)
        }


def _set_sigmas(pipe: Any, steps: int) -> None:
    """Sets the sigmas of a run, as the pipeline does."""
    if family_of(pipe).name == "flux":
        pipe.scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps).tolist())
    else:
        pipe.scheduler.set_timesteps(steps)


def _scores(values: np.ndarray, region: np.ndarray) -> tuple[float, float]:
    return area(values, region), _points(values, region)


def measure(preset: Preset, split: Split, count: int) -> dict[str, Any]:
    """The area under the ROC curve and the pointing accuracy of each map, per step (mean of blocks) and per block.

    Raises:
        RequestError: If the preset is not of an image model with drawn scenes.
    """
    if preset.family not in IMAGE_MODELS:
        known = " and ".join(IMAGE_MODELS)
        raise RequestError(f"preset {preset.name} is of family {preset.family}, but maps are measured of {known}")
    pipe = load(preset.model, preset.dtype)
    questions = sample_questions(split, count, IMAGE_TOKENS_SIDE)
    rows: dict[str, list[dict[str, list[tuple[float, float]]]]] = {name: [] for name in MAPS}
    bar = track(
        localise(pipe, preset, questions),
        "scenes",
        count,
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
    for question, maps in zip(questions, bar, strict=True):
        for name, values in maps.items():
            rows[name].append(
                {
                    "step": [_scores(step.mean(0), question.region) for step in values],
                    "block": [_scores(values[:, block].mean(0), question.region) for block in range(values.shape[1])],
                    "all": [_scores(values.mean((0, 1)), question.region)],
                }
            )
    conditions = {
        "model": preset.model,
        "split": split,
        "scenes": count,
        "sigmas": [round(float(sigma), 4) for sigma in pipe.scheduler.sigmas[:-1]],
        "region": f"tokens covered by {COVERED:g} or more; mean {np.mean([one.region.mean() for one in questions]):.3f} of all",
        "dtype": preset.dtype,
        **versions(),
    }
    return {"conditions": conditions, "scores": {name: _means(scores) for name, scores in rows.items()}}


def _means(rows: list[dict[str, list[tuple[float, float]]]]) -> dict[str, Any]:
    return {
        axis: [
            {"auc": round(float(auc), 4), "pointing": round(float(pointing), 4)}
            for auc, pointing in np.mean([row[axis] for row in rows], axis=0)
        ]
        for axis in ("step", "block", "all")
    }


def _print_table(report: Mapping[str, Any]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    console.print(", ".join(f"{key} {value}" for key, value in report["conditions"].items()))
    console.print("area under the ROC curve / pointing accuracy")
    console.print(f"{'':8}" + "".join(f"{name:>16}" for name in MAPS))
    for axis in ("step", "block", "all"):
        for index in range(len(report["scores"]["share"][axis])):
            cells = [report["scores"][name][axis][index] for name in MAPS]
            label = "all" if axis == "all" else f"{axis} {index + 1}"
            pairs = (f"{cell['auc']:.3f} / {cell['pointing']:.3f}" for cell in cells)
            console.print(f"{label:8}" + "".join(f"{pair:>16}" for pair in pairs))


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m training.localise", description=__doc__)
    parser.add_argument("--preset", default="tiny-sd3-turbo")
    parser.add_argument("--split", choices=("dev", "test"), default="dev")
    parser.add_argument("--scenes", type=at_least(1), default=200)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    split: Split = options.split
    say(f"measuring {options.scenes} scenes of the {split} split")
    report = measure(load_preset(options.preset), split, options.scenes)
    if options.json:
        print(json.dumps(report))
        return
    _print_table(report)


if __name__ == "__main__":
    run(main)
