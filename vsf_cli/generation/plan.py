"""From settings to a plan: everything that is not legal is refused here, before a model is loaded and without torch."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vsf_cli.config.ranges import MOST_NUMBERS, combinations
from vsf_cli.config.values import parse_size, whole_frames
from vsf_cli.errors import MediaError, RequestError
from vsf_cli.generation.capture import check_watchable
from vsf_cli.generation.generate import Request
from vsf_cli.generation.outputs import Outputs, slug
from vsf_cli.generation.run import Plan, weights_of
from vsf_cli.loading.loras import BUILTIN, Lora, hashes_of
from vsf_cli.loading.pipelines import Runtime, check_dtype, device_named, vocabulary_of
from vsf_cli.media.images import FORMATS, read_metadata
from vsf_cli.media.metadata import versions
from vsf_cli.media.videos import CLIP_FORMATS, check_crf, check_fps
from vsf_cli.methods import METHODS, VARIANTS, method_named, parameters_by_setting, resolved, setting_name
from vsf_cli.prompts.prompt_weights import move_negatives
from vsf_cli.prompts.replacements import Replacement, unfound, variants
from vsf_cli.prompts.vocabulary import check_vocabulary, hints
from vsf_cli.settings.presets import SETTINGS, Settings

__all__ = ["differences", "plan", "plan_again", "request_of", "runtime_of"]


def plan(
    prompt: str,
    negative: Sequence[str],
    seeds: Sequence[int],
    settings: Settings,
    loras: Sequence[str] = (),
    sweeps: Mapping[str, Sequence[float]] = MappingProxyType({}),
    replacements: Sequence[Replacement] = (),
    *,
    metadata: bool = True,
    sidecar: bool = False,
    dump_attn: bool = False,
    video: bool = False,
    seconds: float | None = None,
) -> Plan:
    """Turns settings into requests.

    Arguments:
        prompt: What is wanted.
        negative: What is not wanted.
        seeds: A picture, or a clip, for each.
        sweeps: Settings with several values: there is one for each choice of them, too.
        replacements: Words with several others in their place: there is one for each choice of these, too.
        settings: All settings.
        loras: LoRA files.
        metadata: Whether files say how they were made.
        sidecar: Whether a JSON file is written beside each picture.
        dump_attn: Whether a folder with attention maps is written beside each picture.
        video: Whether clips are made.
        seconds: How long the clips are; None takes their number of frames from the settings.

    Raises:
        RequestError: If something is not legal.
    """
    negative = tuple(text.strip() for text in negative if text.strip())
    axes = {**sweeps, **{f"{one.searched}=>": one.choices for one in replacements}}
    if len(seeds) * math.prod(len(values) for values in axes.values()) > MOST_NUMBERS:
        raise RequestError(f"{' x '.join(['seeds', *axes])} are more than {MOST_NUMBERS} pictures: make fewer at once")
    if wrong := unfound(prompt, negative, replacements):
        raise RequestError(wrong[0])
    replaced = [(words, choice) for words in variants(prompt, negative, replacements) for choice in combinations(sweeps)]
    asked = [
        request_of(text, left_out, seeds[0], settings.overlaid(choice), loras, video, seconds)
        for (_, text, left_out), choice in replaced
    ]
    for request, _ in asked if dump_attn else ():
        check_watchable(request)
    first, notes = asked[0][0], dict.fromkeys(note for _, note in asked if note)
    requests = tuple(replace(request, seed=seed) for request, _ in asked for seed in seeds)

    formats = CLIP_FORMATS if video else FORMATS
    words = tuple(slug(" ".join(chosen)) for (chosen, *_), _ in replaced for _ in seeds) if replacements else ()
    varying = (*(["words"] if words else []), *sweeps, *(["seed"] if len(seeds) > 1 else []))
    outputs = Outputs(settings["output"], settings["exists"], settings["format"], varying, formats)
    if outputs.template == "-" and (len(requests) > 1 or sidecar or dump_attn):
        raise RequestError(f"-o - takes one file and nothing beside it, but {len(requests)} are asked for, or more files")
    chosen = [settings.overlaid(choice)["crf"] for _, choice in replaced]
    for crf in chosen:
        check_crf(crf, outputs.file_format)
    for request in requests:
        check_fps(request.fps, outputs.file_format)
    vocabulary = vocabulary_of(first.model)
    warnings = [warning for request, _ in asked for warning in _warnings(request, vocabulary)]
    told = tuple(dict.fromkeys([*warnings, *notes]))
    besides = metadata, sidecar, dump_attn, tuple(crf for crf in chosen for _ in seeds), words
    return Plan(requests, outputs, runtime_of(settings), settings, told, *besides)


def _warnings(request: Request, vocabulary: Collection[str] | None) -> list[str]:
    texts = [one.text for one in request.negatives]
    unknown = [] if vocabulary is None else check_vocabulary(request.prompt, texts, vocabulary, request.num_frames is not None)
    return [*unknown, *hints(texts, METHODS[request.method].guides_attention)]


def runtime_of(settings: Settings) -> Runtime:
    """Where and how the model runs."""
    machine = (bool(settings[name]) for name in ("offline", "compile"))
    return Runtime(settings["device"], settings["offload"], *machine)


def request_of(
    prompt: str,
    negative: tuple[str, ...],
    seed: int,
    settings: Settings,
    loras: Sequence[str],
    video: bool,
    seconds: float | None = None,
) -> tuple[Request, str | None]:
    """The request, and what a person should know of it.

    Raises:
        RequestError: If something is not legal.
    """
    preset = settings.preset
    own = settings["model"] == preset.model
    if preset.video != video:
        wanted = "clips: use 'vsf video'" if preset.video else "pictures: use 'vsf image'"
        raise RequestError(f"preset {preset.name} makes {wanted}, or choose another preset")
    check_dtype(settings["dtype"])
    for lora in loras:
        Lora.parse(lora).check()
    width, height = _size(settings)
    parameters = _parameters(settings)
    prompt, moved = move_negatives(prompt)
    negative = (*negative, *moved)
    frames, dropped, note = _frames(settings, seconds) if video else (None, 0, None)
    request = Request(
        prompt=prompt.strip(),
        negative=negative,
        model=settings["model"],
        seed=seed,
        method=resolved(settings["method"])[0],
        parameters=parameters,
        num_inference_steps=settings["steps"],
        guidance_scale=settings["guidance"],
        width=width,
        height=height,
        max_sequence_length=preset.max_sequence_length,
        dtype=settings["dtype"],
        loras=_loras(settings, loras),
        revision=preset.revision_of(settings["model"]),
        variant=preset.variant if own else None,
        scheduler=preset.scheduler,
        flow_shift=settings["shift"] if video else preset.flow_shift,
        vae_dtype=preset.vae_dtype,
        vae_tiling=bool(settings["vae_tiling"]),
        num_frames=frames,
        drop_frames=dropped,
        fps=settings["fps"] if video else None,
        preset=preset.name,
    )
    return request, note


def _frames(settings: Settings, seconds: float | None) -> tuple[int | None, int, str | None]:
    """How many frames are made, how many of the first are left out, and what a person should know of it."""
    dropped, origin = settings["drop_frames"] or 0, settings.origin("drop_frames").origin
    frames, note = whole_frames(settings["frames"], seconds, settings["fps"], dropped)
    if frames is not None and dropped >= frames and origin != "option":
        raise RequestError(
            f"{origin} leaves the first {dropped} frames out, but {frames} are made: ask for more, or pass --drop-frames 0"
        )
    return frames, dropped, note


def _loras(settings: Settings, given: Sequence[str]) -> tuple[str, ...]:
    """The preset's LoRA files, then those given; one given under the name of the preset's own file stands in its place.

    Whoever names a preset means its LoRA files too, and by `--model` only another place of the model.
    """
    preset = settings.preset
    if settings["model"] != preset.model and not settings.named:
        return tuple(given)
    files = {Lora.parse(lora).file_name for lora in given}
    return (*(lora for lora in preset.loras if Lora.parse(lora).file_name not in files), *given)


def _size(settings: Settings) -> tuple[int, int] | tuple[None, None]:
    try:
        return parse_size(settings["size"]) if settings["size"] else (None, None)
    except ValueError as error:
        raise RequestError(f"size from {settings.origin('size').origin}: {error}") from error


def _parameters(settings: Settings) -> dict[str, Any]:
    """The method's hyper-parameters; an option that is another method's is refused, with the right one's name."""
    method, named = resolved(settings["method"])
    if method not in METHODS:
        raise RequestError(f"--method is '{method}', but methods are {', '.join((*METHODS, *VARIANTS))}")
    for name, (owner, parameter) in parameters_by_setting().items():
        if owner != method and settings.origin(name).origin == "option":
            raise _misplaced(name, owner, parameter, method)
    return method_named(method, settings.parameters(method, named)).parameters


def _misplaced(name: str, owner: str, parameter: str, method: str) -> RequestError:
    """That an option is another method's, with the name of the right one."""
    own = setting_name(method, parameter)
    near = f"pass --{_spelled(own)}" if own in SETTINGS else "leave it out"
    return RequestError(
        f"--{_spelled(name)} is {METHODS[owner].label}'s, but the method is {method}: {near}, or pass --method {owner}"
    )


def _spelled(name: str) -> str:
    return name.replace("_", "-")


def plan_again(file: Path, given: Mapping[str, Any], machine: Mapping[str, Any], *, override: bool = False) -> Plan:
    """The plan that makes the picture or clip of a file again, from the file alone.

    Arguments:
        file: A picture or clip of `vsf`, or its sidecar.
        given: The options of the command line that decide a picture, by name. Files are known to a picture by their names
            alone: a model or LoRA that was one is given by `model` and `lora`.
        machine: The other options, by name.
        override: Whether others than these two may be given, and stand before what the file says.

    Raises:
        MediaError: If the file does not say how it was made.
        RequestError: If an option contradicts the file, or is not legal.
    """
    description = read_metadata(file).description
    if description is None:
        raise MediaError(f"{file} does not say how vsf made it: give a prompt and --neg instead, or a picture with metadata")
    here = {"model", "lora"}
    extra = [f"--{_spelled(name)}" for name, value in given.items() if value is not None and name not in here]
    if extra and not override:
        raise RequestError(f"{file} brings its own settings: leave {', '.join(extra)} out, or give a prompt instead of a file")
    if "compared" in description:
        raise RequestError(f"{file} is a strip of several pictures: make it again with --compare")
    before = Request.from_json(description["request"])
    request = _overridden(before, {name: value for name, value in given.items() if value is not None})
    if given.get("lora") is None:
        _check_loras(file, request, description.get("lora_hashes", []))
    video = request.num_frames is not None
    settings = Settings({**machine, "model": request.model}, video=video)
    formats = CLIP_FORMATS if video else FORMATS
    outputs = Outputs(settings["output"], settings["exists"], settings["format"], formats=formats)
    return Plan((request,), outputs, runtime_of(settings), settings, (), crfs=(settings["crf"],))


def _check_loras(file: Path, request: Request, hashes: Sequence[str | None]) -> None:
    """Refuses LoRA files of which a picture knows the names alone, unless the same ones are found by these.

    Raises:
        RequestError: If one is not here, or is another one.
    """
    found = hashes_of(request.loras).get("lora_hashes", [None] * len(request.loras))
    for number, text in enumerate(request.loras):
        lora, before = Lora.parse(text), hashes[number] if number < len(hashes) else None
        shipped = lora.place.startswith(BUILTIN)
        known = before is not None or lora.place.endswith(".safetensors")
        if known and not shipped and (found[number] is None or before not in (None, found[number])):
            said = f", SHA-256 {before[:12]}" if before else ""
            raise RequestError(f"{file} was made with the LoRA file '{lora.place}'{said}: say where it is with --lora")


FIELDS = {
    "model": "model",
    "method": "method",
    "steps": "num_inference_steps",
    "guidance": "guidance_scale",
    "dtype": "dtype",
    "seed": "seed",
    "frames": "num_frames",
    "fps": "fps",
    "shift": "flow_shift",
    "drop_frames": "drop_frames",
    "vae_tiling": "vae_tiling",
}
"""The options that are fields of a request, and their names there."""


def _overridden(request: Request, given: Mapping[str, Any]) -> Request:
    clips = [name for name in ("frames", "fps", "shift", "drop_frames") if name in given]
    if clips and request.num_frames is None:
        raise RequestError(f"--{_spelled(clips[0])} is for clips, but the file is a picture: leave it out")
    if "frames" in given:
        given = {**given, "frames": whole_frames(given["frames"], None, None)[0]}
    changes: dict[str, Any] = {FIELDS[name]: value for name, value in given.items() if name in FIELDS}
    changes |= {"negative": tuple(given["neg"])} if "neg" in given else {}
    changes |= {"loras": tuple(given["lora"])} if "lora" in given else {}
    if "size" in given:
        changes["width"], changes["height"] = parse_size(given["size"])
    if "model" in given:
        changes["revision"] = None
    method, named = resolved(changes.get("method", request.method))
    parameters = {**(request.parameters if method == request.method else {}), **named}
    for name, (owner, parameter) in parameters_by_setting().items():
        if name in given and owner != method:
            raise _misplaced(name, owner, parameter, method)
        if name in given:
            parameters[parameter] = given[name]
    changes["method"] = method
    return replace(request, **changes, parameters=method_named(method, parameters).parameters)


def differences(file: Path, plan: Plan) -> list[str]:
    """What is not as when a file was made: settings, and what else decides its bits: weights, device and versions."""
    description = read_metadata(file).description or {}
    (request,) = plan.requests
    before, now = description.get("request", {}), request.to_json()
    settings = {key: (before.get(key), now[key]) for key in now}
    bits = {**weights_of(request), "device": device_named(plan.runtime.device).type}
    machine = {key: (description[key], new) for key, new in bits.items() if key in description}
    versions_of = {key: (old, versions().get(key)) for key, old in description.get("versions", {}).items()}
    found = {**settings, **machine, **versions_of}
    return [f"{key}: {old} -> {new}" for key, (old, new) in found.items() if old != new]
