"""What the commands that make nothing do: they look at files, presets and this machine, and write data."""

import platform
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from vsf_cli.cli.console import Talk, as_line
from vsf_cli.errors import MediaError, ModelError
from vsf_cli.loading.sources import is_here
from vsf_cli.media.metadata import parse_infotext, versions
from vsf_cli.media.reading import read_metadata
from vsf_cli.settings.presets import SETTINGS, Preset, Settings, load_preset, preset_names, remember_preset

__all__ = ["list_presets", "show_doctor", "show_info", "show_preset", "use_preset", "where_setting"]


def show_info(file: Path, as_json: bool) -> None:
    """Writes how a picture was made."""
    found = read_metadata(file)
    if found.description is None and found.parameters is None:
        raise MediaError(f"{file} does not say how it was made: it was written without metadata, or a host has cut it off")
    prompt, negative, pairs = parse_infotext(found.parameters or "")
    if as_json:
        read = {"prompt": prompt, "negative": negative, "pairs": pairs} if found.parameters else {}
        Talk.data(as_line({"vsf": found.description, "parameters": found.parameters, **read}))
        return
    if found.description is not None:
        request = found.description["request"]
        facts = {key: value for key, value in found.description.items() if key not in ("request", "schema", "versions")}
        _say_values({**request, **facts, **found.description["versions"]})
    else:
        Talk().say(f"{file} was not made by vsf; it holds these parameters:")
        _say_values({"prompt": prompt, "negative": negative, **pairs})


def _say_values(values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        Talk.data(f"{key:20} {as_line(value) if isinstance(value, (dict, list)) else value}")


def show_doctor(preset: str | None, as_json: bool) -> None:
    """Writes what this machine has, and what a preset would need."""
    import shutil

    import torch
    from huggingface_hub import constants

    from vsf_cli.attention import available_paths

    settings = Settings({"preset": preset})
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    cache = Path(constants.HF_HUB_CACHE)
    free = shutil.disk_usage(next(place for place in (cache, *cache.parents) if place.exists())).free
    report: dict[str, Any] = {
        "versions": versions(),
        "platform": f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads",
        "device": str(accelerator or "cpu"),
        "memory": _memory(accelerator),
        "attention": [name for name, exists in available_paths().items() if exists],
        "cache": f"{cache}, {free / 1e9:.0f} GB free",
        "preset": settings.preset.name,
        "model": settings["model"],
        "needs": _needs(settings["model"], settings.preset),
    }
    if as_json:
        Talk.data(as_line(report))
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


def _needs(model: str, preset: Preset) -> str:
    try:
        ready = is_here(model, preset.revision_of(model))
    except ModelError as error:
        return str(error)
    if ready:
        return "nothing: its weights are here"
    size, license = preset.download(model)
    return f"{size} from the hub; licence: {license}"


def list_presets(as_json: bool) -> None:
    """Writes a line for each preset."""
    used = Settings({}).preset.name
    loaded = [load_preset(name) for name in preset_names()]
    if as_json:
        Talk.data(as_line([{"name": preset.name, "about": preset.about, "used": preset.name == used} for preset in loaded]))
        return
    for preset in loaded:
        Talk.data(f"{'*' if preset.name == used else ' '} {preset.name:22} {preset.about}")


SHOWN = (
    *("loras", "scheduler", "vae_dtype", "revision", "variant", "max_sequence_length"),
    *("download_bytes", "license", "source", "measured"),
)
"""What a preset says that is no setting."""


def show_preset(name: str, as_json: bool) -> None:
    """Writes the settings of a run with a preset, and where each comes from."""
    settings = Settings({"preset": name})
    rows = {key: settings.origin(key) for key in SETTINGS}
    rows = {key: setting for key, setting in rows.items() if setting.value is not None}
    preset = settings.preset
    facts = {field.name: getattr(preset, field.name) for field in fields(Preset) if field.name in SHOWN}
    if as_json:
        values = {key: {"value": setting.value, "origin": setting.origin} for key, setting in rows.items()}
        Talk.data(as_line({"settings": values, **facts}))
        return
    for key, setting in rows.items():
        Talk.data(f"{key:20} {setting.value!s:45} {setting.origin}")
    for key, value in facts.items():
        for line in value if isinstance(value, tuple) else [value]:
            if line is not None:
                Talk.data(f"{key:20} {line}")


def where_setting(key: str) -> None:
    """Writes the value of a setting and its layer."""
    setting = Settings({}).origin(key)
    Talk.data(f"{key} = {setting.value}, from {setting.origin}")


def use_preset(name: str) -> None:
    """Makes a preset the default."""
    Talk().say(f"preset {name} is the default from now on, by {remember_preset(name)}")
