"""Reads what other programs wrote into files: the web UI of A1111 and its kin, ComfyUI, InvokeAI, Draw Things, and others."""

import html
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from vsf_cli.media.metadata import parse_infotext
from vsf_cli.prompts.prompt_weights import move_negatives

__all__ = ["Foreign", "foreign_metadata"]


@dataclass(frozen=True)
class Foreign:
    """What another program wrote into a file.

    Arguments:
        tool: The name of the program.
        prompt, negative: The prompts, as far as they are known.
        values: Everything else, by name.
    """

    tool: str
    prompt: str = ""
    negative: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)


def foreign_metadata(tags: Mapping[str, str]) -> Foreign | None:
    """Returns what another program wrote into the tags of a file, by names in lower case; None if nothing is known of it."""
    texts = {key: value for key, value in tags.items() if value.strip()}
    found = [foreign for key, read in _READERS.items() if key in texts and (foreign := read(texts[key], texts))]
    # Some tags say more than others.
    return max(found, key=lambda one: (bool(one.prompt), bool(one.values)), default=None)


def _loaded(text: str) -> Any:
    """Returns the JSON in a text, after a name before it as in `prompt:{...}`; None if it has none."""
    try:
        # Some write NaN, and halves of characters.
        value = json.loads(re.sub(r"^\w+:(?=\s*[{\[])", "", text.strip()), parse_constant=str)
        return json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None


def _flat(tool: str, values: Mapping[str, Any], prompt: str, negative: str) -> Foreign:
    """Returns values of JSON in which the prompts have these keys."""
    rest = {key: value for key, value in values.items() if key not in (prompt, negative) and value not in (None, "", [], {})}
    positive, unwanted = (value if isinstance(value := values.get(key), str) else "" for key in (prompt, negative))
    return Foreign(tool, positive, unwanted, rest)


def _of_invokeai(text: str, _: Mapping[str, str]) -> Foreign | None:
    values = _loaded(text)
    if not isinstance(values, dict):
        return None
    # Version 2 has all of it under `image`, and the negative prompt in brackets.
    image = values.get("image")
    if isinstance(image, dict):
        prompt = image.get("prompt")
        first = prompt[0].get("prompt") if isinstance(prompt, list) and prompt and isinstance(prompt[0], dict) else prompt
        positive, negative = _without_brackets(first if isinstance(first, str) else "")
        return Foreign("InvokeAI", positive, negative, {key: value for key, value in image.items() if key != "prompt"})
    return _flat("InvokeAI", values, "positive_prompt", "negative_prompt")


def _of_dream(text: str, _: Mapping[str, str]) -> Foreign | None:
    """Reads the command of InvokeAI 1, such as `"a bike [wheels]" -s 8`."""
    match = re.match(r'"(.*)"(.*)', text, re.DOTALL)
    return Foreign("InvokeAI", *_without_brackets(match[1]), {"options": match[2].strip()}) if match else None


def _without_brackets(text: str) -> tuple[str, str]:
    """Returns the prompt and the negative prompt of `a bike [wheels]`."""
    return " ".join(re.sub(r"\[[^\[\]]*\]", " ", text).split()), ", ".join(re.findall(r"\[([^\[\]]*)\]", text))


def _of_comfyui(text: str, texts: Mapping[str, str]) -> Foreign | None:
    """Reads the graph of nodes that was run, or the one that was drawn, which says less."""
    graph = _loaded(text)
    if isinstance(graph, dict) and "nodes" in graph:
        return Foreign("ComfyUI")
    if isinstance(graph, dict) and "prompt" in graph:
        graph = _loaded(graph["prompt"]) if isinstance(graph["prompt"], str) else graph["prompt"]
    nodes = _nodes(graph)
    for inputs in (node["inputs"] for node in nodes.values()):
        if "positive" in inputs and ("seed" in inputs or "noise_seed" in inputs):
            prompt, negative = (", ".join(_texts(nodes, inputs.get(side))) for side in ("positive", "negative"))
            values = {key: value for key, value in inputs.items() if not isinstance(value, (list, dict))}
            return Foreign("ComfyUI", prompt, negative, values)
    return Foreign("ComfyUI", values={"texts": list(dict.fromkeys(_own_texts(nodes)))}) if nodes else None


def _nodes(graph: Any) -> dict[str, Any]:
    """Returns the nodes of a graph that have inputs."""
    nodes = graph.items() if isinstance(graph, dict) else ()
    return {key: node for key, node in nodes if isinstance(node, dict) and isinstance(node.get("inputs"), dict)}


def _texts(nodes: Mapping[str, Any], link: Any, depth: int = 10) -> Iterator[str]:
    """Yields the texts of the nodes that a link leads to."""
    node = nodes.get(str(link[0])) if isinstance(link, list) and link else None
    if node is None or depth < 1:
        return
    own = list(_own_texts({"": node}))
    yield from own
    for value in () if own else node["inputs"].values():
        yield from _texts(nodes, value, depth - 1)


def _own_texts(nodes: Mapping[str, Any]) -> Iterator[str]:
    for node in nodes.values():
        for key, value in node["inputs"].items():
            if re.match(r"text|prompt|positive|negative|string|value", key) and isinstance(value, str) and value.strip():
                yield value.strip()


def _of_novelai(text: str, texts: Mapping[str, str]) -> Foreign | None:
    values = _loaded(text)
    if not isinstance(values, dict) or "uc" not in values:
        return None
    found = _flat("NovelAI", values, "prompt", "uc")
    return found if found.prompt else Foreign("NovelAI", texts.get("description", ""), found.negative, found.values)


def _of_parameters(text: str, texts: Mapping[str, str]) -> Foreign | None:
    values = _loaded(text)
    if isinstance(values, dict) and isinstance(image := values.get("sui_image_params"), dict):
        return _flat("SwarmUI", image, "prompt", "negativeprompt")
    if isinstance(values, dict):
        return _flat("Fooocus" if "fooocus_scheme" in texts else "another program", values, "prompt", "negative_prompt")
    prompt, negative, pairs = parse_infotext(text)
    program = f"{pairs.get('App', '')} {pairs.get('Version', '')}".strip()
    tool = next((name for name, mark in _WEB_UIS.items() if re.search(mark, program)), "the web UI")
    return Foreign(tool, prompt, negative, pairs)


_WEB_UIS = {"vsf": r"^vsf\b", "Forge": r"^f\d|forge|neo", "ComfyUI": "ComfyUI", "SD.Next": r"SD\.Next"}


def _of_infotext(text: str, texts: Mapping[str, str]) -> Foreign | None:
    """Reads a comment, if it is the text of a web UI."""
    return _of_parameters(text, texts) if parse_infotext(text)[2] else None


def _of_midjourney(text: str, _: Mapping[str, str]) -> Foreign | None:
    prompt, job, number = text.rpartition(" Job ID:")
    if not job:
        return None
    prompt, negatives = move_negatives(prompt)
    return Foreign("Midjourney", prompt, ", ".join(negatives), {"Job ID": number.strip()})


def _of_xmp(text: str, texts: Mapping[str, str]) -> Foreign | None:
    """Reads the user comment in XMP: the JSON of Draw Things, or the text of a web UI."""
    match = re.search(r"UserComment>\s*(?:<rdf:Alt>\s*<rdf:li[^>]*>)?([^<]*)<", text)
    comment = html.unescape(match[1]) if match else ""
    values = _loaded(comment)
    return _flat("Draw Things", values, "c", "uc") if isinstance(values, dict) else _of_infotext(comment, texts)


def _of_prompt(text: str, texts: Mapping[str, str]) -> Foreign | None:
    """Reads the graph of ComfyUI, or a plain prompt beside tags for everything else."""
    return _of_comfyui(text, texts) or _flat(texts.get("software", "another program"), texts, "prompt", "negative_prompt")


_READERS = {
    "parameters": _of_parameters,
    "invokeai_metadata": _of_invokeai,
    "sd-metadata": _of_invokeai,
    "prompt": _of_prompt,
    "comment": lambda text, texts: _of_novelai(text, texts) or _of_comfyui(text, texts) or _of_infotext(text, texts),
    "description": lambda text, texts: _of_comfyui(text, texts) or _of_midjourney(text, texts),
    "dream": _of_dream,
    "xmp": _of_xmp,
    **dict.fromkeys(("workflow", "make", "model"), _of_comfyui),
}
"""What reads the tags of other programs, by their names in lower case."""
