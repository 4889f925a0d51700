"""Parses the seeds, sizes and paths of the command line."""

import os
import random
import re
from collections.abc import Sequence
from pathlib import Path

from vsf_cli.config.names import counted
from vsf_cli.config.ranges import parse_indices
from vsf_cli.errors import RequestError

__all__ = [
    "FRAMES_OF_A_TOKEN",
    "SIDES_OF_CLIPS",
    "check_sides",
    "choose_seeds",
    "chosen_size",
    "parse_batch_size",
    "parse_given_seeds",
    "parse_numbers",
    "parse_path",
    "parse_size",
    "whole_frames",
]

FRAMES_OF_A_TOKEN = 4
"""Frames per token of most autoencoders, such as Wan's: a video has 1 frame more than a multiple of it."""

SIDES_OF_CLIPS = 16
"""Wan's pipeline takes only videos whose sides are multiples of it, whatever the autoencoder is."""


def choose_seeds(seeds: Sequence[int] | None, count: int | None) -> list[int]:
    """Returns the seeds of a run: the given ones, or as many from a single one upwards, or random ones if none is given.

    Arguments:
        seeds: The seeds that are given.
        count: The number of seeds; None means as many as are given, or one.

    Raises:
        RequestError: If `count` is not the number of several given ones.
    """
    if not seeds:
        return [random.SystemRandom().getrandbits(32) for _ in range(count or 1)]
    if count is not None and len(seeds) == 1:
        return list(range(seeds[0], seeds[0] + count))
    if count is not None and len(seeds) != count:
        raise RequestError(f"--seed names {counted(len(seeds), 'seed')}, but --seeds wants {count}: give one of the two")
    return list(seeds)


def parse_given_seeds(text: str) -> list[int] | None:
    """Returns the seeds of a text such as "7", "1,2,3", "1..8", "1:5:2" or "1-5 (+2)"; None for "random" and -1.

    Raises:
        ValueError: If the text cannot be parsed.
        RequestError: If a range is empty or too long.
    """
    return None if text.strip() in ("random", "-1") else parse_indices(text, "seed")


def parse_numbers(text: str | None, noun: str) -> tuple[int, ...] | None:
    """Returns the numbers of a text such as "1,2,5..8", sorted, each once; None for None and "all".

    Raises:
        ValueError: If the text cannot be parsed.
        RequestError: If a range is empty or too long.
    """
    return None if text is None or text.strip() == "all" else tuple(sorted(set(parse_indices(text, noun))))


def parse_batch_size(text: str) -> int | str:
    """Returns a number of at least 1, or "auto"; raises a `ValueError` for any other text."""
    if text.strip() == "auto":
        return "auto"
    if not text.strip().isdigit() or int(text) < 1:
        raise ValueError(f"'{text}' is neither a number of at least 1 nor auto")
    return int(text)


def parse_size(text: str) -> tuple[int, int]:
    """Returns width and height in pixels, from "WxH", "W*H" or one number for a square.

    Raises:
        ValueError: If the text cannot be parsed.
    """
    match = re.fullmatch(r"\s*(\d+)(?:\s*[x*X\u00d7]\s*(\d+))?\s*", text)
    if match is None:
        raise ValueError(f"'{text}' is no size: write WxH, such as 1024x768")
    width = int(match[1])
    return width, int(match[2] or width)


def chosen_size(size: str | None, width: int | None, height: int | None) -> str | None:
    """Returns the size as one text, from `--size` or from `--width` with `--height`.

    Raises:
        RequestError: If one of the two is missing, or all are given.
    """
    if width is None and height is None:
        return size
    if width is None or height is None:
        given, missing = ("--width", "--height") if height is None else ("--height", "--width")
        raise RequestError(f"{given} is given without {missing}: give both, or --size WxH")
    if size is not None:
        raise RequestError(f"--size is {size}, but --width and --height are given too: give one of the two")
    return f"{width}x{height}"


def check_sides(width: int | None, height: int | None, multiple: int) -> None:
    """Raises a `RequestError` if a side is no multiple of a number; it names the nearest legal side."""
    for name, side in (("width", width), ("height", height)):
        if side is not None and side % multiple:
            near = max(multiple, round(side / multiple) * multiple)
            raise RequestError(f"{name} is {side}, but must be a multiple of {multiple} for this model: try {near}")


def whole_frames(
    frames: int | None, seconds: float | None, fps: int | None, dropped: int = 0, multiple: int = FRAMES_OF_A_TOKEN
) -> tuple[int | None, str | None]:
    """Returns the nearest number of frames that a video model can make, and a note if it differs from the requested one.

    Arguments:
        frames: The requested frames.
        seconds: The requested length; it takes precedence over `frames`, and does not count dropped frames.
        fps: Frames per second.
        dropped: How many of the first frames are dropped.
        multiple: A video has 1 frame more than a multiple of it.

    Raises:
        RequestError: If there would be no frame.
    """
    if seconds is not None:
        if not 0 < seconds < float("inf"):
            raise RequestError(f"--seconds is {seconds:g}, but must be more than 0")
        frames = max(1, round(seconds * (fps or 1))) + dropped
    if frames is None:
        return None, None
    if frames < 1:
        raise RequestError(f"frames is {frames}, but must be at least 1")
    whole = max(1, round((frames - 1) / multiple) * multiple + 1)
    kept = counted(frames - dropped, "frame") + (f", and {dropped} are left out" if dropped else "")
    asked = f"{counted(frames, 'frame')} asked for" if seconds is None else f"{seconds:g} s at {fps} fps are {kept}"
    note = f"{asked}, but {whole} {'is' if whole == 1 else 'are'} made: 1 more than a multiple of {multiple}"
    return whole, None if whole == frames else note


def parse_path(text: str) -> Path:
    """Returns a path in which `~` is the user's home folder; `~name` stays as it is if there is no such user."""
    return Path(os.path.expanduser(text))
