"""A plan of pictures or clips, and its run: loads the model once, makes each and writes it as soon as it is done."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from vsf_cli.errors import MediaError, OutOfMemory
from vsf_cli.generation.capture import Watched, folder_beside, watch, write
from vsf_cli.generation.generate import Progress, Request, Result, generate
from vsf_cli.generation.outputs import Outputs, slug
from vsf_cli.loading.fingerprints import identify
from vsf_cli.loading.loras import hashes_of
from vsf_cli.loading.offload import offload_of, out_of_memory_advice
from vsf_cli.loading.pipelines import load
from vsf_cli.loading.runtime import Runtime
from vsf_cli.loading.sources import is_here, source_of
from vsf_cli.maps.data import EVERYTHING, Selection
from vsf_cli.media.files import check_writable, write_bytes
from vsf_cli.media.formats import encode_image, encode_video
from vsf_cli.media.frames import write_frames
from vsf_cli.media.metadata import describe
from vsf_cli.methods import setting_name
from vsf_cli.settings.options import IN_NAMES, FileOptions
from vsf_cli.settings.presets import Settings
from vsf_cli.settings.request import request_options

DEFAULT_FPS = 16

__all__ = ["DEFAULT_FPS", "Plan", "Written", "advising", "describe_result", "encode_result", "load_for", "weights_of"]


@dataclass(frozen=True)
class Written:
    """A picture that was made, and where it is.

    Arguments:
        path: The file; None if its bytes went to stdout.
        result: The picture.
        description: The JSON that describes it.
    """

    path: Path | None
    result: Result
    description: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        return {"path": str(self.path) if self.path else None, "seconds": self.result.seconds, **self.description}


@dataclass(frozen=True)
class Plan:
    """What a run of `vsf image` or `vsf video` will do; made without torch.

    Arguments:
        requests: A request for each picture.
        outputs: Where the pictures go.
        runtime: Where and how the model runs.
        settings: All settings with their origins.
        warnings: What a person should know before it starts.
        files: What is written of each picture.
        crfs: The constant rate factor of each clip's encoder; None means the format's own, and so does an empty list.
        words: For the name of each picture's file, what stands in it in the place of other words; empty if nothing does.
    """

    requests: tuple[Request, ...]
    outputs: Outputs
    runtime: Runtime
    settings: Settings
    warnings: tuple[str, ...]
    files: FileOptions = field(default_factory=FileOptions)
    crfs: tuple[int | None, ...] = ()
    words: tuple[str, ...] = ()

    @property
    def to_stdout(self) -> bool:
        """Whether the picture's bytes go to stdout."""
        return self.outputs.template == "-"

    def download(self) -> str | None:
        """What will be downloaded, to where and under which licence; None if nothing is.

        Raises:
            ModelError: If the model's name cannot be one of the hub.
        """
        request, preset = self.requests[0], self.settings.preset
        if self.runtime.offline or is_here(request.model, request.revision):
            return None
        from huggingface_hub import constants

        size, license = preset.download(request.model)
        return f"downloading {size} of {request.model} to {constants.HF_HUB_CACHE}; licence: {license}"

    def pending(self) -> list[tuple[int, Request]]:
        """The requests whose pictures are still to be made, with their numbers.

        Raises:
            MediaError: If a picture exists and that is an error, or could not be written.
        """
        numbered = list(enumerate(self.requests, 1))
        if self.to_stdout:
            return numbered
        left = [(number, request) for number, request in numbered if self.outputs.free(self.path(request, number))]
        for number, request in left:
            check_writable(self.path(request, number))
        return left

    def load(self) -> Any:
        """Loads the pipeline."""
        return load_for(self.requests[0], self.runtime)

    def run(
        self,
        pipe: Any,
        pending: Sequence[tuple[int, Request]],
        progress: Progress | None = None,
        encoding: Progress | None = None,
    ) -> Iterator[Written]:
        """Makes the pictures, each written before the next one starts.

        Arguments:
            pipe: The pipeline.
            pending: The requests, with their numbers.
            progress: Called after each step with the steps done and all steps.
            encoding: Called after each frame of a clip that was encoded.

        Yields:
            Each picture.
        """
        for number, request in pending:
            with advising(pipe):
                watched = watch(pipe, request, EVERYTHING, progress) if self.files.dump_attn else None
                result = watched.result if watched else generate(pipe, request, progress)
            description = self.describe(pipe, result)
            path = None if self.to_stdout else self.outputs.free(self.path(request, number))
            self._write(path, result, description, encoding, self._crf(number))
            if watched and path:
                write(watched, folder_beside(path), description, self.files.metadata, [path])
            yield Written(path, result, description)

    def watch(self, pipe: Any, request: Request, progress: Progress | None, selection: Selection) -> Watched:
        """Makes a picture, and records what its image tokens attend to."""
        with advising(pipe):
            return watch(pipe, request, selection, progress)

    def describe(self, pipe: Any, result: Result) -> dict[str, Any]:
        """The JSON of a picture's file."""
        return describe_result(pipe, result, **self._identity)

    @cached_property
    def _identity(self) -> dict[str, Any]:
        return weights_of(self.requests[0])

    def path(self, request: Request, number: int) -> Path:
        """The path of a request's picture, whether or not it exists."""
        words = self.words[number - 1] if self.words else "none"
        return self.outputs.path({**self._values(request), "words": words, "crf": self._crf(number)}, number)

    def _crf(self, number: int) -> int | None:
        return self.crfs[number - 1] if self.crfs else None

    def _values(self, request: Request) -> dict[str, Any]:
        return {
            **dict.fromkeys(IN_NAMES, "none"),
            "slug": slug(request.prompt),
            **{one.key: getattr(request, one.field) for one in request_options() if one.in_name},
            **{setting_name(request.method, name): value for name, value in request.parameters.items()},
        }

    def _write(
        self,
        path: Path | None,
        result: Result,
        description: Mapping[str, Any],
        progress: Progress | None,
        crf: int | None,
    ) -> None:
        told = description if self.files.metadata else None
        if path is None:
            try:
                sys.stdout.buffer.write(encode_result(result, self.outputs.file_format, told, crf, progress))
                sys.stdout.buffer.flush()
            except OSError as error:
                raise MediaError(f"stdout cannot be written: {error.strerror}") from error
            return
        if self.outputs.file_format == "frames":
            write_frames(path, result.frames, told, progress)
        else:
            write_bytes(path, encode_result(result, self.outputs.file_format, told, crf, progress))
        if self.files.sidecar:
            write_bytes(path.with_name(path.name + ".json"), json.dumps(description, indent=2, ensure_ascii=False).encode())


def weights_of(request: Request) -> dict[str, Any]:
    """What says which weights a picture is made with: of the model, and of LoRA files."""
    return {**identify(source_of(request.model), request.revision), **hashes_of(request.loras)}


def load_for(request: Request, runtime: Runtime) -> Any:
    """Loads the pipeline that a request asks for."""
    return load(**request.loading, runtime=runtime)


def describe_result(pipe: Any, result: Result, **facts: Any) -> dict[str, Any]:
    """The JSON of a picture's or clip's file, by what was asked and done."""
    from vsf_cli.models.compile import compiled_blocks

    # Other kernels round otherwise, so that a picture may differ in its last bits.
    compiled = {"compiled": True} if compiled_blocks(pipe) else {}
    return describe(
        result.request.to_json(),
        **facts,
        **compiled,
        size=result.image.size,
        applied={"method": str(result.request.guidance), "blocks": result.blocks, "tokens": result.tokens},
        device=str(pipe._execution_device.type),
    )


def encode_result(
    result: Result, format: str, told: Mapping[str, Any] | None, crf: int | None = None, progress: Progress | None = None
) -> bytes:
    """A picture or a clip as the bytes of a file."""
    if result.request.num_frames is None:
        return encode_image(result.image, format, told)
    return encode_video(result.frames, result.request.fps or DEFAULT_FPS, format, told, crf, progress)


@contextmanager
def advising(pipe: Any) -> Iterator[None]:
    """Says what to try next when memory does not suffice."""
    try:
        yield
    except OutOfMemory as error:
        raise OutOfMemory(out_of_memory_advice(offload_of(pipe))) from error
