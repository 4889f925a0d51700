"""Carries out the plans of commands, and writes what was done."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vsf_cli.cli.console import Console, as_line, move_all
from vsf_cli.cli.interrupts import leaving_at_interrupt
from vsf_cli.config.names import counted
from vsf_cli.config.option import given_of, idle
from vsf_cli.errors import MediaError, PartlyFailed, RequestError
from vsf_cli.generation.asking import judge_of
from vsf_cli.generation.capture import PAGE, maps_folder
from vsf_cli.generation.generate import Result
from vsf_cli.generation.run import Plan, WrittenFile, load_for, sidecar_of, write_sidecar
from vsf_cli.judges.pretrained import is_here
from vsf_cli.loading.libraries import quiet_libraries, stay_offline
from vsf_cli.loading.pipelines import check_source
from vsf_cli.loading.runtime import Runtime, check_runtime, device_named
from vsf_cli.media.reading import read_metadata
from vsf_cli.methods import method_options
from vsf_cli.prompts.texts import decode_text
from vsf_cli.prompts.vocabulary import REAL_PRESET, REAL_VIDEO_PRESET
from vsf_cli.settings.effects import standing_without_effect
from vsf_cli.settings.options import SETTINGS, FileOptions
from vsf_cli.settings.request import Request

__all__ = [
    "announce",
    "check_needs",
    "check_stdout",
    "destinations",
    "not_content",
    "planned",
    "prepare",
    "read_prompt",
    "run_plan",
    "say_applied",
    "say_judge",
    "say_notes",
    "say_offload",
    "say_skipped",
]


DOWNLOADED = "vlm", "clip"
"""The judges whose models are downloaded."""


def read_prompt(prompt: str) -> str:
    """Returns the prompt itself, or that of `-` (stdin) or `@file`.

    Raises:
        RequestError: If it cannot be read.
    """
    if prompt != "-" and not prompt.startswith("@"):
        return prompt
    try:
        data = sys.stdin.buffer.read() if prompt == "-" else Path(prompt[1:]).read_bytes()
    except (OSError, ValueError) as error:
        raise RequestError(f"prompt {prompt} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    return decode_text(f"prompt {prompt}", data).strip()


def run_plan(plan: Plan, console: Console, as_json: bool, dry_run: bool, drawn: bool = False, strict: bool = False) -> None:
    """Carries out a plan, and writes the path, or the JSON, of each image or video to stdout.

    Arguments:
        plan: The plan.
        console: Writes messages.
        as_json: Whether to write JSON.
        dry_run: Whether to stop before the model is loaded.
        drawn: Whether the seeds were drawn at random, and are written even when quiet.
        strict: Whether it is an error if a judge is not content with an image that it chose.

    Raises:
        PartlyFailed: If that is so.
    """
    check_stdout(plan, as_json, dry_run)
    announce(plan, console)
    pending = plan.pending()
    if dry_run:
        check_runtime(plan.runtime)
        _say_plan(plan, console, as_json)
        return
    say_skipped(plan, pending, console, as_json)
    if not pending:
        return
    pipe = prepare(plan, console)
    several = [f"{plan.noun}s"] if len(pending) > 1 else []
    contents = []
    with console.progress(*several, "steps", "encoding", "tries") as (*whole, progress, encoding, tried):
        last: tuple[str, ...] | None = None
        move_all(whole, 0, len(pending))
        for count, written in enumerate(plan.run(pipe, pending, progress, encoding, tried), 1):
            if written.result.request.negative != last:
                last = written.result.request.negative
                say_applied(written.result, console)
            _say_written(written, pending[count - 1][0], plan, console, as_json, drawn)
            move_all(whole, count, len(pending))
            contents.append(written.result.choice is None or written.result.choice.content)
    if strict and not all(contents):
        raise not_content(contents.count(False), counted(len(contents), plan.noun))


def not_content(count: int, all_of_them: str) -> PartlyFailed:
    """Returns the error that a judge is not content with some of the images that it chose."""
    advice = "look at them, try other strengths or more seeds, or leave --strict out"
    return PartlyFailed(f"the judge is not content with {count} of {all_of_them}, and --strict is given: {advice}")


def check_needs(record: Any, requests: Sequence[Request]) -> None:
    """Refuses given options of a command's record that have no effect on any of the requests."""
    for _, message in idle(given_of(record), *requests):
        raise RequestError(message)


def check_stdout(plan: Plan, as_json: bool, dry_run: bool) -> None:
    """Refuses several files, files beside them and other words where the bytes of a file go to stdout, and a terminal there."""
    if not plan.to_stdout:
        return
    exists = plan.settings.origin("exists").origin == "option"
    others = {one.flag: True for one in plan.files.given if one.key != "metadata"} | {"--json": as_json, "--exists": exists}
    for flag in [flag for flag, given in others.items() if given]:
        raise RequestError(f"-o - writes the bytes of a file to stdout, and nothing else: leave {flag} out")
    if len(plan.requests) > 1:
        raise RequestError(f"-o - takes one file, but {len(plan.requests)} are asked for: name a folder, such as -o outputs/")
    if sys.stdout.isatty() and not dry_run:
        raise RequestError(f"-o - writes the bytes of the {plan.noun} to a terminal: add '> FILE', or name the file by -o FILE")


def say_offload(runtime: Runtime, console: Console) -> None:
    """Says if a level of offloading was asked for, and has no effect."""
    if runtime.offload not in ("auto", "none") and device_named(runtime.device).type == "cpu":
        console.warn(f"--offload {runtime.offload} has no effect: the model runs on the CPU, where nothing is moved")


def say_judge(request: Request, runtime: Runtime, console: Console) -> None:
    """Says which model is the judge of a request if it is downloaded, which happens when the first image is judged."""
    if request.chooses:
        model = judge_of(request, runtime.device).settings.get("model")
        if request.judge in DOWNLOADED and model and not is_here(model):
            console.info(f"the judge {request.judge} is {model}, which is downloaded when the first image is judged")


def prepare(plan: Plan, console: Console) -> Any:
    """Returns the loaded pipeline of a plan, after messages about downloads and compilation."""
    with leaving_at_interrupt():
        request, download = plan.requests[0], plan.download()
        if plan.runtime.offline:
            stay_offline()
        quiet_libraries(console.verbose)
        if download:
            check_source(request.model, request.revision, plan.runtime.offline)
            console.info(f"downloading {download}")
        say_offload(plan.runtime, console)
        say_judge(request, plan.runtime, console)
        if plan.runtime.compile:
            console.info("--compile: the first steps of a size take up to minutes, the others less than without")
        with console.progress(f"loading {request.model.removeprefix('builtin:')}"):
            return load_for(request, plan.runtime)


def announce(plan: Plan, console: Console) -> None:
    """Writes the warnings of a plan, its default preset, and, if verbose, its settings."""
    for warning in plan.warnings:
        console.warn(warning)
    if plan.settings.conflict:
        console.warn(plan.settings.conflict)
    for text in standing_without_effect(plan.settings, plan.requests[0], "user file"):
        console.detail(text)
    if not plan.settings.chosen:
        preset = plan.settings.preset
        name = REAL_VIDEO_PRESET if preset.video else REAL_PRESET
        real = f"--preset {name}, or 'vsf presets use {name}'"
        console.info(f"preset {preset.name}, since none was chosen · a large model: {real}")
    for key in SETTINGS:
        setting = plan.settings.origin(key)
        console.detail(f"{key} = {setting.value} ({setting.origin})")
    request = plan.requests[0]
    if request.negative and request.method == "none":
        console.warn(f"negative {_quoted(request)} is not used: the method is none")


def say_skipped(plan: Plan, pending: Sequence[tuple[int, Request]], console: Console, as_json: bool) -> None:
    """Writes the files that exist, to stdout too, where all files of the run are listed."""
    left = {number for number, _ in pending}
    for number, request in enumerate(plan.requests, 1):
        if number not in left:
            path = plan.path(request, number)
            description = _description(path) if as_json or plan.files.sidecar else {}
            console.info(f"seed {request.seed} · skipped, since the file exists")
            _add_beside(path, description, plan.files, console)
            console.data(as_line({"path": str(path), "seconds": None, **description}) if as_json else str(path))


def _description(path: Path) -> dict[str, Any]:
    """Returns the JSON of a file that exists: what it says of itself, or else nothing."""
    try:
        return read_metadata(path).description or {}
    except MediaError:
        return {}


def _add_beside(path: Path, description: Mapping[str, Any], files: FileOptions, console: Console) -> None:
    """Writes what is missing beside a file that exists, or says that it cannot be written."""
    if files.sidecar and not sidecar_of(path).exists():
        if description:
            write_sidecar(path, description)
        else:
            console.warn(f"--sidecar has no effect on {path}, which exists and has no metadata")
    if files.dump_attn and not (maps_folder(path) / PAGE).exists():
        console.warn(f"--dump-attn has no effect on {path}, which exists: --exists overwrite makes it again, with its maps")


def _quoted(request: Request) -> str:
    negative, keep = (", ".join(f"'{text}'" for text in texts) for texts in (request.negative, request.keep))
    return f"{negative} · keep {keep}" if keep else negative


def say_applied(result: Result, console: Console) -> None:
    """Writes how the negative prompt was applied."""
    request = result.request
    if not request.negative or request.method == "none":
        return
    tokens = f"{result.tokens} + {result.kept_tokens} tokens" if result.kept_tokens else counted(result.tokens, "token")
    extent = f"{counted(result.blocks, 'block')} · {tokens}" if result.blocks else f"guidance {request.guidance_scale:g}"
    console.info(f"negative {_quoted(request)} · {request.guidance} · {extent}")


def say_notes(result: Result, console: Console) -> None:
    """Writes the notes of a result, and which candidate a judge chose. That it is content with none is one of the notes."""
    for note in result.notes:
        console.warn(note)
    if (choice := result.choice) is not None and choice.content:
        of = f"the judge {choice.judge['name']} chose {choice.summary}"
        console.info(f"{of} · {counted(len(choice.attempts), 'candidate')}, {counted(choice.runs, 'run')}")


def _say_written(written: WrittenFile, number: int, plan: Plan, console: Console, as_json: bool, drawn: bool) -> None:
    result, request = written.result, written.result.request
    say_notes(result, console)
    size = f"{result.image.width}x{result.image.height}"
    frames = [] if len(result.frames) == 1 else [f"{len(result.frames)} frames"]
    facts = [f"seed {request.seed}", size, *frames, *_varied(plan, request, number), _steps(request)]
    (console.always if drawn else console.info)(" · ".join([*facts, f"{result.seconds:.1f} s"]))
    if written.maps:
        console.info(f"attention maps in {written.maps}")
    if not plan.to_stdout:
        console.data(as_line(written.to_json()) if as_json else str(written.path))


def _varied(plan: Plan, request: Request, number: int) -> list[str]:
    """Returns what else than seed and steps differs from the other images of a run; numbers of the method with all others."""
    values, of_method = plan.values(request, number), ("method", *method_options())
    keys = [key for key in plan.outputs.varying if key not in ("seed", "steps", "frames")]
    method = [str(request.guidance)] if any(key in of_method for key in keys) else []
    return [
        *method,
        *(f"{SETTINGS[key].flag[2:]} {_plain(values[key])}" for key in keys if key in SETTINGS and key not in of_method),
    ]


def _plain(value: Any) -> str:
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _steps(request: Request) -> str:
    steps = counted(request.num_inference_steps, "step")
    return steps if request.steps_run == request.num_inference_steps else f"{request.steps_run} of {steps}"


def _say_plan(plan: Plan, console: Console, as_json: bool) -> None:
    download = plan.download()
    console.info(f"to be downloaded: {download}" if download else "nothing to download")
    console.info(f"{counted(len(plan.requests), plan.noun)} to be made")
    for request, destination in zip(plan.requests, destinations(plan), strict=True):
        line = f"seed {request.seed} · {planned(request)} · {destination}"
        console.data(as_line(request.to_json()) if as_json else line)


def planned(request: Request) -> str:
    """Returns what a run would make of a request."""
    guidance = [f"negative {_quoted(request)}"] if request.negative else ["no negative prompt"]
    guidance += [str(request.guidance)] if request.uses_method and not request.strengths else []
    guidance += [_planned_choice(request)] if request.chooses else []
    with_cfg = request.guidance.accepts_guidance_scale and request.guidance_scale > 1
    guidance += [f"guidance {request.guidance_scale:g}"] if with_cfg else []
    frames = [f"{request.num_frames - request.drop_frames} frames"] if request.num_frames else []
    size = (request.size or "the model's own size") + (f" x {request.upscale}" if request.upscale > 1 else "")
    return " · ".join([*guidance, size, *frames, _steps(request), request.model])


def _planned_choice(request: Request) -> str:
    """Returns what a judge would choose between."""
    strengths = f"alpha {', '.join(map(str, request.tried_strengths))}" if request.strengths else ""
    seeds = counted(request.best_of, "seed") if request.best_of > 1 else ""
    keeping = "what to keep" if request.keeps_what_is_seen else ""
    return f"the judge {request.judge} chooses {' and '.join(filter(None, (strengths, seeds, keeping)))}"


def destinations(plan: Plan) -> list[str]:
    """Returns where a run would write what it makes of each request."""
    if plan.to_stdout:
        return ["to stdout"]
    paths = (plan.path(request, number) for number, request in enumerate(plan.requests, 1))
    return [f"to {target}" if target else f"{path} exists, skipped" for path, target in zip(paths, plan.targets(), strict=True)]
