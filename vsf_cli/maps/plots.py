"""Draws attention maps with matplotlib: the paper's Figure 4, the words over the picture, and curves of the mean share."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from vsf_cli.maps.data import Maps
from vsf_cli.prompts.vocabulary import STOP_WORDS

__all__ = ["COLORS", "Frames", "curves", "frames", "grid", "middle_frame", "overlaid", "palette", "words"]

Frames = Sequence[Image.Image]
"""A picture at each frame of the maps; of a picture there is one."""

COLORS = "inferno"
"""A perceptually uniform colour map."""
MOST_COLUMNS = 8
CELL = 1.35
"""Inches of a small picture."""
WIDTH = 7.5
"""Inches that a grid has at least."""
DPI = 150


def palette() -> np.ndarray:
    """The colour map as bytes with shape (256, 3)."""
    colors: np.ndarray = (mpl.colormaps[COLORS](np.arange(256))[:, :3] * 255).round().astype(np.uint8)
    return colors


def middle_frame(values: np.ndarray) -> np.ndarray:
    """The middle frame of values with the axes (..., frame, row, column)."""
    return values[..., values.shape[-3] // 2, :, :]


def _bare(axes: Any) -> None:
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_linewidth(0.4)


def _thinned(count: int) -> list[int]:
    """At most `MOST_COLUMNS` places of a row, evenly spread, the first and the last among them."""
    return sorted(set(np.linspace(0, count - 1, min(count, MOST_COLUMNS)).round().astype(int).tolist()))


def middle(pictures: Frames) -> Image.Image:
    """The picture at the middle frame."""
    return pictures[len(pictures) // 2]


def grid(maps: Maps, quantity: str, final: Frames, unguided: Frames | None, estimates: Sequence[Frames]) -> Figure:
    r"""Figure 4 of the paper: a column for each step, the map above, the estimate of the picture below; of a clip, its middle.

    Arguments:
        maps: The maps; means are taken over heads and blocks, and the logits are summed over the negative prompt's words.
        quantity: "share" for :math:`w`, or "logits" for :math:`q k^T / \sqrt{D}`, which needs a word of the negative prompt.
        final: The finished picture, at the upper left.
        unguided: The picture of the same seed without guidance, below it.
        estimates: The estimate of the picture at each step of the maps.
    """
    if quantity == "share":
        values, label = middle_frame(maps.share).mean((1, 2)), "share of attention $w$"
    else:
        negative = [index for index, token in enumerate(maps.tokens) if token.prompt == "negative" and not token.special]
        values = middle_frame(maps.logits[:, :, :, negative].astype(np.float32).sum(3)).mean((1, 2))
        label = r"$\sum q k^{\!\top} / \sqrt{D}$, nats"
    shown = _thinned(len(maps.steps))
    # Few columns are wide, many small: about the same width, so that its letters are as large on a page.
    cell = max(CELL, WIDTH / (len(shown) + 2.1))
    figure = Figure(figsize=(cell * (len(shown) + 2.1), cell * 2 + 0.7), layout="constrained", dpi=DPI)
    places = figure.subplots(2, len(shown) + 1, width_ratios=[1.25, *[1] * len(shown)])
    for axes, pictures, title in ((places[0, 0], final, "guided"), (places[1, 0], unguided, "no guidance")):
        _bare(axes)
        axes.set_title(title if pictures else "", fontsize=10)
        if pictures is None:
            axes.axis("off")
        else:
            axes.imshow(middle(pictures))
    low, high = float(values.min()), float(values.max())
    for column, step in enumerate(shown, 1):
        above, below = places[0, column], places[1, column]
        drawn = above.imshow(values[step], cmap=COLORS, vmin=low, vmax=high, interpolation="nearest")
        above.set_title(f"step {maps.steps[step]}\n$\\sigma$ = {maps.sigmas[step]:.2f}", fontsize=10)
        below.imshow(middle(estimates[step]))
        for axes in (above, below):
            _bare(axes)
    bar = figure.colorbar(drawn, ax=places[:, -1].tolist(), shrink=0.9, aspect=30)
    bar.set_label(label, fontsize=10)
    bar.ax.tick_params(labelsize=9)
    return figure


def words(maps: Maps, final: Frames) -> Figure:
    """A row for each word, negative ones first: its map over the picture, for each text encoder and for all together.

    Articles and prepositions are left out; the page has them. Encoders share a scale, and their sum has its own, since it is
    larger than what it is of.
    """
    everything = [(prompt, word) for prompt in ("negative", "positive") for word in maps.words(prompt)]
    rows = [row for row in everything if row[1] not in STOP_WORDS] or everything
    encoders: list[str | None] = [*sorted({token.encoder for token in maps.tokens})]
    groups: list[list[str | None]] = [encoders, [None]] if len(encoders) > 1 else [encoders]
    columns = [encoder for group in groups for encoder in group]
    figure = Figure(figsize=(CELL * len(columns) + 1.4, (CELL + 0.12) * len(rows) + 0.8), layout="constrained", dpi=DPI)
    places = figure.subplots(len(rows), len(columns), squeeze=False)
    for column, encoder in enumerate(columns):
        places[0, column].set_title("sum" if encoder is None else encoder.upper(), fontsize=8)
    for row, (prompt, word) in enumerate(rows):
        sign = "\u2212" if prompt == "negative" else "+"
        places[row, 0].set_ylabel(f"{sign} {word}", fontsize=8, rotation=0, ha="right", va="center")
    for group in groups:
        chosen = [columns.index(encoder) for encoder in group]
        drawn = _over(maps, final, rows, group, places[:, chosen])
        bar = figure.colorbar(drawn, ax=places[:, chosen].ravel().tolist(), location="bottom", aspect=12 * len(group), pad=0.02)
        bar.ax.tick_params(labelsize=7)
    figure.supxlabel(r"$q k^{\!\top} / \sqrt{D}$, nats, mean of steps, blocks and heads", fontsize=8)
    return figure


def _over(maps: Maps, final: Frames, rows: Sequence[tuple[str, str]], encoders: Sequence[str | None], places: Any) -> Any:
    """Draws words by some text encoders over the picture, all on one scale."""
    found = {
        (row, column): middle_frame(maps.word(word, prompt, encoder)).mean((0, 1, 2))
        for row, (prompt, word) in enumerate(rows)
        for column, encoder in enumerate(encoders)
        if encoder is None or encoder in maps.encoders(word, prompt)
    }
    low, high = (float(extreme(np.stack(list(found.values())))) for extreme in (np.min, np.max))
    under = middle(final).convert("L").convert("RGB")
    extent = (0, under.width, under.height, 0)
    drawn: Any = None
    for place, axes in np.ndenumerate(places):
        _bare(axes)
        if place in found:
            axes.imshow(under, extent=extent)
            how: dict[str, Any] = {"alpha": 0.7, "extent": extent, "interpolation": "bilinear"}
            drawn = axes.imshow(found[place], cmap=COLORS, vmin=low, vmax=high, **how)
    return drawn


def _share_of_frames(maps: Maps) -> np.ndarray:
    """The mean share over steps, blocks and heads, with the axes (frame, row, column)."""
    mean: np.ndarray = maps.share.mean((0, 1, 2))
    return mean


def frames(maps: Maps, final: Frames, unguided: Frames | None) -> Figure:
    """A contact sheet of a clip: a column for each latent frame, without guidance, with it, and the map over it."""
    values = _share_of_frames(maps)
    shown = _thinned(len(values))
    rows = [("no guidance", unguided), ("guided", final), ("share $w$", None)][0 if unguided else 1 :]
    figure = Figure(figsize=(CELL * len(shown) + 1.6, (CELL + 0.1) * len(rows) + 0.3), layout="constrained", dpi=DPI)
    places = figure.subplots(len(rows), len(shown), squeeze=False)
    extent = (0, final[0].width, final[0].height, 0)
    drawn: Any = None
    for row, (name, pictures) in enumerate(rows):
        places[row, 0].set_ylabel(name, fontsize=8)
        for column, frame in enumerate(shown):
            axes = places[row, column]
            _bare(axes)
            if row == 0:
                axes.set_title(f"latent frame {frame + 1}", fontsize=8)
            axes.imshow((pictures or [each.convert("L").convert("RGB") for each in final])[frame], extent=extent)
            if pictures is None:
                drawn = axes.imshow(
                    values[frame],
                    cmap=COLORS,
                    vmin=float(values.min()),
                    vmax=float(values.max()),
                    alpha=0.7,
                    extent=extent,
                    interpolation="bilinear",
                )
    bar = figure.colorbar(drawn, ax=places.ravel().tolist(), shrink=0.6, aspect=20)
    bar.set_label("share of attention, mean of steps, blocks and heads", fontsize=7)
    bar.ax.tick_params(labelsize=7)
    return figure


def overlaid(maps: Maps, clip: Sequence[Image.Image], dropped: int = 0) -> list[Image.Image]:
    """The frames of a clip with the mean share over them, on one scale for all frames.

    Arguments:
        maps: The maps, which are of all frames.
        clip: The frames.
        dropped: How many first frames the clip lacks.
    """
    values = _share_of_frames(maps)
    low, high = float(values.min()), float(values.max())
    colors = palette()[((values - low) / max(high - low, 1e-12) * 255).round().astype(np.uint8)]
    found, last = [], max(1, dropped + len(clip) - 1)
    for number, image in enumerate(clip, dropped):
        color = colors[round(number * (len(colors) - 1) / last)]
        layer = Image.fromarray(color).resize(image.size, Image.Resampling.BILINEAR)
        found.append(Image.blend(image.convert("L").convert("RGB"), layer, 0.6))
    return found


def curves(maps: Maps) -> Figure:
    """The mean share of attention that goes to the negative prompt, per step and per block."""
    figure = Figure(figsize=(7.2, 2.6), layout="constrained", dpi=DPI)
    by_step, by_block = figure.subplots(1, 2, sharey=True)
    mean = maps.share.mean((2, 3, 4, 5))  # [steps, blocks]
    by_step.plot(maps.steps, mean.mean(1), marker="o", markersize=3, color="black")
    by_step.set(xlabel="step", ylabel="mean share $w$")
    lines = mpl.colormaps[COLORS](np.linspace(0, 0.85, len(maps.steps)))
    for row, step, color in zip(mean, maps.steps, lines, strict=True):
        named = step in (maps.steps[0], maps.steps[-1])
        by_block.plot(maps.blocks, row, color=color, linewidth=1, label=f"step {step}" if named else None)
    by_block.set(xlabel="block")
    by_block.legend(fontsize=7, frameon=False)
    for axes in (by_step, by_block):
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.tick_params(labelsize=7)
        axes.xaxis.get_major_locator().set_params(integer=True)
    return figure
