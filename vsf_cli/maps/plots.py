"""Plots of attention maps: the paper's Figure 4, the words over the image, and curves of the mean share."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from PIL import Image

from vsf_cli.maps.data import Maps
from vsf_cli.prompts.vocabulary import STOP_WORDS

__all__ = ["COLORS", "SIGNS", "Frames", "curves", "frames", "grid", "overlay", "palette", "words"]

Frames = Sequence[Image.Image]
"""An image for each frame of the maps; for images there is one."""

COLORS = "inferno"
"""A perceptually uniform colour map."""
SIGNS = {"negative": "\u2212", "kept": "keep", "positive": "+"}
"""What stands before the words of each kind of prompt, in the order of rows and layers."""
MAX_COLUMNS = 8
IMAGE_WIDTH = 1.35
"""The width of a small image in inches."""
MIN_WIDTH = 7.5
"""The minimum width of a grid in inches."""
DPI = 150


def palette() -> np.ndarray:
    """Returns the colour map as bytes with shape (256, 3)."""
    return (mpl.colormaps[COLORS](np.arange(256))[:, :3] * 255).round().astype(np.uint8)


def _middle_frame(values: np.ndarray) -> np.ndarray:
    """Returns the middle frame of values with the axes (..., frame, row, column)."""
    return values[..., values.shape[-3] // 2, :, :]


def _middle_image(images: Frames) -> Image.Image:
    return images[len(images) // 2]


def _remove_ticks(axes: Any) -> None:
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_linewidth(0.4)


def _spread_indices(count: int) -> list[int]:
    """Returns at most `MAX_COLUMNS` of `count` indices, evenly spread from the first to the last."""
    return sorted(set(np.linspace(0, count - 1, min(count, MAX_COLUMNS)).round().astype(int).tolist()))


def grid(maps: Maps, quantity: str, final: Frames, unguided: Frames | None, estimates: Sequence[Frames]) -> Figure:
    r"""Returns Figure 4 of the paper: a column for each step, with the map above and the estimate below.

    It shows the middle frame of a video, and means over heads and blocks.

    Arguments:
        maps: The maps.
        quantity: "share" for :math:`w`, or "logits" for :math:`q k^T / \sqrt{D}`, summed over the words of the negative prompt.
        final: The image or video, at the upper left.
        unguided: The same with the same seed without guidance, below it.
        estimates: Its estimate at each step of the maps.
    """
    values, label = _grid_values(maps, quantity)
    shown = _spread_indices(len(maps.steps))
    # Few columns are wide, so that all figures and their letters have about the same size.
    width = max(IMAGE_WIDTH, MIN_WIDTH / (len(shown) + 2.1))
    figure = Figure(figsize=(width * (len(shown) + 2.1), width * 2 + 0.7), layout="constrained", dpi=DPI)
    panels = figure.subplots(2, len(shown) + 1, width_ratios=[1.25, *[1] * len(shown)])
    for axes, images, title in ((panels[0, 0], final, "guided"), (panels[1, 0], unguided, "no guidance")):
        _remove_ticks(axes)
        if images:
            axes.set_title(title, fontsize=10)
            axes.imshow(_middle_image(images))
        else:
            axes.axis("off")
    low, high = float(values.min()), float(values.max())
    for column, step in enumerate(shown, 1):
        above, below = panels[0, column], panels[1, column]
        drawn = above.imshow(values[step], cmap=COLORS, vmin=low, vmax=high, interpolation="nearest")
        above.set_title(f"step {maps.steps[step]}\n$\\sigma$ = {maps.sigmas[step]:.2f}", fontsize=10)
        below.imshow(_middle_image(estimates[step]))
        for axes in (above, below):
            _remove_ticks(axes)
    bar = figure.colorbar(drawn, ax=panels[:, -1].tolist(), shrink=0.9, aspect=30)
    bar.set_label(label, fontsize=10)
    bar.ax.tick_params(labelsize=9)
    return figure


def _grid_values(maps: Maps, quantity: str) -> tuple[np.ndarray, str]:
    """Returns the values of a grid with the axes (step, row, column), and their label."""
    if quantity == "share":
        return _middle_frame(maps.share).mean((1, 2)), "share of attention $w$"
    negative = [index for index, token in enumerate(maps.tokens) if token.is_negative and not token.special]
    logits = maps.logits[:, :, :, negative].astype(np.float32).sum(3)
    return _middle_frame(logits).mean((1, 2)), r"$\sum q k^{\!\top} / \sqrt{D}$, nats"


def words(maps: Maps, final: Frames) -> Figure:
    """Returns the maps of words over the image: a row for each word, negative ones first, and a column for each text encoder.

    The last column, the sum over several text encoders, has its own scale. Articles and prepositions have no row.
    """
    rows = _word_rows(maps)
    encoders: list[str | None] = [*sorted({token.encoder for token in maps.tokens})]
    groups: list[list[str | None]] = [encoders, [None]] if len(encoders) > 1 else [encoders]
    columns = [encoder for group in groups for encoder in group]
    size = IMAGE_WIDTH * len(columns) + 1.4, (IMAGE_WIDTH + 0.12) * len(rows) + 0.8
    figure = Figure(figsize=size, layout="constrained", dpi=DPI)
    panels = figure.subplots(len(rows), len(columns), squeeze=False)
    for axes, encoder in zip(panels[0], columns, strict=True):
        axes.set_title("sum" if encoder is None else encoder.upper(), fontsize=8)
    for axes, (prompt, word) in zip(panels[:, 0], rows, strict=True):
        axes.set_ylabel(f"{SIGNS[prompt]} {word}", fontsize=8, rotation=0, ha="right", va="center")
    for group in groups:
        part = panels[:, [columns.index(encoder) for encoder in group]]
        drawn = _draw_words(maps, final, rows, group, part)
        bar = figure.colorbar(drawn, ax=part.ravel().tolist(), location="bottom", aspect=12 * len(group), pad=0.02)
        bar.ax.tick_params(labelsize=7)
        bar.set_label(" and ".join("sum" if encoder is None else encoder.upper() for encoder in group), fontsize=7)
    figure.supxlabel(r"$q k^{\!\top} / \sqrt{D}$, nats, mean of steps, blocks and heads", fontsize=8)
    return figure


def _word_rows(maps: Maps) -> list[tuple[str, str]]:
    """Returns the prompt and the word of each row: all words but articles and prepositions, or these if there are no others."""
    words = [(prompt, word) for prompt in SIGNS for word in maps.words(prompt)]
    return [(prompt, word) for prompt, word in words if word not in STOP_WORDS] or words


def _gray(image: Image.Image) -> Image.Image:
    return image.convert("L").convert("RGB")


def _draw_words(
    maps: Maps, final: Frames, rows: Sequence[tuple[str, str]], encoders: Sequence[str | None], panels: np.ndarray
) -> Any:
    """Draws words by some text encoders over the image on one scale, and returns one of the maps for the colour bar."""
    values = {
        (row, column): _middle_frame(maps.word(word, prompt, encoder)).mean((0, 1, 2))
        for row, (prompt, word) in enumerate(rows)
        for column, encoder in enumerate(encoders)
        if encoder is None or encoder in maps.encoders(word, prompt)
    }
    everything = np.stack(list(values.values()))
    limits = float(everything.min()), float(everything.max())
    image = _gray(_middle_image(final))
    extent = (0, image.width, image.height, 0)
    drawn: Any = None
    for index, axes in np.ndenumerate(panels):
        _remove_ticks(axes)
        if index in values:
            axes.imshow(image, extent=extent)
            drawn = _draw_over(axes, values[index], limits, extent)
    return drawn


def _draw_over(axes: Any, values: np.ndarray, limits: tuple[float, float], extent: tuple[int, int, int, int]) -> Any:
    low, high = limits
    return axes.imshow(values, cmap=COLORS, vmin=low, vmax=high, alpha=0.7, extent=extent, interpolation="bilinear")


def frames(maps: Maps, final: Frames, unguided: Frames | None) -> Figure:
    """Returns a contact sheet of a video: without guidance, with it, and with the map over it, for each latent frame."""
    values = maps.share.mean((0, 1, 2))  # [frames, rows, columns]
    shown = _spread_indices(len(values))
    rows = [("no guidance", unguided), ("guided", final), ("share $w$", None)][0 if unguided else 1 :]
    size = IMAGE_WIDTH * len(shown) + 1.6, (IMAGE_WIDTH + 0.1) * len(rows) + 0.3
    figure = Figure(figsize=size, layout="constrained", dpi=DPI)
    panels = figure.subplots(len(rows), len(shown), squeeze=False)
    extent = (0, final[0].width, final[0].height, 0)
    limits = float(values.min()), float(values.max())
    drawn: Any = None
    for row, (name, images) in enumerate(rows):
        panels[row, 0].set_ylabel(name, fontsize=8)
        for column, frame in enumerate(shown):
            axes = panels[row, column]
            _remove_ticks(axes)
            if row == 0:
                axes.set_title(f"latent frame {frame + 1}", fontsize=8)
            axes.imshow(images[frame] if images else _gray(final[frame]), extent=extent)
            if images is None:
                drawn = _draw_over(axes, values[frame], limits, extent)
    bar = figure.colorbar(drawn, ax=panels.ravel().tolist(), shrink=0.6, aspect=20)
    bar.set_label("share of attention, mean of steps, blocks and heads", fontsize=7)
    bar.ax.tick_params(labelsize=7)
    return figure


def overlay(maps: Maps, video: Sequence[Image.Image], dropped: int = 0) -> list[Image.Image]:
    """Returns the frames of a video, of which the first `dropped` ones are missing, with the mean share over them."""
    values = maps.share.mean((0, 1, 2))  # [frames, rows, columns]
    low, high = float(values.min()), float(values.max())
    colors = palette()[((values - low) / max(high - low, 1e-12) * 255).round().astype(np.uint8)]
    frames, last = [], max(1, dropped + len(video) - 1)
    for number, image in enumerate(video, dropped):
        color = colors[round(number * (len(colors) - 1) / last)]
        layer = Image.fromarray(color).resize(image.size, Image.Resampling.BILINEAR)
        frames.append(Image.blend(_gray(image), layer, 0.6))
    return frames


def curves(maps: Maps) -> Figure:
    """Returns curves of the mean share of attention that goes to the negative prompt, per step and per block.

    Dashed per step: the share that the kept prompts would have.
    """
    figure = Figure(figsize=(7.2, 2.6), layout="constrained", dpi=DPI)
    by_step, by_block = figure.subplots(1, 2, sharey=True)
    mean = maps.share.mean((2, 3, 4, 5))  # [steps, blocks]
    by_step.plot(maps.steps, mean.mean(1), marker="o", markersize=3, color="black")
    if maps.kept_share is not None:
        kept = maps.kept_share.mean((1, 2, 3, 4, 5))
        by_step.plot(maps.steps, kept, "--", marker="o", markersize=3, color="gray", label="kept prompts, in its place")
        by_step.legend(fontsize=7, frameon=False)
    by_step.set(xlabel="step", ylabel="mean share $w$")
    colors = ListedColormap(mpl.colormaps[COLORS](np.linspace(0, 0.85, len(maps.steps))))
    for index, (row, step) in enumerate(zip(mean, maps.steps, strict=True)):
        by_block.plot(maps.blocks, row, color=colors(index), linewidth=1, label=f"step {step}")
    by_block.set(xlabel="block")
    if len(maps.steps) <= MAX_COLUMNS:
        by_block.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    else:
        bar = figure.colorbar(ScalarMappable(Normalize(maps.steps[0], maps.steps[-1]), colors), ax=by_block)
        bar.set_label("step", fontsize=7)
        bar.ax.tick_params(labelsize=7)
    for axes in (by_step, by_block):
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.tick_params(labelsize=7)
        axes.xaxis.get_major_locator().set_params(integer=True)
    return figure
