"""Trains the embedded image models: `python -m training.train_images --folder FOLDER --model sd3`.

For each model: a base model, then a student that runs in few steps without CFG. A budget is a number of steps (9000) or of
seconds (220s); the learning rate falls with the used fraction. A run that was cut off continues by the same command. With
--autoencoder, the autoencoder and the tokenizers are trained first; without it, those of the package are used.

Writes MODEL-base.safetensors, MODEL-student.safetensors, MODEL.json and MODEL-samples.png; with --export, also pipelines.
On a GPU: --device cuda --heads 6 --scenes 100000 --base 220s --student 130s.
"""

import argparse
import random
import time
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusion3Pipeline
from torch import Tensor, nn

from training.command import at_least, run
from training.examples import CHUNK, Examples
from training.flow import FlowModel, Settings, TrainedModel, rehearse, sample, train
from training.image_autoencoder import normalised_latents, pixels, train_autoencoder
from training.image_flow import IMAGE_DRAWING, IMAGE_MODELS, SD3Model, load_tokenizers
from training.loop import Budget, autocast
from training.results import (
    add_training_options,
    budget,
    export_pipeline,
    prefixed,
    sample_sheet,
    settings_from,
    write_report,
    write_weights,
)
from vsf_cli.toy.image_recipe import build_scheduler, build_student_scheduler
from vsf_cli.toy.scenes import caption, sample_scene, vocabulary

__all__ = ["encoder_of", "main", "write_samples"]

SHIPPED = Path(str(resources.files("vsf_cli.toy"))) / "weights" / "tiny-sd3"
SAMPLES, COLUMNS = 64, 8


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.train_images", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_training_options(parser)
    parser.add_argument("--model", choices=list(IMAGE_MODELS), action="append", help="repeatable; default: sd3")
    parser.add_argument("--autoencoder", type=budget, metavar="BUDGET", help="train it and the tokenizers too")
    parser.add_argument("--base", type=budget, metavar="BUDGET", default=Budget(9000))
    parser.add_argument("--student", type=budget, metavar="BUDGET", default=Budget(600))
    parser.add_argument("--scenes", type=at_least(1), default=40_000)
    parser.add_argument("--batch", type=at_least(1), default=1024, help="samples of a step of the base model")
    parser.add_argument("--student-batch", type=at_least(1), default=512)
    return parser


def _autoencoder(options: argparse.Namespace, device: torch.device) -> AutoencoderKL:
    if options.autoencoder:
        return train_autoencoder(options.folder, options.autoencoder, device)
    return AutoencoderKL.from_pretrained(SHIPPED / "vae", torch_dtype=torch.float32).to(device).eval()


def encoder_of(vae: AutoencoderKL) -> Any:
    """A function from drawn images to their normalised latents."""

    @torch.no_grad()
    def encode(images: np.ndarray) -> Tensor:
        with autocast(vae.device):
            return normalised_latents(vae, pixels(images).to(vae.device))

    return encode


def _captions() -> list[str]:
    rng = random.Random(5)
    return ["a red bike on a road"] * COLUMNS + [caption(sample_scene(rng, "dev"), rng) for _ in range(SAMPLES - COLUMNS)]


@torch.no_grad()
def write_samples(
    path: Path, model: FlowModel, student: nn.Module, encoders: nn.Module, vae: AutoencoderKL, device: torch.device
) -> list[str]:
    """Writes an image of samples, and returns their captions."""
    captions = _captions()
    latents = sample(model, student, encoders, captions, device)
    images = vae.decode(latents / vae.config.scaling_factor + vae.config.shift_factor).sample
    sample_sheet(images, COLUMNS).save(path)
    return captions


def _write(model: FlowModel, trained: TrainedModel, vae: AutoencoderKL, settings: Settings, results: Path, scenes: int) -> None:
    """Writes weights, report and samples."""
    base = prefixed(transformer=trained.base, encoders=trained.encoders)
    write_weights(results / f"{model.name}-base.safetensors", base)
    write_weights(results / f"{model.name}-student.safetensors", prefixed(transformer=trained.student))
    parts = trained.student, trained.encoders, vae
    captions = write_samples(results / f"{model.name}-samples.png", model, *parts, settings.device)
    parameters = sum(parameter.numel() for parameter in trained.base.parameters())
    facts = {"model": model.name, "scenes": scenes, "width": model.width, "parameters": parameters, **trained.summaries}
    write_report(results / f"{model.name}.json", settings, {**facts, "captions": captions})


def _pipeline(model: SD3Model, trained: TrainedModel, vae: AutoencoderKL, name: str) -> StableDiffusion3Pipeline:
    encoders: Any = trained.encoders
    clip_tokenizer, t5_tokenizer = model.tokenizers
    return StableDiffusion3Pipeline(
        transformer=trained.student if name == "student" else trained.base,
        scheduler=build_student_scheduler() if name == "student" else build_scheduler(),
        vae=vae,
        text_encoder=encoders.clip,
        tokenizer=clip_tokenizer,
        text_encoder_2=encoders.clip_2,
        tokenizer_2=clip_tokenizer,
        text_encoder_3=encoders.t5,
        tokenizer_3=t5_tokenizer,
    )


def main() -> None:
    """Runs the command."""
    started, parser = time.monotonic(), _parser()
    options = parser.parse_args()
    names = options.model or ["sd3"]
    if options.export and names != ["sd3"]:
        parser.error("--export writes pipelines of sd3 alone: give --model sd3 and no other")
    folder, results = options.folder, options.results or options.folder
    for path in (folder, results):
        path.mkdir(parents=True, exist_ok=True)
    device = torch.device(options.device)
    vae = _autoencoder(options, device)
    tokenizers = load_tokenizers(folder if options.autoencoder else SHIPPED)
    models = [IMAGE_MODELS[name](tokenizers, options.heads) for name in names]

    encode, deadline = encoder_of(vae), started + options.deadline
    if not options.no_rehearsal:
        few = Examples.encode(IMAGE_DRAWING, CHUNK, encode, folder / "few.safetensors").to(device)
        for model in models:
            rehearse(model, few, settings_from(options, folder))
    examples = Examples.encode(IMAGE_DRAWING, options.scenes, encode, folder / "scenes.safetensors", options.workers)
    examples = examples.to(device)
    for model in models:
        settings = settings_from(options, folder / model.name)
        budgets = (replace(length, deadline=deadline) for length in (options.base, options.student))
        trained = train(model, examples, settings, *budgets)
        _write(model, trained, vae, settings, results, len(examples.scenes))
        if options.export and isinstance(model, SD3Model):
            for name, target in (("base", "tiny-sd3"), ("student", "tiny-sd3-turbo")):
                export_pipeline(_pipeline(model, trained, vae, name), options.export / target, vocabulary())


if __name__ == "__main__":
    run(main)
