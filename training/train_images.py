"""Trains the embedded models from nothing: `python -m training.train_images --folder FOLDER`.

Stages, in order: the autoencoder, the base model, the student, the judge. Each writes checkpoints to the folder and goes on
from them, so that a run that was cut off is taken up by the same command. At the end, `--export` writes the pipelines' folders
in bfloat16.
"""

import argparse
import json
import random
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from safetensors.torch import save_file

from training.image_autoencoder import train_autoencoder
from training.image_flow import Examples, TextEncoders, train_base, train_student
from training.judge import accuracy, train_judge
from training.labelled_images import damaged_images, read_labelled_images, whole_images
from training.model_artifacts import ModelArtifacts
from vsf_cli.loading.pipelines import load
from vsf_cli.settings.presets import DEFAULT_PRESET, load_preset
from vsf_cli.toy.image_recipe import build_scheduler, build_student_scheduler
from vsf_cli.toy.judge import FILE
from vsf_cli.toy.scenes import sample_scene, vocabulary

__all__ = ["main"]

LABELS = Path(__file__).parents[1] / "docs" / "labels" / "train"
STAGES = ("autoencoder", "base", "student", "judge")


def _pipeline(
    transformer: SD3Transformer2DModel,
    scheduler: FlowMatchEulerDiscreteScheduler,
    vae: AutoencoderKL,
    encoders: TextEncoders,
) -> StableDiffusion3Pipeline:
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=scheduler,
        vae=vae,
        text_encoder=encoders.clip,
        tokenizer=encoders.clip_tokenizer,
        text_encoder_2=encoders.clip_2,
        tokenizer_2=encoders.clip_tokenizer,
        text_encoder_3=encoders.t5,
        tokenizer_3=encoders.t5_tokenizer,
    )


def _export(pipe: StableDiffusion3Pipeline, place: Path) -> None:
    """Writes a pipeline's folder in bfloat16, with the words that it knows."""
    shutil.rmtree(place, ignore_errors=True)
    pipe.to("cpu", torch.bfloat16).save_pretrained(place, safe_serialization=True)
    for path in place.rglob("*.json"):
        # diffusers notes the folder that a part was loaded from.
        path.write_text("".join(line for line in path.open() if '"_name_or_path"' not in line), "utf-8")
    (place / "vocabulary.txt").write_text("\n".join(vocabulary()) + "\n", "utf-8")


def main() -> None:
    """Runs the stages."""
    parser = argparse.ArgumentParser(prog="python -m training.train_images", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where checkpoints are written and found again")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda, which was never tried")
    parser.add_argument("--until", choices=STAGES, default="judge", help="the last stage to run")
    parser.add_argument("--judge-only", action="store_true", help="run the autoencoder and the judge alone")
    parser.add_argument("--autoencoder-steps", type=int, default=2200)
    parser.add_argument("--base-steps", type=int, default=9000)
    parser.add_argument("--student-steps", type=int, default=600)
    parser.add_argument("--judge-steps", type=int, default=5600)
    parser.add_argument("--labels", type=Path, default=LABELS, help="pictures labelled by eye, which the judge learns from too")
    parser.add_argument(
        "--export", type=Path, help="where what was trained is written; the package's own is vsf_cli/toy/weights"
    )
    options = parser.parse_args()
    folder, wanted = options.folder, STAGES[: STAGES.index(options.until) + 1]
    wanted = ("autoencoder", "judge") if options.judge_only else wanted
    if "judge" in wanted and not (options.labels / "labels.csv").is_file():
        parser.error(
            f"{options.labels} has no labels.csv: give --labels docs/labels/train of the repository, or --until student"
        )
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_default_device(options.device)

    vae = train_autoencoder(folder, options.autoencoder_steps)
    if "base" in wanted:
        examples = Examples.encode(vae, folder)
        base, encoders = train_base(examples, folder, options.base_steps)
    if "student" in wanted:
        # A student belongs to the base model that it was taught by.
        place = folder / f"student-of-{options.base_steps}"
        place.mkdir(exist_ok=True)
        student = train_student(base, encoders, build_student_scheduler(), examples, place, options.student_steps)
        pipe = _pipeline(student, build_student_scheduler(), vae, encoders)
    if "judge" in wanted:
        preset = load_preset(DEFAULT_PRESET)
        if "student" not in wanted:
            pipe = load(preset.model, "float32")
        artifacts = ModelArtifacts(pipe.components, preset.guidance())
        judge = train_judge(artifacts, read_labelled_images(options.labels), folder, options.judge_steps)
        whole = whole_images([sample_scene(random.Random(f"judge {index}"), "dev", 0.5) for index in range(1000)])
        damaged = damaged_images(random.Random("judge"), "dev", 1000, artifacts)
        print(json.dumps({"whole renders, dev split": accuracy(judge, whole), "damaged ones": accuracy(judge, damaged)}))
    if options.export:
        # The judge goes first: casting the pipelines to bfloat16 changes the parts that they share.
        if "judge" in wanted:
            file = options.export / "judge" / FILE.name
            file.parent.mkdir(parents=True, exist_ok=True)
            save_file({key: tensor.bfloat16().contiguous() for key, tensor in judge.state_dict().items()}, file)
        if "student" in wanted:
            _export(_pipeline(base, build_scheduler(), vae, encoders), options.export / "tiny-sd3")
            _export(pipe, options.export / "tiny-sd3-turbo")


if __name__ == "__main__":
    main()
