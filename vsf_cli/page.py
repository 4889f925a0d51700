"""The page of a run's maps: one HTML file with everything in it, that opens from disk and asks no network."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from vsf_cli.maps import Maps
from vsf_cli.plots import middle_frame, palette

__all__ = ["page"]

SHARE = "all of the negative prompt"
SHOWN_SIDE = 512
"""Pixels: larger pictures are embedded at this size."""


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _picture(image: Image.Image) -> str:
    small = image.convert("RGB")
    small.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + _encoded(buffer.getvalue())


def _groups(blocks: Sequence[int]) -> dict[str, list[int]]:
    """All blocks, and their thirds, by the places on the block axis."""
    everything = list(range(len(blocks)))
    groups = {f"all blocks ({blocks[0]}\u2013{blocks[-1]})": everything}
    if len(blocks) >= 3:
        for name, places in zip(("early", "middle", "late"), np.array_split(everything, 3), strict=True):
            groups[f"{name} ({blocks[places[0]]}\u2013{blocks[places[-1]]})"] = places.tolist()
    return groups


def _choices(maps: Maps) -> dict[str, tuple[np.ndarray, str]]:
    """What can be shown: values with the axes (step, block, row, column), and their unit."""
    found = {SHARE: (middle_frame(maps.share).mean(2), "share of attention")}
    for prompt, sign in (("negative", "\u2212"), ("positive", "+")):
        for word in maps.words(prompt):
            encoders = maps.encoders(word, prompt)
            for encoder in [None, *encoders] if len(encoders) > 1 else encoders:
                name = f"{sign} {word}" + (f" ({encoder.upper()})" if encoder else "")
                found[name] = middle_frame(maps.word(word, prompt, encoder)).mean(2), "q\u00b7k / \u221aD, nats"
    return found


def _layer(values: np.ndarray, unit: str, groups: Mapping[str, list[int]]) -> dict[str, Any]:
    """Bytes on one scale for all steps and groups of blocks, with shape (groups, steps, rows, columns)."""
    means = np.stack([values[:, places].mean(1) for places in groups.values()])
    low, high = float(means.min()), float(means.max())
    scaled = ((means - low) / max(high - low, 1e-12) * 255).round().astype(np.uint8)
    return {"low": low, "high": high, "unit": unit, "bytes": _encoded(scaled.tobytes())}


def page(
    maps: Maps,
    title: str,
    facts: Mapping[str, Any],
    final: Image.Image,
    unguided: Image.Image | None,
    estimates: Sequence[Image.Image],
) -> str:
    """The HTML of a run.

    Arguments:
        maps: The maps.
        title: The heading.
        facts: What the page says of the run, by name.
        final: The finished picture.
        unguided: The picture of the same seed without guidance.
        estimates: The estimate of the picture at each step of the maps.
    """
    groups = _groups(maps.blocks)
    data = {
        "rows": maps.share.shape[-2],
        "columns": maps.share.shape[-1],
        "steps": maps.steps,
        "sigmas": maps.sigmas,
        "groups": list(groups),
        "layers": {name: _layer(values, unit, groups) for name, (values, unit) in _choices(maps).items()},
        "palette": _encoded(palette().tobytes()),
        "estimates": [_picture(image) for image in estimates],
    }
    environment = Environment(loader=PackageLoader("vsf_cli"), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("maps.html.j2").render(
        title=title,
        facts=facts,
        data=data,
        final=_picture(final),
        unguided=_picture(unguided) if unguided else None,
    )
