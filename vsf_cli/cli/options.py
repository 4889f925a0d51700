"""Turns the fields of records into options of commands, and the values of options back into records."""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, is_dataclass
from typing import Annotated, Any, TypeVar, get_args, get_origin

import typer

from vsf_cli.cli.help import NUMBER, NUMBERS, TEXT
from vsf_cli.config.option import (
    CHOICE,
    GUIDANCE,
    JUDGE,
    OUTPUT,
    SIZE,
    WHAT,
    Need,
    Option,
    check_bounds,
    idle,
    options_of,
    run_option,
)
from vsf_cli.config.ranges import ValueList, parse_range, split_sweeps
from vsf_cli.config.strengths import is_auto
from vsf_cli.config.values import chosen_size, parse_given_seeds
from vsf_cli.errors import RequestError
from vsf_cli.methods import method_options
from vsf_cli.settings.options import OF_REQUEST, SETTINGS, Given
from vsf_cli.settings.presets import Preset
from vsf_cli.settings.request import UNCHOSEN

__all__ = ["ConsoleOptions", "DryRun", "Json", "ManyOptions", "Takes", "command_option", "parsed", "with_options"]

NOT_OF_PRESETS = tuple(name for name in UNCHOSEN if name not in Preset.__dataclass_fields__)
"""The settings of a choice that no preset has."""
PRESET = "a small built-in model"
"""What `--preset` is by default, in the help."""


@dataclass(frozen=True)
class ManyOptions:
    """The options of commands that may make many images."""

    replacements: tuple[str, ...] = run_option(
        (), "--sr", help="'wheels=>door,windows' tries each in place of wheels.", panel=WHAT, metavar="WORDS"
    )
    strict: bool = run_option(
        False,
        "--strict",
        off=None,
        help="Exit with 3 if the judge is not content with an image.",
        panel=JUDGE,
        needs=(CHOICE,),
    )
    dry_run: bool = run_option(False, "--dry-run", off=None, help="Say what would be done, and stop.", panel=OUTPUT)


@dataclass(frozen=True)
class ConsoleOptions:
    """How much a command writes, and in which form."""

    as_json: bool = run_option(False, "--json", off=None, help="Write JSON to stdout.", panel=OUTPUT)
    quiet: bool = run_option(False, "-q", "--quiet", off=None, help="Say nothing but warnings and errors.", panel=OUTPUT)
    verbose: bool = run_option(
        False,
        *("-v", "--verbose"),
        off=None,
        help="Say more.",
        panel=OUTPUT,
        needs=(Need("may_talk", "more words, and --quiet is for fewer: leave --quiet out"),),
    )

    @property
    def may_talk(self) -> bool:
        """Whether more than warnings and errors is written."""
        return not self.quiet


@dataclass(frozen=True)
class Takes:
    """Metadata of a parameter's annotation: which options of the record the command takes.

    Arguments:
        only: The keys of the options; empty means all.
        without: Keys of options that are left out.
        video: Whether options for videos are taken.
        sweeps: Whether numbers can be lists and ranges.
        single: Whether the command refuses them with an error of its own, so that the help speaks of one number.
        of_file: Whether the options replace those of a file, so that their defaults are the file's.
        seed: What the seed is by default, in words.
        preset: The setting that `--preset` replaces.
        hidden: Keys of options that the command refuses with an error of its own, and that the help leaves out.
    """

    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    video: bool = True
    sweeps: bool = True
    single: bool = False
    of_file: bool = False
    seed: str = "random"
    preset: str = "preset"
    hidden: tuple[str, ...] = ()

    def options(self, record: type) -> list[Option]:
        """Returns the options of a record that are taken."""
        every = {**OF_REQUEST, **SETTINGS}.values() if record is Given else options_of(record)
        taken = [one for one in every if one.names and one.key not in self.without and (self.video or not one.video)]
        return [one for one in taken if not self.only or one.key in self.only]


Command = Callable[..., None]
Parsed = TypeVar("Parsed")


def command_option(*names: str, help: str, panel: str, metavar: str = TEXT, **details: Any) -> Any:
    """Returns an option that one command has beside those of its records."""
    return typer.Option(*names, help=help, rich_help_panel=panel, metavar=metavar, **details)


DryRun = Annotated[bool, command_option("--dry-run", help="Say what would be done, and stop.", panel=OUTPUT)]
Json = Annotated[bool, command_option("--json", help="Write JSON to stdout.", panel=OUTPUT)]


def with_options(command: Command) -> Command:
    """Replaces each parameter of a command that is a record by options; a call builds the record from their values."""
    parameters = inspect.signature(command).parameters.values()
    records = {one.name: record for one in parameters if (record := _record(one.annotation))}
    own = [one for one in parameters if one.name not in records]
    names = {name for one in own for name in _names(one.annotation)}
    options = [
        _parameter(f"{argument}_{one.key}", one, names, record is Given, takes)
        for argument, (record, takes) in records.items()
        for one in takes.options(record)
    ]

    @functools.wraps(command)
    def run(context: typer.Context, **values: Any) -> None:
        for argument, (record, takes) in records.items():
            values[argument] = _taken(context, values, argument, record, takes)
        command(**values)

    # Typer reads both.
    parameter = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    shown = [*own, parameter, *(one for one in options if one is not None)]
    run.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in shown}
    return run


def _taken(context: typer.Context, values: dict[str, Any], argument: str, record: type, takes: Takes) -> Any:
    """Takes the values of a record's options out of those of a command, and returns the record."""
    taken = {f"{argument}_{one.key}": one for one in takes.options(record)}
    built = _build(record, {one.key: values.pop(name, None) for name, one in taken.items()})
    _check_needs(built, [one for name, one in taken.items() if _is_given(context, name)])
    return built


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _check_needs(record: Any, given: Sequence[Option]) -> None:
    """Refuses given options without an effect, by their own record; those of images are checked when they are planned."""
    for _, message in idle([] if isinstance(record, Given) else given, record):
        raise RequestError(message)


def _record(annotation: Any) -> tuple[type, Takes] | None:
    """Returns the record of a parameter, and which of its options are taken; None for a plain parameter."""
    kind, *details = get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
    if not (isinstance(kind, type) and is_dataclass(kind)):
        return None
    return kind, next((one for one in details if isinstance(one, Takes)), Takes())


def _names(annotation: Any) -> Iterator[str]:
    """Yields the option names of a plain parameter."""
    for one in get_args(annotation):
        if isinstance(one, typer.models.OptionInfo):
            # Within `Annotated`, Typer keeps the first name where it has the default otherwise.
            yield from (name for name in (one.default, *(one.param_decls or ())) if isinstance(name, str))


def _parameter(name: str, one: Option, taken: set[str], of_given: bool, takes: Takes) -> inspect.Parameter | None:
    """Returns an option as Typer reads it; None if plain parameters of the command use all its names."""
    names = [each for each in (*one.names, *one.aliases) if each not in taken]
    if not names:
        return None
    if one.type is bool and one.off is not None:
        names[-1] = f"{names[-1]}/{one.off or names[-1].replace('--', '--no-', 1)}"
    default = None if of_given or one.repeatable else one.default
    kind, details = _kind(one, takes)
    details |= {"show_default": False, "hidden": one.key in takes.hidden}
    info = command_option(*names, help=_help(one, takes), panel=one.panel, **details)
    shown: Any = kind if default is not None else kind | None
    annotation: Any = Annotated[shown, info]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _kind(one: Option, takes: Takes) -> tuple[Any, dict[str, Any]]:
    """Returns the type of an option for Typer, how its text is parsed, and what stands for its value in the help."""
    metavar = one.metavar or (NUMBER if one.type in (int, float) else TEXT)
    if takes.single:
        metavar = metavar.replace("SEEDS", "SEED")
    if one.repeatable:
        return list[str], {"metavar": metavar}
    if one.sweep and takes.sweeps:
        several = metavar if takes.single else NUMBERS
        return ValueList, {"metavar": several, "parser": functools.partial(_numbers, one=one)}
    if one.parse is not None:
        return str, {"metavar": metavar, "parser": functools.partial(_checked, parse=one.parse)}
    return one.type, {"metavar": metavar}


def _numbers(text: str, one: Option) -> ValueList | str:
    try:
        return str(one.convert(text)) if one.auto and is_auto(text) else parse_range(text, one.type)
    except (ValueError, RequestError) as error:
        raise typer.BadParameter(str(error)) from error


def _checked(text: str, parse: Callable[[str], object]) -> str:
    # The command refuses values that parse but are not legal, with another exit code.
    with suppress(RequestError):
        try:
            parse(text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
    return text


def _help(one: Option, takes: Takes) -> str:
    """Returns the help of an option with its bounds, its default and its environment variable."""
    of_file = takes.of_file and _is_of_request(one)
    details = [one.bounds.removeprefix("a finite number of ")] if one.bounds else []
    details += ["repeatable"] if one.repeatable else []
    if default := "the file's" if of_file else _default(one, takes):
        details.append(f"default: {default}")
    # A file's own values count before those of the environment.
    if one.setting and not one.of_run and not of_file:
        setting = SETTINGS[takes.preset] if one.key == "preset" else one
        details.append(f"env: {setting.variable}")
    return f"{one.help} [{'; '.join(details)}]" if details else one.help


def _is_of_request(one: Option) -> bool:
    # Commands have options of their own with the same keys.
    return OF_REQUEST.get(one.key) == one


def _default(one: Option, takes: Takes) -> str:
    default = {True: "yes", False: "no"}[one.default] if isinstance(one.default, bool) else one.default
    if not _is_of_request(one) or one.key in NOT_OF_PRESETS:
        return "" if default in (None, "no", ()) else str(default)
    if one.key == "preset" or one.of_run or not one.setting:
        return {"preset": PRESET, "seed": takes.seed}.get(one.key, "")
    if one.key in method_options():
        return f"by preset, else {default:g}" if isinstance(default, float) else f"by preset, else {default}"
    return "by preset"


def _build(record: type, values: Mapping[str, Any]) -> Any:
    if record is Given:
        given = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        return _given({key: value for key, value in given.items() if value is not None and value != ()})
    given = {one.field: values[one.key] for one in options_of(record) if values.get(one.key) is not None}
    built = record(**{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()})
    check_bounds(built, options_of(record))
    return built


def _given(values: dict[str, Any]) -> Given:
    settings, several = split_sweeps({key: value for key, value in values.items() if key in SETTINGS})
    sweeps = dict(sorted(several.items(), key=lambda sweep: _sweep_order(sweep[0])))
    if size := chosen_size(values.get("size"), values.get("width"), values.get("height")):
        settings["size"] = size
    text = values.get("seed")
    seeds = None if text is None else parsed("--seed", lambda: tuple(parse_given_seeds(text) or ()))
    negative, keep, loras = (values.get(key) for key in ("negative", "keep", "lora"))
    return Given(settings, sweeps, negative, keep, loras, seeds)


def _sweep_order(key: str) -> int:
    """Returns the rank of a setting among those that are swept, of which the last changes fastest."""
    one = SETTINGS[key]
    ranks = (one.video and one.panel == SIZE, key in method_options(), one.panel == GUIDANCE, one.panel == SIZE)
    return ranks.index(True) if True in ranks else len(ranks)


def parsed(option: str, parse: Callable[[], Parsed]) -> Parsed:
    """Returns a parsed value of the command line; one that cannot be parsed ends with exit code 2."""
    try:
        return parse()
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error
