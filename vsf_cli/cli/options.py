"""From the fields of records to the options of commands, and from what was typed back to records."""

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

__all__ = ["ConsoleOptions", "Json", "Takes", "parsed", "with_options"]


@dataclass(frozen=True)
class ConsoleOptions:
    """What a command says, and in which form.

    Arguments:
        as_json: Whether data are JSON.
        quiet: Whether only warnings and errors are said.
        verbose: Whether more is said.
    """

    as_json: bool = run_option(False, "--json", off=None, help="Write JSON to stdout.", panel=OUTPUT)
    quiet: bool = run_option(False, "-q", "--quiet", off=None, help="Say nothing but warnings and errors.", panel=OUTPUT)
    verbose: bool = run_option(False, "-v", "--verbose", off=None, help="Say more.", panel=OUTPUT)


@dataclass(frozen=True)
class Takes:
    """Which options of a record a command takes: the metadata of its parameter's annotation.

    Arguments:
        only: The keys of the options; empty means all.
        without: Keys of options that are left out.
        video: Whether those for videos are among them.
        sweeps: Whether numbers can be lists and ranges.
    """

    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    video: bool = True
    sweeps: bool = True

    def options(self, record: type) -> list[Option]:
        """The record's options that are taken."""
        every = _of_given() if record is Given else options_of(record)
        taken = [one for one in every if one.names and one.key not in self.without and (self.video or not one.video)]
        return [one for one in taken if not self.only or one.key in self.only]


def _of_given() -> list[Option]:
    """What `Given` holds: whatever decides an image, and all other settings."""
    return list({**OF_REQUEST, **SETTINGS}.values())


Command = Callable[..., None]
Json = Annotated[bool, typer.Option("--json", help="Write JSON to stdout.", rich_help_panel=OUTPUT)]
Parsed = TypeVar("Parsed")


def with_options(command: Command) -> Command:
    """Gives a command options in the place of each parameter that is a record, and makes the record when it is called."""
    parameters = inspect.signature(command).parameters.values()
    records = {one.name: found for one in parameters if (found := _record(one.annotation))}
    own = [one for one in parameters if one.name not in records]
    names = {name for one in own for name in _names(one.annotation)}
    options = [
        _parameter(f"{argument}_{one.key}", one, names, record is Given, takes.sweeps)
        for argument, (record, takes) in records.items()
        for one in takes.options(record)
    ]

    @functools.wraps(command)
    def run(**values: Any) -> None:
        made = {
            argument: _made(record, {one.key: values.pop(f"{argument}_{one.key}", None) for one in takes.options(record)})
            for argument, (record, takes) in records.items()
        }
        command(**values, **made)

    # Typer reads both.
    shown = [*own, *(one for one in options if one is not None)]
    run.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in shown}
    return run


def _record(annotation: Any) -> tuple[type, Takes] | None:
    """The record of a parameter, and which of its options are taken; None if it is a plain parameter."""
    kind, *details = get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
    if not (isinstance(kind, type) and is_dataclass(kind)):
        return None
    return kind, next((one for one in details if isinstance(one, Takes)), Takes())


def _names(annotation: Any) -> Iterator[str]:
    """The option names of a parameter that a command has of its own."""
    for one in get_args(annotation):
        if isinstance(one, typer.models.OptionInfo):
            # Within `Annotated`, Typer keeps the first name where it has the default otherwise.
            yield from (name for name in (one.default, *(one.param_decls or ())) if isinstance(name, str))


def _parameter(name: str, one: Option, taken: set[str], of_given: bool, sweeps: bool) -> inspect.Parameter | None:
    """An option as Typer reads it; None if the command uses all its names for others."""
    names = [each for each in one.names if each not in taken]
    if not names:
        return None
    if one.type is bool and one.off is not None:
        names[-1] = f"{names[-1]}/{one.off or names[-1].replace('--', '--no-', 1)}"
    default = None if of_given or one.repeatable else one.default
    kind, details = _kind(one, sweeps)
    info = typer.Option(*names, help=_help(one), rich_help_panel=one.panel, show_default=False, **details)
    shown: Any = kind if default is not None else kind | None
    annotation: Any = Annotated[shown, info]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _kind(one: Option, sweeps: bool) -> tuple[Any, dict[str, Any]]:
    """The type that Typer reads, and how it reads it."""
    if one.repeatable:
        return list[str], {"metavar": one.metavar or "TEXT"}
    if one.sweep and sweeps:
        return ValueList, {"metavar": one.metavar or "NUMBERS", "parser": functools.partial(_numbers, kind=one.type)}
    if one.parse is not None:
        return str, {"metavar": one.metavar, "parser": functools.partial(_checked, parse=one.parse)}
    return one.type, {"metavar": one.metavar} if one.metavar else {}


def _numbers(text: str, kind: type) -> ValueList:
    try:
        return parse_range(text, kind)
    except (ValueError, RequestError) as error:
        raise typer.BadParameter(str(error)) from error


def _checked(text: str, parse: Callable[[str], object]) -> str:
    # What parses and is not legal is refused by the command, with another exit code.
    with suppress(RequestError):
        try:
            parse(text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
    return text


def _help(one: Option) -> str:
    """The sentence of an option with its bounds, its default and its environment variable."""
    details = [one.bounds.removeprefix("a finite number of ")] if one.bounds else []
    details += ["repeatable"] if one.repeatable else []
    if default := _default(one):
        details.append(f"default: {default}")
    details += [one.variable] if one.setting else []
    return f"{one.help} [{'; '.join(details)}]" if details else one.help


def _default(one: Option) -> str:
    if one.key in OF_REQUEST and not one.setting:
        return ""
    default = {True: "yes", False: "no"}.get(one.default, one.default) if isinstance(one.default, bool) else one.default
    if one.key in method_options():
        return f"by preset, else {default:g}" if isinstance(default, float) else f"by preset, else {default}"
    if one.key in OF_REQUEST:
        return "by preset"
    return "" if default in (None, "no", ()) else str(default)


def _made(record: type, values: Mapping[str, Any]) -> Any:
    if record is Given:
        return _given({key: value for key, value in values.items() if value is not None})
    given = {one.field: values[one.key] for one in options_of(record) if values.get(one.key) is not None}
    return record(**{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()})


def _given(values: dict[str, Any]) -> Given:
    """What was given, with one text for the size, whichever way it was given."""
    settings, several = split_sweeps({key: value for key, value in values.items() if key in SETTINGS})
    sweeps = dict(sorted(several.items(), key=lambda sweep: _turn(sweep[0])))
    if size := chosen_size(values.get("size"), values.get("width"), values.get("height")):
        settings["size"] = size
    text = values.get("seed")
    seeds = None if text is None else parsed("--seed", lambda: tuple(parse_given_seeds(text) or ()))
    negative, loras = (tuple(values[key]) if values.get(key) else None for key in ("negative", "lora"))
    return Given(settings, sweeps, negative, loras, seeds)


def _turn(key: str) -> int:
    """When a setting has its turn among those that are swept, of which the last changes fastest: the method's before steps."""
    one = SETTINGS[key]
    turns = (one.video and one.panel == SIZE, key in method_options(), one.panel == GUIDANCE, one.panel == SIZE)
    return turns.index(True) if True in turns else len(turns)


def parsed(option: str, parse: Callable[[], Parsed]) -> Parsed:
    """A value of the command line; one that cannot be parsed ends with exit code 2."""
    try:
        return parse()
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error
