"""What a file says of how it was made: our own JSON, and the text that other tools read.

The JSON, under the key `vsf`, holds everything. The text, under the key `parameters`, follows A1111's grammar in the form that
Civitai's scanner reads too: `Steps` first on the last line, and values of one word or a number.
"""

import json
import platform
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from vsf_cli import __version__

__all__ = ["SCHEMA", "describe", "infotext", "parse_infotext", "versions"]

SCHEMA = 1
PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "peft")

PAIR = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')


@cache
def versions() -> dict[str, str]:
    """The versions that decide a picture's bits."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"vsf": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def describe(request: Mapping[str, Any], **facts: Any) -> dict[str, Any]:
    """The JSON of a file.

    Arguments:
        request: Everything that decides the picture, as JSON; without paths of this machine.
        facts: What else is worth knowing: what was done to the negative, the device, the model's hash.
    """
    return {"schema": SCHEMA, "request": dict(request), **facts, "versions": dict(versions())}


def _plain(text: str) -> str:
    """Text on lines that no reader takes for the line of the negative prompt or of the parameters."""
    lines = (line.strip() for line in text.splitlines())
    joined = "\n".join(line for line in lines if line)
    joined = re.sub(r"(?i)negative prompt:", "negative prompt -", joined)
    return re.sub(r"(?im)^steps:", "steps -", joined)


def _value(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return json.dumps(text, ensure_ascii=False) if re.search(r"[,:\n]", text) else text


def infotext(description: Mapping[str, Any]) -> str:
    """The text that A1111, Civitai and their like read."""
    request = description["request"]
    pairs: dict[str, Any] = {
        "Steps": request["num_inference_steps"],
        "Sampler": "Euler",
        "CFG scale": float(request["guidance_scale"]),
        "Seed": request["seed"],
    }
    if description.get("size"):
        pairs["Size"] = "x".join(str(side) for side in description["size"])
    if description.get("model_hash"):
        pairs["Model hash"] = description["model_hash"][:10]
    pairs["Model"] = re.sub(r"[^\w.\-]", "-", request["model"].rsplit("/", 1)[-1].removeprefix("builtin:"))
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
    """A value of the grammar; one that others quoted by other rules stays as it is."""
    try:
        return str(json.loads(value)) if value.startswith('"') else value
    except ValueError:
        return value


def parse_infotext(text: str) -> tuple[str, str, dict[str, str]]:
    """The prompt, the negative prompt and the parameters of a text in A1111's grammar.

    The last line holds parameters only if there are at least three of them, as A1111 has it.
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
