"""Trains the built-in few-step Flux on what tiny-sd3-turbo does: `python -m training.train_flux --folder FOLDER`.

A step of it goes where tiny-sd3-turbo goes in two. So it needs no base model of its own, and a CPU will do: 50,000 lessons take
a quarter of an hour on two cores. A budget is a number of steps (9000) or of seconds (5000s); the learning rate falls with the
used fraction. A run that was cut off continues by the same command.

Writes tiny-flux-schnell.safetensors, .json and -samples.png; with --export, also the pipeline.
"""

import argparse
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import FluxPipeline, StableDiffusion3Pipeline
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from training.attention import prepare
from training.command import at_least, run
from training.examples import Examples
from training.flow import DECAY, Settings, averaged_model
from training.image_flow import IMAGE_DRAWING, FluxModel, SD3Model, load_tokenizers, special_ids
from training.lessons import Lessons, Teacher
from training.loop import Budget, Checkpoint, autocast, minimize, steps
from training.muon import optimizers_for
from training.regions import RegionHeads
from training.results import (
    add_training_options,
    budget,
    export_pipeline,
    prefixed,
    settings_from,
    write_report,
    write_weights,
)
from training.train_images import SHIPPED, encoder_of, write_samples
from vsf_cli.toy.image_recipe import TEXT_LENGTH, WIDTH, build_scheduler
from vsf_cli.toy.scenes import vocabulary

__all__ = ["main"]

TEACHER, STUDENT = "tiny-sd3-turbo", "tiny-flux-schnell"
REGION_WEIGHT = 0.1
"""Half of that of a base model: at the first sigma, which a quarter of the lessons have, no region can be seen."""


@dataclass(frozen=True)
class _Trained:
    """A few-step model and its text encoders, with averaged weights, and a summary of its training."""

    model: FluxModel
    transformer: nn.Module
    encoders: nn.Module
    summary: dict[str, Any]


def _distil(
    model: FluxModel, teacher: Teacher, examples: Examples, lessons: Lessons, settings: Settings, length: Budget
) -> _Trained:
    """Trains a few-step transformer and its T5, which starts as the teacher's."""
    torch.manual_seed(2)
    device = settings.device
    transformer, encoders = model.build_transformer().to(device).train(), model.build_encoders().to(device).train()
    encoders.t5.load_state_dict(teacher.encoders.t5.state_dict())  # type: ignore[union-attr]
    heads = RegionHeads(model.region_block(transformer), model.width).to(device)
    modules = {"transformer": transformer, "encoders": encoders, "heads": heads}
    optimizers = optimizers_for(transformer, [encoders, heads], fused=device.type == "cuda")
    checkpoint = Checkpoint(settings.folder / "distilled.safetensors", modules, optimizers, DECAY)
    prepare(model.blocks(transformer), model.processor, settings.attention, settings.compiled)

    def loss_of(scene: Tensor, tokens: Tensor, sigma: Tensor, noised: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        with autocast(device):
            text = encoders(tokens)
        velocity = model.predict(transformer, noised.float(), sigma, text, model.attended((tokens,)))
        return F.mse_loss(velocity, target.float()), REGION_WEIGHT * heads(*examples.regions.targets(scene, heads.tokens))

    for rng in steps("distilled", checkpoint, length, settings.rate):
        minimize(checkpoint, loss_of, *lessons.batch(rng, settings.batch, device), micro=settings.micro)

    heads.detach()
    averaged = averaged_model(model, encoders, checkpoint, device)
    return _Trained(model, averaged, encoders, checkpoint.summary(settings.batch))


def _teacher(tokenizers: Any, pipe: StableDiffusion3Pipeline, device: torch.device) -> Teacher:
    heads = pipe.transformer.config.num_attention_heads
    model = SD3Model(tokenizers, heads)
    encoders: Any = model.build_encoders()
    encoders.clip, encoders.clip_2, encoders.t5 = pipe.text_encoder, pipe.text_encoder_2, pipe.text_encoder_3
    frozen = (module.eval().requires_grad_(False).to(device) for module in (pipe.transformer, encoders))
    return Teacher(model, *frozen)


def _silent_clip(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A CLIP text encoder whose pooled vector is zero: with an informative one, a small model never looks at the words."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=TEXT_LENGTH,
        **special_ids(tokenizer),
    )
    model = CLIPTextModel(config)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return model


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.train_flux", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_training_options(parser, rehearses=False)
    parser.add_argument("--budget", type=budget, metavar="BUDGET", default=Budget(6000))
    parser.add_argument("--scenes", type=at_least(1), default=30_000)
    parser.add_argument("--lessons", type=at_least(1), default=49_152)
    parser.add_argument("--batch", type=at_least(1), default=64, help="lessons of a step")
    return parser


def _write(trained: _Trained, pipe: StableDiffusion3Pipeline, settings: Settings, results: Path, facts: dict[str, Any]) -> None:
    """Writes weights, report and samples."""
    write_weights(results / f"{STUDENT}.safetensors", prefixed(transformer=trained.transformer, encoders=trained.encoders))
    parts = trained.transformer, trained.encoders, pipe.vae
    captions = write_samples(results / f"{STUDENT}-samples.png", trained.model, *parts, settings.device)
    parameters = sum(parameter.numel() for parameter in trained.transformer.parameters())
    own = {"model": trained.model.name, "teacher": TEACHER, "width": trained.model.width, "parameters": parameters}
    write_report(results / f"{STUDENT}.json", settings, {**own, **facts, "student": trained.summary, "captions": captions})


def _pipeline(trained: _Trained, teacher: StableDiffusion3Pipeline) -> FluxPipeline:
    encoders: Any = trained.encoders
    clip_tokenizer, t5_tokenizer = trained.model.tokenizers
    return FluxPipeline(
        scheduler=build_scheduler(),
        vae=teacher.vae,
        text_encoder=_silent_clip(clip_tokenizer),
        tokenizer=clip_tokenizer,
        text_encoder_2=encoders.t5,
        tokenizer_2=t5_tokenizer,
        transformer=trained.transformer,
    )


def main() -> None:
    """Runs the command."""
    started, options = time.monotonic(), _parser().parse_args()
    folder, results = options.folder / STUDENT, options.results or options.folder
    for path in (folder, results):
        path.mkdir(parents=True, exist_ok=True)
    settings, tokenizers = settings_from(options, folder), load_tokenizers(SHIPPED)
    pipe = StableDiffusion3Pipeline.from_pretrained(SHIPPED.parent / TEACHER, torch_dtype=torch.float32)
    encode = encoder_of(pipe.vae.to(settings.device).eval())
    examples = Examples.encode(IMAGE_DRAWING, options.scenes, encode, folder / "scenes.safetensors", options.workers)
    examples = examples.to(settings.device)

    model, teacher = FluxModel(tokenizers, options.heads), _teacher(tokenizers, pipe, settings.device)
    lessons = Lessons.of(teacher, model.grid, examples, options.lessons, settings)
    length = replace(options.budget, deadline=started + options.deadline)
    trained = _distil(model, teacher, examples, lessons, settings, length)
    _write(trained, pipe, settings, results, {"scenes": len(examples.scenes), "lessons": len(lessons.scene)})
    if options.export:
        export_pipeline(_pipeline(trained, pipe), options.export / STUDENT, vocabulary())


if __name__ == "__main__":
    run(main)
