"""The variants that an evaluation compares: a method with its settings each, read from a TOML file of tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import tomli

from vsf_cli.config.names import nearest, nearest_or_all
from vsf_cli.errors import RequestError
from vsf_cli.generation.plan import request_of
from vsf_cli.judges.questions import Record
from vsf_cli.methods import METHODS, resolved
from vsf_cli.models import FAMILIES
from vsf_cli.prompts.texts import Texts, decode_text
from vsf_cli.settings.options import SETTINGS
from vsf_cli.settings.presets import Preset, Settings

__all__ = ["BASELINE", "Variant", "check_variants", "choose_variants", "load_variants"]

BASELINE = "vsf"
"""The name of the variant that all others are tested against."""


@dataclass(frozen=True)
class Variant:
    """One side of a comparison.

    Arguments:
        name: The name of its row in tables; letters, digits, `+` and dashes.
        label: The label for readers.
        settings: Its own settings, by the names of the command line; the preset has the others.
        presets: The presets that it is for; empty means all.
        search: The settings that a sweep searches, with their bounds; empty means those of the method.
        optional: Whether "all" leaves it out.
        family: The family of models that it is for; empty means all.
        keeps: Whether it is told what must stay, as by `--keep`.
        names_kept: Whether the prompt names what must stay, as one would without `--keep`.
    """

    name: str
    label: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    presets: tuple[str, ...] = ()
    search: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    optional: bool = False
    family: str = ""
    keeps: bool = False
    names_kept: bool = False

    def texts(self, record: Record) -> Texts:
        """Returns the texts of a record's image."""
        named = self.names_kept and record.keep
        prompt = f"{record.prompt} with {' and '.join(record.keep)}" if named else record.prompt
        return Texts(prompt, (record.negative,), record.keep if self.keeps else ())

    def suits(self, preset: Preset) -> bool:
        """Returns whether it is for a preset."""
        return (not self.presets or preset.name in self.presets) and self.family in ("", preset.family)


def load_variants(path: Path | None = None) -> list[Variant]:
    """Returns the variants of a file, or those of the package and one for each method that has none among them.

    Raises:
        RequestError: If the file cannot be read, or a table is not legal.
    """
    source = str(path) if path else "arms.toml"
    try:
        data = (path or resources.files("vsf_cli.evaluation") / "data" / "arms.toml").read_bytes()
        tables = tomli.loads(decode_text(source, data))
    except (OSError, tomli.TOMLDecodeError) as error:
        raise RequestError(f"{source} cannot be read as TOML: {error}") from error
    variants = [_variant(source, name, table) for name, table in tables.items()]
    methods = {resolved(str(variant.settings.get("method")))[0] for variant in variants}
    if path:
        return variants
    return [*variants, *(Variant(name, one.label, {"method": name}) for name, one in METHODS.items() if name not in methods)]


def _variant(source: str, name: str, table: Any) -> Variant:
    if not isinstance(table, dict) or not name.replace("-", "").replace("+", "").isalnum():
        raise RequestError(f"{source}: '{name}' must be a table, named with letters, digits, + and dashes")
    settings = dict(table)
    label, presets, optional = settings.pop("label", name), settings.pop("presets", []), settings.pop("optional", False)
    if not isinstance(presets, list):
        raise RequestError(f"{source}: {name}.presets is {presets!r}, but must be a list of presets' names")
    family = settings.pop("family", "")
    keeps, names_kept = (bool(settings.pop(key, False)) for key in ("keeps", "names_kept"))
    if family not in ("", *FAMILIES):
        raise RequestError(f"{source}: {name}.family is {family!r}, but families are {', '.join(FAMILIES)}")
    search = settings.pop("search", {})
    if not isinstance(search, dict) or not all(isinstance(span, list) and len(span) == 2 for span in search.values()):
        raise RequestError(f"{source}: {name}.search is {search!r}, but must be a table such as {{ alpha = [0.0, 6.0] }}")
    for key in (*settings, *search):
        if key not in SETTINGS:
            raise RequestError(f"{source}: {name}.{key} is not a setting.{nearest(key, list(SETTINGS))}")
    bounds = {key: (span[0], span[1]) for key, span in search.items()}
    return Variant(name, str(label), settings, tuple(presets), bounds, bool(optional), family, keeps, names_kept)


def choose_variants(variants: Sequence[Variant], names: str, preset: Preset) -> list[Variant]:
    """Returns the variants by their names, joined by commas; "all" takes those of a preset, "everything" the optional ones too.

    Raises:
        RequestError: If a name is not known, or a variant is for another preset.
    """
    fitting = {variant.name: variant for variant in variants if variant.suits(preset)}
    if names.strip() in ("all", "everything"):
        return [variant for variant in fitting.values() if names.strip() == "everything" or not variant.optional]
    chosen = []
    for name in dict.fromkeys(part.strip() for part in names.split(",") if part.strip()):
        if name not in fitting:
            known, ours = {variant.name for variant in variants}, f"Methods of preset {preset.name}"
            if name in known:
                raise RequestError(f"method '{name}' is not for preset {preset.name}. {ours}: {', '.join(fitting)}")
            raise RequestError(f"method '{name}' is not known.{nearest_or_all(name, fitting, ours)}")
        chosen.append(fitting[name])
    if not chosen:
        raise RequestError(f"--method names nothing: write all, or some of {', '.join(fitting)}")
    return chosen


def check_variants(variants: Sequence[Variant], record: Record, settings: Mapping[str, Any], video: bool) -> None:
    """Checks the settings of variants by what each would make of a record, so that an error is not one of the prompts.

    Raises:
        RequestError: If one is not legal; it names the variant.
    """
    for variant in variants:
        try:
            request_of(variant.texts(record), 0, Settings({**settings, **variant.settings}, video=video), (), video)
        except RequestError as error:
            raise RequestError(f"method {variant.name}: {error}") from error
