"""Animated GIF and WebP by Pillow."""

import io
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vsf_cli.media.images import exif_of

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["encode_animated_webp", "encode_gif"]

Progress = Callable[[int, int], object]


def encode_gif(frames: Sequence["Image"], fps: int, tags: Mapping[str, str], progress: Progress | None) -> bytes:
    """Returns a GIF file that loops, with our JSON as its comment."""
    options = {"comment": tags["vsf"].encode()} if tags else {}
    # GIF counts in hundredths of a second.
    return _encode(frames, "GIF", _durations(len(frames), fps, 10), progress, **options)


def encode_animated_webp(frames: Sequence["Image"], fps: int, tags: Mapping[str, str], progress: Progress | None) -> bytes:
    """Returns a WebP file that loops, with the tags in its EXIF."""
    options = {"quality": 95, "method": 4, "exif": exif_of(tags)}
    return _encode(frames, "WEBP", _durations(len(frames), fps, 1), progress, **options)


def _encode(
    frames: Sequence["Image"], format: str, durations: Sequence[int], progress: Progress | None, **options: Any
) -> bytes:
    buffer = io.BytesIO()
    first, *rest = _reporting(frames, progress)
    first.save(buffer, format, save_all=True, append_images=rest, loop=0, duration=durations, **options)
    return buffer.getvalue()


def _reporting(frames: Sequence["Image"], progress: Progress | None) -> list["Image"]:
    """Returns copies of frames that report when Pillow encodes them, since Pillow has no such report of its own."""
    from PIL import Image

    left = iter(range(1, len(frames) + 1))

    class ReportingImage(Image.Image):
        def seek(self, frame: int) -> None:
            super().seek(frame)
            # Pillow seeks to the first frame again at the end.
            number = next(left, None) if frame == 0 else None
            if progress is not None and number is not None:
                progress(number, len(frames))

    copies = [frame.convert("RGB") for frame in frames]
    for copy in copies:
        copy.__class__ = ReportingImage
    return copies


def _durations(count: int, fps: int, unit: int) -> list[int]:
    """Returns how long each frame is shown, in milliseconds.

    Each is a multiple of the unit. Their sum is as near to the video's length as the unit allows.
    """
    ends = [round(1000 / unit * number / fps) * unit for number in range(count + 1)]
    return [end - start for start, end in itertools.pairwise(ends)]
