"""Images that a request starts from or edits, and masks of them."""

import hashlib
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from vsf_cli.errors import RequestError
from vsf_cli.media.reading import reading

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["check_inputs", "file_hash", "fitted", "fitted_size", "input_hashes", "read_input", "read_mask"]


def read_input(path: str) -> "Image.Image":
    """Returns an image in RGB, upright, and where it is transparent over white.

    Raises:
        MediaError: If it cannot be read.
    """
    return _opened(path, _changed(path))


def read_mask(path: str) -> "Image.Image":
    """Returns a mask in shades of grey; raises a `MediaError` if it cannot be read."""
    return read_input(path).convert("L")


def _changed(path: str) -> int:
    file = Path(path).expanduser()
    with reading(file):
        return file.stat().st_mtime_ns


# A batch checks the same image for each of its rows.
@lru_cache(maxsize=4)
def _opened(path: str, changed: int) -> "Image.Image":
    from PIL import Image, ImageOps

    file = Path(path).expanduser()
    with reading(file), Image.open(file) as image:
        upright = ImageOps.exif_transpose(image).convert("RGBA")
    white = Image.new("RGBA", upright.size, "white")
    return Image.alpha_composite(white, upright).convert("RGB")


def check_inputs(images: Sequence[str], mask: str | None) -> tuple[int, int]:
    """Returns the size of the first one of images in pixels.

    Raises:
        MediaError: If an image or the mask cannot be read.
        RequestError: If the mask has another size, or is black everywhere.
    """
    size, *_ = [read_input(image).size for image in images]
    if mask is None:
        return size
    masked = read_mask(mask)
    if masked.size != size:
        sizes = (f"{width}x{height}" for width, height in (masked.size, size))
        raise RequestError("--mask has {} pixels, but --image {}: make them the same size".format(*sizes))
    if not any(masked.histogram()[128:]):
        raise RequestError(f"--mask {mask} is black everywhere, so that nothing is redrawn: make white what is")
    return size


def fitted_size(size: tuple[int, int], area: int, multiple: int) -> tuple[int, int]:
    """Returns the width and height, in multiples, with about the shape of an image and about an area in pixels."""
    scale = (area / (size[0] * size[1])) ** 0.5
    width, height = (max(multiple, round(side * scale / multiple) * multiple) for side in size)
    return width, height


def fitted(image: "Image.Image", size: tuple[int, int]) -> "Image.Image":
    """Returns the middle of an image at a size in pixels."""
    from PIL import ImageOps

    return ImageOps.fit(image, size)


def input_hashes(images: Sequence[str], mask: str | None) -> dict[str, list[str]]:
    """Returns the SHA-256 of the files, as `image_sha256` and `mask_sha256` if there are any.

    Raises:
        MediaError: If one cannot be read.
    """
    paths = {"image": images, "mask": [] if mask is None else [mask]}
    return {f"{name}_sha256": [_hash_of(path) for path in some] for name, some in paths.items() if some}


def _hash_of(path: str) -> str:
    file = Path(path).expanduser()
    with reading(file):
        return file_hash(file)


def file_hash(file: Path) -> str:
    """Returns the SHA-256 of a file, which is read again if its size or its time changes."""
    status = file.stat()
    return _hash(file, status.st_size, status.st_mtime_ns)


@cache
def _hash(file: Path, size: int, changed: int) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
