"""A picture that is made and watched, and the folder that shows where the negative prompt acted."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vsf_cli.errors import RequestError, VSFError
from vsf_cli.generation.generate import Progress, Request, Result, generate
from vsf_cli.maps.data import EVERYTHING, Maps, Selection, check_method, save
from vsf_cli.media.files import write_bytes
from vsf_cli.media.formats import encode_video, write_image
from vsf_cli.methods import METHODS

if TYPE_CHECKING:
    from PIL import Image

    from vsf_cli.models import Family

    Frames = list[Image.Image]

__all__ = ["PAGE", "Watched", "check_watchable", "folder_beside", "watch", "write"]

PAGE, OVERLAY = "index.html", "overlay.webp"
DEFAULT_FPS = 16
MOST_BYTES = 200_000_000
"""Of maps that are kept unless blocks are chosen."""


@dataclass(frozen=True)
class Watched:
    """A picture, or a clip, and what was seen while it was made.

    Arguments:
        result: The picture; its notes say which blocks were kept, if not all.
        maps: What the image attended to.
        final: The picture at each frame of the maps; of a picture there is one.
        unguided: The same of the same seed without guidance; None if the picture itself is that one.
        estimates: The estimate of the picture at each step of the maps, at each frame.
    """

    result: Result
    maps: Maps
    final: "Frames"
    unguided: "Frames | None"
    estimates: list["Frames"]


def folder_beside(picture: Path) -> Path:
    """The folder for the maps of a picture."""
    return picture.with_name(f"{picture.stem}-attn")


def check_watchable(request: Request, selection: Selection = EVERYTHING) -> None:
    """Refuses a request that has no maps; it needs no model.

    Raises:
        RequestError: If there is no negative prompt, the method acts outside of attention, the model is called twice a step, or
            steps are chosen that are not guided.
    """
    if not request.negative:
        raise RequestError('attention maps show where a negative prompt acts, and there is none: add --neg "wheels"')
    check_method(METHODS[request.method])
    if request.guidance_scale > 1:
        raise RequestError(
            f"--guidance is {request.guidance_scale:g}, but maps are of one call of the model a step: pass --guidance 0"
        )
    selection.check_steps(request.num_inference_steps, _guided_steps(request))


def _guided_steps(request: Request) -> list[int]:
    """Those in which the method acts, from 1."""
    steps, method = request.num_inference_steps, request.guidance
    return [step + 1 for step in range(steps) if method.acts_at(step / steps)]


def watch(pipe: Any, request: Request, selection: Selection, progress: Progress | None = None) -> Watched:
    """Makes the picture of a request, and that without guidance, and records what the image attends to.

    Raises:
        RequestError: If there is nothing to record, or the selection names what is not there.
    """
    check_watchable(request, selection)
    from vsf_cli.maps.recorder import Recorder
    from vsf_cli.models import family_of

    family, method = family_of(pipe), request.guidance
    # The two transformers of Wan 2.2 have as many blocks.
    denoiser = family.denoisers_of(pipe)[0]
    blocks = len(list(family.attentions_of(denoiser)))
    selection.check(blocks, denoiser.config.num_attention_heads)
    texts = [one.text for one in request.negatives]
    special, padding = method.special_tokens, method.padding
    tokens = family.tokens(pipe, request.prompt, texts, special, request.max_sequence_length, padding)
    kept = selection.tokens(tokens)
    steps = len(selection.steps or _guided_steps(request))
    selection, notes = _bounded(selection, len(kept), blocks, _image_tokens(family, pipe, request), steps)

    recorder = Recorder(method, kept, selection)
    # Maps are of whole clips: frames that the file leaves out are left out of the file alone.
    result = generate(pipe, replace(request, drop_frames=0), progress, recorder)
    maps = recorder.maps()

    def at_maps(frames: Sequence["Image.Image"]) -> "Frames":
        return [frames[place] for place in _moments(len(frames), maps.share.shape[-3])]

    unguided = None
    if method.guides_attention:
        plain = replace(request, drop_frames=0, method="none", parameters={})
        unguided = at_maps(generate(pipe, plain, progress).frames)
    estimates = [at_maps(family.decode(pipe, latents)) for latents in recorder.estimates()]
    shown = replace(result, request=replace(result.request, drop_frames=request.drop_frames))
    shown = replace(shown, frames=result.frames[request.drop_frames :], notes=(*result.notes, *notes))
    return Watched(shown, maps, at_maps(result.frames), unguided, estimates)


def _image_tokens(family: "Family", pipe: Any, request: Request) -> int:
    """How many tokens a picture of the request has, or a clip."""
    usual = getattr(pipe, "default_sample_size", 128) * getattr(pipe, "vae_scale_factor", 8)
    rows, columns = ((side or usual) // family.pixels_per_token(pipe) for side in (request.height, request.width))
    frames = 1 + ((request.num_frames or 1) - 1) // family.frames_per_token(pipe)
    return frames * rows * columns


def _moments(frames: int, of_maps: int) -> list[int]:
    """The frame of a clip at each frame of its maps: from the first to the last, evenly spread."""
    return [round(place * (frames - 1) / max(1, of_maps - 1)) for place in range(of_maps)]


def _bounded(selection: Selection, tokens: int, blocks: int, places: int, steps: int) -> tuple[Selection, tuple[str, ...]]:
    """What is kept if everything would be more than `MOST_BYTES`: blocks, evenly spread; and what to say of it.

    A block keeps, at each step, for each head or for their mean, 2 bytes for each token and 4 for the share, at each place.
    """
    block = steps * len(selection.heads or (0,)) * places * (2 * tokens + 4)
    fit = max(1, MOST_BYTES // block)
    if selection.blocks is not None or fit >= blocks:
        return selection, ()
    kept = tuple(sorted({1 + round(place * (blocks - 1) / max(1, fit - 1)) for place in range(fit)}))
    size = f"{blocks * block / 1e6:,.0f} MB"
    named = ", ".join(map(str, kept))
    note = f"all {blocks} blocks would be {size} of maps: blocks {named} are kept; vsf attn-map --blocks chooses others"
    return replace(selection, blocks=kept), (note,)


def write(
    watched: Watched,
    folder: Path,
    description: Mapping[str, Any],
    metadata: bool = True,
    before: Sequence[Path] = (),
) -> list[Path]:
    """Writes the folder of a run: the pictures, `maps.npz` with `summary.json`, the figures, and `index.html`.

    Of a clip there are the frames at which the maps are, a contact sheet, and the clip with its maps over it.

    Arguments:
        watched: The picture and its maps.
        folder: Where; it is made.
        description: The JSON of the picture's file.
        metadata: Whether files say how they were made.
        before: What the run has written already.

    Returns:
        What was written, the page last.

    Raises:
        MediaError: If a file cannot be written. What was written before stays, and this error and any other name it.
    """
    from vsf_cli.maps.page import page

    maps = replace(watched.maps, settings=description if metadata else {})
    written = list(before)
    with _telling(written):
        for name, image in _pictures(watched):
            write_image(folder / name, image, "png", description if metadata and image is watched.result.image else None)
            written.append(folder / name)
        save(maps, folder)
        written += [folder / "maps.npz", folder / "summary.json"]
        for name, draw in _drawn(watched, maps).items():
            write_bytes(folder / name, draw())
            written.append(folder / name)
        shown = watched.final, watched.unguided, watched.estimates
        html = page(maps, _title(watched.result.request), _facts(watched, description), *shown)
        write_bytes(folder / PAGE, html.encode())
        written.append(folder / PAGE)
    return written[len(before) :]


def _drawn(watched: Watched, maps: Maps) -> dict[str, Callable[[], bytes]]:
    """What draws each file of a folder, by its name."""
    from vsf_cli.maps import plots

    def png(figure: Any) -> bytes:
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", bbox_inches="tight", metadata={"Software": None})
        return buffer.getvalue()

    def overlay() -> bytes:
        shown = watched.result
        frames = plots.overlaid(maps, shown.frames, shown.request.drop_frames)
        return encode_video(frames, shown.request.fps or DEFAULT_FPS, "webp", None)

    pictures = watched.final, watched.unguided, watched.estimates
    figures: dict[str, Callable[[], bytes]] = {
        "grid.png": lambda: png(plots.grid(maps, "share", *pictures)),
        "words.png": lambda: png(plots.words(maps, watched.final)),
        "curves.png": lambda: png(plots.curves(maps)),
    }
    if any(token.prompt == "negative" and not token.special for token in maps.tokens):
        figures["grid-logits.png"] = lambda: png(plots.grid(maps, "logits", *pictures))
    if len(watched.final) > 1:
        figures["frames.png"] = lambda: png(plots.frames(maps, watched.final, watched.unguided))
        figures[OVERLAY] = overlay
    return figures


def _pictures(watched: Watched) -> Iterator[tuple[str, "Image.Image"]]:
    """The pictures by their names; of a clip, those of each frame of the maps in folders."""
    if len(watched.final) == 1:
        yield "picture.png", watched.result.image
        if watched.unguided:
            yield "no-guidance.png", watched.unguided[0]
        for step, estimate in zip(watched.maps.steps, watched.estimates, strict=True):
            yield f"steps/{step}.png", estimate[0]
        return
    clips = {"frames": watched.final} | ({"no-guidance": watched.unguided} if watched.unguided else {})
    clips |= {f"steps/{step}": estimate for step, estimate in zip(watched.maps.steps, watched.estimates, strict=True)}
    for name, frames in clips.items():
        for number, image in enumerate(frames, 1):
            yield f"{name}/{number}.png", image


@contextmanager
def _telling(written: list[Path]) -> Iterator[None]:
    """An error inside, an interrupt included, says what was written before it."""
    try:
        yield
    except BaseException as error:
        told = f"written before: {', '.join(map(str, written)) or 'nothing'}"
        if not isinstance(error, (VSFError, KeyboardInterrupt)):
            error.add_note(told)
            raise
        raise type(error)(f"{error}; {told}" if str(error) else told) from error


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
