"""What the commands do, between the command line and the library: they talk, and they write data."""

import json
import logging
import os
import platform
import warnings
from dataclasses import fields
from pathlib import Path
from typing import Any

from vsf_cli.generate import Request
from vsf_cli.media import read_metadata
from vsf_cli.metadata import versions
from vsf_cli.presets import SETTINGS, Preset, Settings, load_preset, preset_names, remember_preset
from vsf_cli.run import Plan, Written
from vsf_cli.terminal import Talk

__all__ = [
    "list_presets",
    "run_images",
    "show_doctor",
    "show_info",
    "show_preset",
    "use_preset",
    "where_setting",
]

REAL_PRESET = "sd3.5-large-turbo"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def run_images(plan: Plan, talk: Talk, as_json: bool, dry_run: bool) -> None:
    """Carries out a plan, and says what was done; paths, or JSON, a line a picture, go to stdout."""
    if plan.runtime.offline:
        # Read once by the hub's client, when it is first imported.
        os.environ["HF_HUB_OFFLINE"] = "1"
    for warning in plan.warnings:
        talk.warn(warning)
    if not plan.settings.chosen:
        name = plan.settings.preset.name
        talk.say(
            f"preset {name}, since none was chosen · the real model: --preset {REAL_PRESET}, or 'vsf presets use {REAL_PRESET}'"
        )
    _say_unused(plan, talk)
    if dry_run:
        _say_plan(plan, talk, as_json)
        return
    if download := plan.download():
        talk.say(download)
    _quiet_libraries(talk.verbose)

    for key in SETTINGS:
        setting = plan.settings.origin(key)
        talk.detail(f"{key} = {setting.value} ({setting.origin})")
    what = plan.requests[0].model.removeprefix("builtin:")
    with talk.progress(f"loading {what}"):
        pipe = plan.load()
    said = False
    with talk.progress("steps") as progress:
        for made in plan.run(pipe, progress):
            if isinstance(made, Path):
                talk.say(f"{made} exists, skipped")
                continue
            if not said:
                _say_applied(made, talk)
                said = True
            _say_made(made, plan, talk, as_json)


def _say_unused(plan: Plan, talk: Talk) -> None:
    request = plan.requests[0]
    if request.negative and request.method == "none":
        talk.warn(f"negative {_quoted(request)} is not used: the method is none")


def _quoted(request: Request) -> str:
    return ", ".join(f"'{text}'" for text in request.negative)


def _say_applied(made: Written, talk: Talk) -> None:
    request, result = made.result.request, made.result
    if not request.negative or request.method == "none":
        return
    how = f"{result.blocks} blocks · {result.tokens} tokens" if result.blocks else f"guidance {request.guidance_scale:g}"
    talk.say(f"negative {_quoted(request)} · {request.guidance} · {how}")


def _say_made(made: Written, plan: Plan, talk: Talk, as_json: bool) -> None:
    result = made.result
    size = f"{result.image.width}x{result.image.height}"
    talk.say(f"seed {result.request.seed} · {size} · {result.request.num_inference_steps} steps · {result.seconds:.1f} s")
    if not plan.to_stdout:
        talk.data(_json(made.to_json()) if as_json else str(made.path))


def _say_plan(plan: Plan, talk: Talk, as_json: bool) -> None:
    for line in (plan.download() or "nothing to download", f"{len(plan.requests)} pictures to {plan.outputs.template}"):
        talk.say(line)
    for request in plan.requests:
        talk.data(_json(request.to_json()) if as_json else f"seed {request.seed} · {request.guidance} · {request.model}")


def _quiet_libraries(verbose: bool) -> None:
    """The libraries' own talk is for developers: it is shown with -v only."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
        if not verbose:
            library.utils.logging.set_verbosity_error()
    if verbose:
        logging.basicConfig(level=logging.INFO, format="%(message)s")
    else:
        warnings.filterwarnings("ignore")


def show_info(file: Path, as_json: bool) -> None:
    """Writes how a picture was made."""
    found = read_metadata(file)
    if as_json:
        Talk.data(_json({"vsf": found.description, "parameters": found.parameters}))
        return
    if found.description is not None:
        request = found.description["request"]
        facts = {key: value for key, value in found.description.items() if key not in ("request", "schema", "versions")}
        for key, value in {**request, **facts, **found.description["versions"]}.items():
            Talk.data(f"{key:20} {_json(value) if isinstance(value, (dict, list)) else value}")
    elif found.parameters is not None:
        Talk().say(f"{file} was not made by vsf; it holds these parameters:")
        Talk.data(found.parameters)
    else:
        from vsf_cli.errors import MediaError

        raise MediaError(f"{file} does not say how it was made: it was written without metadata, or a host has cut it off")


def show_doctor(preset: str | None, as_json: bool) -> None:
    """Writes what this machine has, and what a preset would need."""
    import shutil

    import torch
    from huggingface_hub import constants, try_to_load_from_cache

    from vsf_cli.attention import available_paths
    from vsf_cli.pipelines import source_of

    chosen = Settings({"preset": preset}).preset
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    builtin = source_of(chosen.model).folder is not None
    ready = builtin or isinstance(try_to_load_from_cache(chosen.model, "model_index.json"), str)
    cache = Path(constants.HF_HUB_CACHE)
    free = shutil.disk_usage(next(place for place in (cache, *cache.parents) if place.exists())).free
    report: dict[str, Any] = {
        "versions": versions(),
        "platform": f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads",
        "device": str(accelerator or "cpu"),
        "memory": _memory(accelerator),
        "attention": [name for name, exists in available_paths().items() if exists],
        "cache": f"{free / 1e9:.0f} GB free",
        "preset": chosen.name,
        "needs": _needs(chosen, ready),
    }
    if as_json:
        Talk.data(_json(report))
        return
    for key, value in report.items():
        text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        Talk.data(f"{key:12} {', '.join(text) if isinstance(text, list) else text}")


def _memory(accelerator: Any) -> str:
    import torch

    if accelerator is not None and accelerator.type == "cuda":
        free, total = torch.cuda.mem_get_info()
        return f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free on {torch.cuda.get_device_name()}"
    import psutil

    memory = psutil.virtual_memory()
    return f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB available"


def _needs(preset: Preset, ready: bool) -> str:
    if ready:
        return "nothing: its weights are here"
    size = f"about {preset.download_bytes / 1e9:.1f} GB" if preset.download_bytes else "a download of unknown size"
    return f"{size} from the hub; licence: {preset.license}"


def list_presets(as_json: bool) -> None:
    """Writes a line for each preset."""
    used = Settings({}).preset.name
    loaded = [load_preset(name) for name in preset_names()]
    if as_json:
        Talk.data(_json([{"name": preset.name, "about": preset.about, "used": preset.name == used} for preset in loaded]))
        return
    for preset in loaded:
        Talk.data(f"{'*' if preset.name == used else ' '} {preset.name:22} {preset.about}")


def show_preset(name: str, as_json: bool) -> None:
    """Writes the settings of a run with a preset, and where each comes from."""
    settings = Settings({"preset": name})
    rows = {key: settings.origin(key) for key in SETTINGS}
    rows = {key: setting for key, setting in rows.items() if setting.value is not None}
    preset = settings.preset
    facts = {
        field.name: getattr(preset, field.name)
        for field in fields(Preset)
        if field.name in ("license", "source", "measured", "revision", "max_sequence_length")
    }
    if as_json:
        values = {key: {"value": setting.value, "origin": setting.origin} for key, setting in rows.items()}
        Talk.data(_json({"settings": values, **facts}))
        return
    for key, setting in rows.items():
        Talk.data(f"{key:20} {setting.value!s:45} {setting.origin}")
    for key, value in facts.items():
        if value is not None:
            Talk.data(f"{key:20} {value}")


def where_setting(key: str) -> None:
    """Writes the value of a setting and its layer."""
    setting = Settings({}).origin(key)
    Talk.data(f"{key} = {setting.value}, from {setting.origin}")


def use_preset(name: str) -> None:
    """Makes a preset the default."""
    Talk().say(f"preset {name} is the default from now on, by {remember_preset(name)}")
