"""The page of a run's maps: one HTML file with everything in it, that opens from disk and asks no network."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from vsf_cli.maps.data import Maps
from vsf_cli.maps.plots import Frames, palette
from vsf_cli.media.html import render

__all__ = ["page"]

SHARE = "all of the negative prompt"
SHOWN_SIDE = 512
"""Pixels: larger pictures are embedded at this size, and frames of clips, which are many, at half of it."""


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _picture(image: Image.Image, side: int) -> str:
    small = image.convert("RGB")
    small.thumbnail((side, side))
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
    """What can be shown: values with the axes (step, block, frame, row, column), and their unit."""
    found = {SHARE: (maps.share.mean(2), "share of attention")}
    for prompt, sign in (("negative", "\u2212"), ("positive", "+")):
        for word in maps.words(prompt):
            encoders = maps.encoders(word, prompt)
            for encoder in [None, *encoders] if len(encoders) > 1 else encoders:
                name = f"{sign} {word}" + (f" ({encoder.upper()})" if encoder else "")
                found[name] = maps.word(word, prompt, encoder).mean(2), "q\u00b7k / \u221aD, nats"
    return found


def _layer(values: np.ndarray, unit: str, groups: Mapping[str, list[int]]) -> dict[str, Any]:
    """Bytes with shape (groups, steps, frames, rows, columns), on one scale for all steps in each group of blocks."""
    means = np.stack([values[:, places].mean(1) for places in groups.values()])
    low, high = (extreme(means, axis=(1, 2, 3, 4), keepdims=True) for extreme in (np.min, np.max))
    scaled = ((means - low) / np.maximum(high - low, 1e-12) * 255).round().astype(np.uint8)
    return {"low": low.ravel().tolist(), "high": high.ravel().tolist(), "unit": unit, "bytes": _encoded(scaled.tobytes())}


def page(
    maps: Maps,
    title: str,
    facts: Mapping[str, Any],
    final: Frames,
    unguided: Frames | None,
    estimates: Sequence[Frames],
) -> str:
    """The HTML of a run.

    Arguments:
        maps: The maps.
        title: The heading.
        facts: What the page says of the run, by name.
        final: The finished picture, at each frame of the maps.
        unguided: The picture of the same seed without guidance.
        estimates: The estimate of the picture at each step of the maps.
    """
    side = SHOWN_SIDE if len(final) == 1 else SHOWN_SIDE // 2
    groups = _groups(maps.blocks)
    data = {
        "rows": maps.share.shape[-2],
        "columns": maps.share.shape[-1],
        "steps": maps.steps,
        "sigmas": maps.sigmas,
        "groups": list(groups),
        "layers": {name: _layer(values, unit, groups) for name, (values, unit) in _choices(maps).items()},
        "palette": _encoded(palette().tobytes()),
        "final": [_picture(image, side) for image in final],
        "unguided": [_picture(image, side) for image in unguided or ()],
        "estimates": [[_picture(image, side) for image in frames] for frames in estimates],
    }
    return render("maps.html.j2", title=title, facts=facts, data=data)
