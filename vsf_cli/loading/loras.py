"""LoRA files: how they are named, found and loaded, and refused if they do not fit."""

import hashlib
import json
import logging
import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vsf_cli.config.values import parse_path
from vsf_cli.errors import ModelError, RequestError
from vsf_cli.loading.hub import translated

if TYPE_CHECKING:
    from vsf_cli.loading.lora_keys import Tensors

__all__ = ["BUILTIN", "Lora", "hashes_of", "load_lora"]

BUILTIN = "builtin:"
"""The prefix of what ships with the package."""

LOG = logging.getLogger(__name__)

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
PICKLED = r"\.(bin|pt|pth|th|ckpt|pkl|pickle|lora)$"
USUAL = "pytorch_lora_weights.safetensors"
"""What diffusers calls the file in a folder or repository of one LoRA."""


@dataclass(frozen=True)
class Lora:
    """A LoRA file: `PATH_OR_ID[:weight_name][:SCALE]`, behind `high-noise=` or `low-noise=` for one transformer of Wan 2.2.

    Arguments:
        place: A safetensors file, a folder, a hub id, or `builtin:NAME` for one that ships with the package.
        weight_name: The file's name in a folder or hub repository.
        scale: Its strength.
        stage: "high-noise" or "low-noise", the transformer of Wan 2.2 that it is for; None means every one that there is.
    """

    place: str
    weight_name: str | None = None
    scale: float = 1.0
    stage: str | None = None

    @classmethod
    def parse(cls, text: str) -> "Lora":
        """Reads the form of the command line.

        Raises:
            RequestError: If it is not of that form, or names a file that is no safetensors.
        """
        found_stage = re.match(r"(high-noise|low-noise)=", text)
        stage, text = (found_stage[1], text[found_stage.end() :]) if found_stage else (None, text)
        # Neither a drive letter of Windows nor our own prefix is a separator.
        start = re.match(r"[A-Za-z]:(?=[\\/])|builtin:", text)
        head, tail = (start[0], text[start.end() :]) if start else ("", text)
        place, *rest = tail.split(":")
        scale = float(rest.pop()) if rest and NUMBER.fullmatch(rest[-1]) else 1.0
        if len(rest) > 1 or not place or not math.isfinite(scale):
            raise RequestError(f"--lora '{text}' is not of the form PATH_OR_ID[:weight_name][:SCALE]")
        found = cls(head + place, rest[0] if rest else None, scale, stage)
        found._check_names()
        return found

    def _check_names(self) -> None:
        if self.weight_name is not None and (_is_file(self.place) or not _is_file(self.weight_name)):
            why = "a file has none" if _is_file(self.place) else "it must end in .safetensors, and a scale be a number"
            raise RequestError(f"--lora '{self.place}:{self.weight_name}' names '{self.weight_name}' in it, but {why}")
        # Whatever is not named as one of the hub, OWNER/NAME, is on this machine.
        here = self.path.is_file() or (not re.search(r"[\\/]", self.place) and not self.path.is_dir())
        if re.search(PICKLED, self.place, re.IGNORECASE) or (here and not _is_file(self.place)):
            raise RequestError(
                f"--lora '{self.place}' is no .safetensors file, and no other is loaded: a pickled one can run any code"
            )

    @property
    def path(self) -> Path:
        """The file or folder on this machine, if the place is one."""
        if self.place.startswith(BUILTIN):
            return Path(str(resources.files("vsf_cli") / "toy" / "weights" / self.place.removeprefix(BUILTIN)))
        return parse_path(self.place)

    @property
    def file_name(self) -> str:
        """The name of the file, as far as the text says it."""
        return (self.weight_name or self.place).replace("\\", "/").rsplit("/", 1)[-1]

    @property
    def file(self) -> Path | None:
        """The safetensors file on this machine; None if it is the hub's."""
        path = self.path / self.weight_name if self.weight_name else self.path
        return self.path if self.path.is_file() else path if path.is_file() else None

    def check(self) -> None:
        """Looks whether a file that is meant to be on this machine is there.

        Raises:
            ModelError: If it is not.
        """
        local = _is_file(self.place) or self.place.startswith((".", "~", "/"))
        if local and not self.path.exists():
            raise ModelError(f"--lora '{self.place}': there is no such file")


def _is_file(name: str) -> bool:
    return name.lower().endswith(".safetensors")


def hashes_of(loras: Sequence[str]) -> dict[str, list[str | None]]:
    """What says which LoRA files a picture was made with, whatever they are called and wherever they lie.

    Returns:
        The SHA-256 of each, as `lora_hashes`, None for those of the hub; nothing if all of them are.
    """
    files = [Lora.parse(text).file for text in loras]
    found = [None if file is None else _hash(file, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return {"lora_hashes": found} if any(found) else {}


@cache
def _hash(file: Path, size: int, changed: int) -> str:
    """The SHA-256 of a file, which is read once for as long as its size and time are the same."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def load_lora(pipe: Any, lora: Lora, name: str, offline: bool) -> None:
    """Loads a LoRA file into a pipeline, as an adapter of that name.

    Raises:
        ModelError: If the file is missing or damaged.
        RequestError: If no key matches the model, or a size does not.
    """
    from vsf_cli.loading.lora_keys import example_keys, match_keys

    two = getattr(pipe, "transformer_2", None) is not None
    told = Path(lora.place).name
    if lora.stage and not two:
        raise RequestError(f"--lora '{lora.stage}={told}' is for models with two transformers, and this has one")
    with translated(lora.place, offline):
        raw, metadata = _read(_file_of(lora, offline))
    state, unmatched = match_keys(raw, pipe)
    first = ", ".join(unmatched[:3])
    if not state:
        raise RequestError(
            f"--lora '{told}' has no key that matches this model: found {first or 'nothing'};"
            f" expected keys such as {', '.join(example_keys(pipe))}"
        )
    try:
        with warnings.catch_warnings():
            # Several are meant.
            warnings.filterwarnings("ignore", "Already found a `peft_config` attribute")
            _put(pipe, state, name, metadata, lora.stage)
    except (RuntimeError, ValueError, KeyError) as error:
        text = " ".join(str(error).split())[:200]
        raise RequestError(f"--lora '{told}' does not fit this model: {text}") from error
    others = f"; {len(unmatched)} do not: {first}{', ...' if len(unmatched) > 3 else ''}" if unmatched else ""
    LOG.info("%d of %d keys of --lora '%s' match%s", len(raw) - len(unmatched), len(raw), told, others)


def _put(pipe: Any, state: "Tensors", name: str, metadata: dict[str, Any] | None, stage: str | None) -> None:
    """Gives the parts of a pipeline what is theirs."""
    from vsf_cli.loading.lora_keys import loadable_text_encoders

    told = {"adapter_name": name, "metadata": metadata, "_pipeline": pipe}
    stages = {"transformer": "high-noise", "transformer_2": "low-noise"}
    for part, own in stages.items():
        model = getattr(pipe, part, None)
        if model is not None and stage in (None, own):
            pipe.load_lora_into_transformer(state, transformer=model, **told)
    for part in loadable_text_encoders(pipe):
        if any(key.startswith(f"{part}.") for key in state):
            encoder, scale = getattr(pipe, part), pipe.lora_scale
            pipe.load_lora_into_text_encoder(state, None, encoder, prefix=part, lora_scale=scale, **told)


def _file_of(lora: Lora, offline: bool) -> Path:
    """The file, from the hub if it is not on this machine."""
    from huggingface_hub import hf_hub_download, list_repo_files

    if lora.path.is_file():
        return lora.path
    if lora.path.is_dir():
        names = [path.name for path in sorted(lora.path.iterdir())]
        path = lora.path / (lora.weight_name or _only(lora, names))
        if not path.is_file():
            raise ModelError(f"--lora '{lora.place}' has no file '{lora.weight_name}': it has {', '.join(names[:5])}")
        return path
    names = [USUAL] if offline or lora.weight_name else list_repo_files(lora.place)
    return Path(hf_hub_download(lora.place, lora.weight_name or _only(lora, names), local_files_only=offline))


def _only(lora: Lora, names: Sequence[str]) -> str:
    """The file that is meant where none is named."""
    found = [name for name in names if _is_file(name)]
    if not found:
        raise ModelError(f"--lora '{lora.place}' has no .safetensors file, and no other is loaded")
    if len(found) > 1 and USUAL not in found:
        raise RequestError(f"--lora '{lora.place}' has {len(found)} files: name one, such as {lora.place}:{found[0]}")
    return USUAL if USUAL in found else found[0]


def _read(path: Path) -> "tuple[Tensors, dict[str, Any] | None]":
    """The tensors of a file, and what diffusers wrote beside them of its strength."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, it is no dict
        text = (file.metadata() or {}).get("lora_adapter_metadata")
    told = json.loads(text) if text else {}
    parts = ("transformer.", "text_encoder")
    return tensors, {key if key.startswith(parts) else f"transformer.{key}": value for key, value in told.items()} or None
