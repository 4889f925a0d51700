"""Finds models in the package, in folders and on the hub, and reads their configuration files."""

import json
import os
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from vsf_cli.config.values import parse_path
from vsf_cli.errors import ModelError

__all__ = [
    "BUILTIN",
    "Source",
    "builtin_path",
    "cached_file",
    "index_of",
    "is_here",
    "pipeline_of",
    "read_configuration",
    "source_of",
    "vocabulary_of",
]

BUILTIN = "builtin:"
"""The prefix of models and LoRA files that ship with the package."""


@dataclass(frozen=True)
class Source:
    """The name of a model, and its folder on this machine, which is None for a hub id."""

    name: str
    folder: Path | None

    @property
    def location(self) -> str:
        """The path or hub id that diffusers loads from."""
        return str(self.folder) if self.folder else self.name


def builtin_path(name: str) -> Path:
    """Returns the folder or file of `builtin:NAME`, whether it exists or not."""
    return Path(str(resources.files("vsf_cli") / "toy" / "weights" / name.removeprefix(BUILTIN)))


def source_of(model: str) -> Source:
    """Finds a model by `builtin:NAME`, a folder, or a hub id.

    Raises:
        ModelError: If the folder does not exist, or the text is none of these.
    """
    if model.startswith(BUILTIN):
        folder = builtin_path(model)
        if not os.path.isdir(folder):
            raise ModelError(f"model '{model}' is not in this package: see 'vsf presets list'")
        return Source(model, folder)
    path = parse_path(model)
    if os.path.isdir(path):  # `Path.is_dir` raises for a name that is too long.
        return Source(model, path)
    if path.is_absolute() or model.startswith((".", "~")) or not re.fullmatch(r"[\w.\-]+/[\w.\-]+", model):
        raise ModelError(
            f"model '{model}' is neither a folder on this machine nor a hub id such as owner/name: give one of these with -m"
        )
    return Source(model, None)


def index_of(source: Source) -> Path | None:
    """Returns the index of a model's folder; None for a hub id.

    Raises:
        ModelError: If the folder has none.
    """
    index = source.folder / "model_index.json" if source.folder else None
    if index is not None and not index.is_file():
        raise ModelError(f"model '{source.name}' has no model_index.json: give the folder of a diffusers pipeline")
    return index


def vocabulary_of(model: str) -> frozenset[str] | None:
    """Returns the words in `vocabulary.txt` of a model's folder; None, if there is no such file, means all words."""
    folder = source_of(model).folder
    path = folder / "vocabulary.txt" if folder else None
    return frozenset(path.read_text("utf-8").split()) if path and path.is_file() else None


def pipeline_of(model: str) -> str | None:
    """Returns the class of a model's pipeline; None if its index is not on this machine."""
    try:
        name: str | None = read_configuration(model, None, "model_index.json").get("_class_name")
    except (ModelError, ValueError):
        return None  # `load` raises it, where it matters.
    return name


def cached_file(model: str, name: str, revision: str | None) -> Path | None:
    """Returns a file of a hub id in the cache; None if it is not there."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(model, name, revision=revision)
    return Path(path) if isinstance(path, str) else None


def read_configuration(model: str, revision: str | None, name: str) -> dict[str, Any]:
    """Returns a configuration file of a model; nothing if it is not on this machine, or is damaged."""
    folder = source_of(model).folder
    path = folder / name if folder else cached_file(model, name, revision)
    try:
        config = json.loads(path.read_text("utf-8")) if path else {}
    except (OSError, ValueError):
        return {}  # `load` raises the error, with its cause.
    return config if isinstance(config, dict) else {}


def is_here(model: str, revision: str | None) -> bool:
    """Returns whether a model's weights are on this machine: in a folder, or its transformer in the hub's cache.

    Raises:
        ModelError: If the model is neither a folder nor a hub id.
    """
    if source_of(model).folder is not None:
        return True
    from huggingface_hub.errors import HFValidationError

    names = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors.index.json")
    try:
        return any(cached_file(model, f"{part}/{name}", revision) for part in ("transformer", "unet") for name in names)
    except HFValidationError as error:
        raise ModelError(f"model '{model}' is no name of the hub: {error}") from error
