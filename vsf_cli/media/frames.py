"""Videos as folders of numbered PNG files."""

import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vsf_cli.media.files import partial_prefix, write_error
from vsf_cli.media.formats import encode_image

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["frame_paths", "holds_frames", "write_frames"]


def frame_paths(folder: Path) -> list[Path]:
    """Returns the files of a folder's frames, in order."""
    return sorted(folder.glob("*.png"))


def holds_frames(folder: Path) -> bool:
    """Returns whether a folder has only frames by `write_frames`, beside hidden files of the system."""
    return all(re.fullmatch(r"\d{4,}\.png|\.DS_Store", path.name) for path in folder.iterdir())


def write_frames(
    path: Path,
    frames: Sequence["Image"],
    metadata: Mapping[str, Any] | None,
    progress: Callable[[int, int], object] | None = None,
    replace: bool = True,
) -> None:
    """Writes the frames of a video as numbered PNG files into a new folder, or in place of an old one, once all are encoded.

    The other arguments are those of `encode_video`.

    Raises:
        MediaError: If the folder cannot be written.
        FileExistsError: If there is such a folder and `replace` is false.
    """
    taken = False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(".partial", f"{partial_prefix()}{os.getpid()}-", path.parent) as partial:
            new = Path(partial) / "new"
            new.mkdir()
            for number, frame in enumerate(frames):
                (new / f"{number:04}.png").write_bytes(encode_image(frame, "png", metadata))
                if progress is not None:
                    progress(number + 1, len(frames))
            taken = not replace and os.path.lexists(path)
            if not taken:
                if path.exists():
                    path.replace(Path(partial) / "old")
                new.replace(path)
    except OSError as error:
        raise write_error(path, error) from error
    if taken:
        raise FileExistsError(path)
