"""`vsf info`: says how a file was made."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from vsf_cli.cli.console import Console, as_line
from vsf_cli.cli.error_boundary import handle_errors
from vsf_cli.cli.help import Command, command_app
from vsf_cli.cli.options import Json
from vsf_cli.errors import MediaError
from vsf_cli.media.metadata import parse_infotext
from vsf_cli.media.reading import read_metadata

__all__ = ["app"]

app = command_app()


@app.command(cls=Command, epilog="Example: vsf info outputs/a-red-bike-1.png")
@handle_errors
def info(file: Annotated[Path, typer.Argument(help="An image or video, or its sidecar.")], as_json: Json = False) -> None:
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
        _say_values({**description["request"], **facts, **description["versions"]})
    else:
        Console().info(f"{file} was not made by vsf; it holds these parameters:")
        _say_values({"prompt": prompt, "negative": negative, **pairs})


def _say_values(values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        Console.data(f"{key:20} {as_line(value) if isinstance(value, (dict, list)) else value}")
