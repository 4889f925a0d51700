"""Presets: what to load and the settings that suit it; and which layer each setting comes from.

A setting is taken from the first layer that has it: an option of the command line, the environment (`VSF_STEPS`), the user's
file (`config.toml`), the preset, the family's default.
"""

import copy
import difflib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any

import platformdirs
import tomli

from vsf_cli.config.option import Value, fits, type_name
from vsf_cli.errors import PresetError
from vsf_cli.loading.sources import pipeline_of
from vsf_cli.methods import METHODS, Method, method_named, setting_name
from vsf_cli.models import FAMILIES
from vsf_cli.settings.options import DEFAULTS, SETTINGS
from vsf_cli.settings.request import ModelSettings, request_options

__all__ = [
    "DEFAULT_PRESET",
    "SETTINGS",
    "Preset",
    "Setting",
    "Settings",
    "load_preset",
    "nearest",
    "preset_for_model",
    "preset_names",
    "remember_preset",
    "user_file",
]

DEFAULT_PRESET, DEFAULT_VIDEO_PRESET = "tiny-sd3-turbo", "tiny-wan-causvid"


@dataclass(frozen=True, kw_only=True)
class Preset(ModelSettings):
    """A model and the settings that suit it. The fields are the legal keys of a preset's file.

    Arguments:
        name: The name of the file, without its ending.
        about: One line for the list.
        family: A key of `vsf_cli.models.FAMILIES`.
        model: `builtin:NAME`, a hub id, or a folder.
        license: The licence of the weights, and where it can be read.
        download_bytes: About how much is downloaded; None if nothing is, or it is not known.
        source: Where the settings come from.
        measured: What they reached, or that nothing was measured.
        method: The method's name and its hyper-parameters.
        others: As `ModelSettings` has them.
    """

    name: str
    family: str
    model: str
    about: str = ""
    license: str = "not stated"
    download_bytes: int | None = None
    dtype: str = "bfloat16"
    num_inference_steps: int = 28
    source: str = "not stated"
    measured: str = "nothing was measured"
    method: Mapping[str, Any] = field(default_factory=lambda: {"name": "vsf"})

    @property
    def video(self) -> bool:
        """Whether its model makes clips."""
        return FAMILIES[self.family].video

    def guidance(self) -> Method:
        """The preset's own method, with its hyper-parameters."""
        parameters = dict(self.method)
        return method_named(parameters.pop("name", "vsf"), parameters)

    def download(self, model: str) -> tuple[str, str]:
        """How much a model's download takes, and under which licence: what the preset says of its own, unknown of others."""
        own = model == self.model
        size = f"about {self.download_bytes / 1e9:.1f} GB" if own and self.download_bytes else "an unknown number of bytes"
        return size, self.license if own else f"see https://huggingface.co/{model}"

    def revision_of(self, model: str) -> str | None:
        """The revision of the preset's own model; None for another."""
        return self.revision if model == self.model else None


def _illegal_keys(table: Mapping[str, Any]) -> Iterator[tuple[str, list[str], str]]:
    """Each key that is not legal, with the legal ones and the place."""
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


def nearest(word: str, legal: list[str]) -> str:
    """ " Did you mean ...?", or nothing."""
    found = difflib.get_close_matches(word, legal, 1)
    return f" Did you mean '{found[0]}'?" if found else ""


def _parse(name: str, place: str, text: str) -> Preset:
    try:
        table = tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        raise PresetError(f"{place}: not TOML: {error}") from error

    for entry in fields(Preset):
        if entry.name in table and not fits(entry.type, table[entry.name]):
            raise PresetError(f"{place}: '{entry.name}' is {table[entry.name]!r}, but must be {type_name(entry.type)}")
    for key, legal, of in _illegal_keys(table):
        raise PresetError(f"{place}: unknown key '{key}'.{nearest(key, legal)} Legal keys{of}: {', '.join(legal)}")
    for key in ("family", "model"):
        if key not in table:
            raise PresetError(f"{place}: '{key}' is missing: a preset names its family and its model")
    if table["family"] not in FAMILIES:
        raise PresetError(f"{place}: family is '{table['family']}', but families are {', '.join(FAMILIES)}")
    if ("width" in table) != ("height" in table):
        raise PresetError(f"{place}: give both width and height, or neither for the model's own size")
    method = table.get("method", {})
    if method.get("name", "vsf") not in METHODS:
        near = nearest(str(method["name"]), list(METHODS))
        raise PresetError(f"{place}: method.name is '{method['name']}'.{near} Methods: {', '.join(METHODS)}")
    kinds = METHODS[method.get("name", "vsf")].field_types()
    for key, value in method.items():
        if key != "name" and not fits(kinds[key], value):
            wanted = {bool: "true or false", str: "a text"}.get(kinds[key], "a number")
            raise PresetError(f"{place}: 'method.{key}' is {value!r}, but must be {wanted}")
    return Preset(name=name, **{**table, "loras": tuple(table.get("loras", ()))})


def _read(path: Any, place: str) -> str:
    try:
        text: str = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PresetError(f"{place} cannot be read: {error}") from error
    return text


def _shipped() -> Any:
    packed = resources.files("vsf_cli") / "presets"
    return packed if packed.is_dir() else Path(__file__).parents[2] / "presets"


def user_folder() -> Path:
    """The folder of the user's own file and presets."""
    return Path(os.environ.get("VSF_CONFIG") or Path(platformdirs.user_config_dir("vsf")) / "config.toml").parent


def user_file() -> Path:
    """The user's own settings."""
    return Path(os.environ.get("VSF_CONFIG") or user_folder() / "config.toml")


def preset_names() -> list[str]:
    """The names of the presets: those that ship with the package, then the user's own."""
    shipped = sorted(entry.name.removesuffix(".toml") for entry in _shipped().iterdir() if entry.name.endswith(".toml"))
    folder = user_folder() / "presets"
    own = sorted(path.stem for path in folder.glob("*.toml")) if folder.is_dir() else []
    return [*shipped, *(name for name in own if name not in shipped)]


def load_preset(name: str) -> Preset:
    """Reads a preset, by its name or by the path of its file.

    A file in the user's folder `presets` stands before a shipped one of the same name.

    Raises:
        PresetError: If there is none, or it has a key or a value that is not legal.
    """
    path = Path(name)
    if path.suffix == ".toml" or path.parent != Path("."):
        if not path.is_file():
            raise PresetError(f"preset '{name}': there is no such file")
        return _parse(path.stem, name, _read(path, name))

    own = user_folder() / "presets" / f"{name}.toml"
    if own.is_file():
        return _parse(name, str(own), _read(own, str(own)))
    shipped = _shipped() / f"{name}.toml"
    if not shipped.is_file():
        names = preset_names()
        raise PresetError(f"preset '{name}' does not exist.{nearest(name, names)} Presets: {', '.join(names)}")
    return _parse(name, f"presets/{name}.toml", _read(shipped, name))


def preset_for_model(model: str, video: bool = False) -> Preset:
    """The preset that names this model, else one made of its family's defaults."""
    for name in preset_names():
        try:
            preset = load_preset(name)
        except PresetError:
            continue  # A broken file of one's own must not stand in the way of other models.
        if preset.model == model:
            return preset
    pipeline = pipeline_of(model)
    families = sorted(FAMILIES.values(), key=lambda family: (family.video != video, pipeline not in family.pipelines))
    return Preset(name=f"defaults for {Path(model).name}", family=families[0].name, model=model, **families[0].defaults)


@dataclass(frozen=True)
class Setting:
    """A value, and the layer that it comes from."""

    value: Any
    origin: str


def _option(options: Mapping[str, Any], name: str) -> Setting | None:
    return None if options.get(name) is None else Setting(options[name], "option")


class Settings:
    """All settings of a run, each with its origin.

    Arguments:
        options: The options of the command line, by name; None means not given.
        environment: The environment's variables.
        video: Whether they are of clips, which have a preset of their own in every layer.

    Attributes:
        preset: The preset.
        preset_place: What it was asked for by: its name, or the path of its file.
        chosen: Whether a person chose a preset or a model.
        named: Whether a person named the preset: it is meant whatever the model.

    Raises:
        PresetError: If a layer has a key or value that is not legal.
    """

    def __init__(self, options: Mapping[str, Any], environment: Mapping[str, str] | None = None, video: bool = False) -> None:
        self._layers: list[tuple[str, Mapping[str, Any]]] = [
            ("option", {key: value for key, value in options.items() if value is not None}),
            ("environment", _environment(os.environ if environment is None else environment)),
            ("user file", _user_settings()),
        ]
        # What a person writes behind --preset is meant for the command at hand.
        named = _option(options, "preset") or self._find("video_preset" if video else "preset")
        model = self._find("model")
        if named is not None and model is not None and model.origin != "option" and self._rank(named) <= self._rank(model):
            # Whoever chooses a preset means its model, whatever a farther layer says.
            self._layers = [(origin, {**layer, "model": None}) for origin, layer in self._layers]
            model = None
        self.chosen = named is not None or model is not None
        named = self._choose_preset(named, model, video)
        self.preset_origin = named.origin if named else "default"
        self.named = named is not None and named.value is not None
        origin = f"preset {self.preset.name}"
        self._layers += [(origin, _of_preset(self.preset)), ("default", DEFAULTS)]

    def _choose_preset(self, named: "Setting | None", model: "Setting | None", video: bool) -> "Setting | None":
        """Loads the preset, and returns where it comes from; None if nobody chose it."""
        # A model that is named nearer to the command line than a preset decides alone.
        if model is not None and (named is None or self._rank(model) < self._rank(named)):
            self.preset = preset_for_model(model.value, video)
            self.preset_place = self.preset.name
            return Setting(None, f"{model.origin}, by its model")
        self.preset_place = str(named.value) if named else DEFAULT_VIDEO_PRESET if video else DEFAULT_PRESET
        self.preset = load_preset(self.preset_place)
        return named

    def overlaid(self, options: Mapping[str, Any]) -> "Settings":
        """These settings with other options of the command line, neither preset nor model among them."""
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
        """The value of a setting."""
        return self.origin(key).value

    def origin(self, key: str) -> Setting:
        """The value of a setting, and where it comes from.

        Raises:
            PresetError: If there is no such setting.
        """
        if key == "preset":
            return Setting(self.preset.name, self.preset_origin)
        if key not in SETTINGS:
            raise PresetError(f"setting '{key}' does not exist.{nearest(key, list(SETTINGS))} Settings: {', '.join(SETTINGS)}")
        return self._find(key) or Setting(None, "nowhere")

    def parameters(self, method: str, named: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
        """The hyper-parameters of a method: the preset's own if it is for this method, else the method's defaults.

        Arguments:
            method: The method.
            named: Those that stand before the preset's, and behind what a person sets.
        """
        found: dict[str, Any] = {}
        for origin, layer in reversed(self._layers):
            of_preset = origin.startswith("preset")
            if not of_preset or self.preset.method.get("name", "vsf") == method:
                for one in METHODS[method].options():
                    if (value := layer.get(one.key)) is not None:
                        found[one.field] = one.convert(value)
            if of_preset:
                found |= named
        return found


def _of_preset(preset: Preset) -> dict[str, Any]:
    method = dict(preset.method)
    name = method.pop("name", "vsf")
    own = {one.key: getattr(preset, one.field) for one in request_options() if one.setting and hasattr(preset, one.field)}
    return {**own, "method": name, **{setting_name(name, key): value for key, value in method.items()}}


def _convert(key: str, value: Any, place: str) -> Value:
    one = SETTINGS[key]
    try:
        return one.convert(value)
    except (ValueError, TypeError) as error:
        raise PresetError(f"{place} is '{value}', but must be {one.type.__name__}") from error


def _environment(variables: Mapping[str, str]) -> dict[str, Any]:
    return {
        key: _convert(key, variables[name], f"environment variable {name}")
        for key in SETTINGS
        if variables.get(name := f"VSF_{key.upper()}")
    }


def _user_settings() -> dict[str, Any]:
    path = user_file()
    if not path.is_file():
        return {}
    try:
        table = tomli.loads(_read(path, str(path)))
    except tomli.TOMLDecodeError as error:
        raise PresetError(f"{path}: not TOML: {error}") from error
    for key in table:
        if key not in SETTINGS:
            raise PresetError(f"{path}: unknown key '{key}'.{nearest(key, list(SETTINGS))} Legal keys: {', '.join(SETTINGS)}")
    return {key: _convert(key, value, f"{path}: '{key}'") for key, value in table.items()}


def remember_preset(name: str) -> Path:
    """Makes a preset the default from now on, and leaves the rest of the user's file as it is.

    Returns:
        The user's file.

    Raises:
        PresetError: If there is no such preset.
    """
    key = "video_preset" if load_preset(name).video else "preset"
    value = str(Path(name).resolve()) if Path(name).suffix == ".toml" else name
    path = user_file()
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    kept = [line for line in lines if line.split("=")[0].strip() != key]
    quoted = value.replace("\\", "\\\\").replace('"', '\\"')
    beside = path.with_suffix(".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text("\n".join([f'{key} = "{quoted}"', *kept]) + "\n", "utf-8")
        beside.replace(path)
    except OSError as error:
        raise PresetError(f"{path} cannot be written: {error.strerror}; name another file by VSF_CONFIG") from error
    return path
