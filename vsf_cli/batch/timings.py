"""Seconds per image on this machine, kept from run to run for estimates."""

import json
from collections.abc import Iterable
from pathlib import Path
from statistics import median

import platformdirs

from vsf_cli.batch.items import Item
from vsf_cli.errors import MediaError
from vsf_cli.media.files import write_bytes

__all__ = ["estimate", "remember"]

MAX_ENTRIES = 1000


def _file() -> Path:
    return Path(platformdirs.user_cache_dir("vsf")) / "timings.json"


def _key(item: Item) -> str:
    request = item.request
    sizes = request.width, request.height, request.num_frames, request.num_inference_steps
    return " ".join(str(part) for part in (request.model.rsplit("/", 1)[-1], request.method, request.dtype, *sizes))


def _known() -> dict[str, float]:
    try:
        entries = json.loads(_file().read_text("utf-8"))
        return {str(key): float(value) for key, value in entries.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def remember(taken: Iterable[tuple[Item, float]]) -> None:
    """Stores the median seconds of each kind of image; does nothing if the cache cannot be written."""
    by_key: dict[str, list[float]] = {}
    for item, seconds in taken:
        by_key.setdefault(_key(item), []).append(seconds)
    known = {**_known(), **{key: round(median(seconds), 4) for key, seconds in by_key.items()}}
    try:
        write_bytes(_file(), json.dumps(dict(list(known.items())[-MAX_ENTRIES:])).encode())
    except MediaError:
        return


def estimate(items: Iterable[Item]) -> float | None:
    """Returns the seconds that items will take; None if one of their kind was never made on this machine."""
    known = _known()
    seconds = [known.get(_key(item)) for item in items]
    return None if None in seconds else sum(one for one in seconds if one is not None)
