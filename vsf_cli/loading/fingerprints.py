"""Identifies the weights that made an image or video."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from vsf_cli.loading.sources import Source, cached_file

__all__ = ["identify"]


def identify(source: Source, revision: str | None) -> dict[str, str]:
    """Returns the commit of a hub id as `model_revision`, or the SHA-256 of a folder's denoiser as `model_hash`.

    Above a gigabyte it is the SHA-256 of headers and sizes, as `model_fingerprint`, since reading all takes minutes.
    """
    if source.folder is None:
        cached = cached_file(source.name, "model_index.json", revision)
        return {"model_revision": cached.parent.name} if cached else {}
    files = [path for name in ("transformer", "unet") for path in sorted((source.folder / name).glob("*.safetensors"))]
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
