"""Makes an image or video with its attention maps, and writes the folder that shows where the negative prompt acted."""

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vsf_cli.errors import RequestError, VSFError
from vsf_cli.generation.generate import DEFAULT_FPS, Progress, Request, Result, enlarged, generate, prepare
from vsf_cli.maps.data import EVERYTHING, Maps, Selection, check_method, save
from vsf_cli.media.files import write_bytes
from vsf_cli.media.formats import encode_video, write_image
from vsf_cli.methods import METHODS
from vsf_cli.settings.presets import uses_cfg

if TYPE_CHECKING:
    from PIL import Image

    from vsf_cli.maps.recorder import Recorder
    from vsf_cli.models import Family

    Frames = list[Image.Image]

__all__ = ["PAGE", "Capture", "capture", "check_capture", "holds_maps", "maps_folder", "write_capture"]

PAGE, OVERLAY = "index.html", "overlay.webp"
OWN_FILES = re.compile(
    r"(picture|no-guidance|grid|grid-logits|words|curves|frames)\.png|overlay\.webp|maps\.npz|summary\.json|index\.html"
    r"|steps/\d+(/\d+)?\.png|(frames|no-guidance)/\d+\.png"
)
"""The names of the files in a folder of maps."""
MAX_BYTES = 200_000_000
"""The maximum size of the maps, unless blocks are chosen."""


@dataclass(frozen=True)
class Capture:
    """An image or video with its attention maps.

    Arguments:
        result: The image or video. Its notes name the blocks that were kept, if these are not all.
        maps: The attention maps.
        final: The image or video, at each frame of the maps; an image has one.
        unguided: The same with the same seed without guidance; None if `final` is unguided.
        estimates: Its estimate at each step of the maps, at each frame.
    """

    result: Result
    maps: Maps
    final: "Frames"
    unguided: "Frames | None"
    estimates: list["Frames"]


def maps_folder(image: Path) -> Path:
    """Returns the folder for the maps of an image or video."""
    return image.with_name(f"{image.stem}-attn")


def check_capture(request: Request, selection: Selection = EVERYTHING, family: "Family | None" = None) -> None:
    """Refuses a request that has no maps. This needs no model; a family that is not given is that of the preset.

    Raises:
        RequestError: If there is no negative prompt, the method acts outside of attention, CFG calls the model twice per step,
            or a selected step is not guided.
    """
    if not request.negative:
        raise RequestError('attention maps show where a negative prompt acts, and there is none: add --neg "wheels"')
    check_method(METHODS[request.method])
    if uses_cfg(request, family):
        scale = f"--guidance is {request.guidance_scale:g}"
        raise RequestError(f"{scale}, but maps are of one call of the model a step: pass --guidance 0")
    selection.check_steps(request.steps_run, _guided_steps(request))


def _guided_steps(request: Request) -> list[int]:
    """Returns the steps in which the method acts, counted from 1."""
    steps, method = request.steps_run, request.guidance
    return [step + 1 for step in range(steps) if method.acts_at(step / steps)]


def capture(
    pipe: Any, request: Request, selection: Selection, progress: Progress | None = None, chosen: Result | None = None
) -> Capture:
    """Makes the image or video of a request, with and without guidance, and records what its image tokens attend to.

    If a judge chose from the request before, `chosen` is the result, and it is the chosen image that is recorded.

    Raises:
        RequestError: If there is nothing to record, or the selection names a block, head, step or word that does not exist.
    """
    from vsf_cli.models import family_of

    _, (request,) = prepare(pipe, [chosen.request if chosen else request])
    check_capture(request, selection)
    family, method = family_of(pipe), request.guidance
    recorder, notes = _build_recorder(pipe, family, request, selection)
    # Maps have all frames of a video, as the model makes them. Only its file drops frames, and is enlarged.
    plain = replace(request, drop_frames=0, upscale=1)
    result = generate(pipe, plain, progress, recorder)
    maps = recorder.maps()

    def at_maps(frames: Sequence["Image.Image"]) -> "Frames":
        return [frames[index] for index in _frame_indices(len(frames), maps.share.shape[-3])]

    unguided = None
    if method.guides_attention:
        unguided = at_maps(generate(pipe, replace(plain, method="none", parameters={}), progress).frames)
    estimates = [at_maps(family.decode(pipe, latents, *result.image.size)) for latents in recorder.estimates()]
    final = at_maps(result.frames)
    shown = tuple(enlarged(frame, request.upscale) for frame in result.frames[request.drop_frames :])
    own = replace(result.request, drop_frames=request.drop_frames, upscale=request.upscale)
    sound = result.sound and result.sound.after(request.drop_frames / (request.fps or DEFAULT_FPS))
    result = replace(result, request=own, frames=shown, sound=sound, notes=(*result.notes, *notes))
    return Capture(result.chosen_as(chosen) if chosen else result, maps, final, unguided, estimates)


def _build_recorder(pipe: Any, family: "Family", request: Request, selection: Selection) -> tuple["Recorder", tuple[str, ...]]:
    """Returns the recorder of a request, and notes about what it leaves out."""
    from vsf_cli.maps.recorder import Recorder

    method = request.guidance
    # The two transformers of Wan 2.2 have the same number of blocks.
    found = family.attentions_of(family.denoisers_of(pipe)[0])
    attentions: list[Any] = [module for name, module, _ in found if family.has_grid(name)]
    blocks = len(attentions)
    selection.check(blocks, min(one.num_heads if hasattr(one, "num_heads") else one.heads for one in attentions))
    texts = [negative.text for negative in request.negatives]
    special, padding = method.special_tokens, method.padding
    length, kept = request.max_sequence_length, [one.text for one in request.kept] if method.contrast else ()
    tokens = selection.tokens(family.tokens(pipe, request.prompt, texts, special, length, padding, kept))
    steps = len(selection.steps or _guided_steps(request))
    bytes_per_token = 2 * len(tokens) + 4 * (2 if kept else 1)
    selection, notes = _limit_blocks(selection, bytes_per_token, blocks, _image_tokens(family, pipe, request), steps)
    return Recorder(method, tokens, selection), notes


def _image_tokens(family: "Family", pipe: Any, request: Request) -> int:
    default = getattr(pipe, "default_sample_size", 128) * getattr(pipe, "vae_scale_factor", 8)
    rows, columns = ((side or default) // family.pixels_per_token(pipe) for side in (request.height, request.width))
    frames = 1 + ((request.num_frames or 1) - 1) // family.frames_per_token(pipe)
    return frames * rows * columns


def _frame_indices(frames: int, map_frames: int) -> list[int]:
    """Returns the frame of a video at each frame of its maps, evenly spread from the first to the last."""
    return [round(index * (frames - 1) / max(1, map_frames - 1)) for index in range(map_frames)]


def _limit_blocks(
    selection: Selection, bytes_per_token: int, blocks: int, image_tokens: int, steps: int
) -> tuple[Selection, tuple[str, ...]]:
    """Returns a selection of at most `MAX_BYTES`, with fewer blocks, evenly spread, if need be, and notes about it.

    At each step a block takes, for each image token and each head or their mean, 2 bytes for each token and 4 for each share.
    """
    block = steps * len(selection.heads or (0,)) * image_tokens * bytes_per_token
    fit = max(1, MAX_BYTES // block)
    if selection.blocks is not None or fit >= blocks:
        return selection, ()
    kept = tuple(sorted({1 + round(index * (blocks - 1) / max(1, fit - 1)) for index in range(fit)}))
    size = f"{blocks * block / 1e6:,.0f} MB"
    names = ", ".join(map(str, kept))
    note = f"all {blocks} blocks would be {size} of maps: blocks {names} are kept; vsf attn-map --blocks chooses others"
    return replace(selection, blocks=kept), (note,)


def write_capture(
    capture: Capture, folder: Path, description: Mapping[str, Any], metadata: bool = True, before: Sequence[Path] = ()
) -> list[Path]:
    """Writes the images, `maps.npz` with `summary.json`, the figures and `index.html` to a folder; returns their paths.

    A video has the frames at which the maps are, a contact sheet, and the video with its maps over it. Files have metadata
    only if `metadata`. Errors name the files that were written before, and those in `before`.

    Raises:
        MediaError: If a file cannot be written. The files that were written before are kept.
    """
    from vsf_cli.maps.page import render_page

    maps = replace(capture.maps, settings=description if metadata else {})
    written = list(before)
    with _naming(written):
        for name, image in _images(capture):
            write_image(folder / name, image, "png", description if metadata and image is capture.result.image else None)
            written.append(folder / name)
        save(maps, folder)
        written += [folder / "maps.npz", folder / "summary.json"]
        for name, draw in _draws(capture, maps).items():
            write_bytes(folder / name, draw())
            written.append(folder / name)
        shown, request = (capture.final, capture.unguided, capture.estimates), capture.result.request
        title = f"{request.prompt} \u2212 {', '.join(request.negative)}"
        title += f", keep {', '.join(request.keep)}" if request.keep else ""
        html = render_page(maps, title, _facts(capture, description), *shown)
        write_bytes(folder / PAGE, html.encode())
        written.append(folder / PAGE)
    for stale in {path for path in folder.rglob("*") if _is_own(path, folder)} - {*written}:
        stale.unlink(missing_ok=True)
    return written[len(before) :]


def holds_maps(folder: Path) -> bool:
    """Returns whether a folder has only files by `write_capture`."""
    return all(path.is_dir() or _is_own(path, folder) for path in folder.rglob("*"))


def _is_own(path: Path, folder: Path) -> bool:
    return OWN_FILES.fullmatch(path.relative_to(folder).as_posix()) is not None


def _draws(capture: Capture, maps: Maps) -> dict[str, Callable[[], bytes]]:
    """Returns the functions that draw the figures, by file name."""
    from vsf_cli.maps import plots

    def png(figure: Any) -> bytes:
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", bbox_inches="tight", metadata={"Software": None})
        return buffer.getvalue()

    def overlay() -> bytes:
        result = capture.result
        frames = plots.overlay(maps, result.frames, result.request.drop_frames)
        return encode_video(frames, result.request.fps or DEFAULT_FPS, "webp", None)

    images = capture.final, capture.unguided, capture.estimates
    figures: dict[str, Callable[[], bytes]] = {
        "grid.png": lambda: png(plots.grid(maps, "share", *images)),
        "words.png": lambda: png(plots.words(maps, capture.final)),
        "curves.png": lambda: png(plots.curves(maps)),
    }
    if any(token.is_negative and not token.special for token in maps.tokens):
        figures["grid-logits.png"] = lambda: png(plots.grid(maps, "logits", *images))
    if len(capture.final) > 1:
        figures["frames.png"] = lambda: png(plots.frames(maps, capture.final, capture.unguided))
        figures[OVERLAY] = overlay
    return figures


def _images(capture: Capture) -> Iterator[tuple[str, "Image.Image"]]:
    """Yields the images with their file names. A video has folders of the frames at which the maps are."""
    if len(capture.final) == 1:
        yield "picture.png", capture.result.image
        if capture.unguided:
            yield "no-guidance.png", capture.unguided[0]
        for step, estimate in zip(capture.maps.steps, capture.estimates, strict=True):
            yield f"steps/{step}.png", estimate[0]
        return
    videos = {"frames": capture.final} | ({"no-guidance": capture.unguided} if capture.unguided else {})
    videos |= {f"steps/{step}": estimate for step, estimate in zip(capture.maps.steps, capture.estimates, strict=True)}
    for name, frames in videos.items():
        for number, image in enumerate(frames, 1):
            yield f"{name}/{number}.png", image


@contextmanager
def _naming(written: list[Path]) -> Iterator[None]:
    """Adds the written files to errors inside a `with`, and to an interrupt."""
    try:
        yield
    except BaseException as error:
        note = f"written before: {', '.join(map(str, written)) or 'nothing'}"
        if not isinstance(error, (VSFError, KeyboardInterrupt)):
            error.add_note(note)
            raise
        raise type(error)(f"{error}; {note}" if str(error) else note) from error


def _facts(capture: Capture, description: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the facts of the run that the page shows."""
    request = capture.result.request
    return {
        "prompt": request.prompt,
        "negative prompt": ", ".join(request.negative),
        **({"kept": ", ".join(request.keep)} if request.keep else {}),
        "method": str(request.guidance),
        "model": description["request"]["model"],
        "seed": request.seed,
        "steps": f"{request.num_inference_steps}, of which kept: {', '.join(map(str, capture.maps.steps))}",
        "blocks": ", ".join(map(str, capture.maps.blocks)),
        "heads": ", ".join(map(str, capture.maps.heads)) or "mean of all",
        "mean share": f"{capture.maps.share.mean():.4f}",
        "versions": ", ".join(f"{name} {version}" for name, version in description["versions"].items()),
    }
