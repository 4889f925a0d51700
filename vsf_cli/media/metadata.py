"""The metadata of files, which record how they were made: our own JSON, and the text that other tools read.

The JSON, under the key `vsf`, holds everything. The text, under the key `parameters`, follows A1111's grammar in the form that
Civitai's scanner reads too: `Steps` first on the last line, and values of one word or a number.
"""

import json
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from vsf_cli import __version__

__all__ = ["SCHEMA", "Metadata", "describe", "infotext", "metadata_of", "parse_infotext", "tags_of", "versions"]

SCHEMA = 1
PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "peft")

PAIR = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')


@dataclass(frozen=True)
class Metadata:
    """The metadata of a file: our own JSON, and the text in A1111's grammar; each is None if the file has none."""

    description: dict[str, Any] | None
    parameters: str | None


def tags_of(metadata: Mapping[str, Any] | None) -> dict[str, str]:
    """Returns the tags of a file: our JSON as `vsf`, and A1111's text as `parameters`; none without metadata."""
    if not metadata:
        return {}
    own = json.dumps(metadata, ensure_ascii=True, sort_keys=True, allow_nan=False)
    return {"vsf": own, "parameters": infotext(metadata)}


def metadata_of(tags: Mapping[str, str]) -> Metadata:
    """Returns the metadata in the tags of a file; a description by another tool is no metadata of ours."""
    try:
        own = json.loads(tags.get("vsf") or "null")
    except ValueError:
        own = None
    complete = isinstance(own, dict) and {"schema", "request", "versions"} <= own.keys()
    return Metadata(own if complete else None, tags.get("parameters"))


@cache
def versions() -> dict[str, str]:
    """Returns the versions of the packages that decide an image's bits, by their names."""
    from importlib.metadata import PackageNotFoundError, version

    numbers = {"vsf": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            numbers[package] = version(package)
        except PackageNotFoundError:
            continue
    return numbers


def describe(request: Mapping[str, Any], **facts: Any) -> dict[str, Any]:
    """Returns the JSON of a file.

    Arguments:
        request: Everything that decides the image, as JSON, without paths of this machine.
        facts: What else is worth knowing: how the negative prompt was applied, the device, the model's hash.
    """
    return {"schema": SCHEMA, "request": dict(request), **facts, "versions": dict(versions())}


def _plain(text: str) -> str:
    """Changes the lines of a prompt that would be read as the negative prompt or as parameters."""
    lines = (line.strip() for line in text.splitlines())
    joined = "\n".join(line for line in lines if line)
    joined = re.sub(r"(?i)negative prompt:", "negative prompt -", joined)
    return re.sub(r"(?im)^steps:", "steps -", joined)


def _value(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return json.dumps(text, ensure_ascii=False) if re.search(r"[,:\n]", text) else text


def infotext(metadata: Mapping[str, Any]) -> str:
    """Returns the text that A1111, Civitai and similar tools read."""
    request = metadata["request"]
    pairs: dict[str, Any] = {
        "Steps": request["num_inference_steps"],
        "Sampler": "Euler",
        "CFG scale": float(request["guidance_scale"]),
        "Seed": request["seed"],
    }
    if metadata.get("size"):
        pairs["Size"] = "x".join(str(side) for side in metadata["size"])
    if metadata.get("model_hash"):
        pairs["Model hash"] = metadata["model_hash"][:10]
    pairs["Model"] = re.sub(r"[^\w.\-]", "-", request["model"].rsplit("/", 1)[-1].removeprefix("builtin:"))
    if request.get("strength"):
        pairs["Denoising strength"] = request["strength"]
    if request.get("keep"):
        pairs["Keep"] = ", ".join(request["keep"])
    if request["negative"]:
        pairs["Guidance method"] = request["method"].upper()
        for name, number in request["parameters"].items():
            pairs[f"{request['method'].upper()} {name}"] = number if isinstance(number, (bool, str)) else float(number)
    pairs["Version"] = f"vsf {__version__}"

    lines = [_plain(request["prompt"])]
    if request["negative"]:
        lines.append("Negative prompt: " + _plain(", ".join(request["negative"])))
    lines.append(", ".join(f"{key}: {_value(value)}" for key, value in pairs.items()))
    return "\n".join(lines)


def _unquoted(value: str) -> str:
    """Removes the quotes of a value in JSON; others stay."""
    try:
        return str(json.loads(value)) if value.startswith('"') else value
    except ValueError:
        return value


def parse_infotext(text: str) -> tuple[str, str, dict[str, str]]:
    """Returns the prompt, the negative prompt and the parameters of a text in A1111's grammar.

    The last line holds parameters only if there are at least three of them, as in A1111.
    """
    *lines, last = text.strip().split("\n")
    pairs = {key: _unquoted(value.strip()) for key, value in PAIR.findall(last)}
    if len(pairs) < 3:
        lines, pairs = [*lines, last], {}
    prompt: list[str] = []
    negative: list[str] = []
    target = prompt
    for line in lines:
        if line.startswith("Negative prompt:"):
            target, line = negative, line.removeprefix("Negative prompt:").strip()
        target.append(line)
    return "\n".join(prompt), "\n".join(negative), pairs
