"""`vsf attn-map`: shows where the negative prompt acts."""

import os
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from vsf_cli.cli.console import Console, as_line
from vsf_cli.cli.error_boundary import handle_errors
from vsf_cli.cli.help import Command, command_app
from vsf_cli.cli.options import ConsoleOptions, Takes, command_option, parsed, with_options
from vsf_cli.cli.plans import announce, prepare, read_prompt, say_applied, say_notes
from vsf_cli.config.names import counted
from vsf_cli.config.option import FILES, WHAT
from vsf_cli.config.values import choose_seeds, parse_path
from vsf_cli.errors import RequestError
from vsf_cli.generation.capture import PAGE, capture, check_capture, holds_maps, maps_folder, write_capture
from vsf_cli.generation.choosing import make
from vsf_cli.generation.plan import plan, plan_again
from vsf_cli.generation.run import Plan, advising
from vsf_cli.maps.data import Selection
from vsf_cli.media.files import check_writable
from vsf_cli.media.formats import IMAGE_FORMATS, VIDEO_FORMATS
from vsf_cli.settings.options import SETTINGS, FileOptions, Given
from vsf_cli.settings.presets import Settings

__all__ = ["app"]

app = command_app()
ENDINGS = [ending for formats in (IMAGE_FORMATS, VIDEO_FORMATS) for endings in formats.values() for ending in endings]
OWN_FILES = (".json", *filter(None, ENDINGS))
_option = partial(command_option, panel=WHAT)


@app.command(cls=Command, epilog='Example: vsf attn-map "a person on grass" --neg umbrella')
@handle_errors
@with_options
def attn_map(
    prompt: Annotated[str, typer.Argument(help="What you want; or an image that vsf made, to be made again.")],
    given: Annotated[Given, Takes(without=("output", "format", "compile", "width", "height"), video=False, single=True)],
    messages: ConsoleOptions,
    kept_steps: Annotated[str | None, _option("--steps", help="Which steps to map, from 1: 1,2,5..8. [default: all]")] = None,
    blocks: Annotated[str | None, _option("--blocks", help="Which blocks to map, from 1. [default: all, up to 200 MB]")] = None,
    heads: Annotated[str | None, _option("--heads", help="Heads to map one by one, instead of their mean.")] = None,
    tokens: Annotated[str | None, _option("--tokens", help="Words to map: wheels,red; also all, special.")] = None,
    output: Annotated[str | None, _option("-o", "--output", help="The folder to write.", panel=FILES)] = None,
) -> None:
    """Show where the negative prompt acts."""
    selection = parsed("--steps, --blocks, --heads", lambda: Selection.parse(kept_steps, blocks, heads, tokens))
    planned = _plan(read_prompt(prompt), given)
    _run(planned, selection, output, Console(messages.quiet, messages.verbose), messages.as_json)


def _plan(prompt: str, given: Given) -> Plan:
    """Returns the plan of one image: of a prompt with its options, or of a file that is made again."""
    if given.sweeps:
        key, numbers = next(iter(given.sweeps.items()))
        raise RequestError(
            f"vsf attn-map makes one image, but {SETTINGS[key].flag} names {len(numbers)}: use vsf image with --dump-attn"
        )
    # Not `Path.is_file`, which raises if the prompt is longer than the name of a file may be.
    if prompt.lower().endswith(OWN_FILES) or os.path.isfile(prompt):
        planned = plan_again(Path(prompt), given)
        check_capture(planned.requests[0])
        return planned
    seeds = choose_seeds(given.seeds, None)
    if len(seeds) > 1:
        raise RequestError(f"vsf attn-map makes one image, but --seed names {len(seeds)}: use vsf image with --dump-attn")
    settings = Settings(given.settings)
    return plan(prompt, seeds, given, settings, files=FileOptions(dump_attn=True), video=settings.preset.video)


def _run(plan: Plan, selection: Selection, output: str | None, console: Console, as_json: bool) -> None:
    """Makes the image of a plan, writes the folder with its maps, and writes the path of the page, or JSON, to stdout."""
    (request,) = plan.requests
    check_capture(request, selection)
    target = parse_path(output) if output else maps_folder(plan.path(request, 1))
    folder = plan.outputs.free(target, holds_maps)
    if folder is None:
        console.info("skipped, since the folder has maps")
        console.data(as_line({"path": str(target)}) if as_json else str(target / PAGE))
        return
    check_writable(folder / PAGE)
    announce(plan, console)
    pipe = prepare(plan, console)
    with console.progress("steps") as (progress,), advising(pipe, request):
        chosen = make(pipe, request, plan.runtime.device, progress) if request.chooses else None
        captured = capture(pipe, request, selection, progress, chosen)
    description = plan.describe(pipe, captured.result)
    say_applied(captured.result, console)
    say_notes(captured.result, console)
    with console.progress("drawing"):
        written = write_capture(captured, folder, description)
    facts = {"mean_share": round(float(captured.maps.share.mean()), 6), "words": captured.maps.words()}
    console.info(
        f"mean share of attention on the negative: {facts['mean_share']:.4f} · {counted(len(written), 'file')} in {folder}"
    )
    console.data(as_line({"path": str(folder), **facts, **description}) if as_json else str(written[-1]))
