"""What the commands that make something do, between the command line and the library: they talk, and they write data."""

import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vsf_cli.cli.console import Talk, as_line
from vsf_cli.config.ranges import split_sweeps
from vsf_cli.config.values import parse_path
from vsf_cli.errors import RequestError
from vsf_cli.generation.capture import PAGE, check_watchable, folder_beside, write
from vsf_cli.generation.generate import Request, Result
from vsf_cli.generation.plan import differences, plan, plan_again
from vsf_cli.generation.run import Plan, Written
from vsf_cli.maps.data import Selection
from vsf_cli.media.images import FORMATS, check_writable
from vsf_cli.media.videos import CLIP_FORMATS
from vsf_cli.methods import parameters_by_setting
from vsf_cli.prompts.vocabulary import REAL_PRESET, REAL_VIDEO_PRESET
from vsf_cli.settings.presets import SETTINGS, Settings

__all__ = [
    "made_ready",
    "plan_maps",
    "quiet_libraries",
    "run_again",
    "run_images",
    "run_maps",
    "say_before",
    "stay_offline",
]


ENDINGS = [ending for formats in (FORMATS, CLIP_FORMATS) for endings in formats.values() for ending in endings]
PICTURES = (".json", *filter(None, ENDINGS))

DECIDING = (
    "neg",
    "method",
    "preset",
    "model",
    "lora",
    "guidance",
    "seed",
    "size",
    "dtype",
    "vae_tiling",
    *parameters_by_setting(),
)
"""The options of `vsf attn-map` that decide a picture, beside its steps."""


def run_images(plan: Plan, talk: Talk, as_json: bool, dry_run: bool, drawn: bool = False) -> None:
    """Carries out a plan, and says what was done; paths, or JSON, a line a picture, go to stdout.

    Arguments:
        plan: The plan.
        talk: Speaks to the person.
        as_json: Whether data are JSON.
        dry_run: Whether to stop before the model is loaded.
        drawn: Whether the seeds were drawn, and must be said even when quiet.
    """
    say_before(plan, talk)
    if dry_run:
        _say_plan(plan, talk, as_json)
        return
    pending = plan.pending()
    _say_skipped(plan, pending, talk)
    if not pending:
        return
    pipe = made_ready(plan, talk)
    with talk.progress("steps", "encoding") as (progress, encoding):
        said: tuple[str, ...] | None = None
        for made in plan.run(pipe, pending, progress, encoding):
            if made.result.request.negative != said:
                said = made.result.request.negative
                _say_applied(made.result, talk)
            _say_made(made, plan, talk, as_json, drawn)


def plan_maps(prompt: str, given: Mapping[str, Any], seeds: Sequence[int]) -> Plan:
    """The plan of `vsf attn-map`: of a prompt with its options, or of a picture that is to be made again.

    Arguments:
        prompt: The prompt, or the path of a picture.
        given: The options of the command line, by name; what was not given is None.
        seeds: The seeds.

    Raises:
        RequestError: If more than one picture is asked for, or it has no maps.
    """
    given, sweeps = split_sweeps(given)
    if sweeps:
        name, numbers = next(iter(sweeps.items()))
        raise RequestError(f"vsf attn-map makes one picture, but --{name} names {len(numbers)}: use vsf image with --dump-attn")
    picture = {**{name: given[name] for name in DECIDING}, "steps": given["num_inference_steps"]}
    machine = {"exists": given["exists"], "device": given["device"], "offload": given["offload"]}
    machine |= {"offline": given["offline"] or None}
    # Not `Path.is_file`, which raises if the prompt is longer than the name of a file may be.
    if prompt.lower().endswith(PICTURES) or os.path.isfile(prompt):
        planned = plan_again(Path(prompt), picture, machine)
        check_watchable(planned.requests[0])
        return planned
    if len(seeds) > 1:
        raise RequestError(f"vsf attn-map makes one picture, but --seed names {len(seeds)}: use vsf image with --dump-attn")
    options = {name: value for name, value in {**picture, **machine}.items() if name in SETTINGS}
    settings = Settings(options)
    return plan(
        prompt, picture["neg"] or [], seeds, settings, picture["lora"] or [], dump_attn=True, video=settings.preset.video
    )


def run_again(file: Path, given: Mapping[str, Any], seed: int | None, talk: Talk, as_json: bool) -> None:
    """Makes the picture or clip of a file again, and says what is not as it was.

    Arguments:
        file: The file.
        given: The options of the command line, by name; what was not given is None.
        seed: Another seed; None keeps the file's.
        talk: Speaks to the person.
        as_json: Whether data are JSON.
    """
    names = *DECIDING, "steps", "frames", "fps", "shift", "drop_frames"
    picture = {**{name: given[name] for name in names}, "seed": seed, "preset": None}
    machine = {name: given[name] for name in ("output", "exists", "device", "offload", "format")}
    plan = plan_again(file, picture, {**machine, "offline": given["offline"] or None}, override=True)
    for line in differences(file, plan) or ["everything is as when it was made"]:
        talk.say(line)
    run_images(plan, talk, as_json, given["dry_run"])


def run_maps(plan: Plan, selection: Selection, output: str | None, talk: Talk, as_json: bool) -> None:
    """Makes a picture, watches it, and writes the folder that shows where the negative prompt acted; its page goes to stdout.

    Arguments:
        plan: A plan of one picture.
        selection: The steps, blocks, heads and words to keep.
        output: The folder; None puts it beside where the picture would be.
        talk: Speaks to the person.
        as_json: Whether data are JSON.
    """
    (request,) = plan.requests
    check_watchable(request, selection)
    folder = plan.outputs.free(parse_path(output) if output else folder_beside(plan.path(request, 1)))
    if folder is None:
        talk.say("the folder exists, skipped")
        return
    check_writable(folder / PAGE)
    say_before(plan, talk)
    pipe = made_ready(plan, talk)
    with talk.progress("steps") as (progress,):
        watched = plan.watch(pipe, request, progress, selection)
    description = plan.describe(pipe, watched.result)
    _say_applied(watched.result, talk)
    for note in watched.result.notes:
        talk.warn(note)
    with talk.progress("drawing"):
        written = write(watched, folder, description)
    facts = {"mean_share": round(float(watched.maps.share.mean()), 6), "words": watched.maps.words()}
    talk.say(f"mean share of attention on the negative: {facts['mean_share']:.4f} · {len(written)} files in {folder}")
    talk.data(as_line({"path": str(folder), **facts, **description}) if as_json else str(written[-1]))


def made_ready(plan: Plan, talk: Talk) -> Any:
    """Says what has to be said before, and loads the model."""
    if plan.runtime.offline:
        stay_offline()
    if download := plan.download():
        talk.say(download)
    quiet_libraries(talk.verbose)
    if plan.runtime.compile:
        talk.say("--compile: the first steps of a size take up to minutes, the others less than without")
    with talk.progress(f"loading {plan.requests[0].model.removeprefix('builtin:')}"):
        return plan.load()


def say_before(plan: Plan, talk: Talk) -> None:
    for warning in plan.warnings:
        talk.warn(warning)
    if not plan.settings.chosen:
        preset = plan.settings.preset
        name = REAL_VIDEO_PRESET if preset.video else REAL_PRESET
        real = f"--preset {name}, or 'vsf presets use {name}'"
        talk.say(f"preset {preset.name}, since none was chosen · the real model: {real}")
    for key in SETTINGS:
        setting = plan.settings.origin(key)
        talk.detail(f"{key} = {setting.value} ({setting.origin})")
    _say_unused(plan, talk)


def _say_skipped(plan: Plan, pending: Sequence[tuple[int, Request]], talk: Talk) -> None:
    left = {number for number, _ in pending}
    for number, request in enumerate(plan.requests, 1):
        if number not in left:
            talk.say(f"{plan.path(request, number)} exists, skipped")


def _say_unused(plan: Plan, talk: Talk) -> None:
    request = plan.requests[0]
    if request.negative and request.method == "none":
        talk.warn(f"negative {_quoted(request)} is not used: the method is none")


def _quoted(request: Request) -> str:
    return ", ".join(f"'{text}'" for text in request.negative)


def _say_applied(result: Result, talk: Talk) -> None:
    request = result.request
    if not request.negative or request.method == "none":
        return
    how = f"{result.blocks} blocks · {result.tokens} tokens" if result.blocks else f"guidance {request.guidance_scale:g}"
    talk.say(f"negative {_quoted(request)} · {request.guidance} · {how}")


def _say_made(made: Written, plan: Plan, talk: Talk, as_json: bool, drawn: bool) -> None:
    result = made.result
    for note in result.notes:
        talk.warn(note)
    size = f"{result.image.width}x{result.image.height}"
    frames = "" if len(result.frames) == 1 else f" · {len(result.frames)} frames"
    how = f" · {result.request.guidance}" if {*plan.outputs.varying} - {"seed"} else ""
    facts = f"{size}{frames}{how} · {result.request.num_inference_steps} steps · {result.seconds:.1f} s"
    (talk.keep if drawn else talk.say)(f"seed {result.request.seed} · {facts}")
    if not plan.to_stdout:
        talk.data(as_line(made.to_json()) if as_json else str(made.path))


def _say_plan(plan: Plan, talk: Talk, as_json: bool) -> None:
    for line in (plan.download() or "nothing to download", f"{len(plan.requests)} pictures to {plan.outputs.template}"):
        talk.say(line)
    for request in plan.requests:
        talk.data(as_line(request.to_json()) if as_json else f"seed {request.seed} · {request.guidance} · {request.model}")


def stay_offline() -> None:
    """Keeps the hub's client from the network. It reads this once, when it is first imported."""
    os.environ["HF_HUB_OFFLINE"] = "1"


def quiet_libraries(verbose: bool) -> None:
    """The libraries' own talk is for developers: it is shown with -v only."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
        if not verbose:
            library.utils.logging.set_verbosity_error()
    if not verbose:
        # Its attempts to reach a network that is not there; what came of them is said by us.
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    if verbose:
        logging.basicConfig(level=logging.INFO, format="%(message)s")
    else:
        warnings.filterwarnings("ignore")
