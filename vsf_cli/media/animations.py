"""Animated GIF and WebP by Pillow."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from vsf_cli.media.images import encode, exif_of

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["encode_animated_webp", "encode_gif"]

Progress = Callable[[int, int], object]


def encode_gif(frames: Sequence["Image"], fps: int, tags: Mapping[str, str], progress: Progress | None) -> bytes:
    """Returns a GIF file that loops, with our JSON as its comment."""
    first, *rest = _reporting(frames, progress)
    options = {"comment": tags["vsf"].encode()} if tags else {}
    # GIF counts in hundredths of a second.
    durations = _durations(len(frames), fps, 10)
    return encode(first, "GIF", save_all=True, append_images=rest, loop=0, duration=durations, **options)


def encode_animated_webp(frames: Sequence["Image"], fps: int, tags: Mapping[str, str], progress: Progress | None) -> bytes:
    """Returns a WebP file that loops, with the tags in its EXIF."""
    first, *rest = _reporting(frames, progress)
    options = {"duration": _durations(len(frames), fps, 1), "quality": 95, "method": 4, "exif": exif_of(tags)}
    return encode(first, "WEBP", save_all=True, append_images=rest, loop=0, **options)


def _reporting(frames: Sequence["Image"], progress: Progress | None) -> list["Image"]:
    """Returns copies of frames that call `progress` when Pillow encodes them; Pillow has no callback for it."""
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
    """Returns how long each frame is shown, in milliseconds: multiples of a unit whose sum is the video's length, rounded."""
    ends = [round(1000 / unit * number / fps) * unit for number in range(count + 1)]
    return [end - start for start, end in itertools.pairwise(ends)]
