"""Writes `--help` in panels, and imports commands only when they are used."""

import shutil
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from vsf_cli.cli.usage import UsageError
from vsf_cli.config.option import OUTPUT, PANELS, WHAT

__all__ = ["NUMBER", "NUMBERS", "SETTINGS_OF_HELP", "TEXT", "Command", "Group", "LazyGroup", "command_app"]

MAX_WIDTH, MIN_TABLE_WIDTH, MAX_NAME_WIDTH = 100, 64, 30
"""Columns of the help; where each text is below its option in narrower terminals; and of the names before their texts."""
OTHER, COMMANDS = "Options", "Commands"
NUMBER, NUMBERS, TEXT = "NUMBER", "NUMBERS", "TEXT"
"""What stands for a value in the help."""
NOTES = {
    "SEEDS": "SEEDS: 7, or 1,2,3, or 1..8; one file for each.",
    NUMBERS: "NUMBERS: 3, or 1,2,5, or 0..6/7 (seven of them), or 1:5:0.5 (in steps of 0.5); one file for each.",
}
SETTINGS_OF_HELP: dict[str, Any] = {"help_option_names": ["-h", "--help"]}

Rows = list[tuple[str, str]]


class Command(TyperCommand):
    """A command whose help has its options in panels, the rare ones last, and which says what was given twice or empty."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        with _of_command(ctx):
            values, _, given = self.make_parser(ctx).parse_args(list(args))
        for option in given:
            # An empty negative or kept prompt is none, which `vsf again` takes.
            if (
                not _is_argument(option)
                and "" in _listed(values[str(option.name)])
                and not {"--neg", "--keep"} & {*option.opts}
            ):
                raise typer.BadParameter("it is empty: give a value, or leave it out", ctx, param_hint=_flag(option))
        for option, times in Counter(one for one in given if not _is_argument(one) and not one.multiple).items():
            if times > 1:
                from vsf_cli.cli.console import Console

                Console().warn(f"{_flag(option)} is given {times} times: the last one counts")
        return super().parse_args(ctx, args)

    def get_usage(self, ctx: Any) -> str:
        return _usage(self, ctx)

    def get_help(self, ctx: Any) -> str:
        panels: dict[str, Rows] = {}
        for parameter in _shown(self, ctx):
            panels.setdefault(_panel(parameter), []).append((_names(parameter), _text(parameter)))
        sections = [(name, panels[name]) for name in (OTHER, *PANELS) if name in panels]
        notes = [note for metavar, note in NOTES.items() if metavar in {one.metavar for one in _shown(self, ctx)}]
        return _page(self, ctx, sections, notes)


@contextmanager
def _of_command(ctx: Any) -> Iterator[None]:
    """Notes in an error about the command line inside a `with` which command it is about."""
    try:
        yield
    except UsageError as error:
        error.ctx = error.ctx or ctx
        raise


class Group(TyperGroup):
    """A group of commands whose help has their whole texts."""

    def rows(self) -> Rows:
        """Returns each command's name and help."""
        return [(name, command.help or "") for name, command in self.commands.items()]

    def get_usage(self, ctx: Any) -> str:
        return _usage(self, ctx)

    def get_help(self, ctx: Any) -> str:
        options = [(_names(parameter), _text(parameter)) for parameter in _shown(self, ctx)]
        return _page(self, ctx, [(OTHER, options), (COMMANDS, self.rows())])


class LazyGroup(Group):
    """A group that imports the module of a command when the command is used, so that `vsf --help` is instant."""

    commands_by_name: ClassVar[dict[str, tuple[str, str]]] = {}
    """Each command's module in `vsf_cli.cli`, which has an `app`, and its help."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands_by_name)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in self.commands_by_name and cmd_name not in self.commands:
            module, summary = self.commands_by_name[cmd_name]
            command = get_command(import_module(f"vsf_cli.cli.{module}").app)
            _, *more = (command.help or "").split("\n\n")
            command.name, command.help = cmd_name, "\n\n".join([summary, *more])
            self.commands[cmd_name] = command
        return self.commands.get(cmd_name)

    def rows(self) -> Rows:
        return [(name, summary) for name, (_, summary) in self.commands_by_name.items()]


def _shown(command: Any, ctx: Any) -> Iterator[Any]:
    return (parameter for parameter in command.get_params(ctx) if not parameter.hidden)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _is_argument(parameter: Any) -> bool:
    return parameter.param_type_name == "argument"


def _flag(option: Any) -> str:
    return next((name for name in option.opts if name.startswith("--")), option.opts[0])


def _panel(parameter: Any) -> str:
    if parameter.name == "help":
        return OUTPUT
    return getattr(parameter, "rich_help_panel", None) or (WHAT if _is_argument(parameter) else OTHER)


def _names(parameter: Any) -> str:
    """Returns the name of an argument, or the names of an option and what stands for its value."""
    if _is_argument(parameter):
        return f"{parameter.name.upper()}{'...' if parameter.nargs != 1 else ''}"
    # Short names first: those of --help come from a set, in any order.
    on, off = (
        ", ".join(sorted(names, key=lambda name: name.startswith("--"))) for names in (parameter.opts, parameter.secondary_opts)
    )
    names = f"{on} / {off}" if off else on
    return names if parameter.is_flag else f"{names} {parameter.metavar or TEXT}"


def _text(parameter: Any) -> str:
    """Returns the help of an option or argument, with its bounds and its default if these are not part of it."""
    low, high, default = getattr(parameter.type, "min", None), getattr(parameter.type, "max", None), parameter.default
    details = [] if low is None else [f"at least {low}" if high is None else f"{low} to {high}"]
    if parameter.show_default and default not in (None, False):
        details.append(f"default: {default}")
    return f"{parameter.help} [{'; '.join(details)}]" if details else parameter.help


def _width() -> int:
    return min(MAX_WIDTH, shutil.get_terminal_size().columns)


def _wrapped(text: str, first: str = "  ", others: str = "  ") -> str:
    """Returns a paragraph in lines with an indent. No word is broken, so that values and commands can be copied."""
    wrapper = textwrap.TextWrapper(_width(), first, others, break_on_hyphens=False, break_long_words=False)
    return wrapper.fill(text)


def _usage(command: Any, ctx: Any) -> str:
    arguments = [(_names(one), one.required) for one in _shown(command, ctx) if _is_argument(one)]
    pieces = [name if required else f"[{name}]" for name, required in arguments]
    pieces += ["COMMAND [ARGS]..."] if isinstance(command, TyperGroup) else []
    return _wrapped(" ".join([f"Usage: {ctx.command_path} [OPTIONS]", *pieces]), "", " " * 7)


def _page(command: Any, ctx: Any, sections: Sequence[tuple[str, Rows]], notes: Sequence[str] = ()) -> str:
    above = [_wrapped(" ".join(text.split())) for text in (command.help or "").split("\n\n")]
    panels = ["\n".join([f"{name}:", *_lines(rows, name == COMMANDS)]) for name, rows in sections]
    below = [*notes, *(command.epilog or "").splitlines()]
    return "\n\n".join([_usage(command, ctx), *above, *panels, *map(_wrapped, below)])


def _lines(rows: Rows, as_table: bool) -> Iterator[str]:
    """Yields names with their texts beside them, or below them if the terminal is narrow or a name is long."""
    column = min(MAX_NAME_WIDTH, max(len(name) for name, _ in rows))
    as_table = as_table or _width() >= MIN_TABLE_WIDTH
    indent = " " * (column + 4 if as_table else 4)
    for name, text in rows:
        if as_table and len(name) <= column:
            yield _wrapped(text, f"  {name:{column}}  ", indent)
        else:
            yield _wrapped(name)
            yield _wrapped(text, indent, indent)


def command_app(**details: Any) -> typer.Typer:
    """Returns an app for one command or several."""
    return typer.Typer(
        cls=Group,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        add_completion=False,
        context_settings=SETTINGS_OF_HELP,
        **details,
    )
