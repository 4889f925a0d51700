"""Trains a judge: `python -m training.train_judge --folder FOLDER`, and with `--judge scenes-2` or `scenes-video` another.

It learns from drawings, from generated images with artifacts of a student, and from images that were labelled by eye. A run
that was cut off continues by the same command. Prints the judge's accuracy on the dev split as JSON.
"""

import argparse
import json
import random
from pathlib import Path

from safetensors.torch import save_file

from training.command import run, say
from training.judge import RECIPES, accuracy, train_judge
from training.labelled_images import LabelledImages, damaged_images, read_labelled_images, whole_images
from training.loop import Budget
from training.model_artifacts import FrameArtifacts, ModelArtifacts
from training.results import budget
from vsf_cli.loading.pipelines import load
from vsf_cli.settings.presets import DEFAULT_PRESET, load_preset
from vsf_cli.toy.networks import NETWORKS
from vsf_cli.toy.scenes import sample_scene
from vsf_cli.toy.video_scenes import sample_video

__all__ = ["main"]

LABELS = Path(__file__).parents[1] / "docs" / "labels"


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        prog="python -m training.train_judge", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--judge", choices=tuple(NETWORKS), default="scenes")
    parser.add_argument("--folder", type=Path, required=True, help="folder of the checkpoints")
    parser.add_argument("--steps", type=budget, metavar="BUDGET", help="default: the judge's own")
    parser.add_argument("--student", help="the folder of the student's pipeline; default: the package's own")
    parser.add_argument("--labels", type=Path, nargs="+", help="folders of images labelled by eye; default: the judge's own")
    parser.add_argument("--export", type=Path, help="folder for the judge; that of the package: vsf_cli/toy/weights")
    options = parser.parse_args()
    network = NETWORKS[options.judge]
    folders = options.labels or [LABELS / name for name in RECIPES[network].labels]
    if missing := [folder for folder in folders if not (folder / "labels.csv").is_file()]:
        parser.error(f"{missing[0]} has no labels.csv: give --labels with folders of docs/labels of the repository")
    video = RECIPES[network].video
    if video and options.student:
        parser.error(f"--student is for images, but {options.judge} learns from frames of videos: leave it out")
    options.folder.mkdir(parents=True, exist_ok=True)

    say("loading the models and the labelled images")
    artifacts = FrameArtifacts(load("builtin:tiny-wan", "float32").vae) if video else _artifacts(options.student)
    labelled = LabelledImages.join([read_labelled_images(folder) for folder in folders])
    judge = train_judge(network, artifacts, labelled, options.folder, options.steps or Budget(RECIPES[network].steps))
    sample = sample_video if video else sample_scene
    whole = whole_images([sample(random.Random(f"judge {index}"), "dev", 0.5) for index in range(1000)])
    damaged = damaged_images(random.Random("judge"), "dev", 1000, artifacts, video)
    print(json.dumps({"whole renders, dev split": accuracy(judge, whole), "damaged ones": accuracy(judge, damaged)}))
    if options.export:
        file = options.export / network.name / network.file().name
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({key: tensor.bfloat16().contiguous() for key, tensor in judge.state_dict().items()}, file)


def _artifacts(student: str | None) -> ModelArtifacts:
    preset = load_preset(DEFAULT_PRESET)
    return ModelArtifacts(load(student or preset.model, "float32").components, preset.guidance())


if __name__ == "__main__":
    run(main)
