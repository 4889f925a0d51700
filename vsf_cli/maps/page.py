"""The HTML page of a run's maps."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from vsf_cli.maps.data import Maps
from vsf_cli.maps.plots import SIGNS, Frames, palette
from vsf_cli.media.html import render

__all__ = ["render_page"]

SHARE, KEPT = "all of the negative prompt", "all that is kept"
SHOWN_SIDE = 512
"""The maximum side of an embedded image in pixels; frames of a video, which are many, have half of it."""


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _data_url(image: Image.Image, side: int) -> str:
    """Returns an image as the URL of a PNG of at most `side` pixels a side."""
    small = image.convert("RGB")
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + _base64(buffer.getvalue())


def _groups(blocks: Sequence[int]) -> dict[str, list[int]]:
    """Returns the indices of all blocks, and of each third of them, by name."""
    indices = list(range(len(blocks)))
    groups = {f"all blocks ({blocks[0]}\u2013{blocks[-1]})": indices}
    if len(blocks) >= 3:
        for name, third in zip(("early", "middle", "late"), np.array_split(indices, 3), strict=True):
            groups[f"{name} ({blocks[third[0]]}\u2013{blocks[third[-1]]})"] = third.tolist()
    return groups


def _layers(maps: Maps) -> dict[str, tuple[np.ndarray, str]]:
    """Returns the layers of the page by name: values with the axes (step, block, frame, row, column), and their unit."""
    layers = {SHARE: (maps.share.mean(2), "share of attention")}
    if maps.kept_share is not None:
        layers[KEPT] = maps.kept_share.mean(2), "share of attention it would have"
    for prompt, sign in SIGNS.items():
        for word in maps.words(prompt):
            encoders = maps.encoders(word, prompt)
            for encoder in [None, *encoders] if len(encoders) > 1 else encoders:
                name = f"{sign} {word}" + (f" ({encoder.upper()})" if encoder else "")
                layers[name] = maps.word(word, prompt, encoder).mean(2), "q\u00b7k / \u221aD, nats"
    return layers


def _layer(values: np.ndarray, unit: str, groups: Mapping[str, list[int]]) -> dict[str, Any]:
    """Returns a layer as bytes with shape (groups, steps, frames, rows, columns); each group of blocks has one scale."""
    means = np.stack([values[:, blocks].mean(1) for blocks in groups.values()])
    low, high = (extreme(means, axis=(1, 2, 3, 4), keepdims=True) for extreme in (np.min, np.max))
    scaled = ((means - low) / np.maximum(high - low, 1e-12) * 255).round().astype(np.uint8)
    return {"low": low.ravel().tolist(), "high": high.ravel().tolist(), "unit": unit, "bytes": _base64(scaled.tobytes())}


def render_page(
    maps: Maps, title: str, facts: Mapping[str, Any], final: Frames, unguided: Frames | None, estimates: Sequence[Frames]
) -> str:
    """Returns the HTML of the page.

    Arguments:
        maps: The maps.
        title: The heading.
        facts: Facts of the run, by name.
        final: The image or video, at each frame of the maps.
        unguided: The same with the same seed without guidance; None leaves it out.
        estimates: Its estimate at each step of the maps.
    """
    side = SHOWN_SIDE if len(final) == 1 else SHOWN_SIDE // 2
    groups = _groups(maps.blocks)
    data = {
        "rows": maps.share.shape[-2],
        "columns": maps.share.shape[-1],
        "steps": maps.steps,
        "sigmas": maps.sigmas,
        "groups": list(groups),
        "layers": {name: _layer(values, unit, groups) for name, (values, unit) in _layers(maps).items()},
        "palette": _base64(palette().tobytes()),
        "final": [_data_url(image, side) for image in final],
        "unguided": [_data_url(image, side) for image in unguided or ()],
        "estimates": [[_data_url(image, side) for image in frames] for frames in estimates],
    }
    return render("maps.html.j2", title=title, facts=facts, data=data)
