"""What is compared: each arm is a method with its settings, read from a TOML file of tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import tomli

from vsf_cli.errors import RequestError
from vsf_cli.methods import METHODS, resolved
from vsf_cli.settings.options import SETTINGS
from vsf_cli.settings.presets import FAMILY_DEFAULTS, Preset, nearest

__all__ = ["BASELINE", "Arm", "choose_arms", "load_arms"]

BASELINE = "vsf"
"""The arm that all others are tested against."""


@dataclass(frozen=True)
class Arm:
    """One side of a comparison.

    Arguments:
        name: Its row in tables; letters, digits, `+` and dashes.
        label: What a reader sees.
        settings: The settings of a run that are its own, by the names of the command line; the preset has the others.
        presets: The presets it is for; empty means all.
        family: The family of models it is for; empty means all.
        optional: Whether "all" leaves it out.
        search: The settings that a sweep searches, with their bounds; empty means those of the method.
    """

    name: str
    label: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    presets: tuple[str, ...] = ()
    search: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    optional: bool = False
    family: str = ""

    def suits(self, preset: Preset) -> bool:
        """Whether it is for a preset."""
        return (not self.presets or preset.name in self.presets) and self.family in ("", preset.family)


def load_arms(path: Path | None = None) -> list[Arm]:
    """The arms of a file, or those that ship with the package and every method that has none among them.

    Raises:
        RequestError: If the file cannot be read, or says something that is not legal.
    """
    place = str(path) if path else "arms.toml"
    try:
        text = (path or resources.files("vsf_cli.evaluation") / "data" / "arms.toml").read_text("utf-8")
        found = tomli.loads(text)
    except (OSError, UnicodeDecodeError, tomli.TOMLDecodeError) as error:
        raise RequestError(f"{place} cannot be read as TOML: {error}") from error
    arms = [_arm(place, name, table) for name, table in found.items()]
    there = {resolved(str(arm.settings.get("method")))[0] for arm in arms}
    return (
        arms
        if path
        else [*arms, *(Arm(name, one.label, {"method": name}) for name, one in METHODS.items() if name not in there)]
    )


def _arm(place: str, name: str, table: Any) -> Arm:
    if not isinstance(table, dict) or not name.replace("-", "").replace("+", "").isalnum():
        raise RequestError(f"{place}: '{name}' must be a table, named with letters, digits, + and dashes")
    settings = dict(table)
    label, presets, optional = settings.pop("label", name), settings.pop("presets", []), settings.pop("optional", False)
    if not isinstance(presets, list):
        raise RequestError(f"{place}: {name}.presets is {presets!r}, but must be a list of presets' names")
    family = settings.pop("family", "")
    if family not in ("", *FAMILY_DEFAULTS):
        raise RequestError(f"{place}: {name}.family is {family!r}, but families are {', '.join(FAMILY_DEFAULTS)}")
    search = settings.pop("search", {})
    if not isinstance(search, dict) or not all(isinstance(span, list) and len(span) == 2 for span in search.values()):
        raise RequestError(f"{place}: {name}.search is {search!r}, but must be a table such as {{ alpha = [0.0, 6.0] }}")
    for key in (*settings, *search):
        if key not in SETTINGS:
            raise RequestError(f"{place}: {name}.{key} is no setting.{nearest(key, list(SETTINGS))}")
    bounds = {key: (span[0], span[1]) for key, span in search.items()}
    return Arm(name, str(label), settings, tuple(presets), bounds, bool(optional), family)


def choose_arms(arms: Sequence[Arm], names: str, preset: Preset) -> list[Arm]:
    """The arms that a person names, joined by commas; "all" takes those for a preset, "everything" the optional ones too.

    Raises:
        RequestError: If a name is not known, or an arm is for another preset.
    """
    fitting = {arm.name: arm for arm in arms if arm.suits(preset)}
    if names.strip() in ("all", "everything"):
        return [arm for arm in fitting.values() if names.strip() == "everything" or not arm.optional]
    chosen = []
    for name in dict.fromkeys(part.strip() for part in names.split(",") if part.strip()):
        if name not in fitting:
            known = {arm.name for arm in arms}
            why = f"is not for preset {preset.name}" if name in known else f"is not known.{nearest(name, list(fitting))}"
            raise RequestError(f"method '{name}' {why} Methods of preset {preset.name}: {', '.join(fitting)}")
        chosen.append(fitting[name])
    if not chosen:
        raise RequestError(f"--method names nothing: write all, or some of {', '.join(fitting)}")
    return chosen
