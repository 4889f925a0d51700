"""The files of a training: weights, a report of conditions and losses, an image of samples, and pipelines."""

import json
import os
import shutil
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from training.attention import ATTENTIONS
from training.command import at_least
from training.flow import Settings
from training.loop import Budget
from vsf_cli.bench.report import conditions

__all__ = [
    "add_training_options",
    "budget",
    "export_pipeline",
    "prefixed",
    "sample_sheet",
    "settings_from",
    "write_report",
    "write_weights",
]


def add_training_options(parser: ArgumentParser, rehearses: bool = True) -> None:
    """Adds the options that all trainings share; `rehearses` says whether this one tries its stages first."""
    parser.add_argument("--folder", type=Path, required=True, help="folder of the checkpoints")
    parser.add_argument("--results", type=Path, help="folder of weights, report and samples; default: that of --folder")
    parser.add_argument("--export", type=Path, help="folder for pipelines; those of the package are in vsf_cli/toy/weights")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--heads", type=at_least(1), default=4, help="heads of the transformers, each with 32 channels")
    parser.add_argument("--micro", type=at_least(0), default=0, help="samples of one backward pass; 0: the whole batch")
    parser.add_argument(
        "--workers", type=at_least(0), default=max(0, (os.cpu_count() or 1) - 2), help="processes that draw scenes"
    )
    parser.add_argument("--attention", choices=list(ATTENTIONS), help="default: fused on cuda, written on the cpu")
    parser.add_argument("--no-compile", action="store_true", help="do not compile the blocks")
    if rehearses:
        parser.add_argument("--no-rehearsal", action="store_true", help="do not try three steps of each stage first")
    parser.add_argument("--rate", type=float, default=1.0, help="a factor of the learning rates, but for a student's")
    parser.add_argument("--deadline", type=float, default=float("inf"), help="seconds after which budgets of seconds end")


def settings_from(options: Namespace, folder: Path) -> Settings:
    """The settings of the options, with checkpoints in `folder`."""
    device = torch.device(options.device)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
    # Every block is compiled for the base model, the teacher and the student.
    torch._dynamo.config.recompile_limit = 64
    return Settings(
        device,
        folder,
        options.batch,
        getattr(options, "student_batch", 0),
        options.micro,
        options.workers,
        options.attention or ("fused" if device.type == "cuda" else "written"),
        not options.no_compile,
        options.rate,
    )


def budget(text: str) -> Budget:
    """The budget of an option. argparse would not show the text of a `ValueError`."""
    try:
        return Budget.parse(text)
    except ValueError as error:
        raise ArgumentTypeError(f"'{text}' is not a budget: give steps (9000) or seconds (220s)") from error


def prefixed(**modules: nn.Module) -> dict[str, Tensor]:
    """The weights of modules, named "module/weight"."""
    return {f"{name}/{key}": tensor for name, module in modules.items() for key, tensor in module.state_dict().items()}


def write_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Writes a safetensors file, floating-point weights in bfloat16."""
    cast = {key: tensor.bfloat16() if tensor.is_floating_point() else tensor for key, tensor in weights.items()}
    save_file({key: tensor.detach().cpu().clone().contiguous() for key, tensor in cast.items()}, path)


def write_report(path: Path, settings: Settings, facts: Mapping[str, Any]) -> None:
    """Writes the conditions of a run (machine, versions, date, settings) with its facts as JSON."""
    options = {key: getattr(settings, key) for key in ("attention", "compiled", "micro", "rate")}
    report = {**conditions(settings.device), "written": datetime.now(UTC).isoformat("T", "seconds"), **options, **facts}
    path.write_text(json.dumps(report, indent=1) + "\n", "utf-8")


def sample_sheet(rows: Tensor, columns: int) -> Image.Image:
    """One image with rows of `columns` images, of images with shape (count, 3, side, side) and values of -1 to 1."""
    pixels = ((rows.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    count, side = len(pixels), pixels.shape[1]
    grid = pixels.reshape(count // columns, columns, side, side, 3).swapaxes(1, 2)
    return Image.fromarray(np.ascontiguousarray(grid.reshape(-1, columns * side, 3)))


def export_pipeline(pipe: DiffusionPipeline, path: Path, vocabulary: list[str]) -> None:
    """Writes the folder of a pipeline in bfloat16, with its vocabulary. The pipeline itself is cast and moved to the CPU."""
    shutil.rmtree(path, ignore_errors=True)
    pipe.to("cpu", torch.bfloat16).save_pretrained(path, safe_serialization=True)
    for file in path.rglob("*.json"):
        # diffusers notes the folder that a part was loaded from, and newer versions of transformers a name of their own.
        lines = (line for line in file.read_text("utf-8").splitlines(keepends=True) if '"_name_or_path"' not in line)
        file.write_text("".join(lines).replace('"TokenizersBackend"', '"PreTrainedTokenizerFast"'), "utf-8")
    (path / "vocabulary.txt").write_text("\n".join(vocabulary) + "\n", "utf-8")
