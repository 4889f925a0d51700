"""How long pictures took on this machine, kept from run to run for estimates."""

import json
from collections.abc import Iterable
from pathlib import Path
from statistics import median

import platformdirs

from vsf_cli.batch.items import Item
from vsf_cli.errors import MediaError
from vsf_cli.media.files import write_bytes

__all__ = ["estimate", "remember"]

MOST = 1000


def _file() -> Path:
    return Path(platformdirs.user_cache_dir("vsf")) / "timings.json"


def _key(item: Item) -> str:
    asked = item.request
    sizes = asked.width, asked.height, asked.num_frames, asked.num_inference_steps
    return " ".join(str(part) for part in (asked.model.rsplit("/", 1)[-1], asked.method, asked.dtype, *sizes))


def _known() -> dict[str, float]:
    try:
        found = json.loads(_file().read_text("utf-8"))
        return {str(key): float(value) for key, value in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def remember(taken: Iterable[tuple[Item, float]]) -> None:
    """Keeps the median of what pictures of each kind took. A machine whose cache cannot be written estimates nothing."""
    kinds: dict[str, list[float]] = {}
    for item, seconds in taken:
        kinds.setdefault(_key(item), []).append(seconds)
    known = {**_known(), **{key: round(median(seconds), 4) for key, seconds in kinds.items()}}
    try:
        write_bytes(_file(), json.dumps(dict(list(known.items())[-MOST:])).encode())
    except MediaError:
        return


def estimate(items: Iterable[Item]) -> float | None:
    """The seconds that items will take; None if one of their kind was never made here."""
    known = _known()
    seconds = [known.get(_key(item)) for item in items]
    return None if None in seconds else sum(one for one in seconds if one is not None)
