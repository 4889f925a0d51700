"""Makes pipelines of trained Stable Diffusion 3 weights: `python -m training.adopt RESULTS FOLDER`.

Reads sd3-base.safetensors and sd3-student.safetensors, as `training.train_images` writes them. Writes FOLDER/tiny-sd3 and
FOLDER/tiny-sd3-turbo: the transformer and the text encoders are the trained ones, in bfloat16; the tokenizers, the autoencoder
and the scheduler are copied from the pipelines that the package ships.
"""

import argparse
import shutil
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from training.command import run
from training.image_flow import HEAD_DIM, SD3Encoders, load_tokenizers
from training.train_images import SHIPPED
from vsf_cli.toy.image_recipe import build_transformer

__all__ = ["adopt", "main"]

BASE, STUDENT = "tiny-sd3", "tiny-sd3-turbo"
ENCODERS = {"text_encoder": "clip", "text_encoder_2": "clip_2", "text_encoder_3": "t5"}
"""The folders of a pipeline with the names of the modules of `SD3Encoders`."""


def _module_weights(weights: dict[str, Tensor], module: str) -> dict[str, Tensor]:
    """The state dict of one module of a file whose keys are "module/weight"."""
    prefix = f"{module}/"
    return {key.removeprefix(prefix): tensor for key, tensor in weights.items() if key.startswith(prefix)}


def _write_pipeline(folder: Path, transformer: dict[str, Tensor], encoders: dict[str, Tensor]) -> None:
    """Copies the shipped pipeline of the same name, then replaces its transformer and its text encoders."""
    model = build_transformer(transformer["proj_out.weight"].shape[1] // HEAD_DIM)
    model.load_state_dict(transformer)
    text = SD3Encoders(*load_tokenizers(SHIPPED))
    text.load_state_dict(encoders)
    replaced = {"transformer": model, **{name: getattr(text, module) for name, module in ENCODERS.items()}}
    shutil.copytree(SHIPPED.parent / folder.name, folder, ignore=shutil.ignore_patterns(*replaced))
    for name, module in replaced.items():
        module.bfloat16().save_pretrained(folder / name)


def adopt(base: Path, student: Path, folder: Path) -> list[Path]:
    """Writes the pipelines of a base model and of its student, which share the text encoders of the base model.

    Arguments:
        base: The safetensors file of the base model, with its text encoders.
        student: The safetensors file of the student.
        folder: Where the folders of the pipelines are made. It must not hold pipelines of the same names.

    Returns:
        The folders of the pipelines.

    Raises:
        FileExistsError: If a pipeline exists already. Nothing is written then.
    """
    targets = [folder / BASE, folder / STUDENT]
    for target in targets:
        if target.exists():
            raise FileExistsError(f"{target} exists: give another folder, or move it away")
    base_weights, student_weights = load_file(base), load_file(student)
    encoders = _module_weights(base_weights, "encoders")
    for target, weights in zip(targets, (base_weights, student_weights), strict=True):
        _write_pipeline(target, _module_weights(weights, "transformer"), encoders)
    return targets


def main() -> None:
    """Runs the command. Prints the folders of the pipelines, one a line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.adopt", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path, help="where sd3-base.safetensors and sd3-student.safetensors are")
    parser.add_argument("folder", type=Path, help="where tiny-sd3 and tiny-sd3-turbo are written")
    options = parser.parse_args()
    base, student = (options.results / f"sd3-{name}.safetensors" for name in ("base", "student"))
    try:
        print(*adopt(base, student, options.folder), sep="\n")
    except OSError as error:
        parser.exit(1, f"error: {error}\n")


if __name__ == "__main__":
    run(main)
