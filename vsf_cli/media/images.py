"""Pictures as files: written beside and then renamed, with their metadata, and read back."""

import glob
import io
import json
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from vsf_cli.errors import EncodingError, MediaError
from vsf_cli.media.metadata import infotext
from vsf_cli.media.videos import (
    EXIF_IFD,
    IMAGE_DESCRIPTION,
    UNICODE,
    USER_COMMENT,
    count_frames,
    read_clip,
    read_clip_frame,
    read_clip_tags,
)

if TYPE_CHECKING:  # What only plans, and writes nothing, starts without Pillow.
    from PIL.Image import Image

__all__ = [
    "FORMATS",
    "Metadata",
    "check_whole",
    "check_writable",
    "encode",
    "holds_frames",
    "read_frames",
    "read_metadata",
    "read_middle",
    "remove_partials",
    "write_atomically",
    "write_bytes",
    "write_frames",
    "write_picture",
]

BROKEN = (OSError, ValueError, SyntaxError, EOFError, IndexError)
"""What Pillow raises for a file that is damaged."""
ENDS = {".png": b"IEND\xaeB`\x82", ".jpg": b"\xff\xd9", ".jpeg": b"\xff\xd9", ".gif": b";"}
"""How whole files end, which Pillow does not look at."""

FORMATS: Mapping[str, tuple[str, ...]] = {"png": (".png",), "jpeg": (".jpg", ".jpeg"), "webp": (".webp",)}
"""The formats, with the endings of their files."""


@dataclass(frozen=True)
class Metadata:
    """What a file says of how it was made.

    Arguments:
        description: Our own JSON; None if the file has none.
        parameters: The text in A1111's grammar; None if the file has none.
    """

    description: dict[str, Any] | None
    parameters: str | None


def _save(image: "Image", file: BinaryIO, format: str, description: Mapping[str, Any] | None) -> None:
    from PIL.Image import Exif
    from PIL.PngImagePlugin import PngInfo

    own = json.dumps(description, ensure_ascii=True, sort_keys=True, allow_nan=False) if description else None
    if format == "png":
        info = PngInfo()
        if description and own:
            info.add_text("parameters", infotext(description))
            info.add_text("vsf", own)
        image.save(file, "PNG", pnginfo=info)
        return

    exif = Exif()
    if description and own:
        exif[IMAGE_DESCRIPTION] = own
        exif.get_ifd(EXIF_IFD)[USER_COMMENT] = UNICODE + infotext(description).encode("utf-16-be")
    options = {"quality": 95, "subsampling": 0} if format == "jpeg" else {"quality": 95, "method": 6}
    image.save(file, format.upper(), exif=exif, **options)


def encode(image: "Image", format: str, description: Mapping[str, Any] | None) -> bytes:
    """A picture as the bytes of a file.

    Raises:
        EncodingError: If the format cannot hold the metadata, which EXIF limits to 64 KiB.
    """
    buffer = io.BytesIO()
    try:
        _save(image, buffer, format, description)
    except (ValueError, OSError) as error:
        raise EncodingError(f"the picture cannot be written as {format}: {error}; try --format png") from error
    return buffer.getvalue()


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes a file beside its place and renames it: at its place there is never half a file.

    Raises:
        MediaError: If the folder cannot be made or the file not be written.
    """
    beside = path.with_name(f"{_partial()}{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with beside.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise MediaError(f"{path} cannot be written: {error.strerror or error}; choose another place with -o") from error


def _partial() -> str:
    """How the names of files begin that this machine has not finished."""
    return f".vsf-{platform.node()}-"


def remove_partials(folder: Path) -> None:
    """Removes from a folder, and those in it, what processes of this machine that are no more left unfinished."""
    import psutil

    for path in folder.rglob(f"{glob.escape(_partial())}*.partial"):
        number = path.name.removeprefix(_partial()).removesuffix(".partial").split("-")[0]
        if not number.isdigit() or psutil.pid_exists(int(number)):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Writes bytes as `write_atomically` does.

    Raises:
        MediaError: If the file cannot be written.
    """
    write_atomically(path, lambda file: file.write(data))


def check_writable(path: Path) -> None:
    """Looks whether a file could be written, and makes nothing.

    Raises:
        MediaError: If not: better before the work than after it.
    """
    parent = next(place for place in (path.parent, *path.parent.parents, Path()) if place.exists())
    if not parent.is_dir():
        raise MediaError(f"{path} cannot be written: {parent} is not a folder; choose another place with -o")
    if not os.access(parent, os.W_OK):
        raise MediaError(f"{path} cannot be written: {parent} may not be written to; choose another place with -o")


def holds_frames(folder: Path) -> bool:
    """Whether a folder holds the frames of a clip, by `write_frames`, and nothing else."""
    names = [path.name for path in folder.iterdir()]
    return all(re.fullmatch(r"\d{4,}\.png", name) for name in names)


def write_frames(
    path: Path,
    frames: Sequence["Image"],
    description: Mapping[str, Any] | None,
    progress: Callable[[int, int], object] | None = None,
) -> None:
    """Writes the frames of a clip as numbered PNG files into a folder, which appears when all are there.

    Arguments:
        path: The folder; one that exists is replaced.
        frames: The frames.
        description: The JSON of each file, by `vsf_cli.media.metadata.describe`; None writes no metadata at all.
        progress: Called after each frame with the frames done and all frames.

    Raises:
        MediaError: If it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(".partial", f"{_partial()}{os.getpid()}-", path.parent) as beside:
            folder = Path(beside) / "new"
            folder.mkdir()
            for number, frame in enumerate(frames):
                (folder / f"{number:04}.png").write_bytes(encode(frame, "png", description))
                if progress is not None:
                    progress(number + 1, len(frames))
            if path.exists():
                path.replace(Path(beside) / "old")
            folder.replace(path)
    except OSError as error:
        raise MediaError(f"{path} cannot be written: {error.strerror}; choose another place with -o") from error


def write_picture(path: Path, image: "Image", format: str, description: Mapping[str, Any] | None) -> None:
    """Writes a picture with its metadata.

    Arguments:
        path: The file.
        image: The picture.
        format: A key of `FORMATS`.
        description: The JSON of the file, by `vsf_cli.media.metadata.describe`; None writes no metadata at all.

    Raises:
        MediaError: If the file cannot be written.
    """
    write_bytes(path, encode(image, format, description))


def read_metadata(path: Path) -> Metadata:
    """Reads what a picture, the sidecar of one, or the first of a folder of frames says of how it was made.

    Raises:
        MediaError: If the file cannot be read or is no picture.
    """
    from PIL import Image

    try:
        if path.is_dir():
            frames = sorted(path.glob("*.png"))
            if not frames:
                raise MediaError(f"{path} is a folder without frames: name a file")
            return read_metadata(frames[0])
        if path.suffix == ".json":
            return Metadata(_own(path.read_text("utf-8")), None)
        if path.suffix.lower() in (".mp4", ".webm") and path.exists():
            tags = read_clip_tags(path)
            return Metadata(_own(tags.get("vsf")), tags.get("parameters"))
        with Image.open(path) as image:
            image.load()
            if image.format == "GIF":
                own, parameters = image.info.get("comment", b"").decode(errors="replace"), None
            elif image.format == "PNG":
                texts: dict[str, str] = image.text  # type: ignore[attr-defined]
                own, parameters = texts.get("vsf"), texts.get("parameters")
            else:
                exif = image.getexif()
                own = exif.get(IMAGE_DESCRIPTION)
                comment = exif.get_ifd(EXIF_IFD).get(USER_COMMENT)
                parameters = _comment(comment) if comment else None
        return Metadata(_own(own), parameters)
    except FileNotFoundError as error:
        raise MediaError(f"{path}: there is no such file") from error
    except (*BROKEN, Image.DecompressionBombError) as error:
        raise MediaError(f"{path} cannot be read as a picture: {error}") from error


def read_frames(path: Path) -> list["Image"]:
    """The frames of a picture, which has one, of a clip, or of a folder of frames.

    Raises:
        MediaError: If it cannot be read.
    """
    from PIL import Image, ImageSequence

    try:
        if path.is_dir():
            return [frame for file in sorted(path.glob("*.png")) for frame in read_frames(file)]
        if path.suffix.lower() in (".mp4", ".webm"):
            return read_clip(path)
        with Image.open(path) as image:
            return [frame.convert("RGB") for frame in ImageSequence.Iterator(image)]
    except FileNotFoundError as error:
        raise MediaError(f"{path}: there is no such file") from error
    except (*BROKEN, Image.DecompressionBombError) as error:
        raise MediaError(f"{path} cannot be read as a picture: {error}") from error


def check_whole(path: Path, count: int) -> None:
    """Decodes all of a picture, a clip or a folder of frames.

    Arguments:
        path: The file or folder.
        count: How many frames it has. Those of GIF and WebP are not counted, since frames that are equal are kept as one there.

    Raises:
        MediaError: If it is not whole.
    """
    if path.is_dir():
        for number in range(count):
            read_metadata(path / f"{number:04}.png")
    elif path.suffix.lower() in (".mp4", ".webm"):
        if (found := count_frames(path)) != count:
            raise MediaError(f"{path} has {found} frames, but was made with {count}")
    else:
        read_frames(path)
        if not path.read_bytes().endswith(ENDS.get(path.suffix.lower(), b"")):
            raise MediaError(f"{path} has no end: it was cut off")


def read_middle(path: Path, seconds: float = 0.0) -> "Image":
    """The picture, or the middle frame of a clip or of a folder of frames.

    Arguments:
        path: The file or folder.
        seconds: When the middle of an MP4 or WebM file is shown, from its begin.

    Raises:
        MediaError: If it cannot be read.
    """
    from PIL import Image

    if path.is_dir():
        files = sorted(path.glob("*.png"))
        path = files[len(files) // 2] if files else path / "0000.png"
    if path.suffix.lower() in (".mp4", ".webm"):
        return read_clip_frame(path, seconds)
    try:
        with Image.open(path) as image:
            image.seek(getattr(image, "n_frames", 1) // 2)
            return image.convert("RGB")
    except (*BROKEN, Image.DecompressionBombError) as error:
        raise MediaError(f"{path} cannot be read as a picture: {error}") from error


def _own(text: str | None) -> dict[str, Any] | None:
    """Our JSON, unless the text is somebody else's image description."""
    try:
        found = json.loads(text) if text else None
    except ValueError:
        return None
    whole = isinstance(found, dict) and {"schema", "request", "versions"} <= found.keys()
    return found if whole else None


def _comment(comment: bytes | str) -> str:
    data = comment.encode("latin-1") if isinstance(comment, str) else comment
    return data.removeprefix(UNICODE).decode("utf-16-be", errors="replace")
