"""What `vsf bench` does and says."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vsf_cli.bench.arms import Arm, arms_named
from vsf_cli.bench.shapes import Shape, shape_of
from vsf_cli.cli.console import Talk
from vsf_cli.cli.generating import quiet_libraries, stay_offline
from vsf_cli.config.values import parse_path
from vsf_cli.errors import RequestError
from vsf_cli.generation.generate import Request
from vsf_cli.generation.plan import request_of, runtime_of
from vsf_cli.generation.run import advising, load_for
from vsf_cli.loading.sources import is_here
from vsf_cli.media.files import check_writable, write_bytes
from vsf_cli.settings.presets import SETTINGS, Settings, load_preset

__all__ = ["run"]

PROMPT, NEGATIVE = "a red bike on a road", "wheels"
RANDOM_ONLY = ("layers", "negative_tokens")
NOT_OF_RANDOM = ("steps", "offload", "offline")
NOT_OF_COUNTS = ("compile", "device")


def run(asked: Mapping[str, Any], talk: Talk) -> None:
    """Measures methods side by side, and writes the table or JSON to stdout.

    Arguments:
        asked: The options of the command line, by name; what was not given is None.
        talk: Speaks to the person.

    Raises:
        VSFError: If something is not legal, or fails.
    """
    settings = _settings(asked)
    preset = settings.preset
    arms = arms_named(asked["method"], preset.guidance())
    on_paper = asked["random_weights"] or asked["count"]
    _check_given(asked, on_paper)
    files = {name: parse_path(asked[name]) for name in ("output", "plot") if asked[name] is not None}
    for path in files.values():
        check_writable(path)
    request, _ = request_of(PROMPT, (NEGATIVE,), 0, settings, (), preset.video)
    report = _of_shape(settings, request, arms, asked, talk) if on_paper else _of_pipeline(settings, request, arms, asked, talk)
    _write(report, files, asked["as_json"], talk)


def _check_given(asked: Mapping[str, Any], on_paper: bool) -> None:
    """Refuses what would have no effect."""

    def given(names: tuple[str, ...]) -> list[str]:
        return [f"--{name.replace('_', '-')}" for name in names if asked[name] is not None]

    if not on_paper and (found := given(RANDOM_ONLY)):
        raise RequestError(f"{found[0]} is for --random-weights and --count: add one of them")
    if on_paper and (found := given(NOT_OF_RANDOM)):
        raise RequestError(f"{found[0]} is for a real pipeline: one step is measured here. Leave it out")
    if asked["count"] and (found := given(NOT_OF_COUNTS)):
        raise RequestError(f"{found[0]} has no effect on --count, which runs nothing: leave it out")


def _settings(asked: Mapping[str, Any]) -> Settings:
    name = asked["preset"] or Settings({}).preset.name
    video = load_preset(name).video
    given = {key: value for key, value in asked.items() if key in SETTINGS and key != "method" and value is not None}
    return Settings({**given, "method": "none", "guidance": 0.0, "drop_frames": 0, "preset": name}, video=video)


def _of_shape(settings: Settings, request: Request, arms: list[Arm], asked: Mapping[str, Any], talk: Talk) -> dict[str, Any]:
    shape = _shape(settings, request, asked["layers"])
    talk.say(str(shape))
    quiet_libraries(talk.verbose)
    if shape.layers < shape.depth:
        talk.say(f"{shape.layers} of {shape.depth} layers are built: ratios hold for the blocks, seconds are not the model's")
    import torch

    from vsf_cli.bench.measure import count, measure_random
    from vsf_cli.bench.random_model import build
    from vsf_cli.bench.report import reported
    from vsf_cli.loading.runtime import device_named
    from vsf_cli.models.compile import compile_blocks

    dtype, negatives = getattr(torch, request.dtype), asked["negative_tokens"] or 8
    device = torch.device("meta") if asked["count"] else device_named(settings["device"])
    model = None if asked["count"] else build(shape, dtype, device, negatives)
    if model is not None and asked["compile"]:
        compile_blocks(model.transformer, device)
    with talk.progress("counting", "runs") as (counting, running):
        rows = count(shape, arms, dtype, negatives, counting)
        if model is not None:
            rows = measure_random(model, rows, device, asked["rounds"], running)
    rounds = None if asked["count"] else asked["rounds"]
    told = {"weights": "random", "dtype": request.dtype, "negative tokens": negatives, "rounds": rounds}
    told["compiled"] = asked["compile"]
    return reported(rows, device, {"shape": str(shape), "settings": told})


def _shape(settings: Settings, request: Request, layers: int | None) -> Shape:
    preset = settings.preset
    width, height = request.width, request.height
    if width is None or height is None:
        raise RequestError(f"preset {preset.name} has no size of its own: pass --size WxH")
    return shape_of(request.model, preset.family, (width, height), request.num_frames, request.max_sequence_length, layers)


def _of_pipeline(settings: Settings, request: Request, arms: list[Arm], asked: Mapping[str, Any], talk: Talk) -> dict[str, Any]:
    from vsf_cli.bench.measure import count, measure_pipeline, shape_of_pipeline
    from vsf_cli.bench.report import reported
    from vsf_cli.models import family_of

    if settings["offline"]:
        stay_offline()
    elif not is_here(request.model, request.revision):
        size, license = settings.preset.download(request.model)
        talk.say(f"downloading {size} of {request.model}; licence: {license}. --random-weights needs no download")
    quiet_libraries(talk.verbose)
    pipe = load_for(request, runtime_of(settings))
    shape, negatives = shape_of_pipeline(pipe, request), len(family_of(pipe).encode_negative(pipe, request.negative))
    with talk.progress("counting", "runs") as (counting, running), advising(pipe):
        rows = count(shape, arms, pipe.transformer.dtype, negatives, counting)
        rows = measure_pipeline(pipe, request, rows, asked["rounds"], running)
    told = {"weights": "real", "dtype": request.dtype, "steps": request.num_inference_steps, "rounds": asked["rounds"]}
    told["compiled"] = asked["compile"]
    return reported(rows, pipe._execution_device, {"shape": str(shape), "settings": told})


def _write(report: Mapping[str, Any], files: Mapping[str, Path], as_json: bool, talk: Talk) -> None:
    from vsf_cli.bench.report import chart, columns, told

    text = json.dumps(report, ensure_ascii=False, allow_nan=False)
    if "output" in files:
        write_bytes(files["output"], json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False).encode())
    if "plot" in files:
        write_bytes(files["plot"], chart(report))
    if as_json:
        talk.data(text)
    else:
        talk.say(told(report))
        talk.table(*columns(report))
    for path in files.values():
        talk.say(f"wrote {path}")
