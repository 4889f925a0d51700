"""`vsf image` from settings to files: plans requests, loads the model once, makes and writes each picture as it is done."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from vsf_cli.attn_map import Watched, check_watchable, folder_beside, watch, write
from vsf_cli.errors import MediaError, OutOfMemory, RequestError
from vsf_cli.generate import Progress, Request, Result, generate
from vsf_cli.loras import Lora
from vsf_cli.maps import EVERYTHING, Selection
from vsf_cli.media import check_writable, encode, read_metadata, write_bytes, write_picture
from vsf_cli.metadata import describe
from vsf_cli.methods import METHODS, VSF, method_named
from vsf_cli.outputs import Outputs, slug
from vsf_cli.pipelines import (
    Runtime,
    check_dtype,
    identify,
    is_cached,
    load,
    offload_of,
    out_of_memory_advice,
    source_of,
    vocabulary_of,
)
from vsf_cli.presets import Settings
from vsf_cli.values import parse_size
from vsf_cli.words import check_vocabulary, hints

__all__ = ["Plan", "Written", "plan", "plan_again"]


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
    """What a run of `vsf image` will do; made without torch.

    Arguments:
        requests: A request for each picture.
        outputs: Where the pictures go.
        runtime: Where and how the model runs.
        settings: All settings with their origins.
        warnings: What a person should know before it starts.
        metadata: Whether files say how they were made.
        sidecar: Whether a JSON file is written beside each picture.
        dump_attn: Whether a folder with attention maps is written beside each picture.
    """

    requests: tuple[Request, ...]
    outputs: Outputs
    runtime: Runtime
    settings: Settings
    warnings: tuple[str, ...]
    metadata: bool = True
    sidecar: bool = False
    dump_attn: bool = False

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
        if self.runtime.offline or source_of(request.model).folder is not None or is_cached(request.model, request.revision):
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
        request = self.requests[0]
        return load(request.model, request.dtype, self.runtime, request.loras, request.revision, request.variant)

    def run(self, pipe: Any, pending: Sequence[tuple[int, Request]], progress: Progress | None = None) -> Iterator[Written]:
        """Makes the pictures, each written before the next one starts.

        Yields:
            Each picture.
        """
        for number, request in pending:
            with _advising(pipe):
                watched = watch(pipe, request, EVERYTHING, progress) if self.dump_attn else None
                result = watched.result if watched else generate(pipe, request, progress)
            description = self.describe(pipe, result)
            path = None if self.to_stdout else self.outputs.free(self.path(request, number))
            self._write(path, result, description)
            if watched and path:
                write(watched, folder_beside(path), description, self.metadata)
            yield Written(path, result, description)

    def watch(self, pipe: Any, request: Request, progress: Progress | None, selection: Selection) -> Watched:
        """Makes a picture, and records what its image tokens attend to."""
        with _advising(pipe):
            return watch(pipe, request, selection, progress)

    def describe(self, pipe: Any, result: Result) -> dict[str, Any]:
        """The JSON of a picture's file."""
        return describe(
            result.request.to_json(),
            **self._identity,
            size=result.image.size,
            applied={"method": str(result.request.guidance), "blocks": result.blocks, "tokens": result.tokens},
            device=str(pipe._execution_device.type),
        )

    @cached_property
    def _identity(self) -> dict[str, str]:
        return identify(source_of(self.requests[0].model), self.requests[0].revision)

    def path(self, request: Request, number: int) -> Path:
        """The path of a request's picture, whether or not it exists."""
        return self.outputs.path(self._values(request), number)

    def _values(self, request: Request) -> dict[str, Any]:
        return {
            "alpha": "none",
            "beta": "none",
            "slug": slug(request.prompt),
            "seed": request.seed,
            "method": request.method,
            "preset": request.preset,
            "steps": request.num_inference_steps,
            **{name: float(number) for name, number in request.parameters.items()},
        }

    def _write(self, path: Path | None, result: Result, description: Mapping[str, Any]) -> None:
        told = description if self.metadata else None
        if path is None:
            data = encode(result.image, self.outputs.file_format, told)
            try:
                sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()
            except OSError as error:
                raise MediaError(f"stdout cannot be written: {error.strerror}") from error
            return
        write_picture(path, result.image, self.outputs.file_format, told)
        if self.sidecar:
            write_bytes(path.with_name(path.name + ".json"), json.dumps(description, indent=2, ensure_ascii=False).encode())


@contextmanager
def _advising(pipe: Any) -> Iterator[None]:
    """Says what to try next when memory does not suffice."""
    try:
        yield
    except OutOfMemory as error:
        raise OutOfMemory(out_of_memory_advice(offload_of(pipe))) from error


def plan(
    prompt: str,
    negative: Sequence[str],
    seeds: Sequence[int],
    settings: Settings,
    loras: Sequence[str] = (),
    metadata: bool = True,
    sidecar: bool = False,
    dump_attn: bool = False,
) -> Plan:
    """Turns settings into requests, and refuses what is not legal before anything is loaded.

    Arguments:
        prompt: What is wanted.
        negative: What is not wanted.
        seeds: A picture for each.
        settings: All settings.
        loras: LoRA files.
        metadata: Whether files say how they were made.
        sidecar: Whether a JSON file is written beside each picture.
        dump_attn: Whether a folder with attention maps is written beside each picture.

    Raises:
        RequestError: If something is not legal.
    """
    method, preset = settings["method"], settings.preset
    if method not in METHODS:
        raise RequestError(f"--method is '{method}', but methods are {', '.join(METHODS)}")
    parameters = method_named(method, settings.parameters(method)).parameters
    for name in VSF.kinds():
        if settings.origin(name).origin == "option" and name not in parameters:
            raise RequestError(
                f"--{name.replace('_', '-')} is VSF's, but the method is {method}: leave it out, or pass --method vsf"
            )
    check_dtype(settings["dtype"])
    for lora in loras:
        Lora.parse(lora).check()

    try:
        width, height = parse_size(settings["size"]) if settings["size"] else (None, None)
    except ValueError as error:
        raise RequestError(f"size from {settings.origin('size').origin}: {error}") from error
    negative = tuple(text.strip() for text in negative if text.strip())
    if dump_attn:
        check_watchable(method, negative)
    requests = tuple(
        Request(
            prompt=prompt.strip(),
            negative=negative,
            model=settings["model"],
            seed=seed,
            method=method,
            parameters=parameters,
            num_inference_steps=settings["steps"],
            guidance_scale=settings["guidance"],
            width=width,
            height=height,
            max_sequence_length=preset.max_sequence_length,
            dtype=settings["dtype"],
            loras=tuple(loras),
            revision=preset.revision_of(settings["model"]),
            variant=preset.variant if settings["model"] == preset.model else None,
            preset=preset.name,
        )
        for seed in seeds
    )
    outputs = Outputs(settings["output"], settings["exists"], settings["format"], len(requests))
    if outputs.template == "-" and (len(requests) > 1 or sidecar or dump_attn):
        raise RequestError(f"-o - takes one picture and nothing beside it, but {len(requests)} are asked for, or more files")
    outputs.file_format  # noqa: B018  an ending of no known format is refused here
    runtime = Runtime(settings["device"], settings["offload"], bool(settings["offline"]))
    vocabulary = vocabulary_of(settings["model"])
    warnings = [] if vocabulary is None else check_vocabulary(prompt, negative, vocabulary)
    warnings += hints(negative, METHODS[method].guides_attention)
    return Plan(requests, outputs, runtime, settings, tuple(warnings), metadata, sidecar, dump_attn)


def plan_again(file: Path, given: Mapping[str, Any], machine: Mapping[str, Any]) -> Plan:
    """The plan that makes the picture of a file again, from the file alone.

    Arguments:
        file: A picture of `vsf`, or its sidecar.
        given: The options of the command line that decide a picture, by name; only `model` and `lora` may be among them, for
            files are known to a picture by their names alone.
        machine: The other options, by name.

    Raises:
        MediaError: If the file does not say how it was made.
        RequestError: If an option contradicts the file, or the picture has no maps.
    """
    found = read_metadata(file).description
    if found is None:
        raise MediaError(f"{file} does not say how vsf made it: give a prompt and --neg instead, or a picture with metadata")
    here = {"model", "lora"}
    if extra := [f"--{name.replace('_', '-')}" for name, value in given.items() if value is not None and name not in here]:
        raise RequestError(f"{file} brings its own settings: leave {', '.join(extra)} out, or give a prompt instead of a file")
    request = Request.from_json(found["request"])
    request = replace(request, model=given.get("model") or request.model, loras=tuple(given.get("lora") or request.loras))
    check_watchable(request.method, request.negative)
    settings = Settings({**machine, "model": request.model})
    outputs = Outputs(settings["output"], settings["exists"], settings["format"])
    return Plan((request,), outputs, Runtime(settings["device"], settings["offload"], bool(settings["offline"])), settings, ())
