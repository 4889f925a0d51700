"""Images, videos and folders of frames, read back from files."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from vsf_cli.config.names import counted
from vsf_cli.errors import MediaError, NoSuchFile
from vsf_cli.media.formats import FORMATS, VIDEO_ENDINGS
from vsf_cli.media.frames import frame_paths, holds_frames
from vsf_cli.media.metadata import Metadata, metadata_of, parse_description
from vsf_cli.media.videos import count_frames, read_tags, read_video, read_video_frame

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["check_whole", "read_frames", "read_metadata", "read_middle", "reading"]

ENDINGS = {ending for entry in FORMATS.values() for ending in entry.endings} - {""}


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raises the errors of a missing or damaged file as `MediaError`; that of a missing one is `NoSuchFile`."""
    from PIL.Image import DecompressionBombError

    try:
        yield
    except FileNotFoundError as error:
        raise NoSuchFile(f"{path}: there is no such file") from error
    except IsADirectoryError as error:
        raise NoSuchFile(f"{path} is a folder: name a file in it") from error
    except (RuntimeError, OSError, ValueError, SyntaxError, EOFError, IndexError, DecompressionBombError) as error:
        raise MediaError(f"{path} cannot be read as an image: {error}") from error


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_ENDINGS


def read_metadata(path: Path) -> Metadata:
    """Returns the metadata of an image, video, sidecar or folder of frames; raises a `MediaError` if it cannot be read."""
    from PIL import Image

    with reading(path):
        if path.is_dir():
            return read_metadata(_first_frame(path))
        if path.suffix.lower() == ".json":
            return _read_sidecar(path)
        if _is_video(path) and path.exists():
            return metadata_of(read_tags(path))
        with Image.open(path) as image:
            image.load()
            # Formats of other tools have EXIF, as JPEG has.
            return metadata_of(FORMATS.get((image.format or "").lower(), FORMATS["jpeg"]).read_tags(image))


def _first_frame(folder: Path) -> Path:
    """Returns the first frame of a video; a folder of anything else, such as a run, has no metadata of its own."""
    frames = frame_paths(folder)
    if frames and holds_frames(folder):
        return frames[0]
    files = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in ENDINGS)
    found = (
        f"{counted(len(files), 'file')}: name one, such as {folder / files[0]}"
        if files
        else "no frames of a video: name a file"
    )
    raise MediaError(f"{folder} is a folder with {found}")


def _read_sidecar(path: Path) -> Metadata:
    try:
        return Metadata(parse_description(path.read_bytes().decode("utf-8-sig")), None)
    except ValueError as error:
        raise MediaError(f"{path} does not say how a file was made: {error}") from error


def read_frames(path: Path) -> list["Image.Image"]:
    """Returns the frames of a video or of a folder of frames, or an image as one frame.

    Raises:
        MediaError: If they cannot be read.
    """
    from PIL import Image, ImageSequence

    with reading(path):
        if path.is_dir():
            return [frame for file in frame_paths(path) for frame in read_frames(file)]
        if _is_video(path):
            return read_video(path)
        with Image.open(path) as image:
            return [frame.convert("RGB") for frame in ImageSequence.Iterator(image)]


def check_whole(path: Path, count: int) -> None:
    """Decodes all of an image, a video or a folder with `count` frames.

    Frames of GIF and WebP are not counted, since these formats join equal frames.

    Raises:
        MediaError: If it is not complete.
    """
    if path.is_dir():
        for number in range(count):
            read_metadata(path / f"{number:04}.png")
    elif _is_video(path):
        if (frames := count_frames(path)) != count:
            raise MediaError(f"{path} has {counted(frames, 'frame')}, but was made with {count}")
    else:
        read_frames(path)
        end = next((entry.end for entry in FORMATS.values() if path.suffix.lower() in entry.endings), b"")
        if not path.read_bytes().endswith(end):
            raise MediaError(f"{path} has no end: it was cut off")


def read_middle(path: Path, seconds: float = 0.0) -> "Image.Image":
    """Returns an image, or the middle frame of a video or of a folder of frames; of MP4 and WebM the frame at `seconds`.

    Raises:
        MediaError: If it cannot be read.
    """
    from PIL import Image

    if path.is_dir():
        files = frame_paths(path)
        path = files[len(files) // 2] if files else path / "0000.png"
    if _is_video(path):
        return read_video_frame(path, seconds)
    with reading(path), Image.open(path) as image:
        image.seek(getattr(image, "n_frames", 1) // 2)
        return image.convert("RGB")
