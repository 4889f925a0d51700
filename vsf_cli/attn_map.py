"""A picture that is made and watched, and the folder that shows where the negative prompt acted."""

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vsf_cli.errors import RequestError, VSFError
from vsf_cli.generate import Progress, Request, Result, generate
from vsf_cli.maps import Maps, Selection, save
from vsf_cli.media import write_bytes, write_picture
from vsf_cli.methods import METHODS

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["PAGE", "Watched", "check_watchable", "folder_beside", "watch", "write"]

PAGE = "index.html"


@dataclass(frozen=True)
class Watched:
    """A picture, and what was seen while it was made.

    Arguments:
        result: The picture.
        unguided: The picture of the same seed without guidance; None if the picture itself is that one.
        maps: What the image attended to.
        estimates: The estimate of the picture at each step of the maps.
    """

    result: Result
    unguided: "Image.Image | None"
    maps: Maps
    estimates: list["Image.Image"]


def folder_beside(picture: Path) -> Path:
    """The folder for the maps of a picture."""
    return picture.with_name(f"{picture.stem}-attn")


def check_watchable(method: str, negative: tuple[str, ...]) -> None:
    """Refuses a request that has no maps.

    Raises:
        RequestError: If there is no negative prompt, or the method acts outside of attention.
    """
    if not negative:
        raise RequestError('attention maps show where a negative prompt acts, and there is none: add --neg "wheels"')
    if METHODS[method].passes_negative_prompt:
        raise RequestError(f"method {method} acts outside of attention, and has no maps: choose vsf or none")


def watch(pipe: Any, request: Request, selection: Selection, progress: Progress | None = None) -> Watched:
    """Makes the picture of a request, and that without guidance, and records what the image attends to.

    Raises:
        RequestError: If there is nothing to record, or the selection names what is not there.
    """
    import torch

    from vsf_cli.families import Guidance, family_of
    from vsf_cli.recorder import Recorder

    check_watchable(request.method, request.negative)
    family, method = family_of(pipe), request.guidance
    blocks = len(family.processors(pipe, Guidance(method)))
    selection.check(request.num_inference_steps, blocks, pipe.transformer.config.num_attention_heads)
    tokens = family.tokens(pipe, request.prompt, request.negative, method.special_tokens, request.max_sequence_length)
    recorder = Recorder(method, selection.tokens(tokens), selection)
    result = generate(pipe, request, progress, recorder)
    unguided = None
    if method.guides_attention:
        unguided = generate(pipe, replace(request, method="none", parameters={}), progress).image
    estimates = family.decode(pipe, torch.cat(recorder.estimates()))
    return Watched(result, unguided, recorder.maps(), estimates)


def write(watched: Watched, folder: Path, description: Mapping[str, Any], metadata: bool = True) -> list[Path]:
    """Writes the folder of a run: the pictures, `maps.npz` with `summary.json`, the figures, and `index.html`.

    Arguments:
        watched: The picture and its maps.
        folder: Where; it is made.
        description: The JSON of the picture's file.
        metadata: Whether files say how they were made.

    Returns:
        What was written, the page last.

    Raises:
        MediaError: If a file cannot be written. What was written before stays, and the message names it.
    """
    from vsf_cli import plots
    from vsf_cli.page import page

    maps = replace(watched.maps, settings=description if metadata else {})
    final, unguided, estimates = watched.result.image, watched.unguided, watched.estimates
    pictures = {"picture.png": final} | ({"no-guidance.png": unguided} if unguided else {})
    pictures |= {f"steps/{step}.png": image for step, image in zip(maps.steps, estimates, strict=True)}
    figures: dict[str, Callable[[], Any]] = {
        "grid.png": lambda: plots.grid(maps, "share", final, unguided, estimates),
        "grid-logits.png": lambda: plots.grid(maps, "logits", final, unguided, estimates),
        "words.png": lambda: plots.words(maps, final),
        "curves.png": lambda: plots.curves(maps),
    }
    written: list[Path] = []
    with _telling(written):
        for name, image in pictures.items():
            write_picture(folder / name, image, "png", description if metadata and image is final else None)
            written.append(folder / name)
        save(maps, folder)
        written += [folder / "maps.npz", folder / "summary.json"]
        for name, draw in figures.items():
            buffer = io.BytesIO()
            draw().savefig(buffer, format="png", bbox_inches="tight", metadata={"Software": None})
            write_bytes(folder / name, buffer.getvalue())
            written.append(folder / name)
        html = page(maps, _title(watched.result.request), _facts(watched, description), final, unguided, estimates)
        write_bytes(folder / PAGE, html.encode())
        written.append(folder / PAGE)
    return written


@contextmanager
def _telling(written: list[Path]) -> Iterator[None]:
    """An error inside says what was written before it."""
    try:
        yield
    except VSFError as error:
        names = ", ".join(path.name for path in written) or "nothing"
        raise type(error)(f"{error}; written before: {names}") from error


def _title(request: Request) -> str:
    return f"{request.prompt} \u2212 {', '.join(request.negative)}"


def _facts(watched: Watched, description: Mapping[str, Any]) -> dict[str, Any]:
    """What the page says of the run."""
    request = watched.result.request
    return {
        "prompt": request.prompt,
        "negative prompt": ", ".join(request.negative),
        "method": str(request.guidance),
        "model": description["request"]["model"],
        "seed": request.seed,
        "steps": f"{request.num_inference_steps}, of which kept: {', '.join(map(str, watched.maps.steps))}",
        "blocks": ", ".join(map(str, watched.maps.blocks)),
        "heads": ", ".join(map(str, watched.maps.heads)) or "mean of all",
        "mean share": f"{watched.maps.share.mean():.4f}",
        "versions": ", ".join(f"{name} {version}" for name, version in description["versions"].items()),
    }
