"""`vsf info`: says how a file was made."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from vsf_cli.cli.console import Console, as_line
from vsf_cli.cli.error_boundary import handle_errors
from vsf_cli.cli.help import Command, command_app
from vsf_cli.cli.options import Json, command_option
from vsf_cli.config.option import OUTPUT
from vsf_cli.errors import MediaError, RequestError
from vsf_cli.media.other_tools import Foreign, foreign_metadata
from vsf_cli.media.reading import read_metadata
from vsf_cli.settings.request import Request, request_options

__all__ = ["app"]

app = command_app()
FIRST = "prompt", "negative", "keep", "image", "mask", "seed"
"""What a person asks about first; the method and its numbers follow."""


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
    foreign = foreign_metadata(metadata.tags)
    if metadata.description is None and foreign is None:
        raise MediaError(f"{file} does not say how it was made{_unknown(metadata.tags)}")
    if as_json:
        Console.data(as_line({"vsf": metadata.description, "parameters": metadata.parameters, **_parsed(foreign)}))
        return
    if (description := metadata.description) is not None:
        request = description["request"]
        method = _method(request)
        if "compared" in description:  # The request is that of the last image.
            method = _strip(description["compared"])
            request = {key: value for key, value in request.items() if key not in ("method", "parameters")}
            description = {**description, "request": request, "applied": {}}
        first = _filled({key: request.get(key) for key in FIRST})
        _say_values({**first, **method, **(_everything(description) if verbose else {}), **method})
    elif foreign is not None:
        Console().info(f"{file} was made by {foreign.tool}, which wrote this:")
        _say_values({"prompt": foreign.prompt, "negative": foreign.negative, **foreign.values})


def _unknown(tags: Mapping[str, str]) -> str:
    """Returns what a file has in place of metadata that are known."""
    by = f"; the program was {tags['software'][:60]}" if "software" in tags else ""
    if not by and tags:
        return f": of {', '.join(list(tags)[:5])}, nothing is known as a prompt here"
    return f"{by}: it has no metadata, or a host has cut it off"


def _parsed(foreign: Foreign | None) -> dict[str, Any]:
    if foreign is None:
        return {}
    return {"tool": foreign.tool, "prompt": foreign.prompt, "negative": foreign.negative, "pairs": foreign.values}


def _method(request: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a request's method and its numbers; those of a request of another version are as they are."""
    method = {"method": request["method"]} if "method" in request else {}
    if not request.get("negative"):
        return method
    try:
        return {**method, **Request.from_json(request).guidance.shown}
    except RequestError:
        parameters = request.get("parameters")
        return {**method, **(parameters if isinstance(parameters, dict) else {})}


def _strip(compared: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the methods of a strip's images with their numbers, in their order."""
    methods = [_method(request) for one in compared if isinstance(request := one.get("request"), dict)]
    labels = (" ".join(f"{value}" if key == "method" else f"{key}={value}" for key, value in one.items()) for one in methods)
    return {"strip of": ", ".join(labels)}


def _everything(description: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a file says, by the names of the options; what is empty, and the sides beside the size, are left out."""
    request, applied, size = (description.get(key, {}) for key in ("request", "applied", "size"))
    nested = "request", "applied", "schema", "versions", "compared"
    facts = {key: value for key, value in description.items() if key not in nested}
    facts |= {"choice": _choice(facts["choice"])} if isinstance(facts.get("choice"), dict) else {}
    values = {**request, **request.get("parameters", {}), **applied, "method": request.get("method"), **facts}
    values |= {"size": "x".join(map(str, size))} if size else {}
    of_videos = [] if request.get("num_frames") else [one.field for one in request_options() if one.video]
    left_out = "parameters", *of_videos, *(("width", "height") if size else ())
    keys = {one.field: one.key for one in request_options()}
    plain = {keys.get(key, key): value for key, value in values.items() if key not in left_out}
    return {**_filled(plain), **description["versions"]}


def _filled(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values that are not empty."""
    return {key: value for key, value in values.items() if value not in (None, "", [], {})}


def _choice(choice: Mapping[str, Any]) -> str:
    """Returns what was tried, with the answers, and which of them was chosen by whom."""
    content = "content" if choice.get("content") else "not content"
    tried = [_attempt(one) for one in choice.get("tried", []) if isinstance(one, dict)]
    judge = choice.get("judge", {})
    name = judge.get("name") if isinstance(judge, dict) else judge
    return "; ".join([f"{choice.get('chosen')} of {len(tried)} by {name}, which is {content} with it", *tried])


def _attempt(attempt: Mapping[str, Any]) -> str:
    varied = [f"{key} {value}" for key, value in attempt.items() if key not in ("answer", "lost")]
    answer = attempt.get("answer") or {}
    lost = [f"{thing} lost" for thing in attempt.get("lost", [])]
    return f"{', '.join(varied)}: {', '.join([answer.get('reason', 'no image'), *lost])}"


def _say_values(values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, float):
            value = f"{value:.10g}"
        if isinstance(value, list) and all(isinstance(entry, str) for entry in value):
            value = ", ".join(value)
        Console.data_pairs([(key, as_line(value) if isinstance(value, (dict, list)) else str(value))], 20)
