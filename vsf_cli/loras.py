"""LoRA files: how they are named, found and loaded, and refused if they do not fit."""

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vsf_cli.errors import ModelError, RequestError
from vsf_cli.hub import translated

__all__ = ["Lora", "load_lora"]

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Lora:
    """A LoRA file: `PATH_OR_ID[:weight_name][:SCALE]`.

    Arguments:
        place: A safetensors file, a folder, or a hub id.
        weight_name: The file's name in a folder or hub repository.
        scale: Its strength.
    """

    place: str
    weight_name: str | None = None
    scale: float = 1.0

    @classmethod
    def parse(cls, text: str) -> "Lora":
        """Reads the form of the command line.

        Raises:
            RequestError: If it has too many parts, or names a pickled file.
        """
        # A drive letter of Windows is no separator.
        head, tail = (text[:2], text[2:]) if re.match(r"[A-Za-z]:[\\/]", text) else ("", text)
        place, *rest = tail.split(":")
        scale = 1.0
        if rest and re.fullmatch(r"-?\d*\.?\d+", rest[-1]):
            scale = float(rest.pop())
        if len(rest) > 1 or not place:
            raise RequestError(f"--lora '{text}' is not of the form PATH_OR_ID[:weight_name][:SCALE]")
        found = cls(head + place, rest[0] if rest else None, scale)
        for name in (found.place, found.weight_name or ""):
            if name.endswith((".bin", ".pt", ".pth", ".ckpt", ".pkl")):
                raise RequestError(f"--lora '{name}' is a pickled file, which can run any code: only .safetensors are loaded")
        return found

    def check(self) -> None:
        """Looks whether a file that is meant to be on this machine is there.

        Raises:
            ModelError: If it is not.
        """
        local = self.place.endswith(".safetensors") or self.place.startswith((".", "~", "/"))
        if local and not Path(self.place).expanduser().exists():
            raise ModelError(f"--lora '{self.place}': there is no such file")


def load_lora(pipe: Any, lora: Lora, name: str, offline: bool) -> None:
    """Loads a LoRA file into a pipeline, as an adapter of that name.

    Raises:
        ModelError: If the file is missing or damaged.
        RequestError: If no key matches the model, or a size does not.
    """
    path = Path(lora.place).expanduser()
    if path.is_file():
        place, weight_name = str(path.parent), path.name
    elif path.is_dir():
        place, weight_name = str(path), lora.weight_name or ""
    else:
        place, weight_name = lora.place, lora.weight_name or ""
    options = {"weight_name": weight_name or None, "use_safetensors": True, "local_files_only": offline or path.exists()}
    with translated(lora.place, offline):
        state = type(pipe).lora_state_dict(place, **options)
    parts = {part: getattr(pipe, part) for part in ("transformer", "text_encoder", "text_encoder_2")}
    modules = {f"{part}.{key}" for part, model in parts.items() if model is not None for key, _ in model.named_modules()}
    matched = [key for key in state if re.sub(r"\.lora[._].*$|\.alpha$", "", key) in modules]
    if not matched:
        found = ", ".join(list(state)[:3]) or "nothing"
        raise RequestError(
            f"--lora '{Path(lora.place).name}' has no key that matches this model: found {found};"
            " expected keys such as transformer.transformer_blocks.0.attn.to_q.lora_A.weight"
        )
    try:
        # From the file and not from the state, which lacks what the file says of its strength.
        pipe.load_lora_weights(place, adapter_name=name, **options)
    except (RuntimeError, ValueError, KeyError) as error:
        text = " ".join(str(error).split())[:200]
        raise RequestError(f"--lora '{Path(lora.place).name}' does not fit this model: {text}") from error
    LOG.info("%d of %d keys of --lora '%s' match", len(matched), len(state), Path(lora.place).name)
