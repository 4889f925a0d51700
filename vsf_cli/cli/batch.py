"""`vsf batch`: makes the images and videos of a table of prompts."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from vsf_cli.batch.engines import engine_named
from vsf_cli.batch.items import Item, items_of
from vsf_cli.batch.journal import MANIFEST
from vsf_cli.batch.records import decode_table
from vsf_cli.batch.replacements import apply_replacements
from vsf_cli.batch.runner import Batch
from vsf_cli.batch.shards import Shard
from vsf_cli.batch.summary import duration
from vsf_cli.batch.table import Row, TableErrors, key_of, near_column, parse_table, unused_columns
from vsf_cli.batch.timings import estimate
from vsf_cli.batch.worker import Worker
from vsf_cli.cli.console import Console, as_line
from vsf_cli.cli.error_boundary import handle_errors
from vsf_cli.cli.help import Command, command_app
from vsf_cli.cli.image import replacements_of
from vsf_cli.cli.options import ConsoleOptions, ManyOptions, Takes, command_option, with_options
from vsf_cli.cli.plans import check_needs
from vsf_cli.cli.running import carry_out, check_contents
from vsf_cli.config.names import counted
from vsf_cli.config.option import FILES, GUIDANCE, METHODS, WORK, Need, options_of, run_option
from vsf_cli.config.values import parse_batch_size, parse_path
from vsf_cli.errors import ModelError, RequestError
from vsf_cli.generation.plan import runtime_of
from vsf_cli.generation.run import download_of
from vsf_cli.loading.runtime import Runtime, check_runtime
from vsf_cli.media.files import check_writable
from vsf_cli.media.formats import check_format
from vsf_cli.prompts.replacements import Replacement
from vsf_cli.settings.options import SETTINGS, FileOptions, Given
from vsf_cli.settings.presets import Settings

__all__ = ["app"]

app = command_app()
MAX_ERRORS = 50
"""The number of errors of a table that are shown."""
NEAR_COLUMN = 0.75
"""How alike a column has to be to an option for a warning: as "sead" and "seed", and more than "status" and "start"."""
AUTO_BATCH_SIZE = 8
"""Images in one pass with `--batch-size auto`, halved where memory does not suffice: more is hardly faster."""


@dataclass(frozen=True)
class BatchOptions(ManyOptions):
    """The options of how the images of a table are made."""

    sheet: bool = run_option(False, "--sheet", off=None, help="Write labelled contact sheets, too.", panel=FILES)
    batch_size: str = run_option(
        "1", "--batch-size", help="Images in one pass through the model, or auto.", panel=WORK, parse=parse_batch_size
    )
    engine: str = run_option("local", "--engine", help="local or ray.", panel=WORK)
    workers: int = run_option(1, "--workers", help="Number of processes, or of actors of Ray; one GPU each.", panel=WORK, min=1)
    ray_address: str | None = run_option(
        None,
        "--ray-address",
        help="Address of a Ray cluster; one is started if not given.",
        panel=WORK,
        needs=(Need("on_ray", "--engine ray: add it"),),
    )
    shard: str | None = run_option(
        None, "--shard", help="I/N: this part of the work; auto, or auto/N, reads SLURM's array.", panel=WORK, parse=Shard.parse
    )
    retry_failed: bool = run_option(
        False, "--retry-failed", off=None, help="Try again what failed in an earlier run.", panel=WORK
    )
    fail_fast: bool = run_option(False, "--fail-fast", off=None, help="Stop at the first failure.", panel=WORK)
    max_failures: int | None = run_option(
        None,
        "--max-failures",
        help="Stop after this many failures.",
        panel=WORK,
        min=1,
        needs=(Need("may_fail", "more failures than the first, at which --fail-fast stops: leave --fail-fast out"),),
    )

    @property
    def on_ray(self) -> bool:
        """Whether the work is done on a Ray cluster."""
        return self.engine == "ray"

    @property
    def may_fail(self) -> bool:
        """Whether a run goes on after a failure."""
        return not self.fail_fast


@app.command(cls=Command, epilog="Example: vsf batch prompts.csv --alpha 1..4 -o outputs/run")
@handle_errors
@with_options
def batch(
    table: Annotated[
        str, typer.Argument(help="CSV, TSV, JSON or TOML with a column 'prompt', or prompts in .txt; - is stdin.")
    ],
    given: Annotated[Given, Takes(without=("output", "exists"), seed="from the prompt")],
    files: Annotated[FileOptions, Takes(without=("metadata",))],
    work: BatchOptions,
    messages: ConsoleOptions,
    output: Annotated[
        str | None, command_option("-o", "--output", help="The folder; outputs/TABLE if not given.", panel=FILES)
    ] = None,
) -> None:
    """Make an image or video of each row of a table."""
    console = Console(messages.quiet, messages.verbose)
    try:
        planned, rows, notes = _plan(table, output, given, files, work, messages.verbose)
    except TableErrors as error:
        _say_errors(table, error, console)
        raise typer.Exit(error.exit_code) from error
    _check(planned, rows, work)
    _say_notes(notes, rows, console)
    if work.dry_run:
        _say_plan(planned, rows, console, messages.as_json)
        return
    max_failures = 1 if work.fail_fast else work.max_failures
    carry_out(planned, rows, max_failures, console, messages.as_json, work.sheet)
    if work.strict:
        check_contents(planned)


def _check(planned: Batch, rows: Sequence[Row], work: BatchOptions) -> None:
    """Checks what needs the items."""
    check_needs(work, [item.request for item in planned.items])
    check_runtime(planned.worker.runtime)
    if work.sheet and not work.dry_run:
        from vsf_cli.batch.contact_sheet import check_sheets

        check_sheets(planned.items, rows)


def _say_notes(notes: Sequence[str], rows: Sequence[Row], console: Console) -> None:
    """Writes what a table asks for without effect, and its columns that are no options."""
    for note in notes:
        console.warn(note)
    unused = unused_columns(rows)
    for name, near in ((name, near_column(name, NEAR_COLUMN)) for name in unused if not key_of(name)):
        if near:
            console.warn(f"column '{name}' is no option: did you mean '{near}'?")
    if unused:
        console.info(f"columns that are no options, and are copied to {MANIFEST}.csv: {', '.join(unused)}")


def _say_errors(table: str, error: TableErrors, console: Console) -> None:
    """Writes the errors of a table, the first one beside their number, and then the advice about them."""
    console.error(str(error))
    for line in error.lines[1:MAX_ERRORS]:
        console.error(f"{table}, {line}")
    if len(error.lines) > MAX_ERRORS:
        console.error(f"{table} has {len(error.lines) - MAX_ERRORS} more: mend these first")
    if error.advice:
        console.always(error.advice)


def _plan(
    table: str, output: str | None, given: Given, files: FileOptions, work: BatchOptions, verbose: bool
) -> tuple[Batch, list[Row], list[str]]:
    settings, of_runtime = _split(given)
    rows, items, notes = _read(table, given, settings, files, replacements_of(work.replacements))
    folder = parse_path(output) if output else Path("outputs") / (Path(table).stem if table != "-" else "stdin")
    _check_folder(folder, items)
    size = parse_batch_size(work.batch_size)
    if files.dump_attn and size != 1:
        notes.append("--batch-size has no effect with --dump-attn, which makes images one by one")
    per_pass = AUTO_BATCH_SIZE if size == "auto" else int(size)
    worker = Worker(folder, runtime_of(Settings(of_runtime)), per_pass, files.sidecar, files.dump_attn, files.keep_all, verbose)
    engine, shard = engine_named(work.engine), Shard.parse(work.shard, folder=folder)
    return Batch(items, worker, shard, work.retry_failed, engine, work.workers, work.ray_address), rows, notes


def _split(given: Given) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the settings with all values of sweeps, and those of the runtime alone."""
    keys = {one.key for one in options_of(Runtime)}
    # The last sweep changes fastest: those of the method come last, so that they make the columns of a grid.
    swept = sorted(given.sweeps.items(), key=lambda sweep: SETTINGS[sweep[0]].panel in (GUIDANCE, METHODS))
    single = {key: value for key, value in given.settings.items() if key not in given.sweeps}
    return {**single, **dict(swept)}, {key: value for key, value in given.settings.items() if key in keys}


def _read(
    table: str, given: Given, settings: Mapping[str, Any], files: FileOptions, replacements: Sequence[Replacement]
) -> tuple[list[Row], list[Item], list[str]]:
    """Returns the rows of a table, its items and warnings. Errors of cells and of items are raised together."""
    rows, errors = parse_table(Path(table), _text_of(table))
    items: list[Item] = []
    notes: list[str] = []
    advice = ""
    try:
        rows, notes = apply_replacements(table, rows, replacements, given)
        items, more = items_of(table, rows, settings, given, files)
        notes += more
    except TableErrors as error:
        errors += error.lines
        advice = error.advice
    if errors:
        raise TableErrors(table, errors, advice)
    return rows, items, notes


def _check_folder(folder: Path, items: Sequence[Item]) -> None:
    """Refuses a folder that no file system could hold, or that cannot be written."""
    longest = max((item.name for item in items), key=lambda name: len(name.encode()), default=MANIFEST)
    check_writable(folder / longest)
    for format in {item.format for item in items}:
        check_format(format)


def _text_of(table: str) -> str:
    try:
        data = sys.stdin.buffer.read() if table == "-" else Path(table).read_bytes()
    except FileNotFoundError as error:
        about = "a table has a column 'prompt', as examples/prompts.csv of the source; docs/batch.md says more"
        raise RequestError(f"{table}: there is no such file; {about}") from error
    except (OSError, ValueError) as error:
        raise RequestError(f"{table} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    return decode_table(table, data)


def _say_plan(batch: Batch, rows: Sequence[Row], console: Console, as_json: bool) -> None:
    """Writes what a run would do: how many images, how many are done, what is loaded, and how long it may take."""
    states = batch.states()
    left = [item for item in batch.items if states.get(item.key) == "left"]
    counts = {state: list(states.values()).count(state) for state in ("done", "failed", "left")}
    weights = dict.fromkeys((item.request.model, item.request.revision) for item in left)
    models = list(dict.fromkeys(model for model, _ in weights))
    downloads = _downloads(list(weights), batch.worker.runtime.offline)
    seconds = estimate(left)
    if as_json:
        facts = {"rows": len(rows), "items": len(states), **counts, "models": models, "estimated_seconds": seconds}
        console.data(as_line({**facts, "folder": str(batch.folder)}))
        return
    console.data_text(f"{counted(len(rows), 'row')}, {counted(len(states), batch.noun)} to {batch.folder}")
    console.data_text(", ".join(f"{count} {state}" for state, count in counts.items()) if states else batch.no_items)
    for (model, _), download in zip(weights, downloads, strict=True):
        console.data_text(f"loads {model}{f', {download}' if download else ''}")
    console.data_text(
        f"about {duration(seconds)}" if seconds is not None else "no estimate: this machine has not made their like"
    )


def _downloads(models: Sequence[tuple[str, str | None]], offline: bool) -> list[str]:
    """Returns for each model and revision what is downloaded, or why it cannot be; "" if it is on this machine.

    Raises:
        ModelError: If none of them can be loaded.
    """
    downloads, errors = [], []
    for model, revision in models:
        try:
            download = download_of(model, revision, offline)
            downloads.append(f"to be downloaded: {download}" if download else "")
        except ModelError as error:
            downloads.append(f"which cannot be: {error}")
            errors.append(error)
    if models and len(errors) == len(models):
        raise errors[0]
    return downloads
