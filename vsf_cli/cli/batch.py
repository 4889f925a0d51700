"""`vsf batch`: a table of prompts to images and videos."""

import json
import signal
import statistics
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from vsf_cli.batch.engines import engine_named
from vsf_cli.batch.items import Item, Shard, items_of
from vsf_cli.batch.journal import MANIFEST, read_journals
from vsf_cli.batch.replacements import apply_replacements
from vsf_cli.batch.runner import Batch
from vsf_cli.batch.summary import duration, write_manifest
from vsf_cli.batch.table import Row, TableErrors, parse_table
from vsf_cli.batch.timings import estimate, remember
from vsf_cli.batch.worker import Outcome, RunHooks, Worker
from vsf_cli.cli.console import Talk
from vsf_cli.cli.error_boundary import bounded
from vsf_cli.cli.help import Command, command_app
from vsf_cli.cli.image import replacements_of
from vsf_cli.cli.libraries import quiet_libraries, stay_offline
from vsf_cli.cli.options import ConsoleOptions, Takes, with_options
from vsf_cli.config.option import FILES, GUIDANCE, METHODS, OUTPUT, WHAT, WORK, options_of, run_option
from vsf_cli.config.values import parse_batch_size, parse_path
from vsf_cli.errors import MediaError, PartlyFailed, RequestError
from vsf_cli.generation.plan import runtime_of
from vsf_cli.loading.runtime import Runtime
from vsf_cli.loading.sources import is_here
from vsf_cli.media.files import check_writable, remove_partials
from vsf_cli.prompts.replacements import Replacement
from vsf_cli.settings.options import SETTINGS, FileOptions, Given
from vsf_cli.settings.presets import Settings

__all__ = ["app", "carry_out", "say_plan"]

app = command_app()
MOST_LINES = 50
MOST_TOGETHER = 8
"""Pictures in one pass with `--batch-size auto`, halved where memory does not suffice: more is hardly faster."""


@dataclass(frozen=True)
class BatchOptions:
    """How a table's pictures are made, and by whom.

    Arguments:
        replacements: Words and what stands in their place.
        sheet: Whether contact sheets are written.
        batch_size: Pictures in one pass through the model, or "auto".
        engine: A key of `vsf_cli.batch.engines.ENGINES`.
        workers: Processes, or actors.
        ray_address: The address of a Ray cluster.
        shard: Which part of the work is done, as `I/N`.
        retry_failed: Whether what failed in an earlier run is tried again.
        fail_fast: Whether the first failure stops the run.
        max_failures: After how many failures the run stops.
        dry_run: Whether to stop before a model is loaded.
    """

    replacements: tuple[str, ...] = run_option(
        (), "--sr", help="wheels=>doors,windows: one with each of these words.", panel=WHAT, metavar="WORDS"
    )
    sheet: bool = run_option(False, "--sheet", off=None, help="Write labelled contact sheets, too.", panel=FILES)
    batch_size: str = run_option(
        "1", "--batch-size", help="Pictures in one pass through the model, or auto.", panel=WORK, parse=parse_batch_size
    )
    engine: str = run_option("local", "--engine", help="local or ray.", panel=WORK)
    workers: int = run_option(1, "--workers", help="Processes, or actors; one GPU each.", panel=WORK, min=1)
    ray_address: str | None = run_option(
        None, "--ray-address", help="Address of a Ray cluster; one is started if not given.", panel=WORK
    )
    shard: str | None = run_option(
        None, "--shard", help="I/N: this part of the work; auto reads SLURM's array.", panel=WORK, parse=Shard.parse
    )
    retry_failed: bool = run_option(
        False, "--retry-failed", off=None, help="Try again what failed in an earlier run.", panel=WORK
    )
    fail_fast: bool = run_option(False, "--fail-fast", off=None, help="Stop at the first failure.", panel=WORK)
    max_failures: int | None = run_option(None, "--max-failures", help="Stop after that many.", panel=WORK, min=1)
    dry_run: bool = run_option(False, "--dry-run", off=None, help="Say what would be done, and stop.", panel=OUTPUT)

    @property
    def most_failures(self) -> int | None:
        """After how many failures the run stops; None means never."""
        return 1 if self.fail_fast else self.max_failures


@app.command(cls=Command, epilog="Example: vsf batch prompts.csv --alpha 1..4 -o outputs/run")
@bounded
@with_options
def batch(
    table: Annotated[str, typer.Argument(help="CSV, TSV, JSON lines or TOML with a column 'prompt'; - reads stdin.")],
    given: Annotated[Given, Takes(without=("output", "exists"))],
    files: Annotated[FileOptions, Takes(without=("metadata",))],
    work: BatchOptions,
    console: ConsoleOptions,
    output: Annotated[
        str | None,
        typer.Option("-o", "--output", help="The folder; outputs/TABLE if not given.", rich_help_panel=FILES),
    ] = None,
) -> None:
    """Make an image of each row of a table."""
    talk = Talk(console.quiet, console.verbose)
    try:
        planned, rows, notes = _planned(table, output, given, files, work)
    except TableErrors as error:
        _say_errors(table, error, talk)
        raise
    for note in notes:
        talk.warn(note)
    if work.dry_run:
        say_plan(planned, rows, talk, console.as_json)
        return
    if work.sheet:
        from vsf_cli.batch.contact_sheet import check_sheets

        check_sheets(planned.items, rows)
    carry_out(planned, rows, work.most_failures, talk, console.as_json, work.sheet)


def _say_errors(table: str, error: TableErrors, talk: Talk) -> None:
    """Says all but the first, which is said as the error of the command."""
    for line in error.lines[1:MOST_LINES]:
        talk.error(f"{table}, {line}")
    if len(error.lines) > MOST_LINES:
        talk.error(f"{table} has {len(error.lines) - MOST_LINES} more: mend these first")


def _planned(
    table: str, output: str | None, given: Given, files: FileOptions, work: BatchOptions
) -> tuple[Batch, list[Row], list[str]]:
    deciding, machine = _split(given)
    rows, items, notes = _read(table, given, deciding, files, replacements_of(work.replacements))
    folder = parse_path(output) if output else Path("outputs") / (Path(table).stem if table != "-" else "stdin")
    _check_folder(folder, items)
    size = parse_batch_size(work.batch_size)
    worker = Worker(
        folder, runtime_of(Settings(machine)), MOST_TOGETHER if size == "auto" else int(size), files.sidecar, files.dump_attn
    )
    engine = engine_named(work.engine)
    shard = Shard.parse(work.shard)
    return Batch(items, worker, shard, work.retry_failed, engine, work.workers, work.ray_address), rows, notes


def _split(given: Given) -> tuple[dict[str, Any], dict[str, Any]]:
    """What decides the pictures, with all its numbers, and what decides where and how they are made."""
    keys = {one.key for one in options_of(Runtime)}
    # Numbers of a method change faster than all others, so that these make the columns of a grid.
    swept = sorted(given.sweeps.items(), key=lambda sweep: SETTINGS[sweep[0]].panel in (GUIDANCE, METHODS))
    single = {key: value for key, value in given.settings.items() if key not in given.sweeps}
    deciding = {key: value for key, value in {**single, **dict(swept)}.items() if key not in keys}
    return deciding, {key: value for key, value in given.settings.items() if key in keys}


def _read(
    table: str, given: Given, deciding: Mapping[str, Any], files: FileOptions, replacements: Sequence[Replacement]
) -> tuple[list[Row], list[Item], list[str]]:
    """The rows of a table, its items, and what a person should know. Errors of cells and of plans are said together."""
    rows, errors = parse_table(Path(table), _text_of(table))
    items: list[Item] = []
    notes: list[str] = []
    negative, loras = given.negative or (), given.loras or ()
    try:
        rows = apply_replacements(table, rows, replacements, negative)
        items, notes = items_of(table, rows, deciding, negative, given.seeds or None, loras, files.dump_attn)
    except TableErrors as error:
        errors += error.lines
    if errors:
        raise TableErrors(table, errors)
    return rows, items, notes


def _check_folder(folder: Path, items: Sequence[Item]) -> None:
    """Refuses a folder that no system could have, before anything looks into it."""
    longest = max((item.name for item in items), key=lambda name: len(name.encode()), default="")
    try:
        (folder / longest).exists()
        check_writable(folder / MANIFEST)
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or error
        raise MediaError(f"'{str(folder)[:80]}' cannot be the folder of the run: {said}; choose another with -o") from error


def _text_of(table: str) -> str:
    try:
        return sys.stdin.read() if table == "-" else Path(table).read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(f"{table} is not UTF-8: {error.reason} at byte {error.start}; save it as UTF-8") from error
    except (OSError, ValueError) as error:
        raise RequestError(f"{table} cannot be read: {getattr(error, 'strerror', None) or error}") from error


class _Stop:
    """Whether a person wants to stop: the first Ctrl-C lets the picture at hand be finished, the second does not."""

    def __init__(self, talk: Talk) -> None:
        self.talk, self.wanted, self.at_once = talk, False, False

    def __call__(self) -> bool:
        return self.wanted

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Takes Ctrl-C over for the length of a `with` block."""

        def heard(*_: Any) -> None:
            if self.wanted:
                self.at_once = True
                raise KeyboardInterrupt
            self.wanted = True
            self.talk.keep("finishing the picture at hand; Ctrl-C again stops at once")

        before = signal.signal(signal.SIGINT, heard)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


def say_plan(batch: Batch, rows: Sequence[Row], talk: Talk, as_json: bool) -> None:
    """Says what a run would do: how many pictures, how many are done, what is loaded, and how long it may take."""
    states = batch.states()
    left = [item for item in batch.items if states.get(item.key) == "left"]
    counts = {state: sum(found == state for found in states.values()) for state in ("done", "failed", "left")}
    weights = dict.fromkeys((item.request.model, item.request.revision) for item in left)
    models = list(dict.fromkeys(model for model, _ in weights))
    seconds = estimate(left)
    if as_json:
        facts = {"rows": len(rows), "items": len(states), **counts, "models": models, "estimated_seconds": seconds}
        talk.data(json.dumps({**facts, "folder": str(batch.folder)}, ensure_ascii=False))
        return
    talk.data(f"{len(rows)} rows, {len(states)} pictures to {batch.folder}")
    talk.data(", ".join(f"{count} {state}" for state, count in counts.items()))
    for model, revision in weights:
        talk.data(f"loads {model}{'' if is_here(model, revision) else ', which is to be downloaded'}")
    talk.data(f"about {duration(seconds)}" if seconds is not None else "no estimate: this machine has not made their like")


def carry_out(
    batch: Batch, rows: Sequence[Row], most_failures: int | None, talk: Talk, as_json: bool, sheet: bool = False
) -> None:
    """Runs a batch, and leaves a table of what came out.

    Raises:
        PartlyFailed: If pictures failed, in this run or in one before whose failures are not tried again.
        KeyboardInterrupt: If a person stopped it.
        MediaError: If the folder cannot be written, or another process is writing it.
    """
    stop = _Stop(talk)
    if batch.worker.runtime.offline:
        stay_offline()

    def on_load(item: Item) -> None:
        quiet_libraries(talk.verbose)
        model = item.request.model
        talk.say(f"{'loading' if is_here(model, item.request.revision) else 'downloading'} {model.removeprefix('builtin:')}")

    made: list[Outcome] = []
    with batch.journal.locked(), stop.listening():
        remove_partials(batch.folder)
        states: dict[tuple[str, str], str] = dict(batch.states())
        batch.adopt(states)
        left = list({item.key: item for item in batch.items if states.get(item.key) == "left"}.values())
        done = sum(state == "done" for state in states.values())
        if done:
            talk.say(f"{done} of {len(states)} pictures are done already")
        try:
            with (
                talk.progress("pictures", "steps") as (whole, steps),
                closing(batch.run(left, RunHooks(stop, on_load, steps))) as outcomes,
            ):
                for outcome in outcomes:
                    made.append(outcome)
                    states[outcome.item.key] = "failed" if outcome.error else "done"
                    _say(outcome, batch, talk, as_json)
                    if whole is not None:
                        whole(len(made), len(left))
                    if most_failures and sum(one.error is not None for one in made) >= most_failures:
                        talk.warn(f"{most_failures} pictures failed: stopped")
                        break
        finally:
            if stop.at_once:
                remove_partials(batch.folder)
            else:
                remember((one.item, one.seconds) for one in made if one.error is None)
                written = write_manifest(batch.folder, batch.items, rows)
                shown = _write_shown(batch, rows, sheet)
    say_summary(made, talk)
    counts = Counter(states.values())
    failed = counts["failed"]
    files = " · ".join(map(str, [written, *shown]))
    talk.say(f"{counts['done']} of {len(states)} pictures in {batch.folder}, {failed} failed · {files}")
    if stop.wanted:
        talk.keep("stopped; the same command goes on")
        raise KeyboardInterrupt
    if failed:
        again = "the same command tries them again" if batch.retry_failed else "try them again with --retry-failed"
        raise PartlyFailed(f"{failed} of {len(states)} pictures failed: {written} says why; {again}")


def _write_shown(batch: Batch, rows: Sequence[Row], sheet: bool) -> list[Path]:
    """Writes what people look at: the gallery, and contact sheets if they are wanted."""
    # Imported here, since a plan needs neither.
    from vsf_cli.batch.contact_sheet import write_sheets
    from vsf_cli.batch.gallery import write_gallery

    page = write_gallery(batch.folder, batch.items, rows, read_journals(batch.folder))
    return [page, *(write_sheets(batch.folder, batch.items, rows) if sheet else [])]


def _say(outcome: Outcome, batch: Batch, talk: Talk, as_json: bool) -> None:
    path = str(batch.path(outcome.item))
    for note in outcome.notes:
        talk.warn(f"{path}: {note}")
    if outcome.error is not None:
        talk.warn(f"{path} failed: {outcome.error}")
    if as_json:
        line = {"id": outcome.item.id, "path": path, "error": outcome.error, "seconds": round(outcome.seconds, 3)}
        talk.data(json.dumps(line, ensure_ascii=False))
    elif outcome.error is None:
        talk.data(path)


def say_summary(made: Sequence[Outcome], talk: Talk) -> None:
    """Says how many items each model made by each method, how many failed, and how long one took."""
    kinds: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in made:
        asked = outcome.item.request
        kinds.setdefault((asked.to_json()["model"], asked.method), []).append(outcome)
    rows = []
    for (model, method), outcomes in kinds.items():
        seconds = [outcome.seconds for outcome in outcomes if outcome.error is None]
        each = f"{statistics.median(seconds):.2f} s" if seconds else ""
        failed = len(outcomes) - len(seconds)
        rows.append([model.removeprefix("builtin:"), method, str(len(seconds)), str(failed), each, duration(sum(seconds))])
    if rows:
        talk.tell(["model", "method", "made", "failed", "median of one", "in all"], rows)
