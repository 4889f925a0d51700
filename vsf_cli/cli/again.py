"""`vsf again`: remakes a file from its metadata."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from vsf_cli.cli.console import Console
from vsf_cli.cli.error_boundary import handle_errors
from vsf_cli.cli.help import Command, command_app
from vsf_cli.cli.options import ConsoleOptions, DryRun, Takes, with_options
from vsf_cli.cli.plans import run_plan
from vsf_cli.config.values import choose_seeds
from vsf_cli.errors import RequestError
from vsf_cli.generation.plan import differences, plan_again
from vsf_cli.settings.options import SETTINGS, Given

__all__ = ["app"]

app = command_app()
OF_FILE = Takes(single=True, of_file=True, hidden=("preset",))


@app.command(cls=Command, epilog="Example: vsf again outputs/a-red-bike-1.png --alpha 2")
@handle_errors
@with_options
def again(
    file: Annotated[Path, typer.Argument(help="An image or video that vsf made, or its sidecar.")],
    given: Annotated[Given, OF_FILE],
    messages: ConsoleOptions,
    dry_run: DryRun = False,
) -> None:
    """Remake a file from its metadata."""
    if "preset" in given.settings:
        raise RequestError("vsf again makes a file with its own settings: leave --preset out, and give those that change")
    several = {SETTINGS[key].flag: len(numbers) for key, numbers in given.sweeps.items()} | {"--seed": len(given.seeds or ())}
    for flag, count in several.items():
        if count > 1:
            raise RequestError(f"vsf again makes one file, but {flag} names {count}: give one")
    if given.seeds == ():
        given = replace(given, seeds=tuple(choose_seeds(None, None)))
    console = Console(messages.quiet, messages.verbose)
    plan = plan_again(file, given, override=True)
    for line in differences(file, plan) or ["everything is as when it was made"]:
        console.info(line)
    run_plan(plan, console, messages.as_json, dry_run)
