"""Carries out a batch, for `vsf batch` and `vsf eval run`."""

import signal
import statistics
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from vsf_cli.batch.items import Item
from vsf_cli.batch.journal import read_journals
from vsf_cli.batch.runner import OF_MACHINE, Batch
from vsf_cli.batch.summary import duration, write_manifest
from vsf_cli.batch.table import Row
from vsf_cli.batch.timings import remember
from vsf_cli.batch.worker import Outcome, RunHooks
from vsf_cli.cli.console import Console, as_line, move_all
from vsf_cli.cli.plans import not_content, say_judge, say_offload
from vsf_cli.config.names import counted
from vsf_cli.errors import ModelError, OutOfMemory, PartlyFailed, RequestError
from vsf_cli.generation.run import download_of
from vsf_cli.loading.libraries import quiet_libraries, stay_offline
from vsf_cli.loading.pipelines import check_source
from vsf_cli.media.files import remove_partials
from vsf_cli.settings.request import public_source

__all__ = ["carry_out", "check_contents"]

SUMMARY = "model", "method", "made", "failed", "median of one", "in all"
"""The columns of what a run made."""


class _Stop:
    """Whether Ctrl-C was pressed: the first one lets the current image be finished, the second does not."""

    def __init__(self, console: Console) -> None:
        self.console, self.pressed, self.at_once = console, False, False

    def __call__(self) -> bool:
        return self.pressed

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handles Ctrl-C inside a `with`."""

        def on_interrupt(*_: Any) -> None:
            if self.pressed:
                self.at_once = True
                raise KeyboardInterrupt
            self.pressed = True
            self.console.always("finishing the work at hand; Ctrl-C again stops at once")

        before = signal.signal(signal.SIGINT, on_interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


def carry_out(
    batch: Batch, rows: Sequence[Row], max_failures: int | None, console: Console, as_json: bool, sheet: bool = False
) -> None:
    """Runs a batch, and writes its manifest, its gallery and, if `sheet`, its contact sheets.

    Raises:
        PartlyFailed: If images failed, in this run or in an earlier one whose failures are not tried again.
        KeyboardInterrupt: If Ctrl-C was pressed.
        MediaError: If the folder cannot be written, or another process is writing it.
    """
    stop = _Stop(console)
    if batch.worker.runtime.offline:
        stay_offline()
    made: list[Outcome] = []
    with batch.journal.locked(), stop.listening():
        remove_partials(batch.folder)
        batch.shard.remember(batch.folder)
        states: dict[tuple[str, str], str] = dict(batch.states())
        batch.adopt(states)
        _list_known(batch, states, console, as_json)
        try:
            with closing(_outcomes(batch, states, stop, console)) as outcomes:
                for outcome in outcomes:
                    # All items of a model that cannot be loaded fail alike.
                    told = outcome.of_model and outcome.error in {one.error for one in made[-1:]}
                    made.append(outcome)
                    states[outcome.item.key] = "failed" if outcome.error else "done"
                    _say(outcome, batch, console, as_json, told)
                    if max_failures and sum(one.error is not None for one in made) >= max_failures:
                        console.warn(f"{counted(max_failures, batch.noun)} failed: stopped")
                        break
        finally:
            if stop.at_once:
                remove_partials(batch.folder)
            else:
                remember((one.item, one.seconds) for one in made if one.error is None)
                written = [write_manifest(batch.folder, batch.items, rows), *_write_pages(batch, rows, sheet)]
    _say_summary(made, batch, console)
    failed = _say_counts(batch, states, written, console)
    if stop.pressed:
        raise KeyboardInterrupt("the same command goes on")
    if failed:
        _raise_failure(batch, made, failed, len(states), written[0])


def check_contents(batch: Batch) -> None:
    """Raises a `PartlyFailed` if a judge is not content with an image that it chose, in this run or in an earlier one."""
    known = read_journals(batch.folder)
    keys = {item.key for item in batch.items if batch.shard.holds(item)}
    if count := sum(not known.get(key, {}).get("chosen", {}).get("content", True) for key in keys):
        raise not_content(count, counted(len(keys), batch.noun))


def _say_counts(batch: Batch, states: Mapping[Any, str], written: Sequence[Path], console: Console) -> int:
    """Writes how many items are done, and the files of the run; returns how many failed."""
    counts = Counter(states.values())
    done = f"{counts['done']} of {counted(len(states), batch.noun)} in {batch.folder}, {counts['failed']} failed"
    console.info(" · ".join([done if states else batch.no_items, *map(str, written)]))
    return counts["failed"]


def _raise_failure(batch: Batch, made: Sequence[Outcome], failed: int, count: int, manifest: Path) -> NoReturn:
    """Raises the error of a run in which images failed: that of its models if none of them could be loaded."""
    codes = [outcome.code for outcome in made if outcome.error is not None]
    retried = batch.retry_failed or (len(codes) == failed and {*codes} <= {*OF_MACHINE})
    again = "the same command tries them again" if retried else "try them again with --retry-failed"
    if made and all(outcome.of_model for outcome in made):
        kind = next((kind for kind in (ModelError, OutOfMemory, RequestError) if {*codes} == {kind.exit_code}), PartlyFailed)
        # What does not fit the model fails again, and with other settings it is another image.
        again = f"{manifest} says why" if kind is RequestError else again
        raise kind(f"none of {counted(len(made), batch.noun)} was made, since their model cannot be loaded; {again}")
    raise PartlyFailed(f"{failed} of {counted(count, batch.noun)} failed: {manifest} says why; {again}")


def _list_known(batch: Batch, states: Mapping[tuple[str, str], str], console: Console, as_json: bool) -> None:
    """Writes the items that are done, and as JSON those that failed, so that stdout lists the whole run."""
    known = read_journals(batch.folder)
    for item in {item.key: item for item in batch.items}.values():
        state = states.get(item.key)
        error = known.get(item.key, {}).get("error") if state == "failed" else None
        if as_json and state in ("done", "failed"):
            console.data(as_line(_facts(item, batch, error, None)))
        elif state == "done":
            console.data(str(batch.path(item)))


def _facts(item: Item, batch: Batch, error: str | None, seconds: float | None) -> dict[str, Any]:
    return {"id": item.id, "path": str(batch.path(item)), "error": error, "seconds": seconds}


def _outcomes(
    batch: Batch, states: Mapping[tuple[str, str], str], stop: _Stop, console: Console
) -> Generator[Outcome, None, None]:
    def on_load(item: Item) -> None:
        quiet_libraries(console.verbose)
        if not loaded:
            say_offload(batch.worker.runtime, console)
            say_judge(item.request, batch.worker.runtime, console)
        loaded.append(item)
        request, offline = item.request, batch.worker.runtime.offline
        # What cannot be loaded is an error of its items, by `load`.
        with suppress(ModelError):
            if download := download_of(request.model, request.revision, offline):
                check_source(request.model, request.revision, offline)
                console.info(f"downloading {download}")
            else:
                console.info(f"loading {request.model.removeprefix('builtin:')}")

    loaded: list[Item] = []
    left = list({item.key: item for item in batch.items if states.get(item.key) == "left"}.values())
    if done := list(states.values()).count("done"):
        console.info(f"{done} of {counted(len(states), batch.noun)} done already")
    with (
        console.progress(f"{batch.noun}s", "steps", "tries") as (whole, steps, tried),
        closing(batch.run(left, RunHooks(stop, on_load, steps, tried))) as outcomes,
    ):
        move_all([whole], 0, len(left))
        for number, outcome in enumerate(outcomes, 1):
            yield outcome
            move_all([whole], number, len(left))


def _write_pages(batch: Batch, rows: Sequence[Row], sheet: bool) -> list[Path]:
    """Writes the gallery and, if `sheet`, contact sheets; returns their paths."""
    # Imported here, since a dry run needs neither.
    from vsf_cli.batch.contact_sheet import write_sheets
    from vsf_cli.batch.gallery import write_gallery

    page = write_gallery(batch.folder, batch.items, rows, read_journals(batch.folder))
    return [page, *(write_sheets(batch.folder, batch.items, rows) if sheet else [])]


def _say(outcome: Outcome, batch: Batch, console: Console, as_json: bool, told: bool) -> None:
    """Writes an outcome; `told` is whether its error has just been written."""
    path = str(batch.path(outcome.item))
    for note in outcome.notes:
        console.warn(f"{path}: {note}")
    if outcome.error is not None and not told:
        console.warn(f"{outcome.error}: its {batch.noun}s fail" if outcome.of_model else f"{path} failed: {outcome.error}")
    if as_json:
        console.data(as_line(_facts(outcome.item, batch, outcome.error, round(outcome.seconds, 3))))
    elif outcome.error is None:
        console.data(path)


def _say_summary(made: Sequence[Outcome], batch: Batch, console: Console) -> None:
    """Writes how many items each model made by each method, how many failed, and how long one took."""
    groups: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in made:
        model = public_source(outcome.item.request.model)
        groups.setdefault((model, batch.method_of(outcome.item)), []).append(outcome)
    rows = []
    for (model, method), outcomes in groups.items():
        seconds = [outcome.seconds for outcome in outcomes if outcome.error is None]
        each = f"{statistics.median(seconds):.2f} s" if seconds else ""
        failed = len(outcomes) - len(seconds)
        rows.append([model.removeprefix("builtin:"), method, str(len(seconds)), str(failed), each, duration(sum(seconds))])
    # On a terminal the name of a model is long, and was said when it was loaded: it is needed only beside another one.
    first = 1 if console.stderr.is_terminal and len({row[0] for row in rows}) == 1 else 0
    if rows:
        console.table(SUMMARY[first:], [row[first:] for row in rows])
