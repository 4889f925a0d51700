"""MP4 and WebM by ffmpeg.

imageio writes and reads the frames. ffmpeg is run directly for what imageio does not return: the tags of a file, messages about
damaged frames, and why a file could not be written.
"""

import re
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vsf_cli.config.names import counted
from vsf_cli.errors import MediaError
from vsf_cli.media.sound import Sound

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Codec", "check_encoder", "count_frames", "encode_by_ffmpeg", "read_tags", "read_video", "read_video_frame"]

Progress = Callable[[int, int], object]

NO_FFMPEG = "ffmpeg, which mp4 and webm need, is not on this machine"
READING = ("-protocol_whitelist", "file,pipe")
"""A file may name others, such as those of a playlist: none of them is fetched over the network."""


@dataclass(frozen=True)
class Codec:
    """How ffmpeg encodes a format.

    Arguments:
        container: The container, which is the ending of its files without the dot.
        encoder: The name of ffmpeg's encoder.
        crf: The default constant rate factor, at which a loss is hardly seen.
        min_crf, max_crf: The legal constant rate factors; the smallest gives the best and largest files.
        params: More options of ffmpeg.
    """

    container: str
    encoder: str
    crf: int
    min_crf: int
    max_crf: int
    params: tuple[str, ...]


def encode_by_ffmpeg(
    frames: Sequence["Image"],
    fps: int,
    codec: Codec,
    tags: Mapping[str, str],
    crf: int | None,
    progress: Progress | None,
    sound: Sound | None = None,
) -> bytes:
    """Returns a video as the bytes of a file, with tags; the other arguments are those of `vsf_cli.media.formats.encode_video`.

    Raises:
        MediaError: If ffmpeg wrote fewer frames.
    """
    import imageio.v3 as iio

    params = _output_params(frames[0].size, codec, tags, crf)
    options: Any = {"is_batch": True, "fps": fps, "codec": codec.encoder, "pixelformat": "yuv420p", "macro_block_size": 1}
    with tempfile.TemporaryDirectory(prefix="vsf-") as folder:
        path = Path(folder) / f"video.{codec.container}"
        if sound is not None:
            options["audio_path"] = str(Path(folder) / "sound.wav")
            sound.write(Path(options["audio_path"]))
        # If ffmpeg ends early, with or without an error, as on a full disk, the number of frames shows it.
        written = 0
        with suppress(OSError):
            pixels = _pixels(frames, progress)
            iio.imwrite(path, pixels, plugin="FFMPEG", output_params=[*params], ffmpeg_log_level="quiet", **options)
        with suppress(MediaError):
            written = count_frames(path)
        if written != len(frames):
            reason = _reason(frames[0], fps, codec, params, Path(folder))
            raise MediaError(
                f"the video cannot be written as {codec.container}: ffmpeg wrote {written} of"
                f" {counted(len(frames), 'frame')}: {reason}; look for space in {path.parent.parent}, or set TMPDIR"
            )
        return path.read_bytes()


def _output_params(size: tuple[int, int], codec: Codec, tags: Mapping[str, str], crf: int | None) -> list[str]:
    # Four pixels share a colour in yuv420p, so that sides must be even.
    even = ["-vf", "scale=ceil(iw/2)*2:ceil(ih/2)*2"] if any(side % 2 for side in size) else []
    pairs = [word for key, value in tags.items() for word in ("-metadata", f"{key}={value}")]
    return [*even, "-crf", str(codec.crf if crf is None else crf), *codec.params, *pairs]


def _pixels(frames: Sequence["Image"], progress: Progress | None) -> Any:
    """Yields the pixels of each frame with shape (height, width, 3); imageio encodes a frame before it takes the next one."""
    import numpy as np

    for number, frame in enumerate(frames, 1):
        yield np.asarray(frame.convert("RGB"))
        if progress is not None:
            progress(number, len(frames))


def _reason(frame: "Image", fps: int, codec: Codec, params: Sequence[str], folder: Path) -> str:
    """Returns ffmpeg's messages when it writes one frame into a folder, since imageio drops those of the video."""
    size = f"{frame.width}x{frame.height}"
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", str(fps), "-i", "-"]
    output = ["-vcodec", codec.encoder, "-pix_fmt", "yuv420p", *params, str(folder / f"frame.{codec.container}")]
    done = _run([*source, *output], frame.convert("RGB").tobytes())
    return _message(done.stderr) or "it gave no reason"


def check_encoder(codec: Codec) -> None:
    """Raises a `MediaError` if ffmpeg is missing, or says that it was built without the encoder of a codec."""
    encoders = _encoders(_executable())
    if encoders and codec.encoder not in encoders:
        raise MediaError(
            f"{codec.container} needs {codec.encoder}, which this machine's ffmpeg lacks: choose another --format,"
            " or leave IMAGEIO_FFMPEG_EXE unset"
        )


@cache
def _encoders(executable: str) -> frozenset[str]:
    """Returns the names of the encoders of an ffmpeg; none if it does not list them."""
    done = _run(["-encoders"], executable=executable)
    lines = [] if done.returncode else done.stdout.decode(errors="replace").splitlines()
    return frozenset(words[1] for line in lines if len(words := line.split()) > 1)


def _executable() -> str:
    """Returns the path of ffmpeg; raises a `MediaError` if there is none."""
    from imageio_ffmpeg import get_ffmpeg_exe

    try:
        return get_ffmpeg_exe()
    except RuntimeError as error:
        raise MediaError(f"{NO_FFMPEG}: pip install imageio-ffmpeg, or choose --format gif, webp or frames") from error


def _run(
    arguments: Sequence[str], data: bytes | None = None, executable: str | None = None
) -> "subprocess.CompletedProcess[bytes]":
    command = [executable or _executable(), "-v", "error", *arguments]
    try:
        return subprocess.run(command, input=data or b"", capture_output=True, check=False)
    except OSError as error:
        raise MediaError(f"{NO_FFMPEG}: {command[0]}: {error.strerror}; set IMAGEIO_FFMPEG_EXE right, or not at all") from error


def _message(output: bytes) -> str:
    """Returns ffmpeg's messages as one line, without the addresses of modules."""
    return " ".join(re.sub(r"\[[^]]* @ 0x\w+\]", "", output.decode(errors="replace")).split())[:200]


def _read_by_ffmpeg(path: Path, output: Sequence[str]) -> tuple[bytes, str]:
    """Returns ffmpeg's output, and its messages about errors that did not stop it."""
    # A name with a colon would be a protocol.
    done = _run([*READING, "-i", str(path.absolute()), *output])
    if done.returncode:
        raise _unreadable(path, _message(done.stderr))
    return done.stdout, _message(done.stderr)


def _unreadable(path: Path, reason: str) -> MediaError:
    return MediaError(f"{path} cannot be read as a video: {reason}")


def read_tags(path: Path) -> dict[str, str]:
    """Returns the tags of an MP4 or WebM file, by their names in lower case: ours are `vsf` and `parameters`.

    Raises:
        MediaError: If it cannot be read as a video.
    """
    text = _read_by_ffmpeg(path, ["-f", "ffmetadata", "-"])[0].decode("utf-8", errors="replace")
    # WebM has the keys in capitals. A value may span several lines; each but the last ends with a backslash.
    pairs = re.findall(r"^(\w+)=((?:\\.|[^\\\n])*)$", text, re.MULTILINE | re.DOTALL)
    return {key.lower(): re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL) for key, value in pairs}


def count_frames(path: Path) -> int:
    """Decodes an MP4 or WebM file, and returns its number of frames.

    Raises:
        MediaError: If one of them cannot be decoded.
    """
    output, message = _read_by_ffmpeg(path, ["-map", "0:v:0", "-f", "framecrc", "-"])
    if message:
        raise MediaError(f"{path} is not whole: {message}")
    return sum(not line.startswith(b"#") for line in output.splitlines())


def read_video(path: Path) -> list["Image"]:
    """Returns the frames of an MP4 or WebM file.

    Raises:
        MediaError: If it cannot be read as a video.
    """
    # Each frame once, however long it is shown.
    frames = _read_frames(path, output_params=["-fps_mode", "passthrough"])
    if not frames:
        raise _unreadable(path, "it has no frames")
    return frames


def read_video_frame(path: Path, seconds: float) -> "Image":
    """Returns the frame of an MP4 or WebM file that is shown at a time, in seconds from the start.

    Raises:
        MediaError: If it cannot be read, or has no such frame.
    """
    frames = _read_frames(path, "-ss", f"{seconds:.4f}", output_params=["-frames:v", "1"])
    if not frames:
        raise MediaError(f"{path} has no frame at {seconds:.2f} s")
    return frames[0]


def _read_frames(path: Path, *input_params: str, output_params: Sequence[str]) -> list["Image"]:
    import imageio.v3 as iio
    from PIL import Image

    _executable()
    params: Any = {"input_params": [*READING, *input_params], "output_params": [*output_params]}
    try:
        return [Image.fromarray(pixels) for pixels in iio.imiter(path, plugin="FFMPEG", **params)]
    except (OSError, RuntimeError, IndexError) as error:
        # ffmpeg's build comes first in its messages, and the cause last.
        raise _unreadable(path, _message(str(error).strip().rpartition("\n")[2].encode())) from error
