"""Turns the fields of records into options of commands, and the values of options back into records."""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, is_dataclass
from typing import Annotated, Any, TypeVar, get_args, get_origin

import typer

from vsf_cli.config.option import GUIDANCE, OUTPUT, SIZE, Option, options_of, run_option
from vsf_cli.config.ranges import ValueList, parse_range, split_sweeps
from vsf_cli.config.values import chosen_size, parse_given_seeds
from vsf_cli.errors import RequestError
from vsf_cli.methods import method_options
from vsf_cli.settings.options import OF_REQUEST, SETTINGS, Given

__all__ = ["ConsoleOptions", "DryRun", "Json", "Takes", "command_option", "parsed", "with_options"]


@dataclass(frozen=True)
class ConsoleOptions:
    """How much a command writes, and in which form."""

    as_json: bool = run_option(False, "--json", off=None, help="Write JSON to stdout.", panel=OUTPUT)
    quiet: bool = run_option(False, "-q", "--quiet", off=None, help="Say nothing but warnings and errors.", panel=OUTPUT)
    verbose: bool = run_option(False, "-v", "--verbose", off=None, help="Say more.", panel=OUTPUT)


@dataclass(frozen=True)
class Takes:
    """Metadata of a parameter's annotation: which options of the record the command takes.

    Arguments:
        only: The keys of the options; empty means all.
        without: Keys of options that are left out.
        video: Whether options for videos are taken.
        sweeps: Whether numbers can be lists and ranges.
    """

    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    video: bool = True
    sweeps: bool = True

    def options(self, record: type) -> list[Option]:
        """Returns the options of a record that are taken."""
        every = {**OF_REQUEST, **SETTINGS}.values() if record is Given else options_of(record)
        taken = [one for one in every if one.names and one.key not in self.without and (self.video or not one.video)]
        return [one for one in taken if not self.only or one.key in self.only]


Command = Callable[..., None]
Parsed = TypeVar("Parsed")


def command_option(*names: str, help: str, panel: str, **details: Any) -> Any:
    """Returns an option that one command has beside those of its records."""
    return typer.Option(*names, help=help, rich_help_panel=panel, **details)


DryRun = Annotated[bool, command_option("--dry-run", help="Say what would be done, and stop.", panel=OUTPUT)]
Json = Annotated[bool, command_option("--json", help="Write JSON to stdout.", panel=OUTPUT)]


def with_options(command: Command) -> Command:
    """Replaces each parameter of a command that is a record by options; a call builds the record from their values."""
    parameters = inspect.signature(command).parameters.values()
    records = {one.name: record for one in parameters if (record := _record(one.annotation))}
    own = [one for one in parameters if one.name not in records]
    names = {name for one in own for name in _names(one.annotation)}
    options = [
        _parameter(f"{argument}_{one.key}", one, names, record is Given, takes.sweeps)
        for argument, (record, takes) in records.items()
        for one in takes.options(record)
    ]

    @functools.wraps(command)
    def run(**values: Any) -> None:
        for argument, (record, takes) in records.items():
            given = {one.key: values.pop(f"{argument}_{one.key}", None) for one in takes.options(record)}
            values[argument] = _build(record, given)
        command(**values)

    # Typer reads both.
    shown = [*own, *(one for one in options if one is not None)]
    run.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in shown}
    return run


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


def _parameter(name: str, one: Option, taken: set[str], of_given: bool, sweeps: bool) -> inspect.Parameter | None:
    """Returns an option as Typer reads it; None if plain parameters of the command use all its names."""
    names = [each for each in one.names if each not in taken]
    if not names:
        return None
    if one.type is bool and one.off is not None:
        names[-1] = f"{names[-1]}/{one.off or names[-1].replace('--', '--no-', 1)}"
    default = None if of_given or one.repeatable else one.default
    kind, details = _kind(one, sweeps)
    info = command_option(*names, help=_help(one), panel=one.panel, show_default=False, **details)
    shown: Any = kind if default is not None else kind | None
    annotation: Any = Annotated[shown, info]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _kind(one: Option, sweeps: bool) -> tuple[Any, dict[str, Any]]:
    """Returns the type of an option for Typer, and how its text is parsed."""
    if one.repeatable:
        return list[str], {"metavar": one.metavar or "TEXT"}
    if one.sweep and sweeps:
        return ValueList, {"metavar": one.metavar or "NUMBERS", "parser": functools.partial(_numbers, kind=one.type)}
    if one.parse is not None:
        return str, {"metavar": one.metavar or "TEXT", "parser": functools.partial(_checked, parse=one.parse)}
    return one.type, {"metavar": one.metavar} if one.metavar else {}


def _numbers(text: str, kind: type) -> ValueList:
    try:
        return parse_range(text, kind)
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


def _help(one: Option) -> str:
    """Returns the help of an option with its bounds, its default and its environment variable."""
    details = [one.bounds.removeprefix("a finite number of ")] if one.bounds else []
    details += ["repeatable"] if one.repeatable else []
    if default := _default(one):
        details.append(f"default: {default}")
    details += [one.variable] if one.setting else []
    return f"{one.help} [{'; '.join(details)}]" if details else one.help


def _default(one: Option) -> str:
    if one.key == "preset" or (one.key in OF_REQUEST and not one.setting):
        return ""
    default = {True: "yes", False: "no"}.get(one.default, one.default) if isinstance(one.default, bool) else one.default
    if one.key in method_options():
        return f"by preset, else {default:g}" if isinstance(default, float) else f"by preset, else {default}"
    if one.key in OF_REQUEST:
        return "by preset"
    return "" if default in (None, "no", ()) else str(default)


def _build(record: type, values: Mapping[str, Any]) -> Any:
    if record is Given:
        return _given({key: value for key, value in values.items() if value is not None})
    given = {one.field: values[one.key] for one in options_of(record) if values.get(one.key) is not None}
    return record(**{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()})


def _given(values: dict[str, Any]) -> Given:
    settings, several = split_sweeps({key: value for key, value in values.items() if key in SETTINGS})
    sweeps = dict(sorted(several.items(), key=lambda sweep: _sweep_order(sweep[0])))
    if size := chosen_size(values.get("size"), values.get("width"), values.get("height")):
        settings["size"] = size
    text = values.get("seed")
    seeds = None if text is None else parsed("--seed", lambda: tuple(parse_given_seeds(text) or ()))
    negative, keep, loras = (tuple(values[key]) if values.get(key) else None for key in ("negative", "keep", "lora"))
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
