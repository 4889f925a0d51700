"""Clips as files: MP4 and WebM by ffmpeg, animated WebP and GIF by Pillow, each with what it says of how it was made."""

import io
import itertools
import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vsf_cli.errors import EncodingError, MediaError, RequestError
from vsf_cli.media.metadata import infotext

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "CLIP_FORMATS",
    "CODECS",
    "EXIF_IFD",
    "IMAGE_DESCRIPTION",
    "UNICODE",
    "USER_COMMENT",
    "check_crf",
    "check_fps",
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
LEAST_CRF = {"mp4": 1, "webm": 0}
"""H.264 with 0 is lossless, in a profile that browsers and phones do not play."""
MOST_FPS_OF_GIF = 50
"""It counts in hundredths of a second, and viewers slow down what is shown for one of them."""
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
    least, most = LEAST_CRF[format], CODECS[format][2]
    if not least <= crf <= most:
        raise RequestError(f"--crf is {crf}, but must be {least} to {most} for {format}: less is better and larger")


def check_fps(fps: int | None, format: str) -> None:
    """Refuses more frames in a second than the format can say.

    Raises:
        RequestError: If there are more.
    """
    if format == "gif" and fps is not None and fps > MOST_FPS_OF_GIF:
        raise RequestError(f"--fps is {fps}, but a gif has at most {MOST_FPS_OF_GIF}: choose fewer, or --format webp or mp4")


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
        description: The JSON of the file, by `vsf_cli.media.metadata.describe`; None writes no metadata at all.
        crf: The constant rate factor of MP4 and WebM; None means the format's own, at which a loss is hardly seen.
        progress: Called after each frame with the frames done and all frames.

    Raises:
        EncodingError: If it cannot be encoded.
    """
    own = json.dumps(description, ensure_ascii=True, sort_keys=True, allow_nan=False) if description else None
    tags = {"vsf": own, "parameters": infotext(description)} if description and own else {}
    try:
        return (
            _by_ffmpeg(frames, fps, format, tags, crf, progress)
            if format in CODECS
            else _animation(frames, fps, format, tags, progress)
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
    codec, usual, _, options = CODECS[format]
    said = [word for key, value in tags.items() for word in ("-metadata", f"{key}={value}")]
    # Half of the pixels have a colour: sides must be even.
    even = [] if not any(side % 2 for side in frames[0].size) else ["-vf", "scale=ceil(iw/2)*2:ceil(ih/2)*2"]
    params = ["-vcodec", codec, "-pix_fmt", "yuv420p", *even, "-crf", str(usual if crf is None else crf), *options, *said]
    with tempfile.TemporaryDirectory(prefix="vsf-") as folder:
        path = Path(folder) / f"clip.{format}"
        code, told = _fed([*_raw_input(frames[0].size, fps), *params, str(path)], frames, progress)
        # Not by the code alone: of a disk that is full ffmpeg may end with 0 and half a file.
        written = _frames_in(path)
        if code or written != len(frames):
            raise MediaError(
                f"the clip cannot be written as {format}: ffmpeg ended with code {code} and {written} of {len(frames)} frames:"
                f" {told[:200] or 'it said nothing'}; look for space in {Path(folder).parent}, or set TMPDIR"
            )
        return path.read_bytes()


def _raw_input(size: tuple[int, int], fps: int) -> list[str]:
    """The start of ffmpeg's command: it reads the pixels of frames."""
    from imageio_ffmpeg import get_ffmpeg_exe

    pixels = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{size[0]}x{size[1]}", "-r", str(fps)]
    return [get_ffmpeg_exe(), "-y", "-v", "error", *pixels, "-i", "-", "-an"]


def _fed(command: Sequence[str], frames: Sequence["Image"], progress: Progress | None) -> tuple[int, str]:
    """Runs ffmpeg on frames, and gives its exit code and what it said.

    Whatever happens, it has ended when this returns.
    """
    # In a session of its own the terminal's Ctrl-C reaches us alone.
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )
    with ThreadPoolExecutor(1) as pool, process:
        assert process.stdin is not None and process.stderr is not None
        # Read beside: it would stand still before a pipe that is full.
        told = pool.submit(process.stderr.read)
        try:
            # When it has ended early, its code says more than the broken pipe.
            with suppress(BrokenPipeError):
                for number, frame in enumerate(frames, 1):
                    process.stdin.write(frame.convert("RGB").tobytes())
                    if progress is not None:
                        progress(number, len(frames))
                process.stdin.close()
            said = re.sub(r"\[[^]]* @ 0x\w+\]", "", told.result().decode(errors="replace"))
            return process.wait(), " ".join(said.split())
        finally:
            process.kill()
            with suppress(BrokenPipeError):
                process.stdin.close()


def _frames_in(path: Path) -> int:
    """How many frames a clip's file has; 0 if it cannot be read."""
    try:
        found, _ = _read_by_ffmpeg(path, ["-c", "copy", "-f", "null", "-progress", "-", "-"])
    except MediaError:
        return 0
    counts = re.findall(rb"^frame=\s*(\d+)", found, re.MULTILINE)
    return int(counts[-1]) if counts else 0


def _animation(frames: Sequence["Image"], fps: int, format: str, tags: Mapping[str, str], progress: Progress | None) -> bytes:
    from PIL.Image import Exif

    buffer = io.BytesIO()
    first, *rest = _counted(frames, progress)
    options: dict[str, Any] = {"save_all": True, "append_images": rest, "loop": 0}
    options["duration"] = _durations(len(frames), fps, 10 if format == "gif" else 1)
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


def _counted(frames: Sequence["Image"], progress: Progress | None) -> list["Image"]:
    """Frames that tell when Pillow comes to encode them, of which it says nothing itself."""
    from PIL import Image

    left = iter(range(1, len(frames) + 1))

    class Counted(Image.Image):
        def seek(self, frame: int) -> None:
            super().seek(frame)
            # Pillow looks at the first again when it is done.
            number = next(left, None) if frame == 0 else None
            if progress is not None and number is not None:
                progress(number, len(frames))

    counted = [frame.convert("RGB") for frame in frames]
    for frame in counted:
        frame.__class__ = Counted
    return counted


def _durations(count: int, fps: int, unit: int) -> list[int]:
    """How long each frame is shown, in milliseconds that are multiples of a unit, so that their sum is as near as it can be."""
    ends = [round(1000 / unit * number / fps) * unit for number in range(count + 1)]
    return [end - start for start, end in itertools.pairwise(ends)]


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
