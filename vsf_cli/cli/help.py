"""Writes `--help` in panels, and imports commands only when they are used."""

import shutil
from importlib import import_module
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from vsf_cli.config.option import OUTPUT, PANELS, WHAT

__all__ = ["SETTINGS_OF_HELP", "Command", "LazyGroup", "command_app"]

MAX_WIDTH, MIN_TABLE_WIDTH = 100, 64
"""Columns of the help; in a narrower terminal than the second, each text is below its option."""
OTHER = "Options"
SETTINGS_OF_HELP: dict[str, Any] = {
    "help_option_names": ["-h", "--help"],
    "terminal_width": min(MAX_WIDTH, shutil.get_terminal_size().columns),
}


class Command(TyperCommand):
    """A command whose help has its options in panels, the rare ones last."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        panels: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if (record := parameter.get_help_record(ctx)) is not None:
                panels.setdefault(_panel(parameter), []).append(record)
        for name in (panel for panel in (OTHER, *PANELS) if panel in panels):
            with formatter.section(name):
                _write_rows(formatter, panels[name])


def _panel(parameter: Any) -> str:
    if parameter.name == "help":
        return OUTPUT
    return getattr(parameter, "rich_help_panel", None) or (WHAT if parameter.param_type_name == "argument" else OTHER)


def _write_rows(formatter: Any, rows: list[tuple[str, str]]) -> None:
    if formatter.width >= MIN_TABLE_WIDTH:
        formatter.write_dl(rows)
        return
    for names, text in rows:
        formatter.write_text(names)
        with formatter.indentation():
            formatter.write_text(text)


class LazyGroup(TyperGroup):
    """A group that imports the module of a command when the command is used, so that `vsf --help` is instant."""

    commands_by_name: ClassVar[dict[str, tuple[str, str]]] = {}
    """Each command's module in `vsf_cli.cli`, which has an `app`, and its help."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands_by_name)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in self.commands_by_name and cmd_name not in self.commands:
            module, summary = self.commands_by_name[cmd_name]
            command = get_command(import_module(f"vsf_cli.cli.{module}").app)
            command.name, command.help = cmd_name, summary
            self.commands[cmd_name] = command
        return self.commands.get(cmd_name)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in self.commands_by_name.items()])


def command_app(**details: Any) -> typer.Typer:
    """Returns an app for one command or several."""
    return typer.Typer(
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        add_completion=False,
        context_settings=SETTINGS_OF_HELP,
        **details,
    )
