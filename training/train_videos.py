"""Trains the embedded video model: `python -m training.train_videos --folder FOLDER`.

Stages: the autoencoder, the base model (on single frames, then on videos too), and a LoRA for 8 steps without CFG. A budget is
a number of steps (6600) or of seconds (190s); the learning rate falls with the used fraction. A run that was cut off continues
by the same command.

Writes wan-autoencoder.safetensors, wan-base.safetensors, wan-lora.safetensors, wan.json and wan-samples.png; with --export,
also the pipeline and its LoRA.
On a GPU: --device cuda --heads 6 --base-dim 20 --videos 24000 --autoencoder 110s --base 190s --lora 80s.
"""

import argparse
import random
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanPipeline
from safetensors.torch import save_file
from torch import Tensor

from training.command import at_least, run
from training.examples import CHUNK, Examples
from training.flow import Settings, TrainedModel, rehearse, sample, train
from training.loop import Budget
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
from training.video_autoencoder import normalised_video_latents, train_video_autoencoder
from training.video_flow import VIDEO_DRAWING, WanModel, load_tokenizer
from training.wan_names import original_name
from vsf_cli.toy.video_recipe import LORA_RANK, build_student_scheduler
from vsf_cli.toy.video_scenes import sample_video, video_caption, video_vocabulary

__all__ = ["main", "published_lora"]

SAMPLES, SHOWN_FRAMES = 16, (0, 4, 8, 12, 16)
VIDEOS_PER_ROW = 2


def published_lora(lora: dict[str, Tensor]) -> dict[str, Tensor]:
    """A LoRA under the names that LoRAs for Wan are published with, in bfloat16, with its `alpha`.

    Arguments:
        lora: Weights by the names of diffusers.
    """
    published = {}
    for name, tensor in lora.items():
        module, kind = name.replace(".default", "").removesuffix(".weight").rsplit(".lora_", 1)
        prefix = f"diffusion_model.{original_name(module)}"
        published[f"{prefix}.lora_{'down' if kind == 'A' else 'up'}.weight"] = tensor.bfloat16().cpu().contiguous()
        published[f"{prefix}.alpha"] = torch.tensor(float(LORA_RANK)).bfloat16()
    return published


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.train_videos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_training_options(parser)
    parser.add_argument("--autoencoder", type=budget, metavar="BUDGET", default=Budget(6000))
    parser.add_argument("--autoencoder-batch", type=at_least(1), default=32)
    parser.add_argument("--base-dim", type=at_least(1), default=12, help="width of the autoencoder")
    parser.add_argument("--base", type=budget, metavar="BUDGET", default=Budget(6600))
    parser.add_argument("--lora", type=budget, metavar="BUDGET", default=Budget(600))
    parser.add_argument("--videos", type=at_least(1), default=8_000)
    parser.add_argument("--batch", type=at_least(1), default=2048, help="single frames of a step; of videos, a quarter")
    parser.add_argument("--student-batch", type=at_least(1), default=192, help="videos of a step of the LoRA")
    return parser


@torch.no_grad()
def _write(
    model: WanModel, trained: TrainedModel, vae: AutoencoderKLWan, settings: Settings, results: Path, videos: int
) -> None:
    """Writes weights, report and samples."""
    write_weights(results / "wan-autoencoder.safetensors", vae.state_dict())
    write_weights(results / "wan-base.safetensors", prefixed(transformer=trained.base, encoders=trained.encoders))
    save_file(published_lora(_lora(trained)), results / "wan-lora.safetensors")
    rngs = [random.Random(number) for number in range(SAMPLES - 4)]
    captions = ["a red car drives on a road"] * 4 + [video_caption(sample_video(rng, "dev"), rng) for rng in rngs]
    latents = sample(model, trained.student, trained.encoders, captions, settings.device)
    mean, std = (latents.new_tensor(part).view(1, -1, 1, 1, 1) for part in (vae.config.latents_mean, vae.config.latents_std))
    frames = vae.decode(latents * std + mean).sample[:, :, list(SHOWN_FRAMES)].transpose(1, 2).flatten(0, 1)
    sample_sheet(frames, VIDEOS_PER_ROW * len(SHOWN_FRAMES)).save(results / "wan-samples.png")
    facts: dict[str, Any] = {"model": model.name, "videos": videos, "width": model.width, "autoencoder": dict(vae.config)}
    write_report(results / "wan.json", settings, {**facts, **trained.summaries, "captions": captions})


def _lora(trained: TrainedModel) -> dict[str, Tensor]:
    return {name.replace("/", "."): tensor for name, tensor in trained.student_weights.items()}


def _export(model: WanModel, trained: TrainedModel, vae: AutoencoderKLWan, folder: Path) -> None:
    """Writes the pipeline's folder and the file of the LoRA."""
    encoders: Any = trained.encoders
    pipe = WanPipeline(
        tokenizer=model.tokenizer,
        text_encoder=encoders.encoder,
        vae=vae,
        scheduler=build_student_scheduler(),
        transformer=trained.base,
    )
    export_pipeline(pipe, folder / "tiny-wan", video_vocabulary())
    save_file(published_lora(_lora(trained)), folder / "tiny-wan-causvid-lora.safetensors")


def main() -> None:
    """Runs the command."""
    started, options = time.monotonic(), _parser().parse_args()
    folder, results = options.folder, options.results or options.folder
    for path in (folder, results):
        path.mkdir(parents=True, exist_ok=True)
    device = torch.device(options.device)
    lengths = (options.autoencoder, options.base, options.lora)
    autoencoder, base, lora = (replace(length, deadline=started + options.deadline) for length in lengths)
    model = WanModel(load_tokenizer(folder), options.heads)

    vae_of = partial(train_video_autoencoder, device=device, batch=options.autoencoder_batch, base_dim=options.base_dim)
    if not options.no_rehearsal:
        trial = folder / "rehearsal"
        trial.mkdir(exist_ok=True)
        encode = partial(normalised_video_latents, vae_of(trial, Budget(3)))
        few = Examples.encode(VIDEO_DRAWING, CHUNK, encode, trial / "few.safetensors").to(device)
        rehearse(model, few, settings_from(options, trial))
    vae = vae_of(folder, autoencoder, workers=options.workers)
    encode = partial(normalised_video_latents, vae)
    examples = Examples.encode(VIDEO_DRAWING, options.videos, encode, folder / "videos.safetensors", options.workers)
    settings = settings_from(options, folder / model.name)
    trained = train(model, examples.to(device), settings, base, lora)
    _write(model, trained, vae, settings, results, len(examples.scenes))
    if options.export:
        _export(model, trained, vae, options.export)


if __name__ == "__main__":
    run(main)
