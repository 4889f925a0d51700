"""`vsf image`: makes images from a prompt."""

from dataclasses import dataclass
from typing import Annotated

import typer

from vsf_cli.cli.compare import plan_comparison, run_comparison
from vsf_cli.cli.console import Console
from vsf_cli.cli.error_boundary import handle_errors
from vsf_cli.cli.help import Command, command_app
from vsf_cli.cli.options import ConsoleOptions, ManyOptions, Takes, parsed, with_options
from vsf_cli.cli.plans import check_needs, read_prompt, run_plan
from vsf_cli.config.option import FILES, WHAT, run_option
from vsf_cli.config.ranges import MAX_VALUES
from vsf_cli.config.values import choose_seeds
from vsf_cli.errors import RequestError
from vsf_cli.generation.plan import plan
from vsf_cli.prompts.replacements import Replacement
from vsf_cli.settings.options import SETTINGS, FileOptions, Given
from vsf_cli.settings.presets import Settings

__all__ = ["Prompt", "SeriesOptions", "app", "make", "replacements_of"]

app = command_app()
Prompt = Annotated[str, typer.Argument(help="What you want; - reads stdin, @file reads a file.")]


@dataclass(frozen=True)
class SeriesOptions(ManyOptions):
    """The options of which images or videos are made of a prompt."""

    count: int | None = run_option(
        None, "--seeds", "--count", help="How many to make, with a seed each.", panel=WHAT, min=1, max=MAX_VALUES
    )
    compare: str | None = run_option(
        None, "--compare", help="Methods on one labelled strip, same seed: none,nag,vsf.", panel=FILES, metavar="METHODS"
    )


@app.command(cls=Command, epilog='Example: vsf image "a red bike on a road" --neg wheels --alpha 3')
@handle_errors
@with_options
def image(
    prompt: Prompt,
    given: Annotated[Given, Takes(video=False)],
    files: FileOptions,
    series: SeriesOptions,
    messages: ConsoleOptions,
) -> None:
    """Make images.

    --neg, --alpha and --preset are enough for most of them.
    """
    make(prompt, given, files, series, messages)


def make(
    prompt: str,
    given: Given,
    files: FileOptions,
    series: SeriesOptions,
    messages: ConsoleOptions,
    *,
    video: bool = False,
    seconds: float | None = None,
) -> None:
    """Plans and makes images, or videos.

    Raises:
        VSFError: If something is not legal, or fails.
    """
    seeds = choose_seeds(given.seeds, series.count)
    settings = Settings(given.settings, video=video)
    console, text = Console(messages.quiet, messages.verbose), read_prompt(prompt)
    replacements = replacements_of(series.replacements)
    if series.compare is not None:
        names = [name.strip() for name in series.compare.split(",") if name.strip()]
        _check_strip(given, files, series, seconds)
        planned, requests = plan_comparison(names, text, seeds, given, settings, files, video=video, seconds=seconds)
        run_comparison(planned, requests, console, messages.as_json, series.dry_run)
        return
    planned = plan(text, seeds, given, settings, replacements, files=files, video=video, seconds=seconds)
    check_needs(series, planned.requests)
    run_plan(planned, console, messages.as_json, series.dry_run, drawn=not given.seeds, strict=series.strict)


def replacements_of(texts: tuple[str, ...]) -> list[Replacement]:
    """Returns the replacements of `--sr`."""
    return parsed("--sr", lambda: [Replacement.parse(text) for text in texts])


def _check_strip(given: Given, files: FileOptions, series: SeriesOptions, seconds: float | None) -> None:
    """Refuses options that have no meaning for a strip, which is an image."""
    given_options = {
        "--crf": "crf" in given.settings,
        "--fps": "fps" in given.settings and seconds is None,
        "--method": "method" in given.settings,
        "--sr": series.replacements,
        "--sidecar": files.sidecar,
        "--dump-attn": files.dump_attn,
        "--keep-all": files.keep_all,
        "--strict": series.strict,
        "--best-of": "best_of" in given.settings,
    }
    if extra := [flag for flag, value in given_options.items() if value]:
        raise RequestError(f"--compare makes a strip of methods, in one file: leave {extra[0]} out")
    for key, numbers in given.sweeps.items():
        raise RequestError(f"--compare makes a strip of methods, but {SETTINGS[key].flag} names {len(numbers)}: give one")
