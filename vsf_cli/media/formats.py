"""The formats of images and videos: a new one is one entry of `FORMATS`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vsf_cli.errors import EncodingError, RequestError
from vsf_cli.media.animations import encode_animated_webp, encode_gif
from vsf_cli.media.files import write_bytes
from vsf_cli.media.images import encode_jpeg, encode_png, encode_webp, exif_of, read_comment, read_exif, read_png_text
from vsf_cli.media.metadata import tags_of
from vsf_cli.media.sound import Sound
from vsf_cli.media.videos import Codec, check_encoder, encode_by_ffmpeg

if TYPE_CHECKING:  # Plans start without Pillow.
    from PIL.Image import Image

__all__ = [
    "CRF_FORMATS",
    "FORMATS",
    "IMAGE_FORMATS",
    "VIDEO_ENDINGS",
    "VIDEO_FORMATS",
    "Format",
    "check_crf",
    "check_format",
    "check_fps",
    "check_metadata",
    "encode_image",
    "encode_video",
    "write_image",
]

Progress = Callable[[int, int], object]


@dataclass(frozen=True)
class Format:
    """A format of files.

    Arguments:
        endings: The endings of its files; new files have the first one, and folders have "".
        encode: Returns an image with its tags as the bytes of a file; None if the format is only for videos.
        animate: Returns frames with their rate and their tags as the bytes of an animation by Pillow; None if ffmpeg writes it.
        codec: How ffmpeg encodes a video; None if Pillow writes it.
        read_tags: Returns the tags of an image that Pillow opened.
        end: The last bytes of a complete file, which Pillow does not check.
        max_fps: The maximum frames per second; None if there is no limit.
    """

    endings: tuple[str, ...]
    encode: Callable[["Image", Mapping[str, str]], bytes] | None = None
    animate: Callable[[Sequence["Image"], int, Mapping[str, str], Progress | None], bytes] | None = None
    codec: Codec | None = None
    read_tags: Callable[["Image"], dict[str, str]] = read_exif
    end: bytes = b""
    max_fps: int | None = None

    @property
    def is_video(self) -> bool:
        """Whether it is for videos, as folders of frames are."""
        return bool(self.animate or self.codec or "" in self.endings)


FORMATS: Mapping[str, Format] = {
    "png": Format((".png",), encode=encode_png, read_tags=read_png_text, end=b"IEND\xaeB`\x82"),
    "jpeg": Format((".jpg", ".jpeg"), encode=encode_jpeg, end=b"\xff\xd9"),
    # H.264 with a factor of 0 is lossless, in a profile that browsers and phones do not play.
    "mp4": Format((".mp4",), codec=Codec("mp4", "libx264", 14, 1, 51, ("-movflags", "use_metadata_tags"))),
    "webm": Format((".webm",), codec=Codec("webm", "libvpx-vp9", 24, 0, 63, ("-b:v", "0", "-row-mt", "1"))),
    # It counts in hundredths of a second, and viewers slow down frames that are shown for one of them.
    "gif": Format((".gif",), animate=encode_gif, read_tags=read_comment, end=b";", max_fps=50),
    "webp": Format((".webp",), encode=encode_webp, animate=encode_animated_webp),
    # A folder of PNG files, by `vsf_cli.media.frames`.
    "frames": Format(("",)),
}
"""All formats by their names. The first one for images and the first one for videos are the defaults."""

IMAGE_FORMATS: Mapping[str, tuple[str, ...]] = {name: entry.endings for name, entry in FORMATS.items() if entry.encode}
"""The formats of images, with the endings of their files."""
VIDEO_FORMATS: Mapping[str, tuple[str, ...]] = {name: entry.endings for name, entry in FORMATS.items() if entry.is_video}
"""The formats of videos, with the endings of their files."""
CRF_FORMATS = tuple(name for name, entry in FORMATS.items() if entry.codec)
"""The formats that have a constant rate factor."""
VIDEO_ENDINGS = tuple(ending for entry in FORMATS.values() if entry.codec for ending in entry.endings)
"""The endings of files that ffmpeg reads, and browsers play as videos; Pillow reads the others."""


ROOM = 4096
"""Bytes for what is not known before the work, such as hashes."""


def _exif_size(tags: Mapping[str, str]) -> int:
    return len(exif_of(tags).tobytes())


def _longest(tags: Mapping[str, str]) -> int:
    return max(len(value.encode()) for value in tags.values())


# JPEG has EXIF in one segment, and the system takes arguments of ffmpeg of at most 128 KiB.
LIMITS: Mapping[str, tuple[int, Callable[[Mapping[str, str]], int]]] = {
    "jpeg": (65533, _exif_size),
    **dict.fromkeys(CRF_FORMATS, (128 * 1024, _longest)),
}
"""The formats whose metadata have a maximum size in bytes, and how the size is measured."""


def check_crf(crf: int | None, format: str) -> None:
    """Raises a `RequestError` if the format's encoder does not take a constant rate factor."""
    if crf is None:
        return
    codec = FORMATS[format].codec
    if codec is None:
        raise RequestError(f"--crf is for {' and '.join(CRF_FORMATS)}, but the format is {format}: leave it out")
    if not codec.min_crf <= crf <= codec.max_crf:
        raise RequestError(
            f"--crf is {crf}, but must be {codec.min_crf} to {codec.max_crf} for {format}: less is better and larger"
        )


def check_fps(fps: int | None, format: str) -> None:
    """Raises a `RequestError` if the format cannot hold as many frames per second."""
    max_fps = FORMATS[format].max_fps
    if max_fps is not None and fps is not None and fps > max_fps:
        raise RequestError(f"--fps is {fps}, but a {format} has at most {max_fps}: choose fewer, or --format webp or mp4")


def check_format(format: str) -> None:
    """Raises a `MediaError` if this machine lacks what writes a format."""
    if codec := FORMATS[format].codec:
        check_encoder(codec)


def check_metadata(metadata: Mapping[str, Any] | None, format: str) -> None:
    """Raises a `RequestError` if a format cannot hold metadata, to which about `ROOM` bytes come during the work."""
    tags = tags_of(metadata)
    if not tags or format not in LIMITS:
        return
    size = LIMITS[format][1](tags) + ROOM
    if size > LIMITS[format][0]:
        raise RequestError(
            f"the metadata would have {size} bytes, but {format} holds {LIMITS[format][0]}: shorten the prompt,"
            " choose --format png or frames, or pass --no-metadata"
        )


def encode_image(image: "Image", format: str, metadata: Mapping[str, Any] | None) -> bytes:
    """Returns an image as the bytes of a file.

    Arguments:
        image: The image.
        format: A key of `IMAGE_FORMATS`.
        metadata: The JSON of the file, by `vsf_cli.media.metadata.describe`; None writes no metadata.

    Raises:
        EncodingError: If the format cannot hold the metadata, which EXIF limits to 64 KiB.
    """
    encode = FORMATS[format].encode
    assert encode is not None
    try:
        return encode(image, tags_of(metadata))
    except (ValueError, OSError) as error:
        raise EncodingError(f"the image cannot be written as {format}: {error}; try --format png") from error


def encode_video(
    frames: Sequence["Image"],
    fps: int,
    format: str,
    metadata: Mapping[str, Any] | None,
    crf: int | None = None,
    progress: Progress | None = None,
    sound: Sound | None = None,
) -> bytes:
    """Returns a video as the bytes of a file.

    Arguments:
        frames: The frames, all of one size.
        fps: Frames per second.
        format: A key of `VIDEO_FORMATS`, but not frames.
        metadata: The JSON of the file, by `vsf_cli.media.metadata.describe`; None writes no metadata.
        crf: The constant rate factor of MP4 and WebM; None means the format's default.
        progress: Called after each frame with the number of encoded frames and of all frames.
        sound: The sound, which only MP4 and WebM hold.

    Raises:
        EncodingError: If the format cannot hold the video.
        MediaError: If ffmpeg cannot write it.
    """
    entry, tags = FORMATS[format], tags_of(metadata)
    try:
        if entry.codec:
            return encode_by_ffmpeg(frames, fps, entry.codec, tags, crf, progress, sound)
        assert entry.animate is not None
        return entry.animate(frames, fps, tags, progress)
    except (OSError, ValueError, RuntimeError) as error:
        raise EncodingError(f"the video cannot be written as {format}: {' '.join(str(error).split())[:200]}") from error


def write_image(path: Path, image: "Image", format: str, metadata: Mapping[str, Any] | None) -> None:
    """Writes an image with its metadata; the arguments are those of `encode_image`.

    Raises:
        MediaError: If the file cannot be written.
    """
    write_bytes(path, encode_image(image, format, metadata))
