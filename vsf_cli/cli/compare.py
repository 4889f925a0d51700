"""One prompt and seed by several methods, side by side on one labelled strip."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from vsf_cli.cli.console import Console
from vsf_cli.cli.plans import announce, prepare
from vsf_cli.errors import RequestError
from vsf_cli.generation.generate import Result, generate
from vsf_cli.generation.outputs import Outputs
from vsf_cli.generation.plan import plan, request_of
from vsf_cli.generation.run import Plan, advising
from vsf_cli.media.files import write_bytes
from vsf_cli.media.formats import IMAGE_FORMATS, encode_image
from vsf_cli.media.montage import draw_montage
from vsf_cli.methods import METHODS, Method, method_options, resolved
from vsf_cli.settings.options import FileOptions, Given
from vsf_cli.settings.presets import Settings
from vsf_cli.settings.request import Request

__all__ = ["plan_comparison", "run_comparison"]

SHOWN_FRAMES = 5
"""Of a clip, that many frames stand on the strip, evenly spaced."""
SMALL = 200
"""Pictures with sides below that are shown at twice their size."""


def plan_comparison(
    names: Sequence[str],
    prompt: str,
    seeds: Sequence[int],
    given: Given,
    settings: Settings,
    files: FileOptions,
    *,
    video: bool = False,
    seconds: float | None = None,
) -> tuple[Plan, list[Request]]:
    """A plan with a strip for each seed, and the requests of the first strip.

    Arguments:
        names: The methods.
        prompt: What is wanted.
        seeds: A strip for each.
        given: What a person gave; options of a method are for that method alone.
        settings: All settings.
        files: Whether the strips say how they were made.
        video: Whether videos are made, of which frames stand on the strip.
        seconds: How long the videos are.

    Raises:
        RequestError: If something is not legal, or an option is of a method that is not compared.
    """
    negative = tuple(text.strip() for text in given.negative or () if text.strip())
    _check_names(names, negative, settings)
    requests = [
        request_of(prompt, negative, seeds[0], _settings_for(name, settings), given.loras or (), video, seconds)[0]
        for name in names
    ]
    if len({json.dumps(request.loading, default=str) for request in requests}) > 1:
        raise RequestError("--compare compares methods on one model")
    # Only for its checks, warnings, and where and how it runs.
    first = plan(prompt, seeds, given, settings.overlaid({"format": None, "output": None}), files=files, video=video)
    outputs = _outputs(settings, several=len(seeds) > 1)
    acting = next((request for request in requests if request.method != "none"), requests[0])
    return replace(first, requests=tuple(replace(acting, seed=seed) for seed in seeds), outputs=outputs), requests


def _check_names(names: Sequence[str], negative: Sequence[str], settings: Settings) -> None:
    if len(names) < 2 or len(set(names)) < len(names):
        raise RequestError(f"--compare names {', '.join(names) or 'nothing'}: name two methods or more, such as none,nag,vsf")
    _check_owners([resolved(name)[0] for name in names], settings)
    if not negative:
        raise RequestError('--compare shows what methods make of a negative prompt, and there is none: add --neg "wheels"')


def _outputs(settings: Settings, several: bool) -> Outputs:
    output = settings.origin("output")
    template = f"{output.value}-compare" if output.origin == "default" else output.value
    return Outputs(template, settings["exists"], settings["format"], ("seed",) if several else (), IMAGE_FORMATS)


def _check_owners(methods: Sequence[str], settings: Settings) -> None:
    """Refuses an option of a method that is not compared."""
    for key, (owner, one) in method_options().items():
        if owner not in methods and settings.origin(key).origin == "option":
            raise RequestError(f"{one.flag} is {METHODS[owner].label}'s, which is not compared: leave it out")


def _settings_for(name: str, settings: Settings) -> Settings:
    """The settings of one method of the strip, without the numbers of others, and without CFG unless it is CFG."""
    method = resolved(name)[0]
    others = dict.fromkeys(key for key, (owner, _) in method_options().items() if owner != method)
    own = settings.overlaid({"method": name, **others})
    return own if method == "cfg" else own.overlaid({"guidance": 0.0})


def run_comparison(plan: Plan, requests: Sequence[Request], console: Console, as_json: bool, dry_run: bool) -> None:
    """Makes the strips; their paths, or JSON, go to stdout.

    Arguments:
        plan: The plan, with a request for each strip.
        requests: What stands on the first strip.
        console: Where messages go.
        as_json: Whether data are JSON.
        dry_run: Whether to stop before the model is loaded.
    """
    announce(plan, console)
    if dry_run:
        for request in requests:
            console.data(json.dumps(request.to_json()) if as_json else f"{request.guidance} · {request.model}")
        return
    pending = plan.pending()
    if not pending:
        console.info("all strips exist, skipped")
        return
    pipe = prepare(plan, console)
    with console.progress("pictures", "steps") as (whole, steps):
        for place, (number, strip) in enumerate(pending):
            results: list[Result] = []
            for request in requests:
                with advising(pipe):
                    results.append(generate(pipe, replace(request, seed=strip.seed), steps))
                if whole is not None:
                    whole(place * len(requests) + len(results), len(pending) * len(requests))
            path = plan.outputs.free(plan.path(strip, number)) if not plan.to_stdout else None
            facts = _facts(plan, pipe, results)
            data = encode_image(_strip(results), plan.outputs.file_format, facts if plan.files.metadata else None)
            _hand_over(path, data, facts, console, as_json)


def _hand_over(path: Path | None, data: bytes, facts: Mapping[str, Any], console: Console, as_json: bool) -> None:
    if path is None:
        import sys

        sys.stdout.buffer.write(data)
        return
    write_bytes(path, data)
    console.data(json.dumps({"path": str(path), **facts}, ensure_ascii=False) if as_json else str(path))


def _facts(plan: Plan, pipe: Any, results: Sequence[Result]) -> dict[str, Any]:
    """The JSON of a strip: that of its last picture, and beside it what each of them was asked."""
    compared = [{"request": one.request.to_json(), "seconds": round(one.seconds, 3)} for one in results]
    return {**plan.describe(pipe, results[-1]), "compared": compared}


def _strip(results: Sequence[Result]) -> Image.Image:
    """Pictures in a row; clips below each other, with some of their frames."""
    image = results[0].image
    scale = 2 if max(image.size) < SMALL else 1
    labels = [_label(one.request.guidance, scale * image.width) for one in results]
    count = len(results[0].frames)
    if count == 1:
        return draw_montage([one.image for one in results], labels, len(results), scale)
    shown = min(SHOWN_FRAMES, count)
    places = [round(number * (count - 1) / max(1, shown - 1)) for number in range(shown)]
    frames = [one.frames[place] for one in results for place in places]
    names = [label if place == places[0] else f"frame {place + 1}" for label in labels for place in places]
    return draw_montage(frames, names, shown, scale)


def _label(method: Method, width: int) -> str:
    """The method with its numbers, by their names where there is room for them."""
    full, letter = str(method), 7
    if len(full) * letter <= width:
        return full
    values = [word.partition("=")[2] for word in full.split()]
    return " ".join([method.label, *(value for value in values if value[:1].isdigit())])
