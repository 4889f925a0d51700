"""Presets of models and their settings, and the layers that settings come from.

A setting is taken from the first layer that has it: an option of the command line, the environment (`VSF_STEPS`), the user's
file (`config.toml`), the preset, the family's default.
"""

import copy
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any

import platformdirs
import tomli

from vsf_cli.config.names import nearest, nearest_or_all
from vsf_cli.config.option import Option, Value, as_field, fits, idle, options_of, type_name
from vsf_cli.config.strengths import is_auto, parse_strengths
from vsf_cli.errors import PresetError, RequestError
from vsf_cli.loading.sources import pipeline_of
from vsf_cli.methods import METHODS, Method, method_named, setting_name
from vsf_cli.models import FAMILIES, Family
from vsf_cli.prompts.texts import decode_text
from vsf_cli.settings.options import DEFAULTS, SETTINGS
from vsf_cli.settings.request import ModelSettings, Request, request_options

__all__ = [
    "DEFAULT_PRESET",
    "SETTINGS",
    "Preset",
    "Setting",
    "Settings",
    "check_scale",
    "forget_presets",
    "load_preset",
    "preset_for_model",
    "preset_names",
    "remember_preset",
    "user_file",
    "uses_cfg",
]

NO_LICENSE = "not stated"
DEFAULT_PRESET, DEFAULT_VIDEO_PRESET = "tiny-sd3-turbo", "tiny-wan-causvid"


@dataclass(frozen=True, kw_only=True)
class Preset(ModelSettings):
    """A model and its settings. The fields are the keys of a preset's file.

    Arguments:
        name: The name of the file, without its ending.
        about: One line for the list.
        family: A key of `vsf_cli.models.FAMILIES`.
        model: `builtin:NAME`, a hub id, or a folder.
        pipeline: The name of the model's pipeline; "" means the first one of the family.
        license: The licence of the weights, and where it can be read.
        download_bytes: About how much is downloaded; None if nothing is, or it is not known.
        source: Where the settings come from.
        measured: Measured results, if there are any.
        judge: The name of the judge that chooses between images, where nobody names another.
        strengths: What `--alpha auto` tries where something has to stay, as in `Request.strengths`.
        keep_neutral: Words of no particular meaning, between commas, which VSF keeps where `--keep` names nothing.
        method: The method's name and its hyper-parameters.
    """

    name: str
    family: str
    model: str
    about: str = ""
    pipeline: str = ""
    license: str = NO_LICENSE
    download_bytes: int | None = None
    dtype: str = "bfloat16"
    num_inference_steps: int = 28
    source: str = "not stated"
    measured: str = "nothing was measured"
    judge: str = "vlm"
    strengths: str = "none,1,1.5,2,3,4,6"
    keep_neutral: str = ""
    method: Mapping[str, Any] = field(default_factory=lambda: {"name": "vsf"})

    @property
    def video(self) -> bool:
        """Whether its model makes videos."""
        return FAMILIES[self.family].video

    @property
    def main_pipeline(self) -> str:
        """The name of its model's pipeline."""
        return self.pipeline or next(iter(FAMILIES[self.family].pipelines))

    @property
    def edits(self) -> bool:
        """Whether its model is one that edits images."""
        return not self.video and bool(self.pipeline)

    def guidance(self) -> Method:
        """Returns the preset's method."""
        parameters = dict(self.method)
        return method_named(parameters.pop("name", "vsf"), parameters)

    def strengths_for(self, keeps: bool) -> str:
        """Returns what `--alpha auto` tries.

        If nothing has to stay, contrasts have no effect, and no guidance need not be tried: it tells what can stay.
        """
        strengths = parse_strengths(self.strengths)
        if not keeps:
            strengths = tuple(replace(one, contrast=None) for one in strengths if one.alpha is not None)
        return ",".join(dict.fromkeys(map(str, strengths)))

    def neutral(self, negative: Sequence[str]) -> tuple[str, ...]:
        """Returns the neutral words beside negative prompts as one text, without those that a negative prompt names."""
        unwanted = {word for text in negative for word in re.findall(r"\w+", text.lower())}
        words = (word.strip() for word in self.keep_neutral.split(","))
        kept = ", ".join(word for word in words if word and word.lower() not in unwanted)
        return (kept,) if negative and kept else ()

    def download(self, model: str) -> tuple[str, str]:
        """Returns the size and the licence of a model's download, which are known for the preset's own model only."""
        own = model == self.model
        size = f"about {self.download_bytes / 1e9:.1f} GB" if own and self.download_bytes else "an unknown number of bytes"
        stated = own and self.license != NO_LICENSE
        return size, self.license if stated else f"see https://huggingface.co/{model}"

    def revision_of(self, model: str) -> str | None:
        """Returns the revision of the preset's own model; None for another model."""
        return self.revision if model == self.model else None


def _illegal_keys(table: Mapping[str, Any]) -> Iterator[tuple[str, list[str], str]]:
    """Yields each key that is not legal, the legal ones, and the method that they belong to."""
    legal = [entry.name for entry in fields(Preset) if entry.name != "name"]
    for key in table:
        if key not in legal:
            yield key, legal, ""
    method = table.get("method", {})
    known = METHODS.get(str(method.get("name", "vsf")))
    if known is not None:
        names = ["name", *known.field_types()]
        for key in method:
            if key not in names:
                yield f"method.{key}", [f"method.{name}" for name in names], f" of {known.name}"


def _load(name: str, path: Any, source: str) -> Preset:
    """Returns the preset of a file; `source` names the file in errors."""
    table = _read_toml(path, source)
    for entry in fields(Preset):
        if entry.name in table and not fits(entry.type, table[entry.name]):
            raise PresetError(f"{source}: '{entry.name}' is {table[entry.name]!r}, but must be {type_name(entry.type)}")
    for key, legal, of in _illegal_keys(table):
        raise PresetError(f"{source}: unknown key '{key}'.{nearest_or_all(key, legal, f'Legal keys{of}')}")
    for key in ("family", "model"):
        if key not in table:
            raise PresetError(f"{source}: '{key}' is missing: a preset names its family and its model")
    if table["family"] not in FAMILIES:
        raise PresetError(f"{source}: family is '{table['family']}', but families are {', '.join(FAMILIES)}")
    if ("width" in table) != ("height" in table):
        raise PresetError(f"{source}: give both width and height, or neither for the model's own size")
    if "method" in table:
        table = {**table, "method": _method(table["method"], source)}
    types = {entry.name: entry.type for entry in fields(Preset)}
    preset = Preset(name=name, **{key: as_field(types[key], value) for key, value in table.items()})
    _check_effects(preset, table, source)
    return preset


def _check_effects(preset: Preset, table: Mapping[str, Any], source: str) -> None:
    """Refuses keys of a preset that cannot have an effect."""
    # The shift of an image's sigmas is no option of a command, but of presets.
    videos = [one.field for one in options_of(ModelSettings) if one.video and one.field != "flow_shift"]
    if not preset.video and (unused := [key for key in table if key in videos]):
        raise PresetError(f"{source}: '{unused[0]}' is for videos, but family {preset.family} makes images: leave it out")
    try:
        method = preset.guidance()
    except RequestError as error:
        raise PresetError(f"{source}: {error}") from error
    _check_strengths(preset, source)
    given = [one for one in method.options() if one.field in preset.method]
    for one, message in idle(given, method):
        raise PresetError(f"{source}: 'method.{one.field}' has no effect: {message}")
    if preset.keep_neutral and not method.keeps:
        raise PresetError(f"{source}: 'keep_neutral' is for VSF, but the method is {method}: leave it out")


def _check_strengths(preset: Preset, source: str) -> None:
    try:
        strengths = parse_strengths(preset.strengths)
    except (ValueError, RequestError) as error:
        raise PresetError(f"{source}: strengths: {error}") from error
    if all(one.alpha is None for one in strengths):
        raise PresetError(f"{source}: strengths is '{preset.strengths}', but must have a number, such as none,1,2,4")


def _method(method: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Returns the method of a preset, after a check of its name and its numbers."""
    name = method.get("name", "vsf")
    if not isinstance(name, str) or name not in METHODS:
        raise PresetError(f"{source}: method.name is '{name}'.{nearest_or_all(str(name), METHODS, 'Methods')}")
    types: dict[str, Any] = {**METHODS[name].field_types(), "name": str}
    for key, value in method.items():
        if key != "name" and not fits(types[key], value):
            expected = {bool: "true or false", str: "a text"}.get(types[key], "a number")
            raise PresetError(f"{source}: 'method.{key}' is {value!r}, but must be {expected}")
    return {key: as_field(types[key], value) for key, value in method.items()}


def _read_toml(path: Any, source: str) -> dict[str, Any]:
    try:
        return tomli.loads(decode_text(source, path.read_bytes()))
    except tomli.TOMLDecodeError as error:
        raise PresetError(f"{source}: not TOML: {error}") from error
    except OSError as error:
        raise PresetError(f"{source} cannot be read: {error.strerror or error}") from error
    except RequestError as error:
        raise PresetError(str(error)) from error


def _shipped() -> Any:
    packed = resources.files("vsf_cli") / "presets"
    return packed if packed.is_dir() else Path(__file__).parents[2] / "presets"


def user_file() -> Path:
    """Returns the file of the user's settings; the user's presets are in the folder `presets` beside it."""
    return Path(os.environ.get("VSF_CONFIG") or Path(platformdirs.user_config_dir("vsf")) / "config.toml")


def preset_names() -> list[str]:
    """Returns the names of the presets: those that ship with the package, then the user's own."""
    shipped = sorted(entry.name.removesuffix(".toml") for entry in _shipped().iterdir() if entry.name.endswith(".toml"))
    folder = user_file().parent / "presets"
    own = sorted(path.stem for path in folder.glob("*.toml")) if folder.is_dir() else []
    return [*shipped, *(name for name in own if name not in shipped)]


def load_preset(name: str) -> Preset:
    """Returns a preset by its name, or by the path of its file. The user's own take precedence over shipped ones.

    Raises:
        PresetError: If there is none, or it has a key or a value that is not legal.
    """
    path = Path(name)
    if path.suffix == ".toml" or path.parent != Path("."):
        if not os.path.isfile(path):
            raise PresetError(f"preset '{name}': there is no such file")
        return _load(path.stem, path, name)
    own = user_file().parent / "presets" / f"{name}.toml"
    if os.path.isfile(own):
        return _load(name, own, str(own))
    if name not in (names := preset_names()):
        raise PresetError(f"preset '{name}' does not exist.{nearest(name, names)} 'vsf presets list' has all of them")
    return _load(name, _shipped() / f"{name}.toml", f"presets/{name}.toml")


def uses_cfg(request: Request, family: Family | None = None) -> bool:
    """Returns whether the scale of a request turns classifier-free guidance on, in a family or in that of its preset."""
    if family is None:
        try:
            family = FAMILIES[load_preset(request.preset or DEFAULT_PRESET).family]
        except PresetError:  # Another machine's own preset: the model says it when it is called.
            return False
    return request.guidance_scale > family.max_scale and not family.embeds_scale


def check_scale(request: Request, family: Family | None = None) -> None:
    """Raises a `RequestError` if a request has a negative prompt, and CFG without a method for it."""
    if request.negative and uses_cfg(request, family) and not request.guidance.accepts_guidance_scale:
        label = request.guidance.label
        only = f"--guidance is {request.guidance_scale:g}, but {label} is for models that run without CFG"
        raise RequestError(f"{only}: pass --guidance 0, or --method cfg")


def preset_for_model(model: str, video: bool = False) -> Preset:
    """Returns the preset of a model, or one of its family's defaults.

    Raises:
        RequestError: If the model has several presets with different LoRA files, and none without.
    """
    presets = []
    for name in preset_names():
        with suppress(PresetError):  # A broken file of the user does not matter to other models.
            presets.append(load_preset(name))
    own = sorted((preset for preset in presets if preset.model == model), key=lambda preset: bool(preset.loras))
    if own and own[0].loras and own[1:]:
        names = ", ".join(preset.name for preset in own)
        raise RequestError(f"model {model} is for several LoRA files: choose one of them with --preset: {names}")
    if own:
        return own[0]
    pipeline = pipeline_of(model)
    families = sorted(FAMILIES.values(), key=lambda family: (family.video != video, pipeline not in family.pipelines))
    return Preset(name=f"defaults for {Path(model).name}", family=families[0].name, model=model, **families[0].defaults)


@dataclass(frozen=True)
class Setting:
    """A value, and the layer that it comes from."""

    value: Any
    origin: str


class Settings:
    """All settings of a run, each with its origin.

    Arguments:
        options: The options of the command line, by name; None means not given.
        environment: The environment variables.
        video: Whether they are for videos, which have a default preset of their own.

    Attributes:
        preset: The preset.
        preset_source: Its name, or the path of its file, as it was given.
        chosen: Whether a preset or a model was chosen.
        named: Whether the preset was chosen by name, and so counts whatever the model.
        conflict: What is said of a preset and a model that one layer has both; "" if none has.

    Raises:
        PresetError: If a layer has a key or value that is not legal.
    """

    def __init__(self, options: Mapping[str, Any], environment: Mapping[str, str] | None = None, video: bool = False) -> None:
        self._layers: list[tuple[str, Mapping[str, Any]]] = [
            ("option", {key: value for key, value in options.items() if value is not None}),
            ("environment", _environment(os.environ if environment is None else environment)),
            ("user file", _user_settings()),
        ]
        self.conflict = ""
        # The option is --preset for videos, too; all other layers have a key for each.
        given = Setting(options["preset"], "option") if options.get("preset") is not None else None
        named = given or self._find("video_preset" if video else "preset")
        model = self._find("model")
        if named is not None and model is not None and model.origin != "option" and self._rank(named) <= self._rank(model):
            self.conflict = self._conflict(named, model)
            # The model of a chosen preset counts before a model of a later layer.
            self._layers = [(origin, {**layer, "model": None}) for origin, layer in self._layers]
            model = None
        self.chosen = named is not None or model is not None
        named = self._choose_preset(named, model, video)
        self.preset_origin = named.origin if named else "default"
        self.named = named is not None and named.value is not None
        origin = f"preset {self.preset.name}"
        self._layers += [(origin, _of_preset(self.preset)), ("default", DEFAULTS)]

    def _conflict(self, named: Setting, model: Setting) -> str:
        if self._rank(named) < self._rank(model):
            return ""
        return f"model {model.value} of the {model.origin} has no effect beside preset {named.value}: keep one of the two"

    def _choose_preset(self, named: Setting | None, model: Setting | None, video: bool) -> Setting | None:
        """Loads the preset, and returns its origin; None if it is the default."""
        # A model of an earlier layer than the preset's decides alone.
        if model is not None and (named is None or self._rank(model) < self._rank(named)):
            self.preset = preset_for_model(model.value, video)
            self.preset_source = self.preset.name
            return Setting(None, f"{model.origin}, by its model")
        self.preset_source = str(named.value) if named else DEFAULT_VIDEO_PRESET if video else DEFAULT_PRESET
        self.preset = load_preset(self.preset_source)
        return named

    def overlaid(self, options: Mapping[str, Any]) -> "Settings":
        """Returns these settings with other options of the command line, neither preset nor model among them."""
        other = copy.copy(self)
        (origin, given), *others = self._layers
        other._layers = [(origin, {**given, **options}), *others]
        return other

    def _find(self, key: str) -> Setting | None:
        for origin, layer in self._layers:
            if layer.get(key) is not None:
                return Setting(layer[key], origin)
        return None

    def _rank(self, setting: Setting) -> int:
        return [origin for origin, _ in self._layers].index(setting.origin)

    def __getitem__(self, key: str) -> Any:
        return self.origin(key).value

    def given(self, origin: str) -> list[Option]:
        """Returns the settings whose value comes from a layer: "option", "environment" or "user file"."""
        layer = dict(self._layers)[origin]
        return [SETTINGS[key] for key in layer if key in SETTINGS and self.origin(key).origin == origin]

    def origin(self, key: str) -> Setting:
        """Returns the value of a setting with its origin.

        Raises:
            PresetError: If there is no such setting.
        """
        if key == "preset":
            return Setting(self.preset.name, self.preset_origin)
        if key not in SETTINGS:
            raise PresetError(f"setting '{key}' does not exist.{nearest_or_all(key, SETTINGS, 'Settings')}")
        return self._find(key) or Setting(None, "nowhere")

    def parameters(self, method: str, named: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
        """Returns the hyper-parameters of a method that are set; those of the preset only if its method is this one.

        `named` replaces those of the preset, but not those of earlier layers.
        """
        parameters: dict[str, Any] = {}
        for origin, layer in reversed(self._layers):
            of_preset = origin.startswith("preset")
            if not of_preset or self.preset.method.get("name", "vsf") == method:
                for one in METHODS[method].options():
                    if (value := layer.get(one.key)) is not None and not (one.auto and is_auto(value)):
                        parameters[one.field] = one.convert(value)
            if of_preset:
                parameters |= named
        return parameters


def _of_preset(preset: Preset) -> dict[str, Any]:
    method = dict(preset.method)
    name = method.pop("name", "vsf")
    own = {one.key: getattr(preset, one.field) for one in request_options() if one.setting and hasattr(preset, one.field)}
    return {**own, "method": name, **{setting_name(name, key): value for key, value in method.items()}}


def _convert(key: str, value: Any, source: str) -> Value:
    try:
        return SETTINGS[key].convert(value)
    except (ValueError, TypeError) as error:
        raise PresetError(f"{source} is '{value}', but must be {type_name(SETTINGS[key].type)}") from error


def _environment(variables: Mapping[str, str]) -> dict[str, Any]:
    return {
        key: _convert(key, variables[name], f"environment variable {name}")
        for key, one in SETTINGS.items()
        if not one.of_run and variables.get(name := f"VSF_{key.upper()}")
    }


def _user_settings() -> dict[str, Any]:
    path = user_file()
    if os.environ.get("VSF_CONFIG") and not path.is_file():
        advice = "mend the variable, or have 'vsf presets use NAME' write the file"
        raise PresetError(f"environment variable VSF_CONFIG names {path}, and there is no such file: {advice}")
    table = _read_toml(path, str(path)) if path.is_file() else {}
    legal = [key for key, one in SETTINGS.items() if not one.of_run]
    for key in table:
        if key not in legal:
            raise PresetError(f"{path}: unknown key '{key}'.{nearest_or_all(key, legal, 'Legal keys')}")
    return {key: _convert(key, value, f"{path}: '{key}'") for key, value in table.items()}


def remember_preset(name: str) -> Path:
    """Makes a preset the default in the user's file, and returns the file.

    Raises:
        PresetError: If there is no such preset.
    """
    key = "video_preset" if load_preset(name).video else "preset"
    value = str(Path(name).resolve()) if Path(name).suffix == ".toml" else name
    quoted = value.replace("\\", "\\\\").replace('"', '\\"')
    return _rewrite_user_file([f'{key} = "{quoted}"', *_lines_without(key)])


def forget_presets() -> Path | None:
    """Takes back what `remember_preset` chose, for images and for videos, and returns the file; None if nothing was chosen.

    Raises:
        PresetError: If the file cannot be written.
    """
    kept = _lines_without("preset", "video_preset")
    return _rewrite_user_file(kept) if len(kept) < len(_lines_without()) else None


def _lines_without(*keys: str) -> list[str]:
    """Returns the lines of the user's file but those of some keys."""
    path = user_file()
    lines = decode_text(str(path), path.read_bytes()).splitlines() if path.is_file() else []
    return [line for line in lines if line.split("=")[0].strip() not in keys]


def _rewrite_user_file(lines: Sequence[str]) -> Path:
    path = user_file()
    partial = path.with_suffix(".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text("".join(f"{line}\n" for line in lines), "utf-8")
        partial.replace(path)
    except OSError as error:
        raise PresetError(f"{path} cannot be written: {error.strerror}; name another file by VSF_CONFIG") from error
    return path
