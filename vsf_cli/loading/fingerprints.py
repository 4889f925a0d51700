"""Identifies the weights that an image or video was made with."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from vsf_cli.loading.sources import Source

__all__ = ["identify"]


def identify(source: Source, revision: str | None) -> dict[str, str]:
    """Returns what identifies the weights of a model.

    For a hub id it is the commit, as `model_revision`. For a folder it is the SHA-256 of the transformer's weights, as
    `model_hash`; above a gigabyte that of their headers and sizes, as `model_fingerprint`, since reading them takes minutes.
    """
    if source.folder is None:
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(source.name, "model_index.json", revision=revision)
        return {"model_revision": Path(cached).parent.name} if isinstance(cached, str) else {}
    files = sorted((source.folder / "transformer").glob("*.safetensors"))
    if sum(path.stat().st_size for path in files) > 1e9:
        return {"model_fingerprint": _digest(_header(path) for path in files)}
    return {"model_hash": _digest(path.read_bytes() for path in files)} if files else {}


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _header(path: Path) -> bytes:
    with path.open("rb") as file:
        length = file.read(8)
        return str(path.stat().st_size).encode() + length + file.read(int.from_bytes(length, "little"))
