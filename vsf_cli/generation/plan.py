"""Turns settings into a plan, and refuses what is not legal before a model is loaded, without torch."""

import math
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from vsf_cli.config.names import check_choice, of_other_kind
from vsf_cli.config.option import Option, Value, options_of
from vsf_cli.config.ranges import MAX_VALUES, combinations
from vsf_cli.config.strengths import AUTO, is_auto
from vsf_cli.config.values import SIDES_OF_CLIPS, parse_size, whole_frames
from vsf_cli.errors import MediaError, RequestError
from vsf_cli.generation.asking import check_choice_of, judge_of
from vsf_cli.generation.capture import check_capture
from vsf_cli.generation.limits import check_configured
from vsf_cli.generation.outputs import Outputs, slug
from vsf_cli.generation.run import Plan, weights_of
from vsf_cli.loading.configurations import configured_pipe
from vsf_cli.loading.loras import Lora, hashes_of
from vsf_cli.loading.runtime import Runtime, device_named
from vsf_cli.loading.sources import (
    BUILTIN,
    cached_file,
    index_of,
    is_here,
    pipeline_of,
    read_configuration,
    source_of,
    vocabulary_of,
)
from vsf_cli.loading.tasks import check_task
from vsf_cli.media.formats import FORMATS, IMAGE_FORMATS, VIDEO_FORMATS, check_crf, check_fps
from vsf_cli.media.inputs import check_inputs, file_hash, fitted_size
from vsf_cli.media.metadata import versions
from vsf_cli.media.other_tools import foreign_metadata
from vsf_cli.media.reading import read_metadata
from vsf_cli.methods import METHODS, VARIANTS, Method, method_named, method_options, resolved, setting_name
from vsf_cli.models import FAMILIES
from vsf_cli.prompts.dialects import dialect_warnings, without_syntax
from vsf_cli.prompts.prompt_weights import move_negatives
from vsf_cli.prompts.replacements import Replacement, found, unfound, variants
from vsf_cli.prompts.texts import Texts
from vsf_cli.prompts.vocabulary import check_vocabulary, hints
from vsf_cli.settings.choice import choice_of
from vsf_cli.settings.effects import standing_without_effect, without_effect
from vsf_cli.settings.options import OF_REQUEST, FileOptions, Given
from vsf_cli.settings.presets import Preset, Settings, check_scale
from vsf_cli.settings.request import UNCHOSEN, ModelSettings, Request, public_source, request_options

__all__ = ["differences", "plan", "plan_again", "prompt_warnings", "rate_note", "request_of", "runtime_of"]

_FILES = FileOptions()
MAX_AREA = 1024**2
"""The maximum area of an image in pixels where neither the command nor a preset says a size."""


def plan(
    prompt: str,
    seeds: Sequence[int],
    given: Given,
    settings: Settings,
    replacements: Sequence[Replacement] = (),
    *,
    files: FileOptions = _FILES,
    video: bool = False,
    seconds: float | None = None,
) -> Plan:
    """Returns the plan of an image or video for each seed, each value of the sweeps and each choice of the replacements.

    `given` has the negative and kept prompts, LoRA files and sweeps; `settings` has everything else. If `seconds` is None, the
    settings have the number of frames.

    Raises:
        RequestError: If something is not legal.
    """
    _check_count(seeds, given.sweeps, replacements)
    chosen = _choices(prompt, given, settings, replacements)
    noted = [request_of(texts, seeds[0], own, given.loras or (), video, seconds) for (_, texts), own in chosen]
    _check_model([request for request, _ in noted], settings.preset, files.dump_attn)
    requests = tuple(replace(request, seed=seed) for request, _ in noted for seed in seeds)
    words = tuple(slug(" ".join(choice)) for (choice, _), _ in chosen for _ in seeds) if replacements else ()
    varying = (*(["words"] if words else []), *given.sweeps, *(["seed"] if len(seeds) > 1 else []))
    formats = VIDEO_FORMATS if video else IMAGE_FORMATS
    outputs = Outputs(settings["output"], settings["exists"], settings["format"], varying, formats)
    crfs = tuple(own["crf"] for _, own in chosen for _ in seeds)
    _check_outputs(outputs, requests, crfs)
    _check_effects([*settings.given("option"), *files.given], noted[0][0], settings.preset)
    notes = (*_notes(noted), *given.blank(), *standing_without_effect(settings, requests[0]))
    notes += (*(rate_note(outputs.file_format, settings) if seconds is None else ()), *outputs.notes)
    return Plan(requests, outputs, runtime_of(settings), settings, notes, files, crfs, words)


def _check_effects(given: Sequence[Option], request: Request, preset: Preset | None = None) -> None:
    """Refuses given options that have no effect on a request."""
    for message in without_effect(given, request, preset).values():
        raise RequestError(message)


def _choices(
    prompt: str, given: Given, settings: Settings, replacements: Sequence[Replacement]
) -> list[tuple[tuple[tuple[str, ...], Texts], Settings]]:
    """Returns every choice of words, with its texts, and every choice of swept settings."""
    texts = given.texts(prompt)
    acting = found(texts, replacements)
    for one in replacements:
        if not any(one is other for other in acting):
            raise RequestError(unfound(one))
    return [
        (words, settings.overlaid(choice)) for words in variants(texts, replacements) for choice in combinations(given.sweeps)
    ]


def _check_model(requests: Sequence[Request], preset: Preset, maps: bool = False) -> None:
    """Checks what the configuration of a model says that it cannot make; a model that is not on this machine has none yet.

    `maps` is whether attention maps are made.
    """
    for request in requests if maps else ():
        check_capture(request)
    if (pipe := configured_pipe(requests[0].model, requests[0].revision)) is not None:
        for request in requests:
            check_configured(request, FAMILIES[preset.family], pipe)


def _check_count(seeds: Sequence[int], sweeps: Mapping[str, Sequence[float]], replacements: Sequence[Replacement]) -> None:
    axes = {**sweeps, **{f"{one.searched}=>": one.choices for one in replacements}}
    if len(seeds) * math.prod(len(values) for values in axes.values()) > MAX_VALUES:
        raise RequestError(f"{' x '.join(['seeds', *axes])} are more than {MAX_VALUES} images: make fewer at once")


def _check_outputs(outputs: Outputs, requests: Sequence[Request], crfs: Sequence[int | None]) -> None:
    for request, crf in zip(requests, crfs, strict=True):
        check_crf(crf, outputs.file_format)
        check_fps(request.fps, outputs.file_format)


def _notes(noted: Sequence[tuple[Request, Sequence[str]]]) -> tuple[str, ...]:
    """Returns the notes of `request_of`, and then the longer warnings about requests, without repetitions."""
    vocabulary = vocabulary_of(noted[0][0].model)
    warnings = [warning for request, _ in noted for warning in prompt_warnings(request, vocabulary)]
    return tuple(dict.fromkeys([*(note for _, notes in noted for note in notes), *warnings]))


def prompt_warnings(request: Request, vocabulary: Collection[str] | None) -> list[str]:
    """Returns hints about the negatives, and then the words that a model of few words does not know.

    Raises:
        RequestError: If it does not know a word of a negative, or any word of the prompt.
    """
    negative = [one.text for one in request.negatives]
    kept = [] if request.keeps_what_is_seen else [one.text for one in request.kept]
    unknown = []
    if vocabulary is not None:
        texts = Texts(without_syntax(request.prompt), tuple(map(without_syntax, negative)), tuple(map(without_syntax, kept)))
        unknown = check_vocabulary(texts, vocabulary, request.num_frames is not None)
    off = request.guidance.off if request.negative else ""
    unknown += [f"{off} is no guidance: the negative prompt has no effect"] if off else []
    return [*hints(negative, kept, METHODS[request.method].guides_attention), *unknown]


def rate_note(format: str, settings: Settings) -> tuple[str, ...]:
    """Returns a note about a given rate of frames in a format that has none."""
    given = format == "frames" and settings.origin("fps").origin == "option"
    return ("--fps is noted in the metadata alone: frames are images, and have no rate",) if given else ()


def runtime_of(settings: Settings) -> Runtime:
    """Returns the runtime of settings."""
    return Runtime(**{one.field: settings[one.key] for one in options_of(Runtime)})


def request_of(
    texts: Texts,
    seed: int,
    settings: Settings,
    loras: Sequence[str],
    video: bool,
    seconds: float | None = None,
) -> tuple[Request, list[str]]:
    """Returns a request, and notes about its texts and its frames.

    Raises:
        RequestError: If something is not legal.
    """
    preset = settings.preset
    _check_kind(preset, video)
    for lora in loras:
        Lora.parse(lora).check()
    prompt, moved = move_negatives(texts.prompt)
    notes = list(dialect_warnings(texts))
    values = _model_settings(settings, video)
    images, mask = settings["image"] or (), settings["mask"]
    _check_task(settings["model"], preset, len(images), mask)
    if images:
        _fit_size(values, check_inputs(images, mask), settings)
    if video:
        values["num_frames"], values["drop_frames"], note = _frames(settings, seconds)
        notes += [note] if note else []
    negative, name = (*texts.negative, *moved), resolved(settings["method"])[0]
    with _naming_origins(name, settings):
        guidance = _guidance(settings)
        choice = choice_of(replace(texts, negative=negative), settings, guidance)
        notes += [note] if (note := of_other_kind(choice.get("judge", ""), video)) else []
        request = Request(
            prompt=prompt.strip(),
            negative=negative,
            keep=texts.keep or (() if choice else _neutral(negative, settings, guidance)),
            image=images,
            **{name: settings[name] for name in ("model", "mask", "strength")},
            seed=seed,
            method=name,
            parameters=guidance.parameters,
            preset=preset.name,
            **values | choice | {"loras": _loras(settings, loras)},
        )
    check_scale(request, FAMILIES[preset.family])
    _check_judge(request, settings)
    notes += ["the preset's neutral words are not kept where a judge chooses"] if choice and preset.keep_neutral else []
    return request, notes


def _check_kind(preset: Preset, video: bool) -> None:
    if preset.video != video:
        wanted = "videos: use 'vsf video'" if preset.video else "images: use 'vsf image'"
        raise RequestError(f"preset {preset.name} makes {wanted}, or choose another preset")


def _neutral(negative: Sequence[str], settings: Settings, guidance: Method) -> tuple[str, ...]:
    """Returns the words of the preset that are kept where `--keep` names nothing."""
    spares = settings["model"] == settings.preset.model and guidance.keeps and guidance.contrast != 0
    return settings.preset.neutral(negative) if spares else ()


def _check_judge(request: Request, settings: Settings) -> None:
    if request.chooses:
        check_choice_of(request, judge_of(request, settings["device"]), bool(settings["offline"]))


def _check_task(model: str, preset: Preset, images: int, mask: str | None) -> None:
    """Checks that a model takes what is given; one that is not on this machine is like the first of its preset's family."""
    index_of(source_of(model))
    own, pipeline = FAMILIES[preset.family].pipelines, pipeline_of(model)
    other = next((family for family in FAMILIES.values() if pipeline in family.pipelines and pipeline not in own), None)
    if other is not None and other.video != preset.video:
        wanted = "videos: use 'vsf video'" if other.video else "images: use 'vsf image'"
        raise RequestError(f"model {public_source(model)} makes {wanted}")
    if other is not None:
        wrong = f"preset {preset.name} is for {', '.join(own)}, but {public_source(model)} is a {pipeline}"
        raise RequestError(f"{wrong}: leave --preset out, or choose another one")
    channels = read_configuration(model, None, "transformer/config.json").get("in_channels") if images and mask else None
    check_task(pipeline or preset.main_pipeline, images, mask is not None, channels)


def _fit_size(values: dict[str, Any], size: tuple[int, int], settings: Settings) -> None:
    """Gives a request the shape of its image, if the command does not say a size."""
    if settings.origin("size").origin != "option":
        area = values["width"] * values["height"] if values["width"] else min(size[0] * size[1], MAX_AREA)
        # Sides that nearly all models take; smaller models take smaller multiples.
        multiple = SIDES_OF_CLIPS if settings.preset.video or area >= 256**2 else SIDES_OF_CLIPS // 2
        values["width"], values["height"] = fitted_size(size, area, multiple)


def _model_settings(settings: Settings, video: bool) -> dict[str, Any]:
    """Returns the fields that requests and presets share: from the settings if they are settings, else from the preset."""
    preset = settings.preset
    values: dict[str, Any] = {entry.name: getattr(preset, entry.name) for entry in fields(ModelSettings)}
    for one in options_of(ModelSettings):
        if one.setting and (video or not one.video):
            values[one.field] = settings[one.key]
    values["width"], values["height"] = _size(settings)
    # The preset knows the revision and the variant only of its own model.
    if settings["model"] != preset.model:
        values |= {"revision": None, "variant": None}
    return values


def _frames(settings: Settings, seconds: float | None) -> tuple[int | None, int, str | None]:
    """Returns the number of frames, how many of the first are left out, and a note about them."""
    dropped, origin = settings["drop_frames"] or 0, settings.origin("drop_frames").origin
    multiple = FAMILIES[settings.preset.family].frames_multiple
    frames, note = whole_frames(settings["frames"], seconds, settings["fps"], dropped, multiple)
    if frames is not None and dropped >= frames and origin != "option":
        left_out = f"{origin} leaves the first {dropped} frames out, but {frames} are made"
        raise RequestError(f"{left_out}: ask for more, or pass --drop-frames 0")
    return frames, dropped, note


def _loras(settings: Settings, given: Sequence[str]) -> tuple[str, ...]:
    """Returns the LoRA files of the preset, then those given, which replace files of the preset with the same name.

    A preset that was chosen by name has its LoRA files even with another model.
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


@contextmanager
def _naming_origins(method: str, settings: Settings) -> Iterator[None]:
    """Adds to errors inside a `with` where those of a method's numbers come from that they name and nobody gave."""
    try:
        yield
    except RequestError as error:
        own = METHODS[method].options() if method in METHODS else ()
        origins = {one: settings.origin(one.key).origin for one in own if re.search(rf"\b{one.key} ", str(error))}
        standing = [one for one, origin in origins.items() if origin not in ("option", "default", "nowhere")]
        if not standing or "option" not in origins.values():
            raise
        one = standing[0]
        raise RequestError(f"{error}; {one.key} is from {origins[one]}: pass {one.flag}, too") from error


def _guidance(settings: Settings) -> Method:
    """Returns the method with its hyper-parameters, after a check that no option is for another method."""
    method, named = resolved(settings["method"])
    check_choice("--method", settings["method"], (*METHODS, *VARIANTS))
    for key, (owner, one) in method_options().items():
        if owner != method and settings.origin(key).origin == "option":
            raise _misplaced(owner, one, method)
    return method_named(method, settings.parameters(method, named))


def _misplaced(owner: str, one: Option, method: str) -> RequestError:
    """Returns the error that an option is for another method, with the name of the right option."""
    own = OF_REQUEST.get(setting_name(method, one.field))
    near = f"pass {own.flag}" if own else "leave it out"
    return RequestError(f"{one.flag} is {METHODS[owner].label}'s, but the method is {method}: {near}, or pass --method {owner}")


def plan_again(file: Path, given: Given, *, override: bool = False) -> Plan:
    """Returns the plan that makes an image or video again from its file, or from its sidecar.

    A file has only the names of a local model and of LoRA files: `given` has their paths. Its other options of requests
    replace those of the file, if `override`.

    Raises:
        MediaError: If the file does not say how it was made.
        RequestError: If an option contradicts the file, or is not legal.
    """
    description = _description(file)
    extra = [OF_REQUEST[key].flag for key in _request_options(given) if key not in ("model", "lora")]
    if extra and not override:
        raise RequestError(f"{file} brings its own settings: leave {', '.join(extra)} out, or give a prompt instead of a file")
    before = _request_in(file, description)
    request = _override(before, given)
    check_scale(request)
    _check_effects([OF_REQUEST[key] for key in given.settings if key in OF_REQUEST], request)
    _check_loras(file, request, given, description.get("lora_hashes", []))
    _check_images(file, request, given, description)
    video = request.num_frames is not None
    index_of(source_of(request.model))
    machine = {key: value for key, value in given.settings.items() if key not in OF_REQUEST}
    settings = Settings({"compile": description.get("compiled"), **machine, "model": request.model}, video=video)
    if pipeline_of(request.model) is not None:
        _check_task(request.model, settings.preset, len(request.image), request.mask)
    _check_judge(request, settings)
    _check_model([request], settings.preset)
    outputs = _outputs_again(settings, description, given, VIDEO_FORMATS if video else IMAGE_FORMATS)
    crfs, warnings = (_crf_again(outputs, description, given),), _strangers(file, request, given)
    # How it was chosen, if it is made again as it is; no judge is asked.
    same = request.to_json() == before.to_json()
    facts = {key: value for key, value in description.items() if key == "choice" and same}
    plan = Plan((request,), outputs, runtime_of(settings), settings, warnings, crfs=crfs, facts=facts)
    _check_outputs(outputs, plan.requests, plan.crfs)
    return plan


def _crf_again(outputs: Outputs, description: Mapping[str, Any], given: Given) -> int | None:
    """Returns the CRF that is given, or that of the file, whose format stays."""
    same_format = outputs.file_format == description.get("format")
    crf = given.settings.get("crf", description.get("crf") if same_format else None)
    return None if crf is None else int(str(crf))


def _strangers(file: Path, request: Request, given: Given) -> tuple[str, ...]:
    """Returns warnings about models and LoRA files that a file, perhaps a stranger's, names and that would be downloaded."""
    names = [] if "model" in given.settings or is_here(request.model, request.revision) else [f"the model {request.model}"]
    for lora in map(Lora.parse, request.loras if given.loras is None else ()):
        on_hub = lora.file is None and not os.path.isdir(lora.path)
        if on_hub and cached_file(lora.source, lora.hub_name, None) is None:
            names.append(f"the LoRA {lora.source}")
    pages = "https://huggingface.co"
    return tuple(f"{file} names {name}, which is not on this machine: it is looked for on {pages}" for name in names)


def _description(file: Path) -> dict[str, Any]:
    """Returns the JSON of a file that can be made again."""
    metadata = read_metadata(file)
    if metadata.description is None:
        other = foreign_metadata(metadata.tags)
        by = f"was made by {other.tool}, and" if other else "does not say how vsf made it, and"
        raise MediaError(f"{file} {by} cannot be made again: give a prompt and --neg instead, or an image with metadata")
    if misplaced := [key for key in metadata.description if key in Request.__dataclass_fields__]:
        raise RequestError(f"{file}: '{misplaced[0]}' stands outside of 'request', where it has no effect: move it there")
    if "compared" in metadata.description:
        raise RequestError(
            f"{file} is a strip of several images, which vsf again does not make: pass its prompt and --compare to vsf image"
        )
    return metadata.description


def _request_in(file: Path, description: Mapping[str, Any]) -> Request:
    try:
        return Request.from_json(description["request"])
    except RequestError as error:
        raise RequestError(f"{file}: {error}") from error


def _outputs_again(
    settings: Settings, description: Mapping[str, Any], given: Given, formats: Mapping[str, tuple[str, ...]]
) -> Outputs:
    """Returns where a file goes that is made again: what is changed is in its name, as in a sweep, unless the name is given."""
    named = settings.origin("output").origin == "option"
    varying = [key for key in _request_options(given) if OF_REQUEST[key].sweep or key == "method"]
    format = _format_again(settings, description, formats)
    return Outputs(settings["output"], settings["exists"], format, () if named else tuple(varying), formats)


def _format_again(settings: Settings, description: Mapping[str, Any], formats: Collection[str]) -> str | None:
    """Returns the format of a file that is made again: that of an option or of an ending, else the file's own."""
    format = settings.origin("format")
    suffix = Path(settings["output"]).suffix.lower()
    named = any(suffix in entry.endings for entry in FORMATS.values()) if suffix else False
    before = description.get("format")
    return str(before) if before in formats and not named and format.origin != "option" else format.value


def _request_options(given: Given) -> dict[str, Any]:
    """Returns the given options that decide an image, by key."""
    texts = given.texts("")
    others = {
        "negative": None if given.negative is None else texts.negative,
        "keep": None if given.keep is None else texts.keep,
        "lora": given.loras,
        "seed": given.seeds and given.seeds[0],
    }
    settings = {key: value for key, value in given.settings.items() if key in OF_REQUEST}
    return {**{key: value for key, value in others.items() if value is not None}, **settings}


def _check_loras(file: Path, request: Request, given: Given, hashes: Sequence[str | None]) -> None:
    """Checks that given LoRA files are found, or those of a request by their names, with the hashes that its file has."""
    if given.loras is not None:
        for lora in map(Lora.parse, given.loras):
            lora.check()
        return
    here = hashes_of(request.loras, cached=True).get("lora_hashes", [None] * len(request.loras))
    for number, text in enumerate(request.loras):
        lora, before = Lora.parse(text), hashes[number] if number < len(hashes) else None
        shipped = lora.source.startswith(BUILTIN)
        # Of those on the hub, what is not on this machine will be.
        known = lora.source.endswith(".safetensors") or (before is not None and (here[number] or "/" not in lora.source))
        if known and not shipped and (here[number] is None or before not in (None, here[number])):
            digest = f", SHA-256 {before[:12]}" if before else ""
            raise RequestError(f"{file} was made with the LoRA file '{lora.source}'{digest}: say where it is with --lora")


def _check_images(file: Path, request: Request, given: Given, description: Mapping[str, Any]) -> None:
    """Checks that the images of a request are found, and those that are not given are what they were."""
    for name, paths in (("image", request.image), ("mask", (request.mask,) if request.mask else ())):
        recorded = description.get(f"{name}_sha256", [])
        hashes = recorded if len(recorded) == len(paths) else [None] * len(paths)
        for path, before in zip(paths, hashes, strict=True) if name not in given.settings else ():
            if not os.path.isfile(path) or file_hash(Path(path)) != before:
                digest = f", SHA-256 {before[:12]}" if before else ""
                every = f"say where it is with --{name}" if len(paths) == 1 else f"say where all {len(paths)} are with --{name}"
                raise RequestError(f"{file} was made with the {name} '{path}'{digest}: {every}")
    if request.image:
        check_inputs(request.image, request.mask)


def _override(request: Request, given: Given) -> Request:
    """Returns the request with the given options."""
    options = _request_options(given)
    for key in options:
        if OF_REQUEST[key].video and request.num_frames is None:
            raise RequestError(f"{OF_REQUEST[key].flag} is for videos, but the file is an image: leave it out")
    changes = {one.field: options[one.key] for one in request_options() if one.key in options}
    if changes.get("negative") == ():
        changes = {"keep": (), **changes}
    if "num_frames" in changes:
        changes["num_frames"] = whole_frames(changes["num_frames"], None, None)[0]
    if size := changes.pop("size", None):
        changes["width"], changes["height"] = parse_size(size)
    if "model" in changes:
        changes["revision"] = None
    method, named = resolved(changes.get("method", request.method))
    before = request.parameters if method == request.method else {}
    parameters = {**before, **named, **_parameters_given(given.settings, method)}
    guidance = method_named(method, parameters)
    choice = _choice_again(request, changes, given, guidance)
    return replace(request, **{**changes, "method": method, **choice}, parameters=guidance.parameters)


def _choice_again(request: Request, changes: Mapping[str, Any], given: Given, guidance: Method) -> dict[str, Any]:
    """Returns the fields of a choice for which the options ask; what stands in the environment does not count."""
    own = {key: value for key, value in given.settings.items() if key in UNCHOSEN}
    if (alpha := given.settings.get("alpha")) is not None and is_auto(alpha):
        own["alpha"] = alpha
    if not {"alpha", "best_of"} & {*own} and changes.get("keep") != (AUTO,):
        return {}
    model = changes.get("model", request.model)
    settings = Settings({**own, "model": model}, {}, video=request.num_frames is not None)
    texts = (changes.get(name, getattr(request, name)) for name in ("prompt", "negative", "keep"))
    return choice_of(Texts(*texts), settings, guidance)


def _parameters_given(given: Mapping[str, Value], method: str) -> dict[str, Value]:
    """Returns the given hyper-parameters, all of which must be those of the method."""
    options = {key: owned for key, owned in method_options().items() if key in given}
    for owner, one in options.values():
        if owner != method:
            raise _misplaced(owner, one, method)
    return {one.field: given[key] for key, (_, one) in options.items() if not is_auto(given[key])}


def differences(file: Path, plan: Plan) -> list[str]:
    """Returns what differs from when a file was made: settings, weights, device and versions."""
    description = read_metadata(file).description or {}
    (request,) = plan.requests
    before, now = description.get("request", {}), request.to_json()
    settings = {key: (before.get(key), now[key]) for key in now if key != "parameters"} | _numbers(before, now)
    bits = {**weights_of(request, cached=True), "device": device_named(plan.runtime.device).type}
    machine = {key: (description[key], new) for key, new in bits.items() if key in description}
    compiled = {"compiled": (description.get("compiled", False), plan.runtime.compile)}
    versions_of = {key: (old, versions().get(key)) for key, old in description.get("versions", {}).items()}
    values = {**settings, **machine, **compiled, **versions_of}
    commits = [f"; it was commit {commit}" for commit in description.get("lora_revisions", []) if commit]
    missing = [] if "lora_hashes" in bits or not commits else [f"LoRA files of the hub are loaded as they are now{commits[0]}"]
    return [*missing, *(f"{key}: {_plain(old)} -> {_plain(new)}" for key, (old, new) in values.items() if old != new)]


def _numbers(*requests: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Returns the hyper-parameters of two requests by their names; none if their methods differ."""
    before, now = (plain.get("parameters", {}) for plain in requests)
    same = requests[0].get("method") == requests[1].get("method")
    return {key: (before.get(key), now.get(key)) for key in {**before, **now}} if same else {}


def _plain(value: Any) -> str:
    """Returns a value as a person writes it."""
    if isinstance(value, list):
        return ", ".join(map(_plain, value)) or "none"
    return "none" if value is None else f"{value:.10g}" if isinstance(value, float) else str(value)
