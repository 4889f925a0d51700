"""`vsf info`: says how a file was made."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from vsf_cli.cli.console import Console, as_line
from vsf_cli.cli.error_boundary import handle_errors
from vsf_cli.cli.help import Command, command_app
from vsf_cli.cli.options import Json, command_option
from vsf_cli.config.option import OUTPUT
from vsf_cli.errors import MediaError, RequestError
from vsf_cli.media.metadata import parse_infotext
from vsf_cli.media.reading import read_metadata
from vsf_cli.settings.request import Request

__all__ = ["app"]

app = command_app()
FIRST = "prompt", "negative", "seed", "method"
"""What a person asks about first; the numbers of the method follow."""


@app.command(cls=Command, epilog="Example: vsf info outputs/a-red-bike-1.png")
@handle_errors
def info(
    file: Annotated[Path, typer.Argument(help="An image or video, or its sidecar.")],
    as_json: Json = False,
    verbose: Annotated[
        bool, command_option("-v", "--verbose", help="Say everything that the file does.", panel=OUTPUT)
    ] = False,
) -> None:
    """Say how a file was made."""
    metadata = read_metadata(file)
    if metadata.description is None and metadata.parameters is None:
        raise MediaError(f"{file} does not say how it was made: it was written without metadata, or a host has cut it off")
    prompt, negative, pairs = parse_infotext(metadata.parameters or "")
    if as_json:
        parsed = {"prompt": prompt, "negative": negative, "pairs": pairs} if metadata.parameters else {}
        Console.data(as_line({"vsf": metadata.description, "parameters": metadata.parameters, **parsed}))
        return
    if (description := metadata.description) is not None:
        facts = {key: value for key, value in description.items() if key not in ("request", "schema", "versions")}
        request = description["request"]
        first = {key: request[key] for key in FIRST if key in request}
        numbers = _numbers(request) if request.get("negative") else {}
        _say_values({**first, **numbers, **(request | facts | description["versions"] if verbose else {})})
    else:
        Console().info(f"{file} was not made by vsf; it holds these parameters:")
        _say_values({"prompt": prompt, "negative": negative, **pairs})


def _numbers(request: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the numbers of a request's method; those of a request of another version are as they are."""
    try:
        return {**Request.from_json(request).guidance.shown}
    except RequestError:
        return dict(request.get("parameters", {}))


def _say_values(values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, float):
            value = f"{value:.10g}"
        if isinstance(value, list) and all(isinstance(entry, str) for entry in value):
            value = ", ".join(value)
        Console.data(f"{key:20} {as_line(value) if isinstance(value, (dict, list)) else value}".rstrip())
