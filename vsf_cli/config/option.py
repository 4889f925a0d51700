"""Options as fields of dataclasses: each has its names, help, bounds, and where else it can be set.

The options of the command line, the keys of presets, settings and their environment variables, the columns of a batch, the
fields of file names, the ids of items, the overrides of `vsf again` and the labels of galleries are all derived from these
fields. So a new option is one field, and the code that uses it.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import cache, cached_property
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from vsf_cli.config.strengths import given_strengths, is_auto
from vsf_cli.errors import RequestError

__all__ = [
    "ABLATIONS",
    "CHOICE",
    "FILES",
    "GUIDANCE",
    "IMAGE",
    "JUDGE",
    "KEEP",
    "METHODS",
    "MODEL",
    "NEGATIVE",
    "OUTPUT",
    "PANELS",
    "SIZE",
    "VIDEO",
    "WHAT",
    "WORK",
    "Need",
    "Option",
    "Value",
    "as_field",
    "by_key",
    "check_bounds",
    "fits",
    "given_of",
    "idle",
    "option",
    "options_of",
    "read_bool",
    "run_option",
    "type_name",
    "unlisted",
]

Value = str | int | float | bool | tuple[str, ...]
"""The value of a setting; a tuple if its option is repeatable."""

WHAT, GUIDANCE, SIZE, FILES = "What", "Guidance", "Size and steps", "Files"
MODEL, WORK, JUDGE, OUTPUT = "Model and device", "Work", "Judge", "Output"
METHODS, ABLATIONS = "Other methods", "Ablations"
PANELS = (WHAT, GUIDANCE, SIZE, FILES, MODEL, WORK, JUDGE, OUTPUT, METHODS, ABLATIONS)
"""The groups of options in `--help`, in their order."""

_OPTION = "option"


@dataclass(frozen=True)
class Need:
    """What an option needs: without it, the option has no effect.

    Arguments:
        field: The field or property of a record that says whether it is there.
        words: What it is, and how to get it.
    """

    field: str
    words: str


NEGATIVE = Need("negative", "a negative prompt, and there is none: add --neg")
KEEP = Need("keep", "what --keep names, and it names nothing: add --keep")
CHOICE = Need("chooses", "a choice between images, and there is none: add --alpha auto, or --best-of")
IMAGE = Need("image", "--image, and there is none: add --image")
VIDEO = Need("num_frames", "videos, and none is made: choose a preset of videos")


@dataclass(frozen=True)
class Option:
    """How a field is set.

    Arguments:
        field: The field's name.
        key: Its name as a setting, a column and a field of file names: its first long name, in snake case.
        type: The type of one value: `bool`, `int`, `float` or `str`.
        default: The field's default; None if it has none.
        repeatable: Whether the field is a tuple, to which each use of the option adds.
        names: The names on the command line; empty if it cannot be set there.
        aliases: More names on the command line, which are no names of its column.
        off: The name that turns a bool off; "" derives it, and None means that there is none.
        help: One sentence, without bounds and default.
        panel: The group of `--help` that shows it.
        metavar: The placeholder of its value in `--help`.
        min, max, above: The legal values: at least `min`, at most `max`, more than `above`.
        finite: Whether infinity is illegal.
        parse: Checks a text, and raises `ValueError` if it is not legal.
        sweep: Whether it takes several numbers.
        auto: Whether it also takes `auto`, as `vsf_cli.config.strengths` reads it.
        video: Whether it is for videos only.
        setting: Whether it is a setting: a value of which the settings know the origin.
        of_run: Whether neither the environment nor the user's file can set it.
        column: Whether a batch's table can have it as a column.
        columns: Names of that column, in addition to those of the command line.
        in_name: Whether it is a field of file names.
        label: Whether galleries show it.
        rare: Whether a method's label leaves it out while it has its default.
        identity: Whether it decides the id of a batch's item.
        newer: Whether version 0.1 did not have it: where it has its default, an item has the id that it had then.
        noise: Whether it decides the seed that is drawn for a row without one.
        search: The bounds between which `vsf eval sweep` searches it; None if it does not.
        needs: What has to be there for it to have an effect.
    """

    field: str
    key: str
    type: type
    default: Any = None
    repeatable: bool = False
    names: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    off: str | None = ""
    help: str = ""
    panel: str = GUIDANCE
    metavar: str | None = None
    min: float | None = None
    max: float | None = None
    above: float | None = None
    finite: bool = True
    parse: Callable[[str], object] | None = None
    sweep: bool = False
    auto: bool = False
    video: bool = False
    setting: bool = True
    of_run: bool = False
    column: bool = True
    columns: tuple[str, ...] = ()
    in_name: bool = True
    label: bool = True
    rare: bool = False
    identity: bool = True
    newer: bool = False
    noise: bool = True
    search: tuple[float, float] | None = None
    needs: tuple[Need, ...] = ()

    @property
    def flag(self) -> str:
        """The name in messages, such as `--drop-frames`."""
        return next((name for name in self.names if name.startswith("--")), f"--{self.key.replace('_', '-')}")

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return f"VSF_{self.key.upper()}"

    @property
    def column_names(self) -> tuple[str, ...]:
        """Every name of its column, in snake case; the key comes first."""
        spelled = [name.removeprefix("--").replace("-", "_") for name in self.names if name.startswith("--")]
        return tuple(dict.fromkeys([self.key, *spelled, *self.columns]))

    @cached_property
    def bounds(self) -> str:
        """The legal values in words; "" if all are."""
        if self.min is not None and self.max is not None:
            return f"{self.min:g} to {self.max:g}"
        if self.above == -math.inf:
            return "a number or inf"
        if self.above is not None and self.max is not None:
            return f"more than {self.above:g}, at most {self.max:g}"
        if self.max is not None:
            return f"at most {self.max:g}"
        kind = "a finite number of " if self.type is float and self.finite else ""
        if self.above is not None:
            return f"{kind}more than {self.above:g}"
        if self.min is None:
            return ""
        return f"{kind}{self.min:g} or more" if self.type is float else f"at least {self.min:g}"

    def check(self, value: float | None) -> None:
        """Raises a `RequestError` if a value is beyond the bounds."""
        if value is None or not self.bounds:
            return
        legal = (self.min is None or value >= self.min) and (self.max is None or value <= self.max)
        if not legal or (self.above is not None and not value > self.above) or (self.finite and not math.isfinite(value)):
            raise RequestError(f"{self.key} is {value:.15g}, but must be {self.bounds}")

    def convert(self, value: Any) -> Value:
        """Returns a value of the environment, of a file or of a method in this option's type.

        Raises:
            ValueError: If it cannot be converted.
        """
        if self.auto and is_auto(value):
            given_strengths(value)
            return str(value)
        if self.type is bool and isinstance(value, str):
            return read_bool(value)
        if self.type is int and not isinstance(value, str) and type(value) is not int:
            raise ValueError(f"{value} is not whole")
        return self.type(value)


def option(default: Any, *names: str, **details: Any) -> Any:
    """Returns a dataclass's field with an `Option`.

    Arguments:
        default: The field's default; `MISSING` if it has none.
        names: The names on the command line, such as "-W", "--width".
        details: Other arguments of `Option`; `key` is derived from the names, or is the field's name.
    """
    return field(default=default, metadata={_OPTION: {"names": names, **details}})


def run_option(default: Any, *names: str, setting: bool = False, **details: Any) -> Any:
    """Returns a field whose option decides how a command runs, and not how an image looks."""
    return option(default, *names, **{"setting": setting, "column": False, "in_name": False, "label": False, **details})


def unlisted(default: Any, **details: Any) -> Any:
    """Returns a field that has bounds or other details of an `Option`, but cannot be set by its own name."""
    return option(default, setting=False, column=False, in_name=False, label=False, **details)


@cache
def options_of(record: type, prefix: str = "", every: bool = False) -> tuple[Option, ...]:
    """Returns the options of a dataclass's fields, in their order.

    Arguments:
        record: The dataclass.
        prefix: The prefix of the keys and names of options without names, such as "nag_".
        every: Whether fields without an option get one from their name, type and default.
    """
    return tuple(_option(record, entry, prefix) for entry in fields(record) if every or _OPTION in entry.metadata)


def _option(record: type, entry: Any, prefix: str) -> Option:
    details = dict(entry.metadata.get(_OPTION, {}))
    annotation = get_type_hints(record)[entry.name] if isinstance(entry.type, str) else entry.type
    details.setdefault("panel", METHODS if prefix else GUIDANCE)
    if details.get("video"):
        details["needs"] = (VIDEO, *details.get("needs", ()))
    long = [name for name in details.get("names", ()) if name.startswith("--")]
    derived = long[0].removeprefix("--").replace("-", "_") if long else f"{prefix}{entry.name}"
    one = Option(
        field=entry.name,
        key=details.pop("key", derived),
        type=details.pop("type", None) or _value_type(annotation),
        default=None if entry.default is MISSING else entry.default,
        repeatable=get_origin(annotation) is tuple,
        columns=(*(() if prefix else (entry.name,)), *details.pop("columns", ())),
        **details,
    )
    return replace(one, names=one.names or (one.flag,)) if prefix else one


def by_key(*options: Option) -> dict[str, Option]:
    """Returns options by their keys."""
    return {one.key: one for one in options}


def check_bounds(record: Any, options: tuple[Option, ...]) -> None:
    """Raises a `RequestError` if a record has a number beyond its bounds."""
    for one in options:
        if one.bounds:
            one.check(getattr(record, one.field))


def idle(options: Iterable[Option], *records: Any) -> Iterator[tuple[Option, str]]:
    """Yields each option that has no effect, with a message, since none of the records has what it needs.

    A record has what is true in it; a field that no record has is not asked for.
    """
    for one in options:
        for need in one.needs:
            there = [getattr(record, need.field) for record in records if hasattr(record, need.field)]
            if there and not any(there):
                yield one, f"{one.flag} is for {need.words}, or leave {one.flag} out"
                break


def given_of(record: object) -> list[Option]:
    """Returns the options of a record that do not have their default."""
    kind: type = type(record)
    return [one for one in options_of(kind) if getattr(record, one.field) != one.default]


def read_bool(text: str) -> bool:
    """Returns the value of "true", "yes", "1", "false", "no" or "0".

    Raises:
        ValueError: If the text is another one.
    """
    value = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}.get(text.strip().lower())
    if value is None:
        raise ValueError(f"'{text}' is neither true nor false")
    return value


def _value_type(annotation: Any) -> type:
    """The type of one value: of `float | None` it is `float`, of `tuple[str, ...]` it is `str`."""
    members = [member for member in get_args(annotation) if member not in (NoneType, ...)]
    return _value_type(members[0]) if members else annotation


def fits(annotation: Any, value: Any) -> bool:
    """Returns whether a value of a TOML file is legal for a field: an integer is a float, too, and a list a tuple."""
    if get_origin(annotation) is tuple:
        return isinstance(value, list) and all(fits(_value_type(annotation), entry) for entry in value)
    if get_origin(annotation) is Mapping:
        return isinstance(value, dict)
    wanted = _value_type(annotation)
    if isinstance(value, bool) or wanted is bool:
        return isinstance(value, bool) and wanted is bool
    return isinstance(value, (int, float) if wanted is float else wanted)


def as_field(annotation: Any, value: Any) -> Any:
    """Returns a value that `fits` a field as the field has it: a float and no integer, and a tuple and no list."""
    if isinstance(value, list):
        return tuple(as_field(_value_type(annotation), entry) for entry in value)
    return float(value) if _value_type(annotation) is float and value is not None else value


def type_name(annotation: Any) -> str:
    """Returns the type of a field in words."""
    texts = "a list of texts" if _value_type(annotation) is str else "a list of numbers"
    words = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    return {tuple: texts, Mapping: "a table"}.get(get_origin(annotation)) or words[_value_type(annotation)]
