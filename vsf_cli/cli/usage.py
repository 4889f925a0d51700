"""Writes the errors of a command line that cannot be parsed in the form of all other errors, on one line."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

__all__ = ["UsageError", "usage_errors"]

UsageError: Any = typer.BadParameter.__base__
PHRASES = {
    r"Invalid value for (?:'-\w' / )?'?(--?[\w-]+|\w+)'?( / '--?[\w-]+')*: ": r"\1: ",
    "is not a valid int( range)?": "is not a whole number",
    "is not a valid float( range)?": "is not a number",
    r"is not in the range x>=(\S+)": r"is less than \1",
    r"is not in the range (\S+)<=x<=(\S+)": r"is not \1 to \2",
    r"Option '(--?[\w-]+)' requires an argument": r"\1 has no value",
}
"""Phrases of Typer, and ours."""


@contextmanager
def usage_errors() -> Iterator[None]:
    """Writes an error about the command line inside a `with`, and exits with its code, 2."""
    try:
        yield
    except UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()
        else:
            _say(error)
        raise typer.Exit(error.exit_code) from error


def _say(error: Any) -> None:
    from vsf_cli.cli.console import Console

    names: list[str] = []
    context = error.ctx
    while context is not None and context.parent is not None:
        names.insert(0, context.info_name)
        context = context.parent
    command = " ".join(["vsf", *names])
    text = _message(error, command).rstrip(".")
    Console().error(f"{text} See '{command} --help'" if text.endswith("?") else f"{text}; see '{command} --help'")


def _message(error: Any, command: str) -> str:
    """Returns what is wrong, with the nearest name of an option or a command that does not exist."""
    text = error.format_message()
    if type(error).__name__ == "NoSuchOption":
        return f"{command} has no option {error.option_name}.{_nearest_option(error)}"
    if match := re.match(r"No such command '(.+?)'", text):
        from vsf_cli.config.names import nearest

        return f"{command} has no command '{match[1]}'.{nearest(match[1], error.ctx.command.list_commands(error.ctx))}"
    if match := re.match(r"Missing argument '(\w+)", text):
        return f"{match[1].upper()} is missing"
    if match := re.match(r"Got unexpected extra arguments?(?:\(s\))? \((.*)\)", text):
        return f"'{match[1]}' is too much: {_taken(error.ctx.command, command)}"
    for pattern, words in PHRASES.items():
        text = re.sub(pattern, words, text, count=1)
    return text


def _taken(command: Any, name: str) -> str:
    """Returns how many arguments a command takes."""
    arguments = [one.name.upper() for one in command.params if one.param_type_name == "argument"]
    if arguments == ["PROMPT"]:
        return "a text with spaces stands in quotes"
    return f"{name} takes one {arguments[0]}" if arguments else f"{name} takes options alone"


def _nearest_option(error: Any) -> str:
    from vsf_cli.config.names import nearest
    from vsf_cli.settings.options import OF_REQUEST, SETTINGS

    if any(one.video and error.option_name in one.names for one in SETTINGS.values()):
        return " It is for 'vsf video' and 'vsf batch'"
    names = [name for one in error.ctx.command.params for name in one.opts if name.startswith("--")] if error.ctx else []
    aliases = {alias: one.flag for one in OF_REQUEST.values() for alias in one.column_names}
    return nearest(error.option_name, names, aliases)
