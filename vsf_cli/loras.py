"""LoRA files: how they are named, found and loaded, and refused if they do not fit."""

import hashlib
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from vsf_cli.errors import ModelError, RequestError
from vsf_cli.hub import translated

__all__ = ["BUILTIN", "Lora", "hashes_of", "load_lora"]

BUILTIN = "builtin:"
"""The prefix of what ships with the package."""

LOG = logging.getLogger(__name__)


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
            RequestError: If it has too many parts, or names a pickled file.
        """
        found_stage = re.match(r"(high-noise|low-noise)=", text)
        stage, text = (found_stage[1], text[found_stage.end() :]) if found_stage else (None, text)
        # Neither a drive letter of Windows nor our own prefix is a separator.
        start = re.match(r"[A-Za-z]:(?=[\\/])|builtin:", text)
        head, tail = (start[0], text[start.end() :]) if start else ("", text)
        place, *rest = tail.split(":")
        scale = 1.0
        if rest and re.fullmatch(r"-?\d*\.?\d+", rest[-1]):
            scale = float(rest.pop())
        if len(rest) > 1 or not place:
            raise RequestError(f"--lora '{text}' is not of the form PATH_OR_ID[:weight_name][:SCALE]")
        found = cls(head + place, rest[0] if rest else None, scale, stage)
        for name in (found.place, found.weight_name or ""):
            if name.endswith((".bin", ".pt", ".pth", ".ckpt", ".pkl")):
                raise RequestError(f"--lora '{name}' is a pickled file, which can run any code: only .safetensors are loaded")
        return found

    @property
    def path(self) -> Path:
        """The file or folder on this machine, if the place is one."""
        if self.place.startswith(BUILTIN):
            return Path(str(resources.files("vsf_cli") / "tiny" / "models" / self.place.removeprefix(BUILTIN)))
        return Path(self.place).expanduser()

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
        local = self.place.endswith(".safetensors") or self.place.startswith((".", "~", "/"))
        if local and not self.path.exists():
            raise ModelError(f"--lora '{self.place}': there is no such file")


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
    path = lora.path
    if path.is_file():
        place, weight_name = str(path.parent), path.name
    elif path.is_dir():
        place, weight_name = str(path), lora.weight_name or ""
    else:
        place, weight_name = lora.place, lora.weight_name or ""
    options = {"weight_name": weight_name or None, "use_safetensors": True, "local_files_only": offline or path.exists()}
    with translated(lora.place, offline):
        source = _readable(pipe, place, options)
        state = type(pipe).lora_state_dict(source, **({} if isinstance(source, dict) else options))
    parts = {part: getattr(pipe, part, None) for part in ("transformer", "text_encoder", "text_encoder_2")}
    modules = {f"{part}.{key}" for part, model in parts.items() if model is not None for key, _ in model.named_modules()}
    matched = [key for key in state if re.sub(r"\.lora[._].*$|\.alpha$", "", key) in modules]
    if not matched:
        found = ", ".join(list(state)[:3]) or "nothing"
        raise RequestError(
            f"--lora '{Path(lora.place).name}' has no key that matches this model: found {found};"
            f" expected keys such as {_example(modules)}.lora_A.weight"
        )
    two = getattr(pipe, "transformer_2", None) is not None
    if lora.stage and not two:
        raise RequestError(
            f"--lora '{lora.stage}={Path(lora.place).name}' is for models with two transformers, and this has one"
        )
    more = {} if isinstance(source, dict) else options
    try:
        # From the file and not from the state, which lacks what the file says of its strength.
        if lora.stage != "low-noise":
            pipe.load_lora_weights(source, adapter_name=name, **more)
        if two and lora.stage != "high-noise":
            pipe.load_lora_weights(source, adapter_name=name, load_into_transformer_2=True, **more)
    except (RuntimeError, ValueError, KeyError) as error:
        text = " ".join(str(error).split())[:200]
        raise RequestError(f"--lora '{Path(lora.place).name}' does not fit this model: {text}") from error
    LOG.info("%d of %d keys of --lora '%s' match", len(matched), len(state), Path(lora.place).name)


def _readable(pipe: Any, place: str, options: dict[str, Any]) -> Any:
    """What diffusers can read the LoRA from: its place, or its tensors under the prefix that their names lack."""
    try:
        type(pipe).lora_state_dict(place, **options)
        return place
    except ValueError as error:
        path = Path(place) / (options["weight_name"] or "")
        if "Invalid LoRA checkpoint" not in str(error) or not path.is_file():
            raise
        from safetensors.torch import load_file

        return {f"diffusion_model.{key.removeprefix('transformer.')}": tensor for key, tensor in load_file(path).items()}


def _example(modules: set[str]) -> str:
    return min((name for name in modules if name.endswith((".to_q", ".q"))), default="transformer.blocks.0")
