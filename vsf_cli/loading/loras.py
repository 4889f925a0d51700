"""Finds and loads LoRA files."""

import json
import logging
import math
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vsf_cli.config.values import parse_path
from vsf_cli.errors import ModelError, RequestError, VSFError
from vsf_cli.loading.hub import as_model_error, stays_offline
from vsf_cli.loading.sources import BUILTIN, builtin_path, cached_file
from vsf_cli.media.inputs import file_hash

if TYPE_CHECKING:
    from vsf_cli.loading.lora_keys import Tensors

__all__ = ["Lora", "hashes_of", "load_lora"]

LOG = logging.getLogger(__name__)

MISFIT = re.compile(r"size mismatch for (\S+?): .*?torch\.Size\((.+?)\) from checkpoint.*?torch\.Size\((.+?)\)")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
PICKLED = r"\.(bin|pt|pth|th|ckpt|pkl|pickle|lora)$"
DEFAULT_NAME = "pytorch_lora_weights.safetensors"
"""The file in a folder or repository of one LoRA by diffusers."""


@dataclass(frozen=True)
class Lora:
    """A LoRA file: `PATH_OR_ID[:weight_name][:SCALE]`, after `high-noise=` or `low-noise=` for one transformer of Wan 2.2.

    Arguments:
        source: A safetensors file, a folder, a hub id, or `builtin:NAME` for one in the package.
        weight_name: The file's name in a folder or hub repository.
        scale: The factor of its deltas.
        stage: "high-noise" or "low-noise" for one transformer of Wan 2.2; None means all transformers.
    """

    source: str
    weight_name: str | None = None
    scale: float = 1.0
    stage: str | None = None

    @classmethod
    def parse(cls, text: str) -> "Lora":
        """Parses a text of the command line.

        Raises:
            RequestError: If the text is not of that form, or names a file that is not safetensors.
        """
        match = re.match(r"(high-noise|low-noise)=", text)
        stage, text = (match[1], text[match.end() :]) if match else (None, text)
        # Neither a drive letter of Windows nor our own prefix is a separator.
        start = re.match(r"[A-Za-z]:(?=[\\/])|builtin:", text)
        head, tail = (start[0], text[start.end() :]) if start else ("", text)
        source, *rest = tail.split(":")
        scale = float(rest.pop()) if rest and NUMBER.fullmatch(rest[-1]) else 1.0
        if len(rest) > 1 or not source or not math.isfinite(scale):
            raise RequestError(f"--lora '{text}' is not of the form PATH_OR_ID[:weight_name][:SCALE]")
        lora = cls(head + source, rest[0] if rest else None, scale, stage)
        lora._check_names()
        return lora

    def _check_names(self) -> None:
        if self.weight_name is not None and (_is_file(self.source) or not _is_file(self.weight_name)):
            why = "a file has none" if _is_file(self.source) else "it must end in .safetensors, and a scale be a number"
            raise RequestError(f"--lora '{self.source}:{self.weight_name}' names '{self.weight_name}' in it, but {why}")
        # A name that has not the hub's form, OWNER/NAME, is a file on this machine.
        is_local = os.path.isfile(self.path) or (not re.search(r"[\\/]", self.source) and not os.path.isdir(self.path))
        if re.search(PICKLED, self.source, re.IGNORECASE) or (is_local and not _is_file(self.source)):
            raise RequestError(
                f"--lora '{self.source}' is no .safetensors file, and no other is loaded: a pickled one can run any code"
            )

    @property
    def path(self) -> Path:
        """The file or folder on this machine, if the LoRA is one."""
        return builtin_path(self.source) if self.source.startswith(BUILTIN) else parse_path(self.source)

    @property
    def file_name(self) -> str:
        """The name of the file, or of the folder or repository."""
        return (self.weight_name or self.source).replace("\\", "/").rsplit("/", 1)[-1]

    @property
    def hub_name(self) -> str:
        """The name of the file in a repository, if it has one file or that of diffusers' name."""
        return self.weight_name or DEFAULT_NAME

    @property
    def file(self) -> Path | None:
        """The safetensors file on this machine; None if it is on the hub."""
        path = self.path / self.weight_name if self.weight_name else self.path
        return next((one for one in (self.path, path) if os.path.isfile(one)), None)

    def check(self) -> None:
        """Raises a `ModelError` if a file or folder on this machine does not exist."""
        local = _is_file(self.source) or self.source.startswith((".", "~", "/"))
        if local and not os.path.exists(self.path):
            raise ModelError(f"--lora '{self.source}': there is no such file")


def _is_file(name: str) -> bool:
    return name.lower().endswith(".safetensors")


def hashes_of(loras: Sequence[str], cached: bool = False) -> dict[str, list[str | None]]:
    """Returns the SHA-256 of LoRA files as `lora_hashes`, with None for those on the hub; nothing if all are on the hub.

    If `cached`, files of the hub that are in its cache count too, with their commits as `lora_revisions`.
    """
    files = [_cached(one) if cached else one.file for one in map(Lora.parse, loras)]
    commits = [re.search(r"/snapshots/([0-9a-f]{7,})/", file.as_posix()) if file else None for file in files]
    facts = {
        "lora_hashes": [None if file is None else file_hash(file) for file in files],
        "lora_revisions": [match[1] if match else None for match in commits],
    }
    return {name: values for name, values in facts.items() if any(values) and (cached or name == "lora_hashes")}


def _cached(lora: Lora) -> Path | None:
    """Returns the file of a LoRA if it is on this machine, in the hub's cache too."""
    try:
        return _file_of(lora, offline=True)
    except (VSFError, OSError, ValueError):
        return None


def load_lora(pipe: Any, lora: Lora, adapter_name: str, offline: bool) -> None:
    """Loads a LoRA file into a pipeline as an adapter.

    Raises:
        ModelError: If the file is missing or damaged.
        RequestError: If no key matches the model, or a size does not, or only some layers of a DoRA have a magnitude.
    """
    from vsf_cli.loading.lora_keys import MAGNITUDE, denoiser_name, example_keys, match_keys

    file_name = Path(lora.source).name
    if lora.stage and getattr(pipe, "transformer_2", None) is None:
        raise RequestError(f"--lora '{lora.stage}={file_name}' is for models with two transformers, and this has one")
    with as_model_error(lora.source, offline, "LoRA"):
        raw, metadata = _read(_file_of(lora, offline), denoiser_name(pipe))
    state, unmatched = match_keys(raw, pipe)
    first = ", ".join(unmatched[:3])
    if not state:
        raise RequestError(
            f"--lora '{file_name}' has no key that matches this model: found {first or 'nothing'};"
            f" expected keys such as {', '.join(example_keys(pipe))}"
        )
    try:
        _add_adapter(pipe, state, adapter_name, metadata, lora.stage)
    except (RuntimeError, ValueError, KeyError, IndexError, TypeError) as error:
        raise RequestError(f"--lora '{file_name}' does not fit this model: {_misfit(str(error))}") from error
    others = f"; {len(unmatched)} do not: {first}{', ...' if len(unmatched) > 3 else ''}" if unmatched else ""
    level = logging.WARNING if unmatched else logging.INFO
    LOG.log(level, "%d of %d keys of --lora '%s' match%s", len(raw) - len(unmatched), len(raw), file_name, others)
    if lora.scale != 1 and any(key.endswith(MAGNITUDE) for key in state):
        LOG.warning("--lora '%s' is a DoRA: its magnitudes act in full, whatever its scale is", file_name)


def _misfit(text: str) -> str:
    """Returns what does not fit, by the text of an error of PyTorch, which has a line for each tensor."""
    if found := MISFIT.search(text):
        name, own, wanted = found.groups()
        return f"{name} has shape {own}, but must have {wanted}; choose a LoRA file for this size of model"
    return " ".join(text.split())[:200]


@contextmanager
def _without_lines_of_diffusers() -> Iterator[None]:
    """Keeps diffusers from logging an error that it raises as well, with a line for each tensor."""
    logger = logging.getLogger("diffusers.loaders.peft")

    def is_no_error(record: logging.LogRecord) -> bool:
        return record.levelno < logging.ERROR

    logger.addFilter(is_no_error)
    try:
        yield
    finally:
        logger.removeFilter(is_no_error)


def _add_adapter(pipe: Any, state: "Tensors", name: str, metadata: dict[str, Any] | None, stage: str | None) -> None:
    """Adds the tensors to the denoisers and text encoders."""
    from vsf_cli.loading.lora_keys import denoiser_name, loadable_text_encoders

    denoiser = denoiser_name(pipe)
    options: dict[str, Any] = {"adapter_name": name, "metadata": metadata, "_pipeline": pipe}
    with warnings.catch_warnings(), _without_lines_of_diffusers():
        # Several adapters in one model are intended.
        warnings.filterwarnings("ignore", "Already found a `peft_config` attribute")
        for part, part_stage in ((denoiser, "high-noise"), ("transformer_2", "low-noise")):
            model = getattr(pipe, part, None)
            own = any(key.startswith(f"{denoiser}.") for key in state)
            if model is not None and own and stage in (None, part_stage):
                model.load_lora_adapter(state, prefix=denoiser, **options)
        for part in loadable_text_encoders(pipe):
            if any(key.startswith(f"{part}.") for key in state):
                encoder, scale = getattr(pipe, part), pipe.lora_scale
                pipe.load_lora_into_text_encoder(state, None, encoder, prefix=part, lora_scale=scale, **options)


def _file_of(lora: Lora, offline: bool) -> Path:
    """Returns the path of the file, after its download if it is not on this machine."""
    from huggingface_hub import hf_hub_download, list_repo_files

    if os.path.isfile(lora.path):
        return lora.path
    if os.path.isdir(lora.path):
        names = [path.name for path in sorted(lora.path.iterdir())]
        path = lora.path / (lora.weight_name or _only(lora, names))
        if not path.is_file():
            raise ModelError(f"--lora '{lora.source}' has no file '{lora.weight_name}': it has {', '.join(names[:5])}")
        return path
    local = stays_offline(lora.source, cached_file(lora.source, lora.hub_name, None) is not None, offline, "LoRA")
    names = [] if lora.weight_name else _cached_names(lora.source) if local else list_repo_files(lora.source)
    return Path(hf_hub_download(lora.source, lora.weight_name or _only(lora, names), local_files_only=local))


def _cached_names(source: str) -> list[str]:
    """Returns the names of the files of a repository that are in the hub's cache; the default one if none are."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(source, local_files_only=True))
    except LocalEntryNotFoundError:
        return [DEFAULT_NAME]
    return [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]


def _only(lora: Lora, names: Sequence[str]) -> str:
    """Returns the only safetensors file among names, or the one with diffusers' default name."""
    files = [name for name in names if _is_file(name)]
    if not files:
        raise ModelError(f"--lora '{lora.source}' has no .safetensors file, and no other is loaded")
    if len(files) > 1 and DEFAULT_NAME not in files:
        raise RequestError(f"--lora '{lora.source}' has {len(files)} files: name one, such as {lora.source}:{files[0]}")
    return DEFAULT_NAME if DEFAULT_NAME in files else files[0]


def _read(path: Path, denoiser: str) -> "tuple[Tensors, dict[str, Any] | None]":
    """Returns the tensors of a file, and the adapter's configuration if diffusers saved it."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, it is no dict
        text = (file.metadata() or {}).get("lora_adapter_metadata")
    try:
        config = json.loads(text) if text else {}
    except RecursionError as error:
        raise ValueError("the configuration of its adapter is nested too deeply") from error
    if not isinstance(config, dict):
        raise ValueError(f"the configuration of its adapter is {str(text)[:40]!r}, but must be an object")
    parts = (f"{denoiser}.", "text_encoder")
    return tensors, {key if key.startswith(parts) else f"{denoiser}.{key}": value for key, value in config.items()} or None
