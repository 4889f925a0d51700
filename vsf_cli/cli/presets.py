"""`vsf presets`: the presets, their values, and the one in use."""

from dataclasses import fields
from itertools import groupby
from typing import Annotated, Any

import typer

from vsf_cli.cli.console import Console, as_line
from vsf_cli.cli.error_boundary import handle_errors
from vsf_cli.cli.help import Command, command_app
from vsf_cli.cli.options import Json
from vsf_cli.settings.options import SETTINGS
from vsf_cli.settings.presets import Preset, Setting, Settings, forget_presets, load_preset, preset_names, remember_preset

__all__ = ["app"]

app = command_app(no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="A name, or the path of a file.")]
FACTS = (
    *("family", "pipeline"),
    *("loras", "sigmas", "timesteps", "scheduler", "vae_dtype", "revision", "variant", "max_sequence_length"),
    *("download_bytes", "license", "source", "measured"),
)
"""Fields of a preset that are not settings."""


GROUPS = "images, by vsf image", "editing, by vsf image --image FILE", "videos, by vsf video"


def _group(preset: Preset) -> int:
    return 2 if preset.video else int(preset.edits)


@app.command("list", cls=Command, epilog="Example: vsf presets list")
@handle_errors
def list_presets(as_json: Json = False) -> None:
    """List all presets, for images, for editing and for videos; those in use have a star."""
    chosen = [Settings({}, video=video) for video in (False, True)]
    used = {one.preset_source for one in chosen}
    # Those in use may be files elsewhere.
    names = dict.fromkeys([*preset_names(), *(one.preset_source for one in chosen if one.named)])
    loaded = sorted(((name, load_preset(name)) for name in names), key=lambda entry: _group(entry[1]))
    if as_json:
        Console.data(as_line([_facts(name, preset, name in used) for name, preset in loaded]))
        return
    console, width = Console(), max(len(name) for name, _ in loaded)
    for group, presets in groupby(loaded, lambda entry: _group(entry[1])):
        console.info(GROUPS[group])
        lines = ((f"{'*' if name in used else ' '} {name}", preset.about) for name, preset in presets)
        console.data_pairs(lines, width + 2)


def _facts(name: str, preset: Preset, used: bool) -> dict[str, Any]:
    return {"name": name, "about": preset.about, "video": preset.video, "edits": preset.edits, "used": used}


@app.command("show", cls=Command, epilog="Example: vsf presets show sd3.5-large-turbo")
@handle_errors
def show_preset(name: Name, as_json: Json = False) -> None:
    """Show the preset's values, and where each comes from."""
    settings = Settings({"preset": name})
    rows, preset = _rows(settings), settings.preset
    facts = {field.name: getattr(preset, field.name) for field in fields(Preset) if field.name in FACTS}
    if as_json:
        values = {key: {"value": setting.value, "origin": setting.origin} for key, setting in rows.items()}
        Console.data(as_line({"settings": values, **facts}))
        return
    of_preset = ((key, value, f"preset {preset.name}") for key, value in facts.items() if value not in (None, "", ()))
    of_settings = ((key, setting.value, setting.origin) for key, setting in rows.items())
    Console.data_pairs((_pair(*row) for row in (*of_settings, *of_preset)), 20)


def _rows(settings: Settings) -> dict[str, Setting]:
    """Returns the settings that have a value, without those of videos where a preset of images leaves them alone."""
    rows = {key: settings.origin(key) for key in SETTINGS}
    left = {key for key, one in SETTINGS.items() if one.video and not settings.preset.video and rows[key].value == one.default}
    return {key: setting for key, setting in rows.items() if setting.value is not None and key not in left}


def _pair(key: str, value: Any, origin: str) -> tuple[str, str]:
    key, value = ("download", f"about {value / 1e9:.1f} GB") if key == "download_bytes" else (key, value)
    return key, f"{', '.join(map(str, value)) if isinstance(value, tuple) else value} ({origin})"


@app.command("where", cls=Command, epilog="Example: vsf presets where alpha")
@handle_errors
def where_setting(key: Annotated[str, typer.Argument(help="A setting, such as steps or alpha.")]) -> None:
    """Say where the value of a setting comes from."""
    setting = Settings({}).origin(key)
    Console.data_text(f"{key} = {setting.value}, from {setting.origin}")


@app.command("use", cls=Command, epilog="Example: vsf presets use sd3.5-large-turbo")
@handle_errors
def use_preset(name: Name) -> None:
    """Make a preset the default from now on."""
    console, preset = Console(), load_preset(name)
    made = "videos" if preset.video else "images"
    chosen = f"preset {name} is the default of {made} from now on, by {remember_preset(name)}"
    console.info(f"{chosen}; 'vsf presets reset' takes it back")
    settings = Settings({}, video=preset.video)
    if settings.preset.name != preset.name:
        console.warn(
            f"it has no effect yet: preset {settings.preset.name} is from {settings.preset_origin}, which counts before it"
        )


@app.command("reset", cls=Command, epilog="Example: vsf presets reset")
@handle_errors
def reset_presets() -> None:
    """Take back what 'use' chose: the built-in models are the default again."""
    path = forget_presets()
    Console().info(
        f"the built-in models are the default again; {path} names no preset any more"
        if path
        else "no preset is chosen: there is nothing to take back"
    )
