"""Clips as files: MP4 and WebM by ffmpeg, animated WebP and GIF by Pillow, each with what it says of how it was made."""

import io
import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vsf_cli.errors import EncodingError, MediaError, RequestError
from vsf_cli.metadata import infotext

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "CLIP_FORMATS",
    "CODECS",
    "check_crf",
    "count_frames",
    "encode_clip",
    "read_clip",
    "read_clip_frame",
    "read_clip_tags",
]

Progress = Callable[[int, int], object]

CLIP_FORMATS: Mapping[str, tuple[str, ...]] = {
    "mp4": (".mp4",),
    "webm": (".webm",),
    "gif": (".gif",),
    "webp": (".webp",),
    "frames": ("",),
}
"""The formats of clips, with the endings of their files; frames are a folder of PNG pictures."""

CODECS = {
    "mp4": ("libx264", 14, 51, ("-movflags", "use_metadata_tags")),
    "webm": ("libvpx-vp9", 24, 63, ("-b:v", "0", "-row-mt", "1")),
}
"""Of what ffmpeg writes: the encoder, its constant rate factor unless told otherwise and at most, and its options."""
IMAGE_DESCRIPTION, EXIF_IFD, USER_COMMENT = 0x010E, 0x8769, 0x9286
UNICODE = b"UNICODE\0"


def check_crf(crf: int | None, format: str) -> None:
    """Refuses a constant rate factor that the format's encoder does not take.

    Raises:
        RequestError: If it is not legal.
    """
    if crf is None:
        return
    if format not in CODECS:
        raise RequestError(f"--crf is for {' and '.join(CODECS)}, but the format is {format}: leave it out")
    most = CODECS[format][2]
    if not 0 <= crf <= most:
        raise RequestError(f"--crf is {crf}, but must be 0 to {most} for {format}: less is better and larger")


def encode_clip(
    frames: Sequence["Image"],
    fps: int,
    format: str,
    description: Mapping[str, Any] | None,
    crf: int | None = None,
    progress: Progress | None = None,
) -> bytes:
    """A clip as the bytes of a file.

    Arguments:
        frames: The frames, all of one size.
        fps: Frames in a second.
        format: A key of `CLIP_FORMATS`, but frames.
        description: The JSON of the file, by `vsf_cli.metadata.describe`; None writes no metadata at all.
        crf: The constant rate factor of MP4 and WebM; None means the format's own, at which a loss is hardly seen.
        progress: Called after each frame with the frames done and all frames.

    Raises:
        EncodingError: If it cannot be encoded.
    """
    own = json.dumps(description, ensure_ascii=True, sort_keys=True, allow_nan=False) if description else None
    tags = {"vsf": own, "parameters": infotext(description)} if description and own else {}
    try:
        return (
            _by_ffmpeg(frames, fps, format, tags, crf, progress) if format in CODECS else _animation(frames, fps, format, tags)
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise EncodingError(f"the clip cannot be written as {format}: {' '.join(str(error).split())[:200]}") from error


def _by_ffmpeg(
    frames: Sequence["Image"],
    fps: int,
    format: str,
    tags: Mapping[str, str],
    crf: int | None,
    progress: Progress | None,
) -> bytes:
    from imageio_ffmpeg import write_frames

    codec, usual, _, options = CODECS[format]
    said = [word for key, value in tags.items() for word in ("-metadata", f"{key}={value}")]
    params = ["-crf", str(usual if crf is None else crf), *options, *said]
    with tempfile.TemporaryDirectory(prefix="vsf-") as folder:
        path = Path(folder) / f"clip.{format}"
        writer = write_frames(
            str(path), frames[0].size, fps=fps, codec=codec, quality=None, macro_block_size=2, output_params=params
        )
        try:
            writer.send(None)
            for number, frame in enumerate(frames, 1):
                writer.send(frame.convert("RGB").tobytes())
                if progress is not None:
                    progress(number, len(frames))
        finally:
            writer.close()
        return path.read_bytes()


def _animation(frames: Sequence["Image"], fps: int, format: str, tags: Mapping[str, str]) -> bytes:
    from PIL.Image import Exif

    buffer = io.BytesIO()
    first, *rest = [frame.convert("RGB") for frame in frames]
    options: dict[str, Any] = {"save_all": True, "append_images": rest, "duration": round(1000 / fps), "loop": 0}
    if format == "webp":
        exif = Exif()
        if tags:
            exif[IMAGE_DESCRIPTION] = tags["vsf"]
            exif.get_ifd(EXIF_IFD)[USER_COMMENT] = UNICODE + tags["parameters"].encode("utf-16-be")
        options |= {"quality": 95, "method": 4, "exif": exif}
    elif tags:
        options["comment"] = tags["vsf"].encode()
    first.save(buffer, format.upper(), **options)
    return buffer.getvalue()


def read_clip_tags(path: Path) -> dict[str, str]:
    """The tags of an MP4 or WebM file: `vsf` and `parameters`, where it has them.

    Raises:
        MediaError: If it cannot be read as a clip.
    """
    text = _read_by_ffmpeg(path, ["-f", "ffmetadata", "-"])[0].decode("utf-8", errors="replace")
    # WebM has the keys in capitals. A value may go on over several lines, each but the last ending on a backslash.
    pairs = re.findall(r"^(vsf|parameters)=((?:\\.|[^\\\n])*)$", text, re.MULTILINE | re.DOTALL | re.IGNORECASE)
    return {key.lower(): re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL) for key, value in pairs}


def _read_by_ffmpeg(path: Path, output: Sequence[str], before: Sequence[str] = ()) -> tuple[bytes, str]:
    """What ffmpeg writes to stdout, and what it says of errors that did not stop it."""
    from imageio_ffmpeg import get_ffmpeg_exe

    # Not by imageio's readers, which leave pipes open.
    command = [get_ffmpeg_exe(), "-v", "error", *before, "-i", str(path), *output]
    found = subprocess.run(command, capture_output=True, check=False)
    said = " ".join(found.stderr.decode(errors="replace").split())[:200]
    if found.returncode:
        raise MediaError(f"{path} cannot be read as a clip: {said}")
    return found.stdout, said


def count_frames(path: Path) -> int:
    """How many frames an MP4 or WebM file has; all of them are decoded.

    Raises:
        MediaError: If one of them cannot be.
    """
    found, said = _read_by_ffmpeg(path, ["-map", "0:v:0", "-f", "framecrc", "-"])
    if said:
        raise MediaError(f"{path} is not whole: {said}")
    return sum(not line.startswith(b"#") for line in found.splitlines())


def read_clip_frame(path: Path, seconds: float) -> "Image":
    """The frame of an MP4 or WebM file that is shown at some time.

    Raises:
        MediaError: If it cannot be read, or has no such frame.
    """
    from PIL import Image

    options = ["-frames:v", "1", "-c:v", "png", "-f", "image2pipe", "-"]
    found, said = _read_by_ffmpeg(path, options, ["-ss", f"{seconds:.4f}"])
    if not found:
        raise MediaError(f"{path} has no frame at {seconds:.2f} s: {said}")
    return Image.open(io.BytesIO(found)).convert("RGB")


def read_clip(path: Path) -> list["Image"]:
    """The frames of an MP4 or WebM file.

    Raises:
        MediaError: If it cannot be read as a clip.
    """
    from PIL import Image

    with tempfile.TemporaryDirectory(prefix="vsf-") as folder:
        _, said = _read_by_ffmpeg(path, ["-fps_mode", "passthrough", f"{folder}/%06d.png"])
        files = sorted(Path(folder).iterdir())
        if not files:
            raise MediaError(f"{path} cannot be read as a clip: {said}")
        return [Image.open(file).convert("RGB") for file in files]
