"""`vsf bench`: times methods, and counts their FLOPs and memory."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from vsf_cli.bench.shapes import Shape, shape_of
from vsf_cli.cli.console import Console
from vsf_cli.cli.error_boundary import handle_errors
from vsf_cli.cli.help import Command, command_app
from vsf_cli.cli.options import ConsoleOptions, Takes, with_options
from vsf_cli.cli.plans import say_offload
from vsf_cli.config.option import FILES, GUIDANCE, WORK, Need, run_option
from vsf_cli.config.values import parse_path
from vsf_cli.errors import RequestError
from vsf_cli.generation.plan import request_of, runtime_of
from vsf_cli.generation.run import advising, download_of, load_for
from vsf_cli.loading.libraries import quiet_libraries, stay_offline
from vsf_cli.loading.pipelines import check_source
from vsf_cli.media.files import check_writable, write_bytes
from vsf_cli.prompts.texts import Texts
from vsf_cli.settings.effects import without_effect
from vsf_cli.settings.options import SETTINGS, Given
from vsf_cli.settings.presets import Setting, Settings, load_preset
from vsf_cli.settings.request import Request

if TYPE_CHECKING:
    import torch

    from vsf_cli.bench.measure import Row
    from vsf_cli.bench.methods import BenchMethod

__all__ = ["BenchOptions", "app", "measure"]

app = command_app()
TEXTS = Texts("a red bike on a road", ("wheels",), ("basket",))
OF_MODEL = ("preset", "model", "steps", "size", "frames", "dtype", "device", "offload", "compile", "offline")
NOT_OF_RANDOM = ("steps", "offload", "offline")
NOT_OF_COUNTS = ("compile", "device")


RANDOM = Need("without_weights", "--random-weights and --count: add one of them")
TIMES = Need("times", "times, and --count takes none: leave --count out")


@dataclass(frozen=True)
class BenchOptions:
    """The options of what is measured, and of where the results go."""

    method: str = run_option(
        "all",
        "--method",
        help="all, or some, joined by commas: none, nasa, nag, ong, angular, vsf, vsf-bias, vsf-keep, vsf-masked, cfg.",
        panel=GUIDANCE,
    )
    random_weights: bool = run_option(
        False, "--random-weights", off=None, help="The real architecture with random weights: no download.", panel=WORK
    )
    count: bool = run_option(False, "--count", off=None, help="Count FLOPs and bytes of any size; time nothing.", panel=WORK)
    layers: int | None = run_option(
        None, "--layers", help="Number of blocks that are built of random weights.", panel=WORK, min=1, needs=(RANDOM,)
    )
    negative_tokens: int | None = run_option(
        None,
        "--negative-tokens",
        help="Length of the negative in tokens; 8 if not given.",
        panel=WORK,
        min=1,
        needs=(RANDOM,),
    )
    rounds: int = run_option(5, "--rounds", help="How often each method is timed, in turn.", panel=WORK, min=1, needs=(TIMES,))
    output: str | None = run_option(None, "-o", "--output", help="A file for the results as JSON.", panel=FILES)
    plot: str | None = run_option(None, "--plot", help="A PNG with bars of the times.", panel=FILES)

    @property
    def times(self) -> bool:
        """Whether anything is timed."""
        return not self.count

    @property
    def without_weights(self) -> bool:
        """Whether no real pipeline is measured."""
        return self.random_weights or self.count


@app.command(cls=Command, epilog="Example: vsf bench --preset sd3.5-large-turbo --random-weights")
@handle_errors
@with_options
def bench(given: Annotated[Given, Takes(only=OF_MODEL, sweeps=False)], options: BenchOptions, messages: ConsoleOptions) -> None:
    """Time methods and count FLOPs and memory."""
    measure(given, options, Console(messages.quiet, messages.verbose), messages.as_json)


def measure(given: Given, options: BenchOptions, console: Console, as_json: bool = False) -> None:
    """Measures methods side by side, and writes the table or JSON to stdout.

    Raises:
        VSFError: If something is not legal, or fails.
    """
    from vsf_cli.bench.methods import select_methods
    from vsf_cli.models import FAMILIES

    settings = _settings(given)
    preset = settings.preset
    methods = select_methods(options.method, preset.guidance(), FAMILIES[preset.family].folds_padding)
    _check_given(given, options)
    files = {name: parse_path(path) for name, path in (("output", options.output), ("plot", options.plot)) if path is not None}
    for path in files.values():
        check_writable(path)
    request, _ = request_of(TEXTS, 0, settings, (), preset.video)
    for message in without_effect([SETTINGS[key] for key in given.settings], request).values():
        raise RequestError(message)
    measure_model = _measure_random if options.without_weights else _measure_pipeline
    rows, device, facts = measure_model(settings, request, methods, options, console)
    # None leaves it out of the line of conditions.
    facts["settings"]["compiled"] = given.settings.get("compile") or None
    from vsf_cli.bench.report import build_report

    _write(build_report(rows, device, facts), files, as_json, console)


def _check_given(given: Given, options: BenchOptions) -> None:
    """Refuses options without effect."""

    def flags(keys: tuple[str, ...]) -> list[str]:
        return [SETTINGS[key].flag for key in keys if key in given.settings]

    if options.without_weights and (unused := flags(NOT_OF_RANDOM)):
        raise RequestError(f"{unused[0]} is for a real pipeline: one step is measured here. Leave it out")
    if options.count and (unused := flags(NOT_OF_COUNTS)):
        raise RequestError(f"{unused[0]} has no effect on --count, which runs nothing: leave it out")


def _settings(given: Given) -> Settings:
    settings = {**given.settings, "method": "none", "guidance": 0.0, "drop_frames": 0, "best_of": 1}
    if "model" in given.settings and "preset" not in given.settings:
        return Settings(settings)
    name = str(given.settings.get("preset") or Settings({}).preset.name)
    return Settings({**settings, "preset": name}, video=load_preset(name).video)


def _measure_random(
    settings: Settings, request: Request, methods: "list[BenchMethod]", options: BenchOptions, console: Console
) -> "tuple[list[Row], torch.device, dict[str, Any]]":
    shape = _shape(settings, request, options.layers)
    quiet_libraries(console.verbose)
    if shape.layers < shape.depth:
        built = f"{shape.layers} of {shape.depth} layers are built"
        console.info(f"{built}: ratios hold for the blocks, seconds are not the model's")
    import torch

    from vsf_cli.bench.measure import count, measure_random
    from vsf_cli.bench.random_model import build
    from vsf_cli.loading.runtime import device_named
    from vsf_cli.models.compile import compile_blocks

    dtype, negatives = getattr(torch, request.dtype), options.negative_tokens or 8
    device = torch.device("meta") if options.count else device_named(settings["device"])
    model = None if options.count else build(shape, dtype, device, negatives)
    if model is not None and settings.origin("compile") == Setting(True, "option"):
        compile_blocks(model.transformer, device)
    with console.progress("counting", "runs") as (counting, running):
        rows = count(shape, methods, dtype, negatives, counting)
        if model is not None:
            rows = measure_random(model, rows, device, options.rounds, running)
    rounds = None if options.count else options.rounds
    facts = {"weights": "random", "dtype": request.dtype, "negative tokens": negatives, "rounds": rounds}
    return rows, device, {"shape": str(shape), "settings": facts}


def _shape(settings: Settings, request: Request, layers: int | None) -> Shape:
    preset = settings.preset
    width, height = request.width, request.height
    if width is None or height is None:
        raise RequestError(f"preset {preset.name} has no size of its own: pass --size WxH")
    return shape_of(request.model, preset.family, (width, height), request.num_frames, request.max_sequence_length, layers)


def _measure_pipeline(
    settings: Settings, request: Request, methods: "list[BenchMethod]", options: BenchOptions, console: Console
) -> "tuple[list[Row], torch.device, dict[str, Any]]":
    from vsf_cli.bench.measure import count, measure_pipeline, shape_of_pipeline
    from vsf_cli.models import family_of

    download = download_of(request.model, request.revision, settings["offline"], settings.preset)
    if settings["offline"]:
        stay_offline()
    quiet_libraries(console.verbose)
    say_offload(runtime_of(settings), console)
    if download:
        check_source(request.model, request.revision, settings["offline"])
        console.info(f"downloading {download}. --random-weights needs no download")
    pipe = load_for(request, runtime_of(settings))
    shape, negatives = shape_of_pipeline(pipe, request), len(family_of(pipe).encode_negative(pipe, request.negative))
    with console.progress("counting", "runs") as (counting, running), advising(pipe, request):
        rows = count(shape, methods, family_of(pipe).denoisers_of(pipe)[0].dtype, negatives, counting)
        rows = measure_pipeline(pipe, request, rows, options.rounds, running)
    facts = {"weights": "real", "dtype": request.dtype, "steps": request.num_inference_steps, "rounds": options.rounds}
    return rows, pipe._execution_device, {"shape": str(shape), "settings": facts}


def _write(report: Mapping[str, Any], files: Mapping[str, Path], as_json: bool, console: Console) -> None:
    from vsf_cli.bench.report import chart, columns, describe_conditions

    text = json.dumps(report, ensure_ascii=False, allow_nan=False)
    if "output" in files:
        write_bytes(files["output"], json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False).encode())
    if "plot" in files:
        write_bytes(files["plot"], chart(report))
    if as_json:
        console.data(text)
    else:
        console.info(describe_conditions(report))
        console.data_table(*columns(report))
    for path in files.values():
        console.info(f"wrote {path}")
