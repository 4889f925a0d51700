"""Plans of images or videos. A plan loads the model once, and writes each image or video as soon as it is made."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vsf_cli.config.strengths import AUTO
from vsf_cli.errors import JudgeOutOfMemory, MediaError, OutOfMemory
from vsf_cli.generation.capture import Capture, capture, holds_maps, maps_folder, write_capture
from vsf_cli.generation.choice import tried_strip
from vsf_cli.generation.choosing import make
from vsf_cli.generation.generate import DEFAULT_FPS, Progress, Request, Result
from vsf_cli.generation.outputs import Outputs, numbered, slug
from vsf_cli.loading.fingerprints import identify
from vsf_cli.loading.hub import is_offline, not_cached
from vsf_cli.loading.loras import hashes_of
from vsf_cli.loading.offload import offload_of, out_of_memory_advice
from vsf_cli.loading.pipelines import load
from vsf_cli.loading.runtime import Runtime
from vsf_cli.loading.sources import is_here, source_of
from vsf_cli.maps.data import EVERYTHING
from vsf_cli.media.files import check_writable, encode_json, write_bytes
from vsf_cli.media.formats import CRF_FORMATS, FORMATS, check_format, check_metadata, encode_image, encode_video
from vsf_cli.media.frames import write_frames
from vsf_cli.media.inputs import input_hashes
from vsf_cli.media.metadata import describe
from vsf_cli.methods import setting_name
from vsf_cli.settings.options import IN_NAMES, FileOptions
from vsf_cli.settings.presets import Preset, Settings, preset_for_model
from vsf_cli.settings.request import request_options

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "Plan",
    "WrittenFile",
    "advising",
    "check_metadata_of",
    "describe_result",
    "download_of",
    "files_of",
    "load_for",
    "note_lost_sound",
    "sidecar_of",
    "tried_of",
    "weights_of",
    "write_result",
    "write_sidecar",
    "write_to_stdout",
]

LONG = 2000
"""The letters of a request's texts from which on its metadata are measured."""


@dataclass(frozen=True)
class WrittenFile:
    """An image or video that was written.

    Arguments:
        path: The file; None if its bytes went to stdout.
        result: The image or video.
        description: The JSON that describes it.
        maps: The folder of its attention maps; None if it has none.
    """

    path: Path | None
    result: Result
    description: dict[str, Any]
    maps: Path | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the JSON for `--json`."""
        maps = {"maps": str(self.maps)} if self.maps else {}
        return {"path": str(self.path) if self.path else None, **maps, "seconds": self.result.seconds, **self.description}


@dataclass(frozen=True)
class Plan:
    """The plan of a run of `vsf image` or `vsf video`. It is made without torch.

    Arguments:
        requests: A request for each image or video.
        outputs: The files.
        runtime: The device that the model runs on, and how.
        settings: All settings with their origins.
        warnings: Warnings to show before the run starts.
        files: The options of what is written for each image or video.
        crfs: The constant rate factor of each video; None means the format's own, and so does an empty tuple.
        facts: What else is written into the metadata.
        words: The value of the field `words` in the name of each file; empty if nothing was replaced in the prompt.
    """

    requests: tuple[Request, ...]
    outputs: Outputs
    runtime: Runtime
    settings: Settings
    warnings: tuple[str, ...]
    files: FileOptions = field(default_factory=FileOptions)
    crfs: tuple[int | None, ...] = ()
    words: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def to_stdout(self) -> bool:
        """Whether the bytes of the file go to stdout."""
        return self.outputs.template == "-"

    @property
    def noun(self) -> str:
        """What it makes: "image" or "video"."""
        return "image" if self.requests[0].num_frames is None else "video"

    def download(self) -> str | None:
        """Returns what will be downloaded: a size, a model, a folder and a licence; None if nothing will be.

        Raises:
            ModelError: If the model is not on this machine and must not be downloaded, or has no name of the hub.
        """
        request = self.requests[0]
        return download_of(request.model, request.revision, self.runtime.offline, self.settings.preset)

    def pending(self) -> list[tuple[int, Request]]:
        """Returns the requests that are not made yet, with their numbers.

        Raises:
            MediaError: If a file exists and that is an error, or a file could not be written.
            RequestError: If a file could not hold its metadata.
        """
        numbered = list(enumerate(self.requests, 1))
        check_format(self.outputs.file_format)
        if self.files.metadata:
            for request in self.requests:
                check_metadata_of(request, self.outputs.file_format)
        if self.to_stdout:
            return numbered
        targets = self.targets()
        first: dict[Path, Path] = {}
        for path in filter(None, targets):
            first.setdefault(path.parent, path)
            if self.files.dump_attn:
                self._maps_folder(path)
        # Once for each folder: the check writes to it.
        for path in first.values():
            check_writable(path)
        return [entry for entry, path in zip(numbered, targets, strict=True) if path]

    def run(
        self,
        pipe: Any,
        pending: Sequence[tuple[int, Request]],
        progress: Progress | None = None,
        encoding: Progress | None = None,
        tried: Progress | None = None,
    ) -> Iterator[WrittenFile]:
        """Makes the images or videos of `pending`; yields each after it is written, and before the next one starts.

        `progress` is called after each step, `encoding` after each encoded frame of a video, and `tried` after each candidate.
        """
        for number, request in pending:
            with advising(pipe, request):
                result, captured = self._make(pipe, request, progress, tried)
            result = note_lost_sound(result, self.outputs.file_format)
            format, crf = self.outputs.file_format, self._crf(number)
            description = self.describe(pipe, result, crf)
            if self.to_stdout:
                write_to_stdout(_encode(result, description if self.files.metadata else None, format, crf, encoding))
                yield WrittenFile(None, result, description)
                continue
            write = partial(write_result, result=result, description=description, files=self.files)
            target = self.path(request, number)
            path = self.outputs.write(target, partial(write, format=format, crf=crf, progress=encoding))
            if path is None:
                skipped = f"{target} was written by another process meanwhile, and is skipped"
                yield WrittenFile(target, replace(result, notes=(*result.notes, skipped)), description)
                continue
            maps = self._maps_folder(path) if captured else None
            if captured and maps:
                write_capture(captured, maps, description, self.files.metadata, [path])
            elif captured:
                result = replace(result, notes=(*result.notes, f"{maps_folder(path)} exists, skipped"))
            yield WrittenFile(path, result, description, maps)

    def _make(
        self, pipe: Any, request: Request, progress: Progress | None, tried: Progress | None
    ) -> tuple[Result, "Capture | None"]:
        """Returns the image or video of a request, and its maps if they are wanted."""
        device, keep_all = self.runtime.device, self.files.keep_all
        if not self.files.dump_attn:
            return make(pipe, request, device, progress, tried, keep_all), None
        chosen = make(pipe, request, device, progress, tried, keep_all) if request.chooses else None
        captured = capture(pipe, request, EVERYTHING, progress, chosen)
        return captured.result, captured

    def _maps_folder(self, path: Path) -> Path | None:
        """Returns the folder for the maps of a new file; None if there is one, and what exists is skipped."""
        return self.outputs.free(maps_folder(path), holds_maps)

    def describe(self, pipe: Any, result: Result, crf: int | None = None) -> dict[str, Any]:
        """Returns the JSON of the file of a result."""
        return describe_result(pipe, result, self.outputs.file_format, crf, **self._identity, **self.facts)

    @cached_property
    def _identity(self) -> dict[str, Any]:
        # What was on the hub is in its cache once the model is loaded.
        return weights_of(self.requests[0], cached=True)

    def path(self, request: Request, number: int) -> Path:
        """Returns the path of a request's file, whether or not it exists."""
        return self.outputs.path(self.values(request, number), number)

    def targets(self) -> list[Path | None]:
        """Returns the path that each request is written to, beside what exists and what is written before; None: skipped.

        Raises:
            MediaError: If a file exists and that is an error.
        """
        targets: list[Path | None] = []
        taken: set[Path] = set()
        for number, request in enumerate(self.requests, 1):
            targets.append(target := self.outputs.free(self.path(request, number), taken=taken))
            taken |= {target} if target else set()
        return targets

    def _crf(self, number: int) -> int | None:
        return self.crfs[number - 1] if self.crfs else None

    def values(self, request: Request, number: int) -> dict[str, Any]:
        """Returns the values of the fields of a request's file name."""
        return {
            **dict.fromkeys(IN_NAMES, "none"),
            "slug": slug(request.prompt),
            **{option.key: getattr(request, option.field) for option in request_options() if option.in_name},
            **{setting_name(request.method, name): value for name, value in request.parameters.items()},
            **({"alpha": AUTO} if request.strengths else {}),
            "words": self.words[number - 1] if self.words else "none",
            "crf": self._crf(number),
        }


def download_of(model: str, revision: str | None, offline: bool, preset: Preset | None = None) -> str | None:
    """Returns what is downloaded for a model, as `Plan.download` does. None as its preset means that which knows the model."""
    if is_here(model, revision):
        return None
    if is_offline(offline):
        raise not_cached(model, offline)
    from huggingface_hub import constants

    size, license = (preset or preset_for_model(model)).download(model)
    return f"{size} of {model} to {constants.HF_HUB_CACHE}; licence: {license}"


def write_to_stdout(data: bytes) -> None:
    """Writes the bytes of a file to stdout; raises a `MediaError` if they cannot be written."""
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except OSError as error:
        raise MediaError(f"stdout cannot be written: {error.strerror}") from error


def check_metadata_of(request: Request, format: str) -> None:
    """Raises a `RequestError` if the file of a request could not hold its metadata, for which its texts have to be long."""
    if sum(map(len, (request.prompt, *request.negative, *request.keep))) > LONG:
        check_metadata(describe(request.to_json()), format)


def weights_of(request: Request, cached: bool = False) -> dict[str, Any]:
    """Returns what identifies the files of a request: the weights of the model, those of LoRA files, and its images.

    If `cached`, LoRA files in the hub's cache count too, which are not there before a first run.
    """
    return {**identify(source_of(request.model), request.revision), **files_of(request, cached)}


def files_of(request: Request, cached: bool = False) -> dict[str, Any]:
    """Returns the hashes of a request's LoRA files and images."""
    return {**hashes_of(request.loras, cached), **input_hashes(request.image, request.mask)}


def load_for(request: Request, runtime: Runtime) -> Any:
    """Returns the loaded pipeline of a request."""
    return load(**request.loading, runtime=runtime)


def describe_result(pipe: Any, result: Result, format: str, crf: int | None = None, **facts: Any) -> dict[str, Any]:
    """Returns the JSON of the file of a result: its request, its format, `facts`, and how it was made."""
    from vsf_cli.models.compile import compiled_blocks

    # Compiled kernels round differently, so the image may differ in its last bits.
    compiled = {"compiled": True} if compiled_blocks(pipe) else {}
    kept = {"kept_tokens": result.kept_tokens} if result.kept_tokens else {}
    choice = {"choice": result.choice.to_json()} if result.choice else {}
    counts = {"blocks": result.blocks, "tokens": result.tokens, **kept}
    scheduler = type(pipe.scheduler).__name__
    codec = FORMATS[format].codec
    encoded = {"format": format, **({"crf": codec.crf if crf is None else crf} if codec else {})}
    return describe(
        result.request.to_json(),
        **facts,
        **compiled,
        **encoded,
        **choice,
        size=list(result.image.size),
        applied={"method": str(result.request.guidance), **counts, "scheduler": scheduler},
        device=str(pipe._execution_device.type),
    )


def note_lost_sound(result: Result, format: str) -> Result:
    """Returns a result with a note if a format cannot hold its sound."""
    if result.sound is None or format in CRF_FORMATS:
        return result
    note = f"the sound is left out, which {format} cannot hold: choose --format {' or '.join(CRF_FORMATS)}"
    return replace(result, notes=(*result.notes, note))


def write_result(
    path: Path,
    replace: bool = True,
    *,
    result: Result,
    description: Mapping[str, Any],
    files: FileOptions,
    format: str,
    crf: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Writes the file of a result, or its folder of frames, and its sidecar.

    Raises:
        MediaError: If one cannot be written.
        FileExistsError: If the file exists, and is not to be replaced.
    """
    metadata = description if files.metadata else None
    if format == "frames":
        write_frames(path, result.frames, metadata, progress, replace)
    else:
        write_bytes(path, _encode(result, metadata, format, crf, progress), replace)
    if files.sidecar:
        write_sidecar(path, description)
    if files.keep_all and result.choice:
        _write_strip(tried_of(path), tried_strip(result.choice), replace)


def tried_of(path: Path) -> Path:
    """Returns the path of the strip of all images that a judge chose from, beside a file."""
    return path.with_name(f"{path.name}-tried.png")


def _write_strip(path: Path, image: "Image", replace: bool) -> None:
    """Writes a strip, under another name if there is such a file that is not to be replaced."""
    data = encode_image(image, "png", None)
    for name in chain([path], numbered(path)):
        with suppress(FileExistsError):
            write_bytes(name, data, replace)
            return


def sidecar_of(path: Path) -> Path:
    """Returns the path of the JSON file beside a file."""
    return path.with_name(path.name + ".json")


def write_sidecar(path: Path, description: Mapping[str, Any]) -> None:
    """Writes the JSON of a file beside it.

    Raises:
        MediaError: If it cannot be written.
    """
    write_bytes(sidecar_of(path), encode_json(description, indent=2))


def _encode(
    result: Result, metadata: Mapping[str, Any] | None, format: str, crf: int | None, progress: Progress | None
) -> bytes:
    if result.request.num_frames is None:
        return encode_image(result.image, format, metadata)
    return encode_video(result.frames, result.request.fps or DEFAULT_FPS, format, metadata, crf, progress, result.sound)


@contextmanager
def advising(pipe: Any, request: Request) -> Iterator[None]:
    """Adds advice to errors about too little memory inside a `with`: what a request does not use yet."""
    try:
        yield
    except JudgeOutOfMemory:
        raise  # It has advice of its own.
    except OutOfMemory as error:
        options = {"--dtype bfloat16": request.dtype != "float32", "--vae-tiling": request.vae_tiling}
        used = [option for option, in_use in options.items() if in_use]
        raise OutOfMemory(out_of_memory_advice(offload_of(pipe), used)) from error
