"""`vsf batch`: what it says, when it stops, and the table that it leaves behind."""

import json
import signal
import statistics
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from vsf_cli.batch.engines import Watching, engine_named
from vsf_cli.batch.items import Item, items_of
from vsf_cli.batch.journal import MANIFEST, read_journals
from vsf_cli.batch.maker import Maker, Outcome
from vsf_cli.batch.replacing import replaced
from vsf_cli.batch.runner import Batch
from vsf_cli.batch.summary import duration, write_manifest
from vsf_cli.batch.table import Row, TableErrors, parse_table
from vsf_cli.batch.timings import estimate, remember
from vsf_cli.cli.console import Talk
from vsf_cli.cli.generating import quiet_libraries, stay_offline
from vsf_cli.config.values import parse_path
from vsf_cli.errors import MediaError, PartlyFailed, RequestError
from vsf_cli.generation.plan import runtime_of
from vsf_cli.loading.pipelines import is_here
from vsf_cli.media.images import check_writable, remove_partials
from vsf_cli.settings.presets import SETTINGS, Settings

__all__ = ["carry_out", "run", "say_plan"]

MOST_LINES = 50
MOST_TOGETHER = 8
"""Pictures in one pass with `--batch-size auto`, halved where memory does not suffice: more is hardly faster."""
MACHINE = ("device", "offload", "offline", "compile")


def run(table: str, output: str | None, asked: Mapping[str, Any]) -> None:
    """Carries out what the command line says.

    Arguments:
        table: The path of the table; "-" is stdin.
        output: The folder of the run; None names it by the table.
        asked: The options, by name.

    Raises:
        VSFError: If something is not legal, or fails.
    """
    talk = Talk(asked["quiet"], asked["verbose"])
    try:
        batch, rows, notes = _planned(table, output, asked)
    except TableErrors as error:
        for line in error.lines[1:MOST_LINES]:
            talk.error(f"{table}, {line}")
        if len(error.lines) > MOST_LINES:
            talk.error(f"{table} has {len(error.lines) - MOST_LINES} more: mend these first")
        raise
    for note in notes:
        talk.warn(note)
    if asked["dry_run"]:
        say_plan(batch, rows, talk, asked["as_json"])
    else:
        if asked["sheet"]:
            from vsf_cli.batch.contact_sheet import check_sheets

            check_sheets(batch.items, rows)
        carry_out(batch, rows, asked["most_failures"], talk, asked["as_json"], asked["sheet"])


def _planned(table: str, output: str | None, asked: Mapping[str, Any]) -> tuple[Batch, list[Row], list[str]]:
    given = {name: value for name, value in asked.items() if name in SETTINGS}
    deciding = {name: value for name, value in given.items() if name not in MACHINE and value is not None}
    settings = Settings({name: given[name] for name in MACHINE if given.get(name)})
    rows, items, notes = _read(table, asked, deciding)
    folder = parse_path(output) if output else Path("outputs") / (Path(table).stem if table != "-" else "stdin")
    _check_folder(folder, items)
    size = MOST_TOGETHER if asked["batch_size"] == "auto" else int(asked["batch_size"])
    maker = Maker(folder, runtime_of(settings), size, asked["sidecar"], asked["dump_attn"])
    engine = engine_named(asked["engine"])
    how = asked["shard"], asked["retry_failed"], engine, asked["workers"] or 1, asked["ray_address"]
    return Batch(items, maker, *how), rows, notes


def _read(table: str, asked: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[list[Row], list[Item], list[str]]:
    """The rows of a table, its items, and what a person should know. Errors of cells and of plans are said together."""
    rows, errors = parse_table(Path(table), _text_of(table))
    items: list[Item] = []
    notes: list[str] = []
    try:
        rows = replaced(table, rows, asked["replacements"], asked["neg"] or [])
        others = asked["seeds"], asked["lora"] or [], asked["dump_attn"]
        items, notes = items_of(table, rows, options, asked["neg"] or [], *others)
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
    if batch.maker.runtime.offline:
        stay_offline()

    def loading(item: Item) -> None:
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
                closing(batch.run(left, Watching(stop, loading, steps))) as outcomes,
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
