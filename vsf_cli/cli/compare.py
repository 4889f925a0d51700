"""`--compare`: one prompt and seed by several methods, side by side on one labelled strip."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from vsf_cli.cli.console import Console, as_line, move_all
from vsf_cli.cli.plans import announce, check_stdout, destinations, planned, prepare, say_applied, say_notes, say_skipped
from vsf_cli.config.names import check_choice, counted
from vsf_cli.errors import RequestError
from vsf_cli.generation.choosing import make
from vsf_cli.generation.generate import Result
from vsf_cli.generation.outputs import Outputs
from vsf_cli.generation.plan import plan, request_of
from vsf_cli.generation.run import Plan, advising, write_to_stdout
from vsf_cli.loading.runtime import check_runtime
from vsf_cli.media.files import write_bytes
from vsf_cli.media.formats import IMAGE_FORMATS, encode_image
from vsf_cli.media.montage import draw_montage
from vsf_cli.methods import METHODS, VARIANTS, method_options, resolved
from vsf_cli.models import FAMILIES
from vsf_cli.prompts.texts import Texts
from vsf_cli.settings.options import FileOptions, Given
from vsf_cli.settings.presets import Settings
from vsf_cli.settings.request import Request

__all__ = ["plan_comparison", "run_comparison"]

SHOWN_FRAMES = 5
"""The number of frames of a video on the strip, evenly spaced."""
MIN_SIDE = 200
"""Smaller images are shown at twice their size."""


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
    """Returns a plan with a strip for each seed, and the requests of the first strip, one for each method.

    Raises:
        RequestError: If something is not legal, or an option is of a method that is not compared.
    """
    texts = given.texts(prompt)
    _check_methods(names, texts, settings)
    requests = [
        request_of(own, seeds[0], _settings_for(name, settings, "cfg" in names), given.loras or (), video, seconds)[0]
        for name, own in zip(names, _texts_of(names, texts), strict=True)
    ]
    if len({json.dumps(request.loading, default=str) for request in requests}) > 1:
        raise RequestError("--compare compares methods on one model")
    # This plan is made for its checks, its warnings and its runtime.
    guided = max(range(len(names)), key=lambda index: (bool(requests[index].keep), requests[index].method != "none"))
    own = _settings_for(names[guided], settings, "cfg" in names).overlaid({"format": None, "output": None})
    first = plan(prompt, seeds, given, own, files=files, video=video)
    output = settings.origin("output")
    template = f"{output.value}-compare" if output.origin == "default" else output.value
    varying = ("seed",) if len(seeds) > 1 else ()
    outputs = Outputs(template, settings["exists"], settings["format"], varying, IMAGE_FORMATS)
    strips = tuple(replace(requests[guided], seed=seed) for seed in seeds)
    return replace(first, requests=strips, outputs=outputs), requests


def _check_methods(names: Sequence[str], texts: Texts, settings: Settings) -> None:
    if len(names) < 2 or len(set(names)) < len(names):
        raise RequestError(f"--compare names {', '.join(names) or 'nothing'}: name two methods or more, such as none,nag,vsf")
    for name in names:
        check_choice("--compare", name, (*METHODS, *VARIANTS))
    methods = [resolved(name)[0] for name in names]
    for key, (owner, option) in method_options().items():
        if owner not in methods and settings.origin(key).origin == "option":
            raise RequestError(f"{option.flag} is {METHODS[owner].label}'s, which is not compared: leave it out")
    scale = settings.origin("guidance")
    if scale.origin == "option" and scale.value > 1 and "cfg" not in methods and not _embeds_scale(settings):
        raise RequestError("--guidance is CFG's, which is not compared: leave it out, or add cfg to --compare")
    if not texts.negative:
        raise RequestError('--compare shows what methods make of a negative prompt, and there is none: add --neg "wheels"')


def _texts_of(names: Sequence[str], texts: Texts) -> list[Texts]:
    """Returns the texts of each method; those without a kept side are shown without one."""
    keeping = [METHODS[resolved(name)[0]]().keeps for name in names]
    if texts.keep and not any(keeping):
        raise RequestError("--keep is for VSF, which is not compared: leave it out, or add vsf to --compare")
    return [texts if keeps else replace(texts, keep=()) for keeps in keeping]


def _embeds_scale(settings: Settings) -> bool:
    """Whether the scale is an input of the model, and so of every method."""
    return FAMILIES[settings.preset.family].embeds_scale


def _settings_for(name: str, settings: Settings, for_cfg: bool) -> Settings:
    """Returns the settings of one method of the strip: no numbers of other methods, and no CFG unless it is CFG.

    `for_cfg` says that CFG is compared, too.
    """
    method = resolved(name)[0]
    others = dict.fromkeys(key for key, (owner, _) in method_options().items() if owner != method)
    own = settings.overlaid({"method": name, **others})
    # A scale is CFG's alone where the model runs without one: not all that could have it as an input do.
    for_all = _embeds_scale(settings) and not (for_cfg and settings.preset.guidance_scale <= 1)
    return own if method == "cfg" or for_all else own.overlaid({"guidance": 0.0})


def run_comparison(plan: Plan, requests: Sequence[Request], console: Console, as_json: bool, dry_run: bool) -> None:
    """Makes the strips of `plan_comparison`, and writes their paths, or JSON, to stdout."""
    check_stdout(plan, as_json, dry_run)
    announce(plan, console)
    pending = plan.pending()
    if dry_run:
        check_runtime(plan.runtime)
        for request in requests:
            console.data(as_line(request.to_json()) if as_json else planned(request))
        for strip, destination in zip(plan.requests, destinations(plan), strict=True):
            console.info(f"a strip of these with seed {strip.seed} · {destination}")
        return
    say_skipped(plan, pending, console, as_json)
    if not pending:
        return
    _say_keep(requests, console)
    pipe = prepare(plan, console)
    count = len(pending) * len(requests)
    with console.progress(f"{plan.noun}s", "steps", "tries") as (whole, steps, tried):
        move_all([whole], 0, count)
        for index, (number, strip) in enumerate(pending):
            results: list[Result] = []
            for request in requests:
                with advising(pipe, request):
                    results.append(make(pipe, replace(request, seed=strip.seed), plan.runtime.device, steps, tried))
                move_all([whole], index * len(requests) + len(results), count)
            _say_results(results, console, first=index == 0)
            _write_strip(plan, pipe, results, plan.path(strip, number), console, as_json)


def _say_keep(requests: Sequence[Request], console: Console) -> None:
    """Says which methods have no use for --keep."""
    without = [request.guidance.label for request in requests if not request.keep]
    if 0 < len(without) < len(requests):
        console.warn(f"--keep has no effect on {', '.join(without)}: it is for VSF")


def _say_results(results: Sequence[Result], console: Console, first: bool) -> None:
    """Writes how each method applied the negative prompt, above the `first` strip, and how long each image took."""
    for result in results if first else ():
        say_applied(result, console)
    for result in results:
        if result.choice:
            say_notes(result, console)
    image, request = results[0].image, results[0].request
    facts = f"seed {request.seed}", f"{image.width}x{image.height}", counted(request.num_inference_steps, "step")
    console.info(" · ".join([*facts, *(f"{one.request.guidance.label} {one.seconds:.1f} s" for one in results)]))


def _write_strip(plan: Plan, pipe: Any, results: Sequence[Result], path: Path, console: Console, as_json: bool) -> None:
    # The JSON of a strip is that of its last image, and the request of each of them.
    compared = [
        {
            "request": one.request.to_json(),
            "seconds": round(one.seconds, 3),
            **({"choice": one.choice.to_json()} if one.choice else {}),
        }
        for one in results
    ]
    facts = {**plan.describe(pipe, results[-1]), "compared": compared}
    data = encode_image(_strip(results), plan.outputs.file_format, facts if plan.files.metadata else None)
    if plan.to_stdout:
        write_to_stdout(data)
        return
    written = plan.outputs.write(path, lambda free, replace: write_bytes(free, data, replace))
    if written is None:
        console.info("skipped, since the file exists by now")
    path = written or path
    console.data(as_line({"path": str(path), **facts}) if as_json else str(path))


def _strip(results: Sequence[Result]) -> Image.Image:
    """Returns the images in a row, or the videos below each other, with some of their frames."""
    image = results[0].image
    scale = 2 if max(image.size) < MIN_SIDE else 1
    labels = [str(one.request.guidance) for one in results]
    count = len(results[0].frames)
    if count == 1:
        return draw_montage([one.image for one in results], labels, len(results), scale)
    shown = min(SHOWN_FRAMES, count)
    indices = [round(number * (count - 1) / max(1, shown - 1)) for number in range(shown)]
    frames = [one.frames[index] for one in results for index in indices]
    names = [f"frame {index + 1}{'' if number else f': {label}'}" for label in labels for number, index in enumerate(indices)]
    return draw_montage(frames, names, shown, scale)
