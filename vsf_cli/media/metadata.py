"""The metadata of files, which record how they were made: our own JSON, and the text that other tools read.

The JSON, under the key `vsf`, holds everything. The text, under the key `parameters`, follows A1111's grammar in the form that
Civitai's scanner reads too: `Steps` first on the last line, and values of one word or a number.
"""

import json
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from types import NoneType
from typing import Any

from vsf_cli import __version__

__all__ = [
    "SCHEMA",
    "Metadata",
    "describe",
    "infotext",
    "metadata_of",
    "parse_description",
    "parse_infotext",
    "tags_of",
    "versions",
]

SCHEMA = 1
PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "peft")

REQUIRED = ("schema", "request", "versions")
TYPES: Mapping[str, tuple[Any, Any]] = {
    "schema": (int, object),
    "request": (dict, object),
    "versions": (dict, str),
    "applied": (dict, object),
    "compiled": (bool, object),
    "size": (list, int),
    "lora_hashes": (list, (str, NoneType)),
    "lora_revisions": (list, (str, NoneType)),
    "compared": (list, dict),
    "crf": (int, object),
    **dict.fromkeys(("image_sha256", "mask_sha256"), (list, str)),
    **dict.fromkeys(("model_hash", "model_fingerprint", "model_revision"), (str, object)),
    **dict.fromkeys(("device", "format", "item"), (str, object)),
}
"""The types of the values that are read, and of those in them."""
NAMES = {int: "a whole number", dict: "an object", list: "a list", str: "a text", bool: "true or false"}
SAMPLERS = {
    **dict.fromkeys(("FlowMatchEulerDiscreteScheduler", "EulerDiscreteScheduler"), "Euler"),
    "UniPCMultistepScheduler": "UniPC",
    "DPMSolverMultistepScheduler": "DPM++ 2M",
    "EulerAncestralDiscreteScheduler": "Euler a",
}
"""The names that A1111 has for schedulers of diffusers; others keep theirs, without its last part."""

PAIR = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[\[{].{0,2000}?[\]}](?=, *\w[\w \-/]+:|$)|[^,]*)(?:,|$)')


@dataclass(frozen=True)
class Metadata:
    """The metadata of a file.

    Arguments:
        description: Our own JSON; None if the file has none.
        parameters: The text in A1111's grammar; None if the file has none.
        tags: All texts in the file by their names in lower case, those of other programs among them.
    """

    description: dict[str, Any] | None
    parameters: str | None
    tags: Mapping[str, str] = field(default_factory=dict)


def tags_of(metadata: Mapping[str, Any] | None) -> dict[str, str]:
    """Returns the tags of a file: our JSON as `vsf`, and A1111's text as `parameters`; none without metadata."""
    if not metadata:
        return {}
    own = json.dumps(metadata, ensure_ascii=True, sort_keys=True, allow_nan=False)
    return {"vsf": own, "parameters": infotext(metadata)}


def metadata_of(tags: Mapping[str, str]) -> Metadata:
    """Returns the metadata in the tags of a file; a description by another tool is no metadata of ours."""
    texts = {key.lower(): text for key, text in tags.items()}
    try:
        own = parse_description(texts.get("vsf", ""))
    except ValueError:
        own = None
    return Metadata(own, texts.get("parameters"), texts)


def parse_description(text: str) -> dict[str, Any]:
    """Returns the JSON of a file, in which the values that this version reads have the right types.

    Raises:
        ValueError: If it is no JSON, or a value is missing or of another type.
    """
    try:
        plain = json.loads(text, parse_constant=_refuse_constant)
        json.dumps(plain, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(plain, dict):
        raise ValueError("it is not an object")
    if missing := [key for key in REQUIRED if key not in plain]:
        raise ValueError(f"it has no '{missing[0]}', and so is not one that vsf wrote")
    for key, (kind, kinds) in TYPES.items():
        value = plain.get(key)
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        legal = isinstance(value, kind) and isinstance(value, bool) == (kind is bool)
        if key in plain and not (legal and all(isinstance(one, kinds) for one in inner)):
            raise ValueError(f"'{key}' is {str(value)[:60]!r}, but must be {NAMES[kind]}")
    if plain["schema"] > SCHEMA:
        raise ValueError(f"it was written by a newer version (schema {plain['schema']}): update vsf")
    return plain


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


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
        **_sampler(metadata),
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
    negative = [text for text in request["negative"] if text.strip()]
    if negative:
        pairs["Guidance method"] = request["method"].upper()
        for name, number in request["parameters"].items():
            pairs[f"{request['method'].upper()} {name}"] = number if isinstance(number, (bool, str)) else float(number)
    pairs["Version"] = f"vsf {__version__}"

    lines = [_plain(request["prompt"])]
    if negative:
        lines.append("Negative prompt: " + _plain(", ".join(negative)))
    lines.append(", ".join(f"{key}: {_value(value)}" for key, value in pairs.items()))
    return "\n".join(lines)


def _sampler(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Returns the pair that names the scheduler which ran, if it is known."""
    name = metadata.get("applied", {}).get("scheduler") or metadata["request"].get("scheduler")
    return {"Sampler": SAMPLERS.get(name, name.removesuffix("Scheduler"))} if name else {}


def _unquoted(value: str) -> str:
    """Removes the quotes of a value in JSON; others stay."""
    try:
        return str(json.loads(value)) if value.startswith('"') else value
    except ValueError:
        return value


def parse_infotext(text: str) -> tuple[str, str, dict[str, str]]:
    """Returns the prompt, the negative prompt and the parameters of a text in A1111's grammar.

    The last line that begins with the steps, or else the last line, holds parameters only if there are at least three of
    them, as in A1111; lines may be indented.
    """
    lines = [line.strip() for line in re.split(r"\r\n|\r|\n", text.strip())]
    starts = [number for number, line in enumerate(lines) if line.startswith("Steps: ")]
    start = starts[-1] if starts else len(lines) - 1
    pairs = {key: _unquoted(value.strip()) for key, value in PAIR.findall(", ".join(lines[start:]))}
    if len(pairs) < 3:
        start, pairs = len(lines), {}
    prompt: list[str] = []
    negative: list[str] = []
    target = prompt
    for line in lines[:start]:
        if line.startswith("Negative prompt:"):
            target, line = negative, line.removeprefix("Negative prompt:").strip()
        target.append(line)
    return "\n".join(prompt), "\n".join(negative), pairs
