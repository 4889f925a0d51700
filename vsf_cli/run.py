"""`vsf image` from settings to files: plans requests, loads the model once, makes and writes each picture as it is done."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vsf_cli.errors import MediaError, OutOfMemory, RequestError
from vsf_cli.generate import Progress, Request, Result, generate
from vsf_cli.loras import Lora
from vsf_cli.media import check_writable, encode, write_atomically, write_picture
from vsf_cli.metadata import describe
from vsf_cli.methods import METHODS, method_named
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

__all__ = ["Plan", "Written", "plan"]


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
    """

    requests: tuple[Request, ...]
    outputs: Outputs
    runtime: Runtime
    settings: Settings
    warnings: tuple[str, ...]
    metadata: bool = True
    sidecar: bool = False

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
        identity = identify(source_of(self.requests[0].model), self.requests[0].revision)
        for number, request in pending:
            try:
                result = generate(pipe, request, progress)
            except OutOfMemory as error:
                raise OutOfMemory(out_of_memory_advice(offload_of(pipe))) from error
            description = describe(
                result.request.to_json(),
                **identity,
                size=result.image.size,
                applied={"method": str(request.guidance), "blocks": result.blocks, "tokens": result.tokens},
                device=str(pipe._execution_device.type),
            )
            path = None if self.to_stdout else self.outputs.free(self.path(request, number))
            self._write(path, result, description)
            yield Written(path, result, description)

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
            text = json.dumps(description, indent=2, ensure_ascii=False)
            write_atomically(path.with_name(path.name + ".json"), lambda file: file.write(text.encode()))


def plan(
    prompt: str,
    negative: Sequence[str],
    seeds: Sequence[int],
    settings: Settings,
    loras: Sequence[str] = (),
    metadata: bool = True,
    sidecar: bool = False,
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

    Raises:
        RequestError: If something is not legal.
    """
    method, preset = settings["method"], settings.preset
    if method not in METHODS:
        raise RequestError(f"--method is '{method}', but methods are {', '.join(METHODS)}")
    parameters = method_named(method, settings.parameters(method)).parameters
    for name in ("alpha", "beta", "special_tokens"):
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
    if outputs.template == "-" and (len(requests) > 1 or sidecar):
        raise RequestError(f"-o - takes one picture and no sidecar, but {len(requests)} are asked for")
    outputs.file_format  # noqa: B018  an ending of no known format is refused here
    runtime = Runtime(settings["device"], settings["offload"], bool(settings["offline"]))
    vocabulary = vocabulary_of(settings["model"])
    warnings = [] if vocabulary is None else check_vocabulary(prompt, negative, vocabulary)
    warnings += hints(negative, METHODS[method].guides_attention)
    return Plan(requests, outputs, runtime, settings, tuple(warnings), metadata, sidecar)
